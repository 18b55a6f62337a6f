use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use fleet_api::event;
use fleet_api::ids::StreamName;
use fleet_api::topic::NodeTopic;
use mqtt5::broker::BrokerConfig;
use mqtt5::broker::client_handler::ClientHandler;
use mqtt5::broker::events::{BrokerEventHandler, ClientPublishEvent, PublishAction};
use mqtt5::broker::resource_monitor::{ResourceLimits, ResourceMonitor};
use mqtt5::broker::sys_topics::BrokerStats;
use mqtt5::broker::tls_acceptor::TlsStreamWrapper;
use mqtt5::broker::transport::BrokerTransport;
use mqtt5::packet::publish::PublishPacket;
use tokio::net::TcpStream;
use tokio::sync::broadcast;
use tokio_rustls::TlsAcceptor;

use super::access::Access;
use super::routers::Routers;
use super::{NodeFrame, NodeMessage, Outlets};
use crate::config::LimitsConfig;
use crate::members::Members;
use crate::tls::Tls;

/// A client that has not finished its TLS handshake by then is cut.
const HANDSHAKE: Duration = Duration::from_secs(5);

/// What all connections share.
pub(super) struct Shared {
    acceptor: TlsAcceptor,
    config: Arc<BrokerConfig>,
    stats: Arc<BrokerStats>,
    monitor: Arc<ResourceMonitor>,
    members: Members,
    routers: Routers,
    outlets: Outlets,
}

impl Shared {
    pub(super) fn new(
        tls: &Tls,
        limits: &LimitsConfig,
        members: Members,
        routers: Routers,
        outlets: Outlets,
    ) -> Self {
        let config = BrokerConfig::new()
            .with_max_packet_size(limits.mqtt_packet.as_usize())
            .with_maximum_qos(1)
            .with_max_subscriptions_per_client(64)
            .with_client_channel_capacity(256)
            .with_sys_topics_enabled(false)
            .with_event_handler(Arc::new(Intake {
                outlets: outlets.clone(),
            }));
        Self {
            acceptor: TlsAcceptor::from(Arc::clone(&tls.mqtt)),
            config: Arc::new(config),
            stats: Arc::new(BrokerStats::new()),
            // The permits of the accept loop are the limit that counts.
            monitor: Arc::new(ResourceMonitor::new(ResourceLimits {
                max_connections: limits.mqtt_connections,
                max_connections_per_ip: limits.mqtt_connections,
                max_message_rate_per_client: 0,
                max_bandwidth_per_client: 0,
                max_connection_rate: u32::MAX,
                rate_limit_window: Duration::from_secs(1),
            })),
            members,
            routers,
            outlets,
        }
    }

    /// One connection from the handshake to its end.
    pub(super) async fn serve(
        &self,
        stream: TcpStream,
        peer: SocketAddr,
        goodbye: broadcast::Receiver<()>,
    ) {
        let _ = stream.set_nodelay(true);
        let stream = match tokio::time::timeout(HANDSHAKE, self.acceptor.accept(stream)).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return tracing::debug!(%peer, %error, "TLS handshake failed"),
            Err(_) => return tracing::debug!(%peer, "TLS handshake took too long"),
        };
        let Some(node) = self.members.holder(stream.get_ref().1.peer_certificates()) else {
            return tracing::warn!(%peer, "refused an MQTT connection: its certificate belongs to no member of the fleet");
        };
        let (router, gone) = self.routers.of(&node).await;
        let _connected = self.routers.connected();
        let session = ClientHandler::new(
            BrokerTransport::tls(TlsStreamWrapper::new(stream)),
            peer,
            Arc::clone(&self.config),
            Arc::clone(&router),
            Arc::new(Access::new(node.clone())),
            None,
            Arc::clone(&self.stats),
            Arc::clone(&self.monitor),
            goodbye,
        );
        tokio::select! {
            ended = session.run() => if let Err(error) = ended {
                tracing::debug!(%node, %peer, %error, "MQTT connection ended");
            },
            () = gone.cancelled() => tracing::info!(%node, "cut the connection of a removed node"),
        }
        router.sweep_sessions().await;
    }

    /// A will that a broken session has published.
    pub(super) async fn take_will(&self, publish: PublishPacket) {
        take(&self.outlets, &publish.topic_name, publish.payload).await;
    }
}

/// Takes over what nodes publish. The broker acknowledges a publish only after this has returned,
/// so that a full archive slows nodes down instead of losing their data.
struct Intake {
    outlets: Outlets,
}

impl BrokerEventHandler for Intake {
    fn on_client_publish<'a>(
        &'a self,
        event: ClientPublishEvent,
    ) -> Pin<Box<dyn Future<Output = PublishAction> + Send + 'a>> {
        Box::pin(async move {
            take(&self.outlets, &event.topic, event.payload).await;
            PublishAction::Handled
        })
    }
}

/// The access rules have let only a node's own topics through.
pub(super) async fn take(outlets: &Outlets, topic: &str, payload: bytes::Bytes) {
    let Some((node, topic)) = NodeTopic::parse(topic) else {
        return;
    };
    let stream = match &topic {
        NodeTopic::Stream(stream) => Some(stream.clone()),
        NodeTopic::Events => StreamName::new(event::STREAM).ok(),
        _ => None,
    };
    // A closed outlet means that the process is on its way down; the node will send again.
    if !matches!(topic, NodeTopic::Stream(_)) {
        let message = NodeMessage {
            node: node.clone(),
            topic,
            payload: payload.clone(),
        };
        let _ = outlets.messages.send(message).await;
    }
    if let Some(stream) = stream {
        let frame = NodeFrame {
            node,
            stream,
            payload,
        };
        let _ = outlets.frames.send(frame).await;
    }
}
