use bytes::Bytes;
use fleet_api::event::{self, Event};
use fleet_api::frame::{Body, Frame};
use fleet_api::health::Health;
use fleet_api::ids::NodeId;
use fleet_api::presence::Presence;
use fleet_api::replay::Replayed;
use fleet_api::reported::Reported;
use fleet_api::topic::NodeTopic;
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;

use super::FleetHandle;
use crate::broker::NodeMessage;
use crate::members::Members;

/// Takes in what nodes say about themselves.
pub(crate) struct IngestTask {
    messages: mpsc::Receiver<NodeMessage>,
    fleet: FleetHandle,
    members: Members,
}

impl IngestTask {
    pub(crate) fn new(
        messages: mpsc::Receiver<NodeMessage>,
        fleet: FleetHandle,
        members: Members,
    ) -> Self {
        Self {
            messages,
            fleet,
            members,
        }
    }

    /// Runs until every sender is gone.
    pub(crate) async fn run(mut self) {
        while let Some(message) = self.messages.recv().await {
            let NodeMessage {
                node,
                topic,
                payload,
            } = message;
            if !self.members.contains(&node) {
                continue;
            }
            match topic {
                NodeTopic::Presence => self.take_presence(&node, &payload).await,
                NodeTopic::Reported => self.take_reported(&node, &payload).await,
                NodeTopic::Health => self.take_health(&node, &payload),
                NodeTopic::Events => {
                    self.fleet.observed().heard(&node);
                    self.take_events(&node, &payload).await;
                }
                NodeTopic::Replayed => self.take_replayed(&node, &payload).await,
                NodeTopic::Desired
                | NodeTopic::Replays
                | NodeTopic::Stream(_)
                | NodeTopic::StreamAck(_) => {}
            }
        }
    }

    async fn take_presence(&self, node: &NodeId, payload: &[u8]) {
        let Some(presence) = read::<Presence>(node, "presence", payload, |p| &p.node) else {
            return;
        };
        let before = self.fleet.observed().of(node).presence;
        if !self.fleet.observed().take_presence(node, &presence) {
            tracing::debug!(%node, "a late death changes nothing");
            return;
        }
        if presence.online {
            tracing::info!(%node, version = %presence.version, boot_id = %presence.boot_id, "node online");
        } else {
            tracing::warn!(%node, "node offline");
        }
        if let Err(error) = self.fleet.0.store.keep_presence(node, &presence).await {
            tracing::error!(%node, %error, "could not keep a node's presence");
        }
        if presence.online && before.is_none_or(|b| b.labels != presence.labels) {
            let _ = self.fleet.replan_all().await.inspect_err(|error| {
                tracing::error!(%node, %error, "could not plan for a node's new labels");
            });
        }
        self.fleet.0.changed.notify_one();
    }

    async fn take_reported(&self, node: &NodeId, payload: &[u8]) {
        let Some(reported) = read::<Reported>(node, "reported", payload, |r| &r.node) else {
            return;
        };
        if let Some(reason) = &reported.reason {
            tracing::warn!(%node, generation = reported.generation, %reason, "node could not change");
        }
        if let Err(error) = self.fleet.0.store.keep_reported(node, &reported).await {
            tracing::error!(%node, %error, "could not keep a node's report");
        }
        self.fleet.observed().take_reported(node, reported);
    }

    async fn take_events(&self, node: &NodeId, payload: &Bytes) {
        let frame = match Frame::decode(event::STREAM, payload) {
            Ok(frame) => frame,
            Err(error) => {
                return tracing::warn!(%node, %error, "dropped events that cannot be read");
            }
        };
        let Body::Records(records) = &frame.body else {
            return;
        };
        let events: Vec<(u64, Event)> = (frame.first..)
            .zip(records)
            .filter_map(|(seq, record)| Some((seq, serde_json::from_slice(&record.value).ok()?)))
            .collect();
        if let Err(error) = self
            .fleet
            .0
            .store
            .keep_events(node, frame.epoch, &events)
            .await
        {
            tracing::error!(%node, %error, "could not keep a node's events");
        }
    }

    async fn take_replayed(&self, node: &NodeId, payload: &[u8]) {
        let Some(replayed) = read::<Replayed>(node, "replayed", payload, |r| &r.node) else {
            return;
        };
        self.fleet.observed().heard(node);
        if let Err(error) = self.fleet.take_replayed(node, &replayed).await {
            tracing::error!(%node, %error, "could not keep what a node replayed");
        }
    }

    fn take_health(&self, node: &NodeId, payload: &[u8]) {
        if let Some(health) = read::<Health>(node, "health", payload, |h| &h.node) {
            self.fleet.observed().take_health(node, health);
        }
    }
}

/// Reads a document and holds it to the node that sent it.
fn read<T: DeserializeOwned>(
    node: &NodeId,
    what: &str,
    payload: &[u8],
    of: impl Fn(&T) -> &NodeId,
) -> Option<T> {
    match serde_json::from_slice::<T>(payload) {
        Ok(document) if of(&document) == node => Some(document),
        Ok(document) => {
            tracing::warn!(%node, claims = %of(&document), what, "dropped a document in another node's name");
            None
        }
        Err(error) => {
            tracing::warn!(%node, what, %error, "dropped a document that cannot be read");
            None
        }
    }
}
