//! A broker that is not ours: the control plane is one of its clients.
//!
//! ```text
//!  nodes ─► broker ─► subscription to all nodes' topics ─► outlets
//!  nodes ◄─ broker ◄─ desk: the newest of each document, all of them again after each connect
//! ```
//!
//! The broker is relied upon for nothing but passing messages on: a broker that was wiped gets
//! all documents again, and frames that it lost are sent again by their nodes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use fleet_api::ids::NodeId;
use fleet_api::topic::{self, NodeTopic};
use fleet_mqtt::{Client, Connected, Error, Event, Events, Session};
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;

use super::Outlets;
use super::connection::take;
use crate::members::Members;

const KEEP_ALIVE: Duration = Duration::from_secs(30);
const CONNECT: Duration = Duration::from_secs(10);
/// The last word on a silent broker, should the client's own keep alive not notice.
const SILENCE: Duration = Duration::from_secs(75);
/// Shortest and longest wait before a new connection.
const RECONNECT: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(10));
/// Publishes and subscriptions under way.
const IN_FLIGHT: u16 = 256;
/// Messages between the connection and those who take them.
const RECEIVED: usize = 64;
/// Filters in one SUBSCRIBE.
const FILTERS: usize = 100;

/// The connection's task.
pub(crate) struct External {
    pub(super) broker: fleet_mqtt::Broker,
    client_id: String,
    incoming_bytes: u32,
    members: Members,
    outlets: Outlets,
    desk: Desk,
}

/// Where documents for nodes lie until the broker has them, and after that.
#[derive(Clone, Default)]
pub(super) struct Desk(Arc<Inner>);

#[derive(Default)]
struct Inner {
    papers: Mutex<Papers>,
    changed: Notify,
}

#[derive(Default)]
struct Papers {
    documents: BTreeMap<String, Bytes>,
    /// Topics whose document the broker does not have yet; one without a document is cleared.
    due: BTreeSet<String>,
    connected: bool,
}

impl External {
    pub(super) fn new(
        broker: fleet_mqtt::Broker,
        incoming_bytes: usize,
        members: Members,
        outlets: Outlets,
    ) -> (Self, Desk) {
        let desk = Desk::default();
        let random = crate::secret::random_token();
        let external = Self {
            broker,
            client_id: format!("control-plane-{}", &random[..8]),
            incoming_bytes: u32::try_from(incoming_bytes).unwrap_or(u32::MAX),
            members,
            outlets,
            desk: desk.clone(),
        };
        (external, desk)
    }

    pub(super) async fn run(self, stop: CancellationToken) {
        let mut pause = RECONNECT.0;
        loop {
            let mut stood = false;
            let ended = self.connection(&mut stood, &stop).await;
            self.desk.lock().connected = false;
            let Err(error) = ended else { return };
            if stood {
                pause = RECONNECT.0;
            }
            let source = std::error::Error::source(&error).map(ToString::to_string);
            tracing::warn!(%error, source, ?pause, "the connection to the broker is down, trying again");
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(pause) => {}
            }
            pause = (pause * 2).min(RECONNECT.1);
        }
    }

    /// One connection, from CONNECT to its end.
    async fn connection(&self, stood: &mut bool, stop: &CancellationToken) -> Result<(), Error> {
        let session = Session {
            client_id: self.client_id.clone(),
            keep_alive: KEEP_ALIVE,
            connect: CONNECT,
            incoming_bytes: self.incoming_bytes,
            in_flight: IN_FLIGHT,
            will: None,
            kept: None,
        };
        let Connected {
            client,
            events,
            protocol,
            ..
        } = tokio::select! {
            () = stop.cancelled() => return Ok(()),
            connected = self.broker.connect(&session) => connected?,
        };
        let (sender, mut received) = mpsc::channel(RECEIVED);
        let mut poller = JoinSet::new();
        poller.spawn(poll(events, sender));
        let mut filters = self.filters();
        self.desk.all_due();
        tracing::info!(broker = self.broker.name(), %protocol, "connected to the broker");
        // A client that was full has room again when something was acknowledged, or by now.
        let mut again = interval(Duration::from_millis(100));
        again.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            if *stood {
                self.desk.send(&client);
            }
            subscribe(&client, &mut filters);
            tokio::select! {
                () = stop.cancelled() => {
                    let _ = client.disconnect();
                    let goodbye = async { while received.recv().await.is_some_and(|e| e.is_ok()) {} };
                    let _ = timeout(Duration::from_secs(1), goodbye).await;
                    return Ok(());
                }
                event = received.recv() => match event.unwrap_or(Err(Error::Silent))? {
                    Event::Message { topic, payload, .. } => self.take(&topic, payload).await,
                    Event::Subscribed(granted) => {
                        if let Some(refused) = granted.into_iter().find_map(Result::err) {
                            tracing::error!(reason = %refused, "the broker does not let the control plane hear its nodes: give it edge/v1/#");
                        }
                        *stood = true;
                        self.desk.lock().connected = true;
                    }
                    Event::Acknowledged(_, Err(reason)) => {
                        tracing::error!(%reason, "the broker refuses a document for a node: let the control plane publish to edge/v1/#");
                    }
                    _ => {}
                },
                () = self.desk.0.changed.notified() => {}
                _ = again.tick() => {}
            }
        }
    }

    /// All nodes' topics. What is retained of known nodes is asked for by name as well: some
    /// brokers give it only so.
    fn filters(&self) -> Vec<String> {
        let mut filters: Vec<_> = [
            "reported",
            "replayed",
            "presence",
            "health",
            "events",
            "streams/+",
        ]
        .map(|name| format!("{}/+/{name}", topic::ROOT))
        .into();
        for node in self.members.all() {
            for topic in [
                NodeTopic::Presence,
                NodeTopic::Reported,
                NodeTopic::Replayed,
            ] {
                filters.push(topic.name(&node));
            }
        }
        filters
    }

    /// The broker's rules are not ours: who is no member is not heard.
    async fn take(&self, topic: &str, payload: Bytes) {
        match NodeTopic::parse(topic) {
            Some((_, NodeTopic::Desired | NodeTopic::Replays | NodeTopic::StreamAck(_))) => {}
            Some((node, _)) if self.members.contains(&node) && !payload.is_empty() => {
                take(&self.outlets, topic, payload).await;
            }
            _ => tracing::debug!(topic, "dropped a message from outside the fleet"),
        }
    }
}

async fn poll(mut events: Events, sender: mpsc::Sender<Result<Event, Error>>) {
    loop {
        let event = match timeout(SILENCE, events.poll()).await {
            Ok(event) => event,
            Err(_) => Err(Error::Silent),
        };
        let ended = event.is_err();
        if sender.send(event).await.is_err() || ended {
            return;
        }
    }
}

fn subscribe(client: &Client, filters: &mut Vec<String>) {
    while !filters.is_empty() {
        let some: Vec<_> = filters.iter().take(FILTERS).cloned().collect();
        if client.subscribe(some).is_err() {
            return;
        }
        filters.drain(..filters.len().min(FILTERS));
    }
}

impl Desk {
    pub(super) fn put(&self, node: &NodeId, topic: &NodeTopic, payload: Vec<u8>) {
        let topic = topic.name(node);
        let mut papers = self.lock();
        papers.documents.insert(topic.clone(), payload.into());
        papers.due.insert(topic);
        drop(papers);
        self.0.changed.notify_one();
    }

    /// Clears all documents of a node.
    pub(super) fn forget(&self, node: &NodeId) {
        let root = format!("{}/{node}/", topic::ROOT);
        let mut papers = self.lock();
        let gone: Vec<String> = papers
            .documents
            .range(root.clone()..)
            .map(|(topic, _)| topic.clone())
            .take_while(|topic| topic.starts_with(&root))
            .collect();
        for topic in gone {
            papers.documents.remove(&topic);
            papers.due.insert(topic);
        }
        drop(papers);
        self.0.changed.notify_one();
    }

    pub(super) fn connected(&self) -> bool {
        self.lock().connected
    }

    fn all_due(&self) {
        let papers = &mut *self.lock();
        papers.due.extend(papers.documents.keys().cloned());
    }

    /// Hands over what is due, as far as the client takes it.
    fn send(&self, client: &Client) {
        let papers = &mut *self.lock();
        while let Some(topic) = papers.due.pop_first() {
            let document = papers.documents.get(&topic).cloned().unwrap_or_default();
            if client.publish(topic.clone(), true, document).is_err() {
                papers.due.insert(topic);
                return;
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Papers> {
        self.0.papers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_removed_nodes_documents_are_cleared_and_no_others() {
        let desk = Desk::default();
        let (n1, n11) = (
            NodeId::new("n1").expect("valid"),
            NodeId::new("n11").expect("valid"),
        );
        for node in [&n1, &n11] {
            desk.put(node, &NodeTopic::Desired, b"x".to_vec());
        }
        desk.lock().due.clear();
        desk.forget(&n1);
        let papers = desk.lock();
        assert_eq!(
            papers.due.iter().collect::<Vec<_>>(),
            ["edge/v1/n1/desired"]
        );
        assert_eq!(
            papers.documents.keys().collect::<Vec<_>>(),
            ["edge/v1/n11/desired"]
        );
    }

    #[test]
    fn a_wiped_broker_gets_everything_again() {
        let desk = Desk::default();
        let node = NodeId::new("n1").expect("valid");
        desk.put(&node, &NodeTopic::Desired, b"x".to_vec());
        desk.lock().due.clear();
        desk.all_due();
        assert_eq!(desk.lock().due.len(), 1);
    }
}
