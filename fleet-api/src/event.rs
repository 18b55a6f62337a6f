//! What happens on a node and is worth a line in the fleet's log. A node keeps its events in a
//! stream of its own, as JSON records, and sends them on the topic `events`: they survive what
//! they tell of, come in order, and none comes twice.

use serde::{Deserialize, Serialize};

use crate::deployment::OnFull;
use crate::desired::StreamSpec;
use crate::ids::StreamName;
use crate::units::ByteSize;

/// The node's own stream; no deployment may have one of that name.
pub const STREAM: &str = "events";

/// What the stream of events may hold.
const QUOTA: ByteSize = ByteSize(4 << 20);

/// The node's own stream as every node has it: what is new is worth more than what is old.
///
/// # Panics
/// Never: the name is valid.
pub fn stream() -> StreamSpec {
    let name = StreamName::new(STREAM).expect("a valid name");
    StreamSpec {
        quota: QUOTA,
        on_full: OnFull::DropOldest,
        priority: 9,
        ..StreamSpec::named(name)
    }
}

/// One record of the stream `events`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Event {
    /// Version of this document's form, 1.
    pub v: u8,
    /// When it happened last, in milliseconds since the Unix epoch, by the node's clock.
    pub time_ms: u64,
    /// What kind it is, one of [`EventKind`]'s names; a newer node may know more.
    pub kind: String,
    /// The stream that it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stream: Option<String>,
    /// What happened, for people.
    pub text: String,
    /// How often it happened since the event before it of the same kind and stream.
    #[serde(default = "once")]
    pub count: u64,
}

fn once() -> u64 {
    1
}

/// What kind of event it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum EventKind {
    /// The node has started.
    Start,
    /// Records were evicted, have expired or were damaged: a gap stands for them.
    Gap,
    /// A damaged buffer was set aside.
    Quarantine,
    /// A frame that cannot be forwarded was set aside.
    Poison,
    /// The broker refuses a stream's frames.
    Refusal,
    /// Another client has this node's identity.
    Takeover,
    /// The broker cannot do what the configuration asks.
    Broker,
    /// A source was lost or is back.
    Source,
    /// A batch could not be processed and was set aside.
    DeadLetter,
    /// The disk or a quota is nearly full, or no longer.
    Space,
}

impl EventKind {
    /// The name used in JSON and tables.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Gap => "gap",
            Self::Quarantine => "quarantine",
            Self::Poison => "poison",
            Self::Refusal => "refusal",
            Self::Takeover => "takeover",
            Self::Broker => "broker",
            Self::Source => "source",
            Self::DeadLetter => "dead-letter",
            Self::Space => "space",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn version_1_reads_what_it_was_released_with() {
        let text = r#"{"v":1,"time_ms":5,"kind":"gap","stream":"vibration","text":"3 records were evicted","count":2}"#;
        let event: Event = serde_json::from_str(text).expect("reads");
        assert_eq!((event.kind.as_str(), event.count), ("gap", 2));
        assert_eq!(serde_json::to_string(&event).expect("writes"), text);
        let short: Event = serde_json::from_str(r#"{"v":1,"time_ms":5,"kind":"novel","text":"x"}"#)
            .expect("reads");
        assert_eq!((short.stream, short.count), (None, 1));
    }
}
