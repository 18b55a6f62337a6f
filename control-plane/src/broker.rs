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
mod external;
mod routers;

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
use external::{Desk, External};
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

/// The way to the nodes: a broker of our own, or a connection to another.
pub(crate) enum Broker {
    /// Ours.
    Embedded(Box<Embedded>),
    /// Another.
    External(Box<External>),
}

/// The task of the broker within this process.
pub(crate) struct Embedded {
    listener: TcpListener,
    shared: Arc<Shared>,
    permits: Arc<Semaphore>,
    wills: LaneReceivers,
}

/// Speaks to nodes through the broker.
#[derive(Clone)]
pub(crate) struct BrokerHandle {
    way: Way,
    members: Members,
}

#[derive(Clone)]
enum Way {
    Embedded(Routers),
    External(Desk),
}

impl Broker {
    /// A broker on a bound socket.
    pub(crate) fn embedded(
        listener: TcpListener,
        tls: &Tls,
        limits: &LimitsConfig,
        members: Members,
        outlets: Outlets,
    ) -> (Self, BrokerHandle) {
        let (routers, wills) = Routers::new(limits.mqtt_packet.as_usize());
        let handle = BrokerHandle {
            way: Way::Embedded(routers.clone()),
            members: members.clone(),
        };
        let broker = Embedded {
            listener,
            shared: Arc::new(Shared::new(tls, limits, members, routers, outlets)),
            permits: Arc::new(Semaphore::new(limits.mqtt_connections)),
            wills,
        };
        (Self::Embedded(Box::new(broker)), handle)
    }

    /// A connection to a broker that is not ours.
    pub(crate) fn external(
        broker: fleet_mqtt::Broker,
        limits: &LimitsConfig,
        members: Members,
        outlets: Outlets,
    ) -> (Self, BrokerHandle) {
        let largest = limits.mqtt_packet.as_usize();
        let (external, desk) = External::new(broker, largest, members.clone(), outlets);
        let way = Way::External(desk);
        (
            Self::External(Box::new(external)),
            BrokerHandle { way, members },
        )
    }

    /// Works until `stop`; then says goodbye, for at most five seconds.
    pub(crate) async fn run(self, stop: CancellationToken) {
        match self {
            Self::Embedded(broker) => broker.run(stop).await,
            Self::External(connection) => connection.run(stop).await,
        }
    }

    /// Host and port for nodes; `host` is the one of this process.
    pub(crate) fn place(&self, host: &str) -> std::io::Result<(String, u16)> {
        Ok(match self {
            Self::Embedded(broker) => (host.to_owned(), broker.listener.local_addr()?.port()),
            Self::External(other) => (other.broker.host.clone(), other.broker.port),
        })
    }
}

impl Embedded {
    async fn run(mut self, stop: CancellationToken) {
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
            match &self.way {
                Way::Embedded(routers) => routers.publish_retained(node, topic, payload).await,
                Way::External(desk) => desk.put(node, topic, payload),
            }
        }
    }

    /// Ends a node's connections and forgets its documents.
    pub(crate) fn forget(&self, node: &NodeId) {
        match &self.way {
            Way::Embedded(routers) => routers.forget(node),
            Way::External(desk) => desk.forget(node),
        }
    }

    /// How many connections stand.
    pub(crate) fn connections(&self) -> usize {
        match &self.way {
            Way::Embedded(routers) => routers.connections(),
            Way::External(desk) => usize::from(desk.connected()),
        }
    }
}
