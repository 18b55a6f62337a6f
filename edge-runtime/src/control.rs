//! The control connection: desired state in; reported state, presence and
//! health out. Everything on it is retained and repeated by its owner after
//! each connect, so that nothing relies on the broker's memory.

use std::sync::Arc;
use std::time::Duration;

use fleet_api::desired::Envelope;
use fleet_api::ids::NodeId;
use fleet_api::presence::Presence;
use fleet_api::topic::NodeTopic;
use fleet_mqtt::{Broker, Client, Connected, Event, Refusal, Session, Will};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use crate::agent::AgentHandle;
use crate::backoff::Backoff;
use crate::causes::chain;
use crate::clock::unix_ms;
use crate::health::HealthSource;
use crate::identity::Identity;
use crate::replays::ReplaysHandle;

mod poll;

pub use poll::poll;

/// Largest packet either way; a desired state that is larger comes over HTTPS.
const PACKET_BYTES: u32 = 256 << 10;
const KEEP_ALIVE: Duration = Duration::from_secs(15);
const CONNECT: Duration = Duration::from_secs(5);
/// The last word on a silent broker, should the client's own keep alive not notice.
const SILENCE: Duration = Duration::from_secs(32);
/// Shortest and longest wait before a new connection.
const RECONNECT: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));
const HEALTH_EVERY: Duration = Duration::from_secs(10);
const REPLAYED_EVERY: Duration = Duration::from_secs(1);
const REPEAT_EVERY: Duration = Duration::from_secs(300);

/// What the control connection passes on.
pub struct Control {
    /// Who the node is.
    pub identity: Identity,
    /// The broker.
    pub broker: Broker,
    /// Takes the desired state, gives the reported one.
    pub agent: AgentHandle,
    /// Takes the replays, gives what has come of them.
    pub replays: ReplaysHandle,
    /// Gives the figures.
    pub health: Arc<dyn HealthSource>,
    /// The birth, its `bd_seq` and time set at each connection.
    pub birth: Presence,
}

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
enum ConnectionError {
    #[error(transparent)]
    Mqtt(#[from] fleet_mqtt::Error),
    #[error("the broker has been silent for {} s", SILENCE.as_secs())]
    Silent,
    #[error("the broker does not let this node have its desired state: {0}")]
    Refused(Refusal),
    #[error("write a message down")]
    Json(#[from] serde_json::Error),
}

impl Control {
    /// Keeps a connection until `stop`, then says goodbye with a death of its own.
    pub async fn run(self, stop: CancellationToken) {
        let mut wait = Backoff::new(RECONNECT.0, RECONNECT.1);
        for bd_seq in 0.. {
            let presence = Presence {
                bd_seq,
                time_ms: unix_ms(),
                ..self.birth.clone()
            };
            let mut connected = false;
            match self.connection(&presence, &mut connected, &stop).await {
                Ok(()) => return,
                Err(error) => {
                    if connected {
                        wait.reset();
                    }
                    let delay = wait.next();
                    tracing::warn!(
                        error = chain(&error),
                        delay_ms = delay.as_millis(),
                        "the control connection is down",
                    );
                    tokio::select! {
                        () = stop.cancelled() => return,
                        () = tokio::time::sleep(delay) => {}
                    }
                }
            }
        }
    }

    /// One connection with a client of its own, from CONNECT to its end.
    async fn connection(
        &self,
        presence: &Presence,
        connected: &mut bool,
        stop: &CancellationToken,
    ) -> Result<(), ConnectionError> {
        let node = &self.identity.node;
        let session = self.session(presence)?;
        let Connected {
            client, mut events, ..
        } = tokio::select! {
            () = stop.cancelled() => return Ok(()),
            connected = self.broker.connect(&session) => connected?,
        };
        *connected = true;
        tracing::info!("the control connection stands");
        client.subscribe(vec![
            NodeTopic::Desired.name(node),
            NodeTopic::Replays.name(node),
        ])?;
        self.tell(&client, &NodeTopic::Presence, true, presence)?;
        let mut reported = self.agent.reported();
        reported.mark_changed();
        let mut replayed = self.replays.replayed();
        // Nodes that never had a replay have nothing to say of them.
        if !replayed.borrow().replays.is_empty() {
            replayed.mark_changed();
        }
        let mut untold = false;
        let mut told = Instant::now();
        let mut health = interval(HEALTH_EVERY);
        health.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut repeat = interval(REPEAT_EVERY);
        repeat.reset();
        loop {
            tokio::select! {
                event = timeout(SILENCE, events.poll()) => {
                    match event.map_err(|_| ConnectionError::Silent)?? {
                        Event::Subscribed(granted) => {
                            // A node that never hears of its desired state had better be seen to fail.
                            if let Some(refused) = granted.into_iter().find_map(Result::err) {
                                return Err(ConnectionError::Refused(refused));
                            }
                        }
                        Event::Message { topic, payload, .. } => self.receive(&topic, &payload).await,
                        _ => {}
                    }
                }
                changed = reported.changed() => {
                    if changed.is_ok() {
                        let latest = reported.borrow_and_update().clone();
                        self.tell(&client, &NodeTopic::Reported, true, &latest)?;
                    }
                }
                changed = replayed.changed(), if !untold => untold = changed.is_ok(),
                // Progress is told every second at most.
                () = sleep_until(told + REPLAYED_EVERY), if untold => {
                    (untold, told) = (false, Instant::now());
                    let latest = replayed.borrow_and_update().clone();
                    self.tell(&client, &NodeTopic::Replayed, true, &latest)?;
                }
                _ = health.tick() => {
                    self.tell(&client, &NodeTopic::Health, false, &self.health.health())?;
                }
                _ = repeat.tick() => {
                    self.tell(&client, &NodeTopic::Presence, true, presence)?;
                    reported.mark_changed();
                }
                () = stop.cancelled() => {
                    let death = Presence { online: false, time_ms: unix_ms(), ..presence.clone() };
                    self.tell(&client, &NodeTopic::Presence, true, &death)?;
                    client.disconnect()?;
                    let goodbye = async { while events.poll().await.is_ok() {} };
                    // The broker's close ends the loop; a deaf one is left after a second.
                    let _ = timeout(Duration::from_secs(1), goodbye).await;
                    return Ok(());
                }
            }
        }
    }

    fn session(&self, presence: &Presence) -> Result<Session, ConnectionError> {
        let death = Presence {
            online: false,
            ..presence.clone()
        };
        Ok(Session {
            client_id: self.node().to_string(),
            keep_alive: KEEP_ALIVE,
            connect: CONNECT,
            incoming_bytes: PACKET_BYTES,
            in_flight: 32,
            will: Some(Will {
                topic: NodeTopic::Presence.name(self.node()),
                payload: serde_json::to_vec(&death)?,
            }),
            kept: None,
        })
    }

    async fn receive(&self, topic: &str, payload: &[u8]) {
        let known = NodeTopic::parse(topic).filter(|(node, _)| node == self.node());
        let topic = match known {
            Some((_, topic @ (NodeTopic::Desired | NodeTopic::Replays))) => topic,
            _ => {
                tracing::debug!(topic, "a message that nobody waits for");
                return;
            }
        };
        match serde_json::from_slice::<Envelope>(payload) {
            Ok(envelope) if topic == NodeTopic::Replays => self.replays.offer(envelope).await,
            Ok(envelope) => self.agent.offer(envelope).await,
            // An empty payload clears the retained document: there is nothing to follow.
            Err(_) if payload.is_empty() => {}
            Err(error) => tracing::warn!(%error, "a document that cannot be read"),
        }
    }

    fn tell<T: serde::Serialize>(
        &self,
        client: &Client,
        topic: &NodeTopic,
        retained: bool,
        message: &T,
    ) -> Result<(), ConnectionError> {
        let topic = topic.name(self.node());
        let payload = serde_json::to_vec(message)?.into();
        if retained {
            client.publish(topic, true, payload)?;
        } else {
            client.mention(topic, payload)?;
        }
        Ok(())
    }

    fn node(&self) -> &NodeId {
        &self.identity.node
    }
}
