use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use fleet_api::ids::NodeId;
use fleet_api::topic::NodeTopic;
use mqtt5::QoS;
use mqtt5::broker::router::{
    DeliveryLanes, LaneReceivers, MessageRouter, SubscriptionRequest, TakeoverNotice,
};
use mqtt5::broker::storage::QueueLimits;
use mqtt5::packet::publish::PublishPacket;
use tokio::sync::{OnceCell, oneshot};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Documents that a node can have: desired state and one watermark per stream.
const RETAINED_PER_NODE: usize = 300;
/// Wills that wait to be taken; a whole fleet that falls at once.
const WILLS: usize = 10_000;
/// How long a publish waits for a client that does not read.
const PATIENCE: Duration = Duration::from_millis(100);
const OWN_CLIENT: &str = "$control";

/// One router per node, made when first needed.
#[derive(Clone)]
pub(super) struct Routers(Arc<Inner>);

struct Inner {
    nodes: Mutex<HashMap<NodeId, Arc<NodeRouter>>>,
    wills: DeliveryLanes,
    max_packet: usize,
    connections: AtomicUsize,
}

/// The router of one node.
pub(super) struct NodeRouter {
    router: OnceCell<(Arc<MessageRouter>, oneshot::Receiver<TakeoverNotice>)>,
    gone: CancellationToken,
}

/// Counts a connection while it stands.
pub(super) struct Connected(Arc<Inner>);

impl Routers {
    pub(super) fn new(max_packet: usize) -> (Self, LaneReceivers) {
        let (wills, receivers) = DeliveryLanes::channel(WILLS);
        let inner = Inner {
            nodes: Mutex::default(),
            wills,
            max_packet,
            connections: AtomicUsize::new(0),
        };
        (Self(Arc::new(inner)), receivers)
    }

    /// The router of `node`, and the signal that the node was removed.
    pub(super) async fn of(&self, node: &NodeId) -> (Arc<MessageRouter>, CancellationToken) {
        let entry = {
            let mut nodes = self.lock();
            let entry = nodes.entry(node.clone()).or_insert_with(|| {
                Arc::new(NodeRouter {
                    router: OnceCell::new(),
                    gone: CancellationToken::new(),
                })
            });
            Arc::clone(entry)
        };
        let (router, _) = entry.router.get_or_init(|| self.make(node)).await;
        (Arc::clone(router), entry.gone.clone())
    }

    pub(super) async fn publish_retained(
        &self,
        node: &NodeId,
        topic: &NodeTopic,
        payload: Vec<u8>,
    ) {
        let (router, _) = self.of(node).await;
        let publish =
            PublishPacket::new(topic.name(node), payload, QoS::AtLeastOnce).with_retain(true);
        router
            .route_message_with_deadline(&publish, None, Instant::now() + PATIENCE)
            .await;
    }

    pub(super) fn forget(&self, node: &NodeId) {
        if let Some(entry) = self.lock().remove(node) {
            entry.gone.cancel();
        }
    }

    pub(super) fn connected(&self) -> Connected {
        self.0.connections.fetch_add(1, Ordering::Relaxed);
        Connected(Arc::clone(&self.0))
    }

    pub(super) fn connections(&self) -> usize {
        self.0.connections.load(Ordering::Relaxed)
    }

    /// Everything a node publishes is taken over before it would be routed, except its will,
    /// which the session publishes by itself: that is what this subscription is for.
    async fn make(&self, node: &NodeId) -> (Arc<MessageRouter>, oneshot::Receiver<TakeoverNotice>) {
        let router = MessageRouter::new()
            .with_retained_limits(RETAINED_PER_NODE, self.0.max_packet)
            .with_fallback_queue_limits(QueueLimits {
                max_messages: 256,
                max_bytes: 4 << 20,
            });
        let (notice, takeover) = oneshot::channel();
        let queue = router.queue_handle(OWN_CLIENT);
        router
            .register_client(OWN_CLIENT.to_owned(), self.0.wills.clone(), queue, notice)
            .await;
        let presence = NodeTopic::Presence.name(node);
        let request = SubscriptionRequest::new(OWN_CLIENT, presence, QoS::AtLeastOnce);
        if let Err(error) = router.subscribe(request).await {
            tracing::error!(%node, %error, "the node's will cannot be heard");
        }
        (Arc::new(router), takeover)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<NodeId, Arc<NodeRouter>>> {
        self.0.nodes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Connected {
    fn drop(&mut self) {
        self.0.connections.fetch_sub(1, Ordering::Relaxed);
    }
}
