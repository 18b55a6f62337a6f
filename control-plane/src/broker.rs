//! The MQTT broker inside the control plane.
//!
//! ```text
//!  TCP ─► TLS (certificate of a member) ─► MQTT session ─► what a node says ─► messages, frames
//!                                             ▲
//!                            router of that node alone ◄── what the fleet tells the node
//! ```
//!
//! Every node has a router of its own, so that a publish costs the same in a fleet of any size
//! and no node can see another's topics even if a rule had a hole. What a node publishes goes
//! straight to the control plane; the acknowledgement waits until it is taken over.

mod access;
mod connection;
mod routers;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use fleet_api::ids::{NodeId, StreamName};
use fleet_api::topic::NodeTopic;
use mqtt5::broker::router::LaneReceivers;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, broadcast, mpsc};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::config::LimitsConfig;
use crate::members::Members;
use crate::tls::Tls;
use connection::Shared;
use routers::Routers;

/// Something that a node has published, other than device data.
#[derive(Debug)]
pub(crate) struct NodeMessage {
    pub(crate) node: NodeId,
    pub(crate) topic: NodeTopic,
    pub(crate) payload: Bytes,
}

/// A frame of device data as it came.
#[derive(Debug)]
pub(crate) struct NodeFrame {
    pub(crate) node: NodeId,
    pub(crate) stream: StreamName,
    pub(crate) payload: Bytes,
}

/// Where the broker hands over what nodes publish.
#[derive(Clone)]
pub(crate) struct Outlets {
    pub(crate) messages: mpsc::Sender<NodeMessage>,
    pub(crate) frames: mpsc::Sender<NodeFrame>,
}

/// The broker's task.
pub(crate) struct Broker {
    listener: TcpListener,
    shared: Arc<Shared>,
    permits: Arc<Semaphore>,
    wills: LaneReceivers,
}

/// Speaks to nodes through the broker.
#[derive(Clone)]
pub(crate) struct BrokerHandle {
    routers: Routers,
    members: Members,
}

impl Broker {
    /// A broker on a bound socket.
    pub(crate) fn new(
        listener: TcpListener,
        tls: &Tls,
        limits: &LimitsConfig,
        members: Members,
        outlets: Outlets,
    ) -> (Self, BrokerHandle) {
        let (routers, wills) = Routers::new(limits.mqtt_packet.as_usize());
        let handle = BrokerHandle {
            routers: routers.clone(),
            members: members.clone(),
        };
        let broker = Self {
            listener,
            shared: Arc::new(Shared::new(tls, limits, members, routers, outlets)),
            permits: Arc::new(Semaphore::new(limits.mqtt_connections)),
            wills,
        };
        (broker, handle)
    }

    /// Serves until `stop`; then says goodbye to the clients, for at most five seconds.
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        let (goodbye, _) = broadcast::channel(1);
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                Some(_) = connections.join_next() => {}
                Some(will) = self.wills.recv() => self.shared.take_will(will.publish).await,
                accepted = self.listener.accept() => match accepted {
                    Ok((stream, peer)) => {
                        let Ok(permit) = Arc::clone(&self.permits).try_acquire_owned() else {
                            tracing::warn!(%peer, "refused an MQTT connection: limits.mqtt_connections is reached");
                            continue;
                        };
                        let shared = Arc::clone(&self.shared);
                        let goodbye = goodbye.subscribe();
                        connections.spawn(async move {
                            shared.serve(stream, peer, goodbye).await;
                            drop(permit);
                        });
                    }
                    Err(error) => {
                        tracing::warn!(%error, "could not accept an MQTT connection");
                        tokio::time::sleep(Duration::from_millis(200)).await;
                    }
                }
            }
        }
        drop(self.listener);
        let _ = goodbye.send(());
        let all = async { while connections.join_next().await.is_some() {} };
        let _ = tokio::time::timeout(Duration::from_secs(5), all).await;
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> std::io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

impl BrokerHandle {
    /// Publishes a document that stays until the next one, to one node. Does nothing if the node
    /// is not a member.
    pub(crate) async fn publish_retained(
        &self,
        node: &NodeId,
        topic: &NodeTopic,
        payload: Vec<u8>,
    ) {
        if self.members.contains(node) {
            self.routers.publish_retained(node, topic, payload).await;
        }
    }

    /// Ends a node's connections and forgets its documents.
    pub(crate) fn forget(&self, node: &NodeId) {
        self.routers.forget(node);
    }

    /// How many connections stand.
    pub(crate) fn connections(&self) -> usize {
        self.routers.connections()
    }
}
