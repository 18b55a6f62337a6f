//! Everything of a node lies under `edge/v1/<node>/`; the broker holds each
//! node to its own subtree.

use crate::ids::{NodeId, StreamName};

/// The root of all topics.
pub const ROOT: &str = "edge/v1";

/// A topic of one node, taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NodeTopic {
    /// The signed desired state; retained.
    Desired,
    /// What the node runs; retained.
    Reported,
    /// Birth and will; retained.
    Presence,
    /// Figures every 10 s.
    Health,
    /// Frames of a stream.
    Stream(StreamName),
    /// The receiver's watermark of a stream; retained.
    StreamAck(StreamName),
    /// Frames of the node's own stream: what is worth a line in the fleet's log.
    Events,
    /// Replays that the node shall run; retained.
    Replays,
    /// What has come of them; retained.
    Replayed,
}

impl NodeTopic {
    /// The topic on which a stream's frames go.
    pub fn of_stream(stream: StreamName) -> Self {
        if stream.as_str() == crate::event::STREAM {
            Self::Events
        } else {
            Self::Stream(stream)
        }
    }

    /// The topic's full name for `node`.
    pub fn name(&self, node: &NodeId) -> String {
        match self {
            Self::Desired => format!("{ROOT}/{node}/desired"),
            Self::Reported => format!("{ROOT}/{node}/reported"),
            Self::Presence => format!("{ROOT}/{node}/presence"),
            Self::Health => format!("{ROOT}/{node}/health"),
            Self::Stream(stream) => format!("{ROOT}/{node}/streams/{stream}"),
            Self::StreamAck(stream) => format!("{ROOT}/{node}/streams/{stream}/ack"),
            Self::Events => format!("{ROOT}/{node}/events"),
            Self::Replays => format!("{ROOT}/{node}/replays"),
            Self::Replayed => format!("{ROOT}/{node}/replayed"),
        }
    }

    /// Takes a full topic name apart; `None` if it is none of ours.
    pub fn parse(topic: &str) -> Option<(NodeId, Self)> {
        let rest = topic.strip_prefix(ROOT)?.strip_prefix('/')?;
        let (node, rest) = rest.split_once('/')?;
        let node = NodeId::new(node).ok()?;
        let parsed = match rest.split('/').collect::<Vec<_>>()[..] {
            ["desired"] => Self::Desired,
            ["reported"] => Self::Reported,
            ["presence"] => Self::Presence,
            ["health"] => Self::Health,
            ["events"] => Self::Events,
            ["replays"] => Self::Replays,
            ["replayed"] => Self::Replayed,
            ["streams", stream] => Self::Stream(StreamName::new(stream).ok()?),
            ["streams", stream, "ack"] => Self::StreamAck(StreamName::new(stream).ok()?),
            _ => return None,
        };
        Some((node, parsed))
    }
}

/// The filter by which a node's data connection receives all its watermarks.
pub fn acks_filter(node: &NodeId) -> String {
    format!("{ROOT}/{node}/streams/+/ack")
}

/// The client id of a node's data connection; its control connection uses the node's id.
pub fn data_client_id(node: &NodeId) -> String {
    format!("{node}.data")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_topic_parses_back() {
        let node = NodeId::new("n1").expect("valid");
        let stream = StreamName::new("vibration").expect("valid");
        for topic in [
            NodeTopic::Desired,
            NodeTopic::Reported,
            NodeTopic::Presence,
            NodeTopic::Health,
            NodeTopic::Stream(stream.clone()),
            NodeTopic::StreamAck(stream),
            NodeTopic::Events,
            NodeTopic::Replays,
            NodeTopic::Replayed,
        ] {
            assert_eq!(
                NodeTopic::parse(&topic.name(&node)),
                Some((node.clone(), topic))
            );
        }
        for foreign in [
            "",
            "edge/v1/n1",
            "edge/v2/n1/health",
            "edge/v1/n1/streams/#",
            "edge/v1/N1/health",
        ] {
            assert_eq!(NodeTopic::parse(foreign), None, "{foreign}");
        }
    }
}
