//! Who may do what on the broker: a node's identity is fixed by its certificate before MQTT starts.

use std::future::{Future, ready};
use std::net::SocketAddr;
use std::pin::Pin;

use fleet_api::ids::NodeId;
use fleet_api::topic::{self, NodeTopic};
use mqtt5::broker::auth::{AuthProvider, AuthResult};
use mqtt5::packet::connect::ConnectPacket;
use mqtt5::protocol::v5::reason_codes::ReasonCode;

/// What one connection may do.
pub(super) struct Access {
    node: NodeId,
    root: String,
}

type Answer<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

impl Access {
    pub(super) fn new(node: NodeId) -> Self {
        let root = format!("{}/{node}/", topic::ROOT);
        Self { node, root }
    }

    fn may_connect_as(&self, client_id: &str) -> bool {
        client_id == self.node.as_str() || client_id == topic::data_client_id(&self.node)
    }

    /// Only what a node has to say, under its own id.
    fn may_publish(&self, name: &str) -> bool {
        let Some((node, topic)) = NodeTopic::parse(name) else {
            return false;
        };
        let own = match topic {
            NodeTopic::Reported
            | NodeTopic::Presence
            | NodeTopic::Health
            | NodeTopic::Events
            | NodeTopic::Replayed
            | NodeTopic::Stream(_) => true,
            NodeTopic::Desired | NodeTopic::Replays | NodeTopic::StreamAck(_) => false,
        };
        own && node == self.node
    }

    /// Anything below its own id; wildcards above it would not start with it.
    fn may_subscribe(&self, filter: &str) -> bool {
        filter.starts_with(&self.root)
    }
}

impl AuthProvider for Access {
    fn authenticate<'a>(
        &'a self,
        connect: &'a ConnectPacket,
        peer: SocketAddr,
    ) -> Answer<'a, mqtt5::error::Result<AuthResult>> {
        let result = if self.may_connect_as(&connect.client_id) {
            AuthResult::success_with_user(self.node.to_string())
        } else {
            tracing::warn!(node = %self.node, client_id = %connect.client_id, %peer,
                "refused a client id that is not the node's");
            AuthResult::fail(ReasonCode::NotAuthorized)
        };
        Box::pin(ready(Ok(result)))
    }

    fn authorize_publish<'a>(
        &'a self,
        _client_id: &str,
        _user: Option<&'a str>,
        topic: &'a str,
    ) -> Answer<'a, bool> {
        let allowed = self.may_publish(topic);
        if !allowed {
            tracing::warn!(node = %self.node, topic, "refused a publish outside the node's own topics");
        }
        Box::pin(ready(allowed))
    }

    fn authorize_subscribe<'a>(
        &'a self,
        _client_id: &str,
        _user: Option<&'a str>,
        filter: &'a str,
    ) -> Answer<'a, bool> {
        let allowed = self.may_subscribe(filter);
        if !allowed {
            tracing::warn!(node = %self.node, filter, "refused a subscription outside the node's own topics");
        }
        Box::pin(ready(allowed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn access() -> Access {
        Access::new(NodeId::new("n1").expect("valid"))
    }

    #[test]
    fn a_node_says_only_what_is_its_own_to_say() {
        for good in [
            "edge/v1/n1/reported",
            "edge/v1/n1/presence",
            "edge/v1/n1/health",
            "edge/v1/n1/events",
            "edge/v1/n1/streams/a.b",
        ] {
            assert!(access().may_publish(good), "{good}");
        }
        for bad in [
            "edge/v1/n1/desired",
            "edge/v1/n1/streams/a/ack",
            "edge/v1/n11/reported",
            "edge/v1/n2/reported",
            "edge/v1/n1",
            "edge/v1/n1/x",
            "$SYS/x",
        ] {
            assert!(!access().may_publish(bad), "{bad}");
        }
    }

    #[test]
    fn a_node_hears_only_its_own() {
        for good in [
            "edge/v1/n1/desired",
            "edge/v1/n1/streams/+/ack",
            "edge/v1/n1/#",
        ] {
            assert!(access().may_subscribe(good), "{good}");
        }
        for bad in [
            "#",
            "edge/#",
            "edge/v1/+/desired",
            "edge/v1/n11/desired",
            "$share/g/edge/v1/n1/desired",
        ] {
            assert!(!access().may_subscribe(bad), "{bad}");
        }
    }

    #[test]
    fn two_client_ids_belong_to_a_node() {
        assert!(access().may_connect_as("n1") && access().may_connect_as("n1.data"));
        assert!(!access().may_connect_as("n2") && !access().may_connect_as("n1.other"));
    }
}
