use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use fleet_api::health::Health;
use fleet_api::ids::NodeId;
use fleet_api::presence::Presence;
use fleet_api::reported::Reported;

use super::store::NodeRow;
use crate::clock::now_ms;

/// The last thing that every node has said, in memory.
#[derive(Clone, Default)]
pub(crate) struct Observed(Arc<RwLock<HashMap<NodeId, NodeState>>>);

/// What one node has said.
#[derive(Debug, Clone, Default)]
pub(crate) struct NodeState {
    pub(crate) presence: Option<Presence>,
    pub(crate) reported: Option<Reported>,
    pub(crate) health: Option<Health>,
    pub(crate) last_seen_ms: Option<u64>,
}

impl NodeState {
    pub(crate) fn online(&self) -> bool {
        self.presence.as_ref().is_some_and(|p| p.online)
    }
}

impl Observed {
    /// What is known at start. No connection has outlived the process that held it.
    pub(super) fn restore(&self, row: &NodeRow) {
        let presence = row
            .presence
            .clone()
            .map(|p| Presence { online: false, ..p });
        let state = NodeState {
            presence,
            reported: row.reported.clone(),
            health: None,
            last_seen_ms: row.last_seen_ms,
        };
        self.write(|nodes| nodes.insert(row.id.clone(), state));
    }

    pub(super) fn remove(&self, node: &NodeId) {
        self.write(|nodes| nodes.remove(node));
    }

    /// What `node` has said.
    pub(crate) fn of(&self, node: &NodeId) -> NodeState {
        let nodes = self.0.read().unwrap_or_else(PoisonError::into_inner);
        nodes.get(node).cloned().unwrap_or_default()
    }

    /// Everything that is known.
    pub(crate) fn all(&self) -> HashMap<NodeId, NodeState> {
        self.0
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Notes a birth or death. False if it is late and changes nothing.
    pub(super) fn take_presence(&self, node: &NodeId, presence: &Presence) -> bool {
        self.update(node, |state| {
            let counts = presence.supersedes(state.presence.as_ref());
            if counts {
                state.presence = Some(presence.clone());
            }
            counts
        })
    }

    pub(super) fn take_reported(&self, node: &NodeId, reported: Reported) {
        self.update(node, |state| state.reported = Some(reported));
    }

    pub(super) fn take_health(&self, node: &NodeId, health: Health) {
        self.update(node, |state| state.health = Some(health));
    }

    /// Notes that a node was heard.
    pub(crate) fn heard(&self, node: &NodeId) {
        self.update(node, |_| ());
    }

    fn update<T>(&self, node: &NodeId, change: impl FnOnce(&mut NodeState) -> T) -> T {
        self.write(|nodes| {
            let state = nodes.entry(node.clone()).or_default();
            state.last_seen_ms = Some(now_ms());
            change(state)
        })
    }

    fn write<T>(&self, change: impl FnOnce(&mut HashMap<NodeId, NodeState>) -> T) -> T {
        change(&mut self.0.write().unwrap_or_else(PoisonError::into_inner))
    }
}
