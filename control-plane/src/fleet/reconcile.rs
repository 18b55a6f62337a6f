use std::collections::HashMap;
use std::time::Duration;

use fleet_api::desired::Envelope;
use fleet_api::ids::NodeId;
use fleet_api::replay::Replays;
use fleet_api::topic::NodeTopic;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{FleetHandle, StoreError};
use crate::broker::BrokerHandle;

/// How often everything is compared, signal or not.
const PERIOD: Duration = Duration::from_secs(10);
/// How long a node may work on an older generation before it is told again.
const LAG: Duration = Duration::from_secs(30);

/// Keeps every node's desired state published: takes no input, compares, publishes what differs.
pub(crate) struct ReconcileTask {
    fleet: FleetHandle,
    broker: BrokerHandle,
    published: HashMap<NodeId, Published>,
    /// The replays that each node was told of last.
    replays: HashMap<NodeId, Replays>,
}

struct Published {
    generation: u64,
    at: Instant,
}

impl ReconcileTask {
    pub(crate) fn new(fleet: FleetHandle, broker: BrokerHandle) -> Self {
        Self {
            fleet,
            broker,
            published: HashMap::new(),
            replays: HashMap::new(),
        }
    }

    /// Runs until `stop`.
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        loop {
            if let Err(error) = self.reconcile().await {
                tracing::error!(%error, "could not compare desired states");
            }
            if let Err(error) = self.reconcile_replays().await {
                tracing::error!(%error, "could not compare replays");
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.fleet.0.changed.notified() => {}
                () = tokio::time::sleep(PERIOD) => {}
            }
        }
    }

    async fn reconcile(&mut self) -> Result<(), StoreError> {
        let all = self.fleet.all_desired().await?;
        let members = &self.fleet.0.members;
        self.published.retain(|node, _| members.contains(node));
        for desired in all {
            let (node, generation) = (&desired.node, desired.generation);
            let lags = || {
                let state = self.fleet.observed().of(node);
                state.online() && state.reported.is_none_or(|r| r.generation < generation)
            };
            let due = match self.published.get(node) {
                None => true,
                Some(last) if last.generation != generation => true,
                Some(last) => last.at.elapsed() > LAG && lags(),
            };
            if !due {
                continue;
            }
            let document = serde_json::to_vec(&Envelope::wrap(&desired))
                .expect("an envelope has only string keys");
            self.broker
                .publish_retained(node, &NodeTopic::Desired, document)
                .await;
            tracing::debug!(%node, generation, "published a desired state");
            let at = Instant::now();
            self.published
                .insert(node.clone(), Published { generation, at });
        }
        Ok(())
    }

    /// Also nodes whose replays have all ended are told so, once.
    async fn reconcile_replays(&mut self) -> Result<(), StoreError> {
        self.fleet.expire_replays().await?;
        for replays in self.fleet.all_replays().await? {
            let node = replays.node.clone();
            if self.replays.get(&node) == Some(&replays) || !self.fleet.0.members.contains(&node) {
                continue;
            }
            let document = serde_json::to_vec(&Envelope::wrap_replays(&replays))
                .expect("an envelope has only string keys");
            self.broker
                .publish_retained(&node, &NodeTopic::Replays, document)
                .await;
            self.replays.insert(node, replays);
        }
        let members = &self.fleet.0.members;
        self.replays.retain(|node, _| members.contains(node));
        Ok(())
    }
}
