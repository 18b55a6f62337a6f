use fleet_api::frame::MAX_VALUE_BYTES;

use crate::buffer::BufferError;

/// Why records were not taken, or not given.
#[derive(Debug, Clone, thiserror::Error)]
pub enum AppendError {
    /// There is no such stream.
    #[error("there is no stream {stream:?} on this node; it has {known}")]
    Unknown {
        /// The name asked for.
        stream: String,
        /// The names there are.
        known: String,
    },
    /// Only the node itself writes to it.
    #[error("stream {stream:?} is the node's own: send records to another one")]
    Reserved {
        /// The stream.
        stream: String,
    },
    /// It was taken off the node and only empties itself.
    #[error("stream {stream:?} was removed from this node and takes no more records")]
    Removed {
        /// The stream.
        stream: String,
    },
    /// The quota is reached and the stream's rule is to refuse.
    #[error(
        "stream {stream:?} is full at {quota} bytes: wait until it is forwarded, or raise its quota"
    )]
    Full {
        /// The stream.
        stream: String,
        /// Its quota in bytes.
        quota: u64,
    },
    /// All streams together have what the buffer may take, and none has to make room.
    #[error(
        "the node's buffer is full, all streams together may hold {limit} bytes at present and none makes room for stream {stream:?}: wait until it is forwarded, or raise [buffer] max"
    )]
    BufferFull {
        /// The stream.
        stream: String,
        /// What all may hold.
        limit: u64,
    },
    /// The request alone is larger than the quota.
    #[error(
        "these records are larger than stream {stream:?} may ever hold, {quota} bytes: send fewer at once, or raise its quota"
    )]
    LargerThanQuota {
        /// The stream.
        stream: String,
        /// Its quota in bytes.
        quota: u64,
    },
    /// One value is too large.
    #[error(
        "a record of {bytes} bytes is larger than {MAX_VALUE_BYTES}: send it in parts, or store it elsewhere and send a reference"
    )]
    ValueTooLarge {
        /// Its size.
        bytes: usize,
    },
    /// A key stands for something else already.
    #[error(
        "this idempotency key was sent with another body before: use a new key for each request, and the same one only to repeat it"
    )]
    KeyReused,
    /// Nothing to append.
    #[error("there is no record to append")]
    Empty,
    /// The file system is nearly full.
    #[error("the node's disk is nearly full, {free} bytes are left: free some space")]
    NoSpace {
        /// What is left.
        free: u64,
    },
    /// The batch was committed before.
    #[error("processor {processor:?} has already finished stream {stream:?} up to {cursor}")]
    AlreadyProcessed {
        /// The processor.
        processor: String,
        /// The stream.
        stream: String,
        /// Its cursor.
        cursor: u64,
    },
    /// The queue to the disk did not move.
    #[error("the disk does not keep up: try again later")]
    Busy,
    /// The node stops.
    #[error("the buffer is closed, the node is stopping")]
    Closed,
    /// The store itself fails.
    #[error(transparent)]
    Buffer(#[from] BufferError),
}

impl AppendError {
    /// Whether the same request can succeed later.
    pub fn is_retryable(&self) -> bool {
        matches!(
            self,
            Self::Full { .. }
                | Self::BufferFull { .. }
                | Self::NoSpace { .. }
                | Self::Busy
                | Self::Closed
                | Self::Buffer(_)
        )
    }

    /// Whether it succeeds once there is room, however long that takes.
    pub(crate) fn wants_room(&self) -> bool {
        matches!(self, Self::Full { .. } | Self::NoSpace { .. } | Self::Busy)
    }

    /// A stable word for programs.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Unknown { .. } => "unknown-stream",
            Self::Reserved { .. } => "reserved-stream",
            Self::Removed { .. } => "removed-stream",
            Self::Full { .. } => "stream-full",
            Self::BufferFull { .. } => "buffer-full",
            Self::LargerThanQuota { .. } => "larger-than-quota",
            Self::ValueTooLarge { .. } => "record-too-large",
            Self::KeyReused => "idempotency-key-reused",
            Self::Empty => "no-records",
            Self::NoSpace { .. } => "disk-full",
            Self::AlreadyProcessed { .. } => "already-processed",
            Self::Busy => "busy",
            Self::Closed => "closing",
            Self::Buffer(_) => "buffer-failed",
        }
    }
}
