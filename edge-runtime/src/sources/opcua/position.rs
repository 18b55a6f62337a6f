use serde::{Deserialize, Serialize};

/// How far a source has come: which subscription it is, and what of it is durable.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Position {
    /// When the server was started, in ticks of OPC UA: its subscriptions end with it. None if
    /// nothing is to be had from the subscription any more.
    pub server: Option<i64>,
    /// What is subscribed and how, by digest; another set needs another subscription.
    pub wanted: String,
    /// The subscription's id at the server.
    pub subscription: u32,
    /// The last message that is durable.
    pub sequence: u32,
    /// How long the server is silent at most, in milliseconds.
    pub quiet_ms: u64,
}

impl Position {
    pub(super) fn note(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("a position has only string keys")
    }

    /// None if the note cannot be read; then the values are subscribed anew.
    pub(super) fn from_note(note: &[u8]) -> Option<Self> {
        let position = serde_json::from_slice(note);
        position
            .inspect_err(|error| tracing::warn!(%error, "cannot read how far a source has come"))
            .ok()
    }
}
