//! From what an operator asks for to what the node needs. Pure.

use std::collections::BTreeMap;

use fleet_api::artifact::{ArtifactKind, PinnedArtifact, Reference};
use fleet_api::deployment::{Allow, Isolation, Limits};
use fleet_api::desired::{Desired, DesiredHandler, DesiredModel};
use fleet_api::ids::{Name, NodeId, StreamName};
use fleet_api::model::ModelOptions;
use fleet_api::replay::{MOST_EXAMPLES, ReplayRequest, ReplaySide, ReplaySpec};
use fleet_api::units::ByteSize;

use crate::fleet::Catalogue;

/// What a processor may keep in a replay of a stream that has none in production.
const KEYVALUE: ByteSize = ByteSize(16 << 20);

/// Why a replay cannot be planned.
#[derive(Debug, PartialEq, thiserror::Error)]
pub(crate) enum PlanError {
    #[error("node {node} has no stream {stream}: it has {known}")]
    NoStream {
        node: NodeId,
        stream: StreamName,
        known: String,
    },
    #[error("there is no {kind} {reference}: {known}")]
    Missing {
        kind: ArtifactKind,
        reference: Reference,
        known: String,
    },
    #[error(
        "say what to try: another version of the processor (--handler NAME:VERSION), of a model (--model NAME:VERSION), or another value of its configuration (--config KEY=VALUE)"
    )]
    Nothing,
    #[error(
        "stream {0} has no processor in production: say which one to try with --handler NAME:VERSION"
    )]
    NoProcessor(StreamName),
    #[error("{0}")]
    Option(&'static str),
}

/// What a node needs for the replay `request`, with what `desired` has in production.
pub(super) fn plan(
    node: &NodeId,
    desired: Option<&Desired>,
    artifacts: &Catalogue,
    request: &ReplayRequest,
    id: Name,
) -> Result<ReplaySpec, PlanError> {
    let streams = desired.map_or(&[][..], |desired| &desired.streams);
    let stream = streams.iter().find(|s| s.name == request.stream);
    let Some(stream) = stream else {
        let known: Vec<_> = streams.iter().map(|s| s.name.as_str()).collect();
        return Err(PlanError::NoStream {
            node: node.clone(),
            stream: request.stream.clone(),
            known: or_none(&known),
        });
    };
    let handlers = desired.map_or(&[][..], |desired| &desired.handlers);
    let named = |name: &Name| handlers.iter().find(|h| h.artifact.name == *name);
    let production = stream.processor.as_ref().and_then(|p| named(&p.name));
    let tries_something =
        request.handler.is_some() || !request.models.is_empty() || !request.config.is_empty();
    if !tries_something {
        return Err(PlanError::Nothing);
    }
    let options = request.options.clone().unwrap_or_default();
    let finite = options.tolerance.is_finite() && options.tolerance >= 0.0;
    if !finite {
        return Err(PlanError::Option("the tolerance is a number of at least 0"));
    }
    if options.examples > MOST_EXAMPLES {
        return Err(PlanError::Option("a result has 20 examples at most"));
    }

    let handler = |reference: &Reference| -> Result<DesiredHandler, PlanError> {
        let artifact = find(artifacts, ArtifactKind::Handler, reference)?;
        let base = named(&reference.name).or(production);
        let mut handler = base.cloned().unwrap_or_else(|| bare(artifact, streams));
        handler.artifact = artifact.clone();
        handler.route = None;
        Ok(handler)
    };
    let mut candidate = match (&request.handler, production) {
        (Some(reference), _) => handler(reference)?,
        (None, Some(production)) => production.clone(),
        (None, None) => return Err(PlanError::NoProcessor(request.stream.clone())),
    };
    candidate.config.extend(request.config.clone());
    let mut models = Vec::new();
    if !request.models.is_empty() {
        let serving = desired.map_or(&[][..], |desired| &desired.models);
        for reference in &request.models {
            candidate.allow.models.insert(reference.name.clone());
            let artifact = find(artifacts, ArtifactKind::Model, reference)?;
            models.push(model(artifact, serving));
        }
        // It brings all its models: those that serve are not to be seen from its place.
        let others = serving.iter().filter(|model| {
            let name = &model.artifact.name;
            candidate.allow.models.contains(name) && request.models.iter().all(|r| r.name != *name)
        });
        models.extend(others.cloned());
    }
    let baseline = match (&request.against, production) {
        (Some(reference), _) => Some(handler(reference)?),
        (None, production) => production.cloned(),
    };
    let side = |handler: DesiredHandler, models| ReplaySide { handler, models };
    Ok(ReplaySpec {
        id,
        stream: request.stream.clone(),
        range: request.range,
        candidate: side(candidate, models),
        baseline: baseline.map(|handler| side(handler, Vec::new())),
        options,
    })
}

/// A model version in the place of the one that serves.
fn model(artifact: &PinnedArtifact, serving: &[DesiredModel]) -> DesiredModel {
    let known = serving
        .iter()
        .filter(|model| model.artifact.name == artifact.name)
        .max_by_key(|model| model.default);
    let mut options = known.map_or_else(ModelOptions::default, |model| model.options.clone());
    options.shadow = None;
    DesiredModel {
        artifact: artifact.clone(),
        deployment: known.map_or_else(|| artifact.name.clone(), |model| model.deployment.clone()),
        default: true,
        options,
    }
}

/// A processor that no deployment describes.
fn bare(artifact: &PinnedArtifact, streams: &[fleet_api::desired::StreamSpec]) -> DesiredHandler {
    DesiredHandler {
        artifact: artifact.clone(),
        deployment: artifact.name.clone(),
        route: None,
        limits: Limits::default(),
        allow: Allow {
            streams: streams.iter().map(|s| s.name.clone()).collect(),
            keyvalue: Some(KEYVALUE),
            ..Allow::default()
        },
        config: BTreeMap::new(),
        secrets: BTreeMap::new(),
        isolation: Isolation::default(),
    }
}

fn find<'a>(
    artifacts: &'a Catalogue,
    kind: ArtifactKind,
    reference: &Reference,
) -> Result<&'a PinnedArtifact, PlanError> {
    let found = artifacts.find(kind, &reference.name, &reference.version);
    found.ok_or_else(|| {
        let versions = artifacts.versions(kind, &reference.name);
        let versions: Vec<_> = versions.iter().map(|v| v.as_str()).collect();
        let known = if versions.is_empty() {
            format!("push it first with `edgectl push {kind} {reference} FILE`")
        } else {
            format!("its versions are {}", versions.join(", "))
        };
        PlanError::Missing {
            kind,
            reference: reference.clone(),
            known,
        }
    })
}

/// The version of a side.
pub(super) fn reference(side: &ReplaySide) -> Reference {
    let artifact = &side.handler.artifact;
    Reference {
        name: artifact.name.clone(),
        version: artifact.version.clone(),
    }
}

fn or_none(known: &[&str]) -> String {
    if known.is_empty() {
        "none".to_owned()
    } else {
        known.join(", ")
    }
}

#[cfg(test)]
mod tests {
    use fleet_api::desired::StreamSpec;
    use fleet_api::ids::Digest;

    use super::*;

    fn pinned(kind: ArtifactKind, name: &str, version: &str) -> PinnedArtifact {
        PinnedArtifact {
            kind,
            name: name.parse().unwrap(),
            version: version.parse().unwrap(),
            digest: Digest::of(format!("{name}:{version}").as_bytes()),
            size: 1,
            files: Vec::new(),
        }
    }

    fn catalogue() -> Catalogue {
        Catalogue::new([
            pinned(ArtifactKind::Handler, "score", "1"),
            pinned(ArtifactKind::Handler, "score", "2"),
            pinned(ArtifactKind::Model, "forest", "1"),
            pinned(ArtifactKind::Model, "forest", "2"),
        ])
    }

    fn desired() -> Desired {
        let catalogue = catalogue();
        let find = |kind, reference: &str| {
            let reference: Reference = reference.parse().unwrap();
            find(&catalogue, kind, &reference).unwrap().clone()
        };
        let mut stream = StreamSpec::named("vibration".parse().unwrap());
        stream.processor = Some("score:1".parse().unwrap());
        let mut handler = bare(&find(ArtifactKind::Handler, "score:1"), &[]);
        handler.allow.models.insert("forest".parse().unwrap());
        handler.config.insert("threshold".into(), "0".into());
        Desired {
            v: 1,
            node: "n1".parse().unwrap(),
            generation: 3,
            epoch: 1,
            handlers: vec![handler],
            models: vec![model(&find(ArtifactKind::Model, "forest:1"), &[])],
            streams: vec![stream, StreamSpec::named("plain".parse().unwrap())],
            sources: Vec::new(),
        }
    }

    fn request(stream: &str) -> ReplayRequest {
        serde_json::from_value(serde_json::json!({ "stream": stream })).unwrap()
    }

    fn planned(request: &ReplayRequest) -> Result<ReplaySpec, PlanError> {
        let node = "n1".parse().unwrap();
        plan(
            &node,
            Some(&desired()),
            &catalogue(),
            request,
            "r1".parse().unwrap(),
        )
    }

    #[test]
    fn another_version_keeps_what_the_deployment_grants_and_sets() {
        let mut asked = request("vibration");
        asked.handler = Some("score:2".parse().unwrap());
        asked.config.insert("threshold".into(), "5".into());
        let spec = planned(&asked).unwrap();
        assert_eq!(reference(&spec.candidate).to_string(), "score:2");
        assert_eq!(spec.candidate.handler.config["threshold"], "5");
        assert!(spec.candidate.handler.allow.models.contains("forest"));
        assert!(spec.candidate.models.is_empty());
        let baseline = spec.baseline.unwrap();
        assert_eq!(reference(&baseline).to_string(), "score:1");
        assert_eq!(baseline.handler.config["threshold"], "0");
    }

    #[test]
    fn another_model_runs_under_the_same_processor() {
        let mut asked = request("vibration");
        asked.models = vec!["forest:2".parse().unwrap()];
        let spec = planned(&asked).unwrap();
        assert_eq!(reference(&spec.candidate).to_string(), "score:1");
        let versions: Vec<_> = spec.candidate.models.iter().collect();
        assert_eq!(versions.len(), 1);
        assert_eq!(versions[0].artifact.version.as_str(), "2");
        assert!(spec.baseline.unwrap().models.is_empty());
    }

    #[test]
    fn says_what_is_missing() {
        let error = |asked: &ReplayRequest| planned(asked).unwrap_err().to_string();
        let text = error(&request("none"));
        assert_eq!(text, "node n1 has no stream none: it has vibration, plain");
        assert!(error(&request("vibration")).starts_with("say what to try"));
        let mut asked = request("plain");
        asked.models = vec!["forest:2".parse().unwrap()];
        assert!(error(&asked).contains("--handler NAME:VERSION"));
        asked.handler = Some("score:9".parse().unwrap());
        assert!(error(&asked).contains("its versions are 1, 2"));
        asked.handler = Some("other:1".parse().unwrap());
        assert!(error(&asked).contains("edgectl push handler other:1 FILE"));
        asked.handler = Some("score:2".parse().unwrap());
        asked.models.clear();
        assert_eq!(planned(&asked).unwrap().baseline, None);
    }
}
