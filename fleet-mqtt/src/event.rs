use bytes::Bytes;

/// What happened on a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The oldest publish without an id was sent under this one.
    Sent(u16),
    /// The broker has taken the publish of this id, or refuses it.
    Acknowledged(u16, Result<(), Refusal>),
    /// The answer to a subscription: whether each filter was granted.
    Subscribed(Vec<Result<(), Refusal>>),
    /// Somebody has published.
    Message {
        /// The topic's full name.
        topic: String,
        /// What was published.
        payload: Bytes,
        /// Whether the broker had kept it from earlier.
        retained: bool,
        /// By what to acknowledge it in a session that is kept; none at QoS 0.
        id: Option<u16>,
    },
    /// A packet id came round before its acknowledgement: the client is confused.
    Collision,
    /// Nothing that anybody waits for.
    Other,
}

/// The broker's reason for not taking something, in the words of MQTT 5.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal(pub String);

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}
