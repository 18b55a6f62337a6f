//! The control connection: desired state in; reported state, presence and
//! health out. Everything on it is retained and repeated by its owner after
//! each connect, so that nothing relies on the broker's memory.

use std::sync::Arc;
use std::time::Duration;

use fleet_api::desired::Envelope;
use fleet_api::ids::NodeId;
use fleet_api::presence::Presence;
use fleet_api::topic::NodeTopic;
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::{LastWill, Packet, SubscribeReasonCode};
use rumqttc::v5::{AsyncClient, Event, EventLoop, MqttOptions};
use rumqttc::{TlsConfiguration, Transport};
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
/// rumqttc's v5 loop has no time limit of its own on a peer that stops reading.
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
    #[error("the broker refused or broke the connection")]
    Broken(#[from] Box<rumqttc::v5::ConnectionError>),
    #[error("the broker has been silent for {} s", SILENCE.as_secs())]
    Silent,
    #[error("the broker does not let this node have its desired state: {0:?}")]
    Refused(SubscribeReasonCode),
    #[error("hand a message to the connection")]
    Client(#[from] Box<rumqttc::v5::ClientError>),
    #[error("write a message down")]
    Json(#[from] serde_json::Error),
}

impl From<rumqttc::v5::ClientError> for ConnectionError {
    fn from(error: rumqttc::v5::ClientError) -> Self {
        Self::Client(Box::new(error))
    }
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
        let (client, mut events) = self.client(presence)?;
        let mut reported = self.agent.reported();
        let mut replayed = self.replays.replayed();
        let mut untold = false;
        let mut told = Instant::now();
        let mut health = interval(HEALTH_EVERY);
        health.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut repeat = interval(REPEAT_EVERY);
        repeat.reset();
        loop {
            tokio::select! {
                event = timeout(SILENCE, events.poll()) => {
                    match event.map_err(|_| ConnectionError::Silent)?.map_err(Box::new)? {
                        Event::Incoming(Packet::ConnAck(_)) => {
                            *connected = true;
                            tracing::info!("the control connection stands");
                            client.try_subscribe(NodeTopic::Desired.name(node), QoS::AtLeastOnce)?;
                            self.tell(&client, &NodeTopic::Presence, true, presence)?;
                            client.try_subscribe(NodeTopic::Replays.name(node), QoS::AtLeastOnce)?;
                            reported.mark_changed();
                            // Nodes that never had a replay have nothing to say of them.
                            if !replayed.borrow().replays.is_empty() {
                                replayed.mark_changed();
                            }
                            health.reset_immediately();
                        }
                        Event::Incoming(Packet::SubAck(ack)) => granted(&ack.return_codes)?,
                        Event::Incoming(Packet::Publish(publish)) => self.receive(&publish).await,
                        _ => {}
                    }
                }
                changed = reported.changed(), if *connected => {
                    if changed.is_ok() {
                        let latest = reported.borrow_and_update().clone();
                        self.tell(&client, &NodeTopic::Reported, true, &latest)?;
                    }
                }
                changed = replayed.changed(), if *connected && !untold => untold = changed.is_ok(),
                // Progress is told every second at most.
                () = sleep_until(told + REPLAYED_EVERY), if *connected && untold => {
                    (untold, told) = (false, Instant::now());
                    let latest = replayed.borrow_and_update().clone();
                    self.tell(&client, &NodeTopic::Replayed, true, &latest)?;
                }
                _ = health.tick(), if *connected => {
                    self.tell(&client, &NodeTopic::Health, false, &self.health.health())?;
                }
                _ = repeat.tick(), if *connected => {
                    self.tell(&client, &NodeTopic::Presence, true, presence)?;
                    reported.mark_changed();
                }
                () = stop.cancelled() => {
                    let death = Presence { online: false, time_ms: unix_ms(), ..presence.clone() };
                    if *connected {
                        self.tell(&client, &NodeTopic::Presence, true, &death)?;
                        client.try_disconnect()?;
                    }
                    let goodbye = async { while events.poll().await.is_ok() {} };
                    // The broker's close ends the loop; a deaf one is left after a second.
                    let _ = timeout(Duration::from_secs(1), goodbye).await;
                    return Ok(());
                }
            }
        }
    }

    fn client(&self, presence: &Presence) -> Result<(AsyncClient, EventLoop), ConnectionError> {
        let identity = &self.identity;
        let death = Presence {
            online: false,
            ..presence.clone()
        };
        let will = LastWill::new(
            NodeTopic::Presence.name(&identity.node),
            serde_json::to_vec(&death)?,
            QoS::AtLeastOnce,
            true,
            None,
        );
        let mut options = MqttOptions::new(
            identity.node.as_str(),
            identity.mqtt_host.clone(),
            identity.mqtt_port,
        );
        options
            .set_transport(Transport::tls_with_config(TlsConfiguration::Rustls(
                identity.tls.clone(),
            )))
            .set_keep_alive(KEEP_ALIVE)
            .set_clean_start(true)
            .set_last_will(will)
            .set_max_packet_size(Some(PACKET_BYTES))
            .set_outgoing_inflight_upper_limit(32);
        Ok(AsyncClient::new(options, 32))
    }

    async fn receive(&self, publish: &rumqttc::v5::mqttbytes::v5::Publish) {
        let topic = String::from_utf8_lossy(&publish.topic);
        let known = NodeTopic::parse(&topic).filter(|(node, _)| node == self.node());
        let topic = match known {
            Some((_, topic @ (NodeTopic::Desired | NodeTopic::Replays))) => topic,
            _ => {
                tracing::debug!(%topic, "a message that nobody waits for");
                return;
            }
        };
        match serde_json::from_slice::<Envelope>(&publish.payload) {
            Ok(envelope) if topic == NodeTopic::Replays => self.replays.offer(envelope).await,
            Ok(envelope) => self.agent.offer(envelope).await,
            // An empty payload clears the retained document: there is nothing to follow.
            Err(_) if publish.payload.is_empty() => {}
            Err(error) => tracing::warn!(%error, "a document that cannot be read"),
        }
    }

    fn tell<T: serde::Serialize>(
        &self,
        client: &AsyncClient,
        topic: &NodeTopic,
        retained: bool,
        message: &T,
    ) -> Result<(), ConnectionError> {
        let qos = if retained {
            QoS::AtLeastOnce
        } else {
            QoS::AtMostOnce
        };
        let payload = serde_json::to_vec(message)?;
        Ok(client.try_publish(topic.name(self.node()), qos, retained, payload)?)
    }

    fn node(&self) -> &NodeId {
        &self.identity.node
    }
}

/// A node that never hears of its desired state had better be seen to fail.
fn granted(codes: &[SubscribeReasonCode]) -> Result<(), ConnectionError> {
    let refused = |code: &&SubscribeReasonCode| !matches!(code, SubscribeReasonCode::Success(_));
    codes
        .iter()
        .find(refused)
        .map_or(Ok(()), |code| Err(ConnectionError::Refused(*code)))
}
