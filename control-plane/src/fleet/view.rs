//! What people and programs are shown of the fleet.

use std::collections::HashMap;

use fleet_api::desired::Desired;
use fleet_api::ids::NodeId;
use fleet_api::reported::{Outcome, Phase, Reported};
use fleet_api::rest::{ArtifactSummary, DeploymentStatus, NodeDetail, NodeSummary};

use super::observed::NodeState;
use super::store::NodeRow;
use super::{FleetHandle, StoreError};

impl FleetHandle {
    /// All nodes, in the order of their ids.
    pub(crate) async fn nodes(&self) -> Result<Vec<NodeSummary>, StoreError> {
        let desired = self.generations().await?;
        let observed = self.observed().all();
        let nothing = NodeState::default();
        let rows = self.0.store.nodes().await?;
        Ok(rows
            .iter()
            .map(|row| {
                let state = observed.get(&row.id).unwrap_or(&nothing);
                let generation = desired.get(&row.id).copied().unwrap_or(0);
                self.summary(row, state, generation)
            })
            .collect())
    }

    /// One node; what the archive has of it is the caller's to add.
    pub(crate) async fn node(&self, node: &NodeId) -> Result<Option<NodeDetail>, StoreError> {
        let Some(row) = self.0.store.node(node).await? else {
            return Ok(None);
        };
        let state = self.observed().of(node);
        let desired = self.0.store.desired(node).await?;
        let generation = desired.map_or(0, |d| d.generation);
        Ok(Some(NodeDetail {
            summary: self.summary(&row, &state, generation),
            enrolled_ms: row.enrolled_ms,
            presence: state.presence,
            reported: state.reported,
            health: state.health,
            archive: Vec::new(),
        }))
    }

    /// All deployments, from old to new.
    pub(crate) async fn deployments(&self) -> Result<Vec<DeploymentStatus>, StoreError> {
        let desired = self.generations().await?;
        let observed = self.observed().all();
        let nothing = NodeState::default();
        let nodes = self.0.store.nodes().await?;
        let deployments = self.0.store.deployments().await?;
        Ok(deployments
            .into_iter()
            .map(|deployment| {
                let select = &deployment.spec.deployment.select;
                let (mut matching, mut committed, mut failed) = (0, 0, 0);
                for row in nodes.iter().filter(|r| select.matches(&self.labels(r))) {
                    matching += 1;
                    let state = observed.get(&row.id).unwrap_or(&nothing);
                    let generation = desired.get(&row.id).copied().unwrap_or(0);
                    match progress(generation, state.reported.as_ref()) {
                        Progress::Done => committed += 1,
                        Progress::Failed => failed += 1,
                        Progress::UnderWay => {}
                    }
                }
                DeploymentStatus {
                    spec: deployment.spec,
                    nodes: matching,
                    committed,
                    failed,
                    applied_ms: deployment.applied_ms,
                }
            })
            .collect())
    }

    /// All artifacts, in the order of kind, name and push.
    pub(crate) async fn artifacts(&self) -> Result<Vec<ArtifactSummary>, StoreError> {
        self.0.store.artifacts().await
    }

    async fn generations(&self) -> Result<HashMap<NodeId, u64>, StoreError> {
        let all: Vec<Desired> = self.all_desired().await?;
        Ok(all.into_iter().map(|d| (d.node, d.generation)).collect())
    }

    fn summary(&self, row: &NodeRow, state: &NodeState, generation: u64) -> NodeSummary {
        let reported = state.reported.as_ref();
        NodeSummary {
            id: row.id.clone(),
            labels: self.labels(row),
            online: state.online(),
            last_seen_ms: state.last_seen_ms,
            desired_generation: generation,
            serving_generation: reported.map_or(0, |r| r.serving_generation),
            state: word(state, generation).to_owned(),
            reason: reported.and_then(|r| r.reason.clone()),
            version: state.presence.as_ref().map(|p| p.version.clone()),
        }
    }
}

#[derive(Debug, PartialEq)]
enum Progress {
    Done,
    UnderWay,
    Failed,
}

/// How far a node is with the generation it shall run.
fn progress(generation: u64, reported: Option<&Reported>) -> Progress {
    if generation == 0 {
        return Progress::Done;
    }
    let Some(reported) = reported.filter(|r| r.generation >= generation) else {
        return Progress::UnderWay;
    };
    match reported.result {
        Some(Outcome::Succeeded) => Progress::Done,
        Some(_) => Progress::Failed,
        None if reported.phase == Phase::Committed => Progress::Done,
        None => Progress::UnderWay,
    }
}

/// A node's state in one word.
fn word(state: &NodeState, generation: u64) -> &'static str {
    if state.presence.is_none() {
        return "new";
    }
    if !state.online() {
        return "offline";
    }
    match progress(generation, state.reported.as_ref()) {
        Progress::Done => "ok",
        Progress::UnderWay => "updating",
        Progress::Failed => "failed",
    }
}
