//! What every node shall run, from what was applied. Pure: the same input gives the same plan.

use std::collections::BTreeMap;
use std::fmt;

use fleet_api::artifact::{ArtifactKind, Reference};
use fleet_api::deployment::{
    Allow, Circle, Deployment, HandlerEntry, Isolation, Limits, ModelEntry, Route, default_of,
};
use fleet_api::desired::{Desired, DesiredHandler, DesiredModel, StreamSpec};
use fleet_api::ids::{Name, NodeId, StreamName, Version};
use fleet_api::labels::Labels;
use fleet_api::source::Source;

use super::catalogue::Catalogue;

/// What one node shall run, without the number of the change.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Content {
    handlers: BTreeMap<Name, DesiredHandler>,
    /// Versions of a model in the order of their entries, the default last. One deployment owns all of a name.
    models: BTreeMap<Name, Vec<DesiredModel>>,
    streams: BTreeMap<StreamName, (Name, StreamSpec)>,
    sources: BTreeMap<Name, (Name, Source)>,
    routes: BTreeMap<String, (Name, Route)>,
}

/// The plan for all nodes.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Plan {
    /// Every node is in it, also one that has nothing to run.
    pub(crate) nodes: BTreeMap<NodeId, Content>,
    /// Deployments that a node cannot run because an older one is in their way.
    pub(crate) conflicts: Vec<Conflict>,
}

/// Two deployments want the same place on a node.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error(
    "deployments {first} and {second} both have {place} on node {node}: change a selector or take it out of one of them"
)]
pub(crate) struct Conflict {
    pub(crate) node: NodeId,
    /// The older deployment, which keeps the place.
    pub(crate) first: Name,
    /// The newer one, of which the node runs nothing.
    pub(crate) second: Name,
    pub(crate) place: Place,
}

/// What only one deployment can have on a node.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Place {
    Handler(Name),
    Model(Name),
    Stream(StreamName),
    Source(Name),
    Route(Route),
    /// Processors of both would feed each other.
    Circle(Circle),
}

/// An artifact that a deployment names and nobody has pushed.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Missing {
    pub(crate) kind: ArtifactKind,
    pub(crate) name: Name,
    pub(crate) version: Version,
}

/// Plans for all `nodes`, with `deployments` from old to new. A deployment that finds a place taken
/// is left out on that node as a whole.
pub(crate) fn plan(
    deployments: &[&Deployment],
    nodes: &BTreeMap<NodeId, Labels>,
    artifacts: &Catalogue,
) -> Plan {
    let parts: Vec<_> = deployments
        .iter()
        .map(|deployment| (*deployment, part(deployment, artifacts)))
        .collect();
    let mut plan = Plan::default();
    for (node, labels) in nodes {
        let mut content = Content::default();
        for (deployment, part) in &parts {
            if !deployment.deployment.select.matches(labels) {
                continue;
            }
            match content.clash(part) {
                Some((first, place)) => plan.conflicts.push(Conflict {
                    node: node.clone(),
                    first,
                    second: deployment.deployment.name.clone(),
                    place,
                }),
                None => content.merge(part),
            }
        }
        plan.nodes.insert(node.clone(), content);
    }
    plan
}

/// The artifacts of a deployment that are not there.
pub(crate) fn missing(deployment: &Deployment, artifacts: &Catalogue) -> Vec<Missing> {
    let handlers = handlers(deployment);
    let handlers = handlers
        .values()
        .map(|h| (ArtifactKind::Handler, &h.name, &h.version));
    let models = deployment
        .models
        .iter()
        .map(|m| (ArtifactKind::Model, &m.name, &m.version));
    handlers
        .chain(models)
        .filter(|(kind, name, version)| artifacts.find(*kind, name, version).is_none())
        .map(|(kind, name, version)| Missing {
            kind,
            name: name.clone(),
            version: version.clone(),
        })
        .collect()
}

/// Two streams of a deployment that want different versions of one processor.
pub(crate) fn torn_processor(deployment: &Deployment) -> Option<(&Reference, &Reference)> {
    let mut wanted: BTreeMap<&Name, &Reference> = BTreeMap::new();
    for processor in deployment
        .streams
        .iter()
        .filter_map(|s| s.processor.as_ref())
    {
        let first = wanted.entry(&processor.name).or_insert(processor);
        if first.version != processor.version {
            return Some((first, processor));
        }
    }
    None
}

/// The handlers of a deployment, with those that only a stream names.
fn handlers(deployment: &Deployment) -> BTreeMap<Name, HandlerEntry> {
    let mut handlers: BTreeMap<_, _> = deployment
        .handlers
        .iter()
        .map(|h| (h.name.clone(), h.clone()))
        .collect();
    for processor in deployment
        .streams
        .iter()
        .filter_map(|s| s.processor.as_ref())
    {
        handlers
            .entry(processor.name.clone())
            .or_insert_with(|| HandlerEntry {
                name: processor.name.clone(),
                version: processor.version.clone(),
                route: None,
                limits: Limits::default(),
                allow: Allow::default(),
                config: BTreeMap::new(),
                secrets: BTreeMap::new(),
                isolation: Isolation::default(),
            });
    }
    handlers
}

/// What one deployment brings to each of its nodes.
fn part(deployment: &Deployment, artifacts: &Catalogue) -> Content {
    let owner = &deployment.deployment.name;
    let mut part = Content::default();
    for (name, entry) in handlers(deployment) {
        let Some(artifact) = artifacts.find(ArtifactKind::Handler, &name, &entry.version) else {
            continue;
        };
        if let Some(route) = &entry.route {
            let claims = route.claims();
            part.routes
                .extend(claims.map(|claim| (claim, (owner.clone(), route.clone()))));
        }
        part.handlers.insert(
            name,
            DesiredHandler {
                artifact: artifact.clone(),
                deployment: owner.clone(),
                route: entry.route,
                limits: entry.limits,
                allow: entry.allow,
                config: entry.config,
                secrets: entry.secrets,
                isolation: entry.isolation,
            },
        );
    }
    let mut entries: BTreeMap<&Name, Vec<&ModelEntry>> = BTreeMap::new();
    for entry in &deployment.models {
        entries.entry(&entry.name).or_default().push(entry);
    }
    for (name, entries) in entries {
        let default = default_of(&entries).map(|entry| &entry.version);
        let mut versions = Vec::with_capacity(entries.len());
        for entry in entries {
            let artifact = artifacts.find(ArtifactKind::Model, name, &entry.version);
            versions.extend(artifact.map(|artifact| DesiredModel {
                artifact: artifact.clone(),
                deployment: owner.clone(),
                default: default == Some(&entry.version),
                options: entry.options(),
            }));
        }
        versions.sort_by_key(|model| model.default);
        if !versions.is_empty() {
            part.models.insert(name.clone(), versions);
        }
    }
    for entry in &deployment.streams {
        let spec = StreamSpec {
            name: entry.name.clone(),
            quota: entry.quota,
            on_full: entry.on_full,
            priority: entry.priority,
            ttl: entry.ttl,
            keep: entry.keep,
            ack: entry.ack,
            processor: entry.processor.clone(),
        };
        part.streams
            .insert(entry.name.clone(), (owner.clone(), spec));
    }
    for source in &deployment.sources {
        part.sources
            .insert(source.name.clone(), (owner.clone(), source.clone()));
    }
    part
}

impl Content {
    /// The first place that both have, and who has it here.
    fn clash(&self, other: &Self) -> Option<(Name, Place)> {
        let handler = other.handlers.keys().find_map(|name| {
            let mine = self.handlers.get(name)?;
            Some((mine.deployment.clone(), Place::Handler(name.clone())))
        });
        let model = || {
            other.models.keys().find_map(|name| {
                let mine = self.models.get(name)?.first()?;
                Some((mine.deployment.clone(), Place::Model(name.clone())))
            })
        };
        let stream = || {
            other.streams.keys().find_map(|name| {
                let (owner, _) = self.streams.get(name)?;
                Some((owner.clone(), Place::Stream(name.clone())))
            })
        };
        let route = || {
            other.routes.iter().find_map(|(claim, (_, route))| {
                let (owner, _) = self.routes.get(claim)?;
                Some((owner.clone(), Place::Route(route.clone())))
            })
        };
        let source = || {
            other.sources.keys().find_map(|name| {
                let (owner, _) = self.sources.get(name)?;
                Some((owner.clone(), Place::Source(name.clone())))
            })
        };
        handler
            .or_else(model)
            .or_else(stream)
            .or_else(source)
            .or_else(route)
            .or_else(|| self.circle(other))
    }

    /// The circle of processors that the two would make together, and who has a part of it here.
    fn circle(&self, other: &Self) -> Option<(Name, Place)> {
        let streams = self.streams.values().chain(other.streams.values());
        let processed = streams.filter_map(|(_, s)| Some((&s.name, s.processor.as_ref()?)));
        let handlers = self.handlers.iter().chain(&other.handlers);
        let circle = Circle::among(processed, handlers.map(|(name, h)| (name, &h.allow)))?;
        let mut mine = self.handlers.iter();
        let (_, handler) = mine.find(|(name, _)| circle.has(name))?;
        Some((handler.deployment.clone(), Place::Circle(circle)))
    }

    fn merge(&mut self, other: &Self) {
        self.handlers.extend(other.handlers.clone());
        self.models.extend(other.models.clone());
        self.streams.extend(other.streams.clone());
        self.sources.extend(other.sources.clone());
        self.routes.extend(other.routes.clone());
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.handlers.is_empty()
            && self.models.is_empty()
            && self.streams.is_empty()
            && self.sources.is_empty()
    }

    /// Models and streams that a handler or a source uses and that are not there.
    pub(crate) fn unmet(&self) -> impl Iterator<Item = String> {
        let sources = self.sources.values().filter_map(move |(_, source)| {
            let (name, stream) = (&source.name, &source.stream);
            (!self.streams.contains_key(stream)).then(|| {
                format!("source {name} appends to stream {stream}, which no deployment brings")
            })
        });
        let handlers = self.handlers.values().flat_map(move |handler| {
            let name = &handler.artifact.name;
            let models = handler.allow.models.iter();
            let models = models.filter(|m| !self.models.contains_key(*m));
            let streams = handler.allow.streams.iter();
            let streams = streams.filter(|s| !self.streams.contains_key(*s));
            models
                .map(move |m| {
                    format!("handler {name} may use model {m}, which no deployment brings")
                })
                .chain(streams.map(move |s| {
                    format!("handler {name} may append to stream {s}, which no deployment brings")
                }))
                .collect::<Vec<_>>()
        });
        handlers.chain(sources)
    }

    /// The document for `node`.
    pub(crate) fn desired(&self, node: &NodeId, generation: u64, epoch: u64) -> Desired {
        Desired {
            v: 1,
            node: node.clone(),
            generation,
            epoch,
            handlers: self.handlers.values().cloned().collect(),
            models: self.models.values().flatten().cloned().collect(),
            streams: self.streams.values().map(|(_, s)| s.clone()).collect(),
            sources: self.sources.values().map(|(_, s)| s.clone()).collect(),
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Handler(name) => write!(f, "handler {name}"),
            Self::Model(name) => write!(f, "model {name}"),
            Self::Stream(name) => write!(f, "stream {name}"),
            Self::Source(name) => write!(f, "source {name}"),
            Self::Route(route) => write!(f, "route {route}"),
            Self::Circle(circle) => write!(f, "a part of the circle of processors {circle}"),
        }
    }
}

#[cfg(test)]
mod tests;
