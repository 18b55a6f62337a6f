use std::collections::BTreeMap;

use fleet_api::artifact::Reference;
use fleet_api::deployment::{Deployment, DeploymentError};
use fleet_api::ids::{Name, NodeId};
use fleet_api::labels::Labels;
use fleet_api::rest::{ApplyResult, Change, NodeGeneration};

use super::planner::{self, Conflict, Missing, Plan};
use super::store::{self, DeploymentRow, NodeRow, StoreError, within};
use super::{Catalogue, EPOCH, FleetHandle};
use crate::clock::now_ms;

/// Why a deployment is not applied.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ApplyError {
    /// The file is wrong by itself.
    #[error(transparent)]
    Deployment(#[from] DeploymentError),
    /// It names artifacts that nobody has pushed.
    #[error("{0}")]
    Missing(String),
    /// Two of its streams want different versions of a processor.
    #[error(
        "the deployment's streams want processor {0} and {1}: a node runs one version of a handler"
    )]
    TornProcessor(Reference, Reference),
    /// Another deployment has a place that it wants.
    #[error("{0}")]
    Conflict(String),
    /// There is none of that name.
    #[error("there is no deployment {0}")]
    Unknown(Name),
    /// The store does not answer.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl FleetHandle {
    /// Applies a deployment, or only says what would come of it. Nothing changes on an error.
    pub(crate) async fn apply(&self, text: &str, dry_run: bool) -> Result<ApplyResult, ApplyError> {
        let spec = Deployment::from_toml(text, "the deployment")?;
        if let Some((a, b)) = planner::torn_processor(&spec) {
            return Err(ApplyError::TornProcessor(a.clone(), b.clone()));
        }
        let name = spec.deployment.name.clone();
        let _turn = self.0.turn.lock().await;
        let mut change = self.0.store.change().await?;
        let catalogue = within::catalogue(&mut change).await?;
        let missing = planner::missing(&spec, &catalogue);
        if !missing.is_empty() {
            return Err(ApplyError::Missing(describe_missing(&missing, &catalogue)));
        }
        let mut deployments = within::deployments(&mut change).await?;
        let old = deployments
            .iter()
            .position(|d| d.spec.deployment.name == name);
        let now = now_ms();
        let what = match old {
            Some(i) if deployments[i].spec == spec => Change::Unchanged,
            Some(_) => Change::Changed,
            None => Change::Created,
        };
        let created_ms = old.map_or(now, |i| deployments[i].created_ms);
        let row = DeploymentRow {
            spec,
            created_ms,
            applied_ms: now,
        };
        within::keep_deployment(&mut change, &row).await?;
        match old {
            Some(i) => deployments[i] = row.clone(),
            None => deployments.push(row.clone()),
        }
        let replanned = self.replan(&mut change, &deployments, &catalogue).await?;
        let conflicts: Vec<_> = replanned
            .conflicts_of(&name)
            .map(Conflict::to_string)
            .collect();
        if !conflicts.is_empty() {
            return Err(ApplyError::Conflict(conflicts.join("; ")));
        }
        let nodes = replanned.matching(&row.spec);
        let warnings = warnings(&row.spec, &nodes, &replanned.plan);
        if dry_run {
            change.rollback().await.map_err(StoreError::from)?;
        } else {
            change.commit().await.map_err(StoreError::from)?;
            self.0.changed.notify_one();
            tracing::info!(deployment = %name, ?what, nodes = nodes.len(),
                updated = replanned.updated.len(), "applied a deployment");
        }
        Ok(ApplyResult {
            deployment: name,
            change: what,
            nodes,
            updated: replanned.updated,
            warnings,
            dry_run,
        })
    }

    /// Takes a deployment away from its nodes.
    pub(crate) async fn remove_deployment(&self, name: &Name) -> Result<ApplyResult, ApplyError> {
        let _turn = self.0.turn.lock().await;
        let mut change = self.0.store.change().await?;
        let mut deployments = within::deployments(&mut change).await?;
        let Some(i) = deployments
            .iter()
            .position(|d| d.spec.deployment.name == *name)
        else {
            return Err(ApplyError::Unknown(name.clone()));
        };
        let old = deployments.remove(i);
        within::remove_deployment(&mut change, name).await?;
        let catalogue = within::catalogue(&mut change).await?;
        let replanned = self.replan(&mut change, &deployments, &catalogue).await?;
        change.commit().await.map_err(StoreError::from)?;
        self.0.changed.notify_one();
        tracing::info!(deployment = %name, updated = replanned.updated.len(), "removed a deployment");
        Ok(ApplyResult {
            deployment: name.clone(),
            change: Change::Deleted,
            nodes: replanned.matching(&old.spec),
            updated: replanned.updated,
            warnings: Vec::new(),
            dry_run: false,
        })
    }

    /// Plans anew after nodes or their labels have changed.
    pub(super) async fn replan_all(&self) -> Result<(), StoreError> {
        let _turn = self.0.turn.lock().await;
        let mut change = self.0.store.change().await?;
        let deployments = within::deployments(&mut change).await?;
        let catalogue = within::catalogue(&mut change).await?;
        let replanned = self.replan(&mut change, &deployments, &catalogue).await?;
        change.commit().await?;
        for conflict in &replanned.plan.conflicts {
            tracing::warn!("left a deployment out: {conflict}");
        }
        self.0.changed.notify_one();
        Ok(())
    }

    async fn replan(
        &self,
        change: &mut store::Change,
        deployments: &[DeploymentRow],
        catalogue: &Catalogue,
    ) -> Result<Replanned, StoreError> {
        let nodes = within::nodes(change).await?;
        let labels: BTreeMap<NodeId, Labels> = nodes
            .iter()
            .map(|node| (node.id.clone(), self.labels(node)))
            .collect();
        let specs: Vec<_> = deployments.iter().map(|d| &d.spec).collect();
        let plan = planner::plan(&specs, &labels, catalogue);
        let known = within::desired(change).await?;
        let mut updated = Vec::new();
        for (node, content) in &plan.nodes {
            let (reached, document) = known.get(node).cloned().unwrap_or_default();
            let same = match &document {
                Some(old) => *old == content.desired(node, old.generation, old.epoch),
                None => content.is_empty(),
            };
            if same {
                continue;
            }
            let generation = reached + 1;
            within::keep_desired(change, &content.desired(node, generation, EPOCH)).await?;
            updated.push(NodeGeneration {
                node: node.clone(),
                generation,
            });
        }
        Ok(Replanned {
            plan,
            labels,
            updated,
        })
    }

    /// A node's labels: what it says about itself, and above that what its join token gave it.
    pub(super) fn labels(&self, node: &NodeRow) -> Labels {
        let mut labels = node
            .presence
            .as_ref()
            .map(|p| p.labels.clone())
            .unwrap_or_default();
        labels.extend(node.labels.clone());
        labels
    }
}

struct Replanned {
    plan: Plan,
    labels: BTreeMap<NodeId, Labels>,
    updated: Vec<NodeGeneration>,
}

impl Replanned {
    fn conflicts_of<'a>(&'a self, name: &'a Name) -> impl Iterator<Item = &'a Conflict> {
        let conflicts = self.plan.conflicts.iter();
        conflicts.filter(move |c| c.first == *name || c.second == *name)
    }

    fn matching(&self, spec: &Deployment) -> Vec<NodeId> {
        let labels = self.labels.iter();
        let matching = labels.filter(|(_, labels)| spec.deployment.select.matches(labels));
        matching.map(|(node, _)| node.clone()).collect()
    }
}

fn describe_missing(missing: &[Missing], catalogue: &Catalogue) -> String {
    let sentences: Vec<_> = missing
        .iter()
        .map(|Missing { kind, name, version }| {
            let versions = catalogue.versions(*kind, name);
            if !versions.is_empty() {
                let versions: Vec<_> = versions.iter().map(|v| v.as_str()).collect();
                return format!(
                    "{kind} {name} has no version {version}: there are {}",
                    versions.join(", ")
                );
            }
            let names: Vec<_> = catalogue.names(*kind).iter().map(|n| n.as_str()).collect();
            let known = if names.is_empty() {
                format!("no {kind} has been pushed yet")
            } else {
                format!("there are {}", names.join(", "))
            };
            format!("there is no {kind} {name}:{version}: {known}; push it first with `edgectl push {kind} {name}:{version} FILE`")
        })
        .collect();
    sentences.join("; ")
}

fn warnings(spec: &Deployment, nodes: &[NodeId], plan: &Plan) -> Vec<String> {
    let mut warnings = Vec::new();
    if nodes.is_empty() {
        warnings.push(format!(
            "no node matches the selector {} now; nodes that join later will",
            spec.deployment.select
        ));
    }
    if spec.rollout.is_some() || !spec.gates.is_empty() {
        warnings.push(
            "[rollout] and [[gate]] are kept but not enforced yet: all nodes change at once"
                .to_owned(),
        );
    }
    let mut unmet = BTreeMap::<String, Vec<&str>>::new();
    for node in nodes {
        for sentence in plan.nodes.get(node).into_iter().flat_map(|c| c.unmet()) {
            unmet.entry(sentence).or_default().push(node.as_str());
        }
    }
    for (sentence, nodes) in unmet {
        warnings.push(format!("{sentence} to {}", nodes.join(", ")));
    }
    warnings
}
