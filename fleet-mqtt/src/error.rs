/// Why there is no connection, or no longer one.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no way to the broker.
    #[error("the broker {broker} is not reachable")]
    Unreachable {
        /// Host and port.
        broker: String,
        /// What the client says.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The broker does not want this client.
    #[error("the broker {broker} refuses the connection: {reason}")]
    Refused {
        /// Host and port.
        broker: String,
        /// The broker's reason.
        reason: String,
    },
    /// The broker has ended the connection, because another client has this one's id.
    #[error("another client with the same id has taken over the connection")]
    TakenOver,
    /// The broker has ended the connection and says why; nothing that was sent is to blame.
    #[error("the broker ended the connection: {0}")]
    Ended(String),
    /// The connection has ended because of a packet that was to be sent, or so the broker says.
    #[error("the connection ended over a packet: {0}")]
    Rejected(String),
    /// What the broker said cannot be read, or is no answer to anything.
    #[error("the broker says what makes no sense")]
    Garbled(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The connection ended without a word. With a broker of 3.1.1 this may be a takeover: it
    /// has no packet to say so.
    #[error("the connection to the broker broke")]
    Broken(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The broker says nothing more.
    #[error("the broker was silent for too long")]
    Silent,
    /// The client has no room for another request.
    #[error("the client takes no request")]
    Busy,
}
