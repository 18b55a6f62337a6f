//! One node's connection to the plant's broker.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use fleet_api::ids::NodeId;
use rumqttc::{AsyncClient, Event, EventLoop, LastWill, MqttOptions, Packet, QoS};
use rumqttc::{TlsConfiguration, Transport};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::edge_node::{EdgeNode, Message};
use super::payload::asks_for_rebirth;
use super::{NodeEvent, SparkplugError};
use crate::config::SparkplugConfig;

const KEEP_ALIVE: Duration = Duration::from_secs(15);
const BACK_OFF: Duration = Duration::from_secs(2);
/// Time to say goodbye.
const GOODBYE: Duration = Duration::from_secs(2);
/// Messages on their way to the socket.
const OUTGOING: usize = 64;

/// Shows one node.
pub(super) struct NodeTask {
    config: Arc<SparkplugConfig>,
    edge: EdgeNode,
    node: NodeId,
    events: mpsc::Receiver<NodeEvent>,
    is_online: bool,
}

/// What comes from the broker.
enum FromBroker {
    Connected,
    Command(Vec<u8>),
}

/// How a connection ended.
enum End {
    Stopped,
    /// The node is offline; its death has been told.
    Offline,
    Broken,
}

/// Whether the files that the configuration names can be used.
pub(super) fn check(config: &SparkplugConfig) -> Result<(), SparkplugError> {
    options(config, "check").map(|_| ())
}

fn options(config: &SparkplugConfig, client_id: &str) -> Result<MqttOptions, SparkplugError> {
    let (host, port, is_tls) = config.address();
    let mut options = MqttOptions::new(client_id, host, port);
    options
        .set_keep_alive(KEEP_ALIVE)
        .set_clean_session(true)
        .set_max_packet_size(256 << 10, 1 << 20);
    let read = |what, path: &PathBuf| {
        std::fs::read_to_string(path).map_err(|source| SparkplugError::Read {
            what,
            path: path.clone(),
            source,
        })
    };
    if let (Some(user), Some(file)) = (&config.username, &config.password_file) {
        let password = read("the password", file)?;
        options.set_credentials(user, password.trim());
    }
    if is_tls {
        let mut roots = rustls::RootCertStore::empty();
        if let Some(path) = &config.ca {
            let pem = read("the CA", path)?;
            for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
                let certificate = certificate.map_err(|_| SparkplugError::Ca(path.clone()))?;
                roots
                    .add(certificate)
                    .map_err(|_| SparkplugError::Ca(path.clone()))?;
            }
            if roots.is_empty() {
                return Err(SparkplugError::Ca(path.clone()));
            }
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("ring has the default versions")
            .with_root_certificates(roots)
            .with_no_client_auth();
        options.set_transport(Transport::Tls(TlsConfiguration::Rustls(Arc::new(tls))));
    }
    Ok(options)
}

impl NodeTask {
    pub(super) fn new(
        config: Arc<SparkplugConfig>,
        node: NodeId,
        events: mpsc::Receiver<NodeEvent>,
    ) -> Self {
        let edge = EdgeNode::new(&config.group, node.clone());
        Self {
            config,
            edge,
            node,
            events,
            is_online: true,
        }
    }

    pub(super) async fn run(mut self, stop: CancellationToken) {
        loop {
            let end = self.connection(&stop).await;
            self.edge.next_connection();
            match end {
                End::Stopped => return,
                End::Offline => {}
                End::Broken => tokio::select! {
                    () = stop.cancelled() => return,
                    () = self.remember(BACK_OFF) => {}
                },
            }
            while !self.is_online {
                tokio::select! {
                    () = stop.cancelled() => return,
                    () = self.remember(BACK_OFF) => {}
                }
            }
        }
    }

    /// Takes records in without telling them, for a while.
    async fn remember(&mut self, time: Duration) {
        let until = tokio::time::Instant::now() + time;
        while let Ok(Some(event)) = tokio::time::timeout_at(until, self.events.recv()).await {
            match event {
                NodeEvent::Online(is) => self.is_online = is,
                NodeEvent::Records(stream, records) => self.edge.note(&stream, &records, now_ms()),
            }
        }
    }

    /// One connection from its will to its end.
    async fn connection(&mut self, stop: &CancellationToken) -> End {
        let id = format!("sparkplug-{}-{}", self.config.group, self.node);
        let mut options = match options(&self.config, &id) {
            Ok(options) => options,
            Err(error) => {
                tracing::warn!(node = %self.node, %error, "no view for Sparkplug; trying again");
                return End::Broken;
            }
        };
        let death = self.edge.death(now_ms());
        let will = LastWill::new(&death.topic, death.payload.clone(), QoS::AtLeastOnce, false);
        options.set_last_will(will);
        let (client, events) = AsyncClient::new(options, OUTGOING);
        let (to_us, mut from_broker) = mpsc::channel(OUTGOING);
        let node = self.node.clone();
        let polling = tokio::spawn(poll(events, to_us, node));
        let end = self.speak(&client, &mut from_broker, death, stop).await;
        if !matches!(end, End::Broken) {
            let _ = client.disconnect().await;
            let _ = tokio::time::timeout(GOODBYE, from_broker.recv()).await;
        }
        polling.abort();
        end
    }

    async fn speak(
        &mut self,
        client: &AsyncClient,
        from_broker: &mut mpsc::Receiver<FromBroker>,
        death: Message,
        stop: &CancellationToken,
    ) -> End {
        let mut is_born = false;
        loop {
            let messages = tokio::select! {
                () = stop.cancelled() => {
                    return if is_born { self.die(client, death, End::Stopped).await } else { End::Stopped };
                }
                heard = from_broker.recv() => match heard {
                    None => return End::Broken,
                    Some(FromBroker::Connected) => {
                        let commands = self.edge.commands();
                        if client.subscribe(commands, QoS::AtLeastOnce).await.is_err() {
                            return End::Broken;
                        }
                        is_born = true;
                        self.edge.births(now_ms())
                    }
                    Some(FromBroker::Command(payload)) if is_born && asks_for_rebirth(&payload) => {
                        self.edge.births(now_ms())
                    }
                    Some(FromBroker::Command(_)) => Vec::new(),
                },
                event = self.events.recv() => match event {
                    None => return self.die(client, death, End::Stopped).await,
                    Some(NodeEvent::Records(stream, records)) if is_born => {
                        self.edge.data(&stream, &records, now_ms())
                    }
                    Some(NodeEvent::Records(stream, records)) => {
                        self.edge.note(&stream, &records, now_ms());
                        Vec::new()
                    }
                    Some(NodeEvent::Online(is)) => {
                        self.is_online = is;
                        if !is && is_born {
                            return self.die(client, death, End::Offline).await;
                        }
                        Vec::new()
                    }
                },
            };
            for message in messages {
                let Message { topic, payload } = message;
                let sent = client.publish(topic, QoS::AtMostOnce, false, payload);
                if sent.await.is_err() {
                    return End::Broken;
                }
            }
        }
    }

    /// Says that the node is gone: the broker does so only when a connection breaks.
    async fn die(&self, client: &AsyncClient, death: Message, end: End) -> End {
        let sent = client.publish(death.topic, QoS::AtLeastOnce, false, death.payload);
        let _ = tokio::time::timeout(GOODBYE, sent).await;
        end
    }
}

/// Moves the connection until it breaks or is given up.
async fn poll(mut events: EventLoop, to_us: mpsc::Sender<FromBroker>, node: NodeId) {
    loop {
        let heard = match events.poll().await {
            Ok(Event::Incoming(Packet::ConnAck(_))) => FromBroker::Connected,
            Ok(Event::Incoming(Packet::Publish(publish))) => {
                FromBroker::Command(publish.payload.to_vec())
            }
            Ok(_) => continue,
            Err(error) => {
                tracing::warn!(%node, %error, "the connection to the plant's broker broke; trying again");
                return;
            }
        };
        // More commands than are read are no reason to stop the connection.
        let _ = to_us.try_send(heard);
    }
}

fn now_ms() -> u64 {
    u64::try_from(jiff::Timestamp::now().as_millisecond()).unwrap_or(0)
}
