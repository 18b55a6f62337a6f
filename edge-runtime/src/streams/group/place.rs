use fleet_api::frame::Body;

use crate::buffer::{BufferError, FrameStore, StreamId};
use crate::streams::read::{Found, look};

/// What the store has at a sequence: a frame, or damage up to the next frame.
pub(super) struct Place {
    pub first: u64,
    pub last: u64,
    /// Encoded size of the frame that lies at `first`, 0 for none.
    pub frame_bytes: usize,
    /// Records; for damage as many as there are sequences.
    pub records: u64,
    /// What the frame holds; none for damage.
    pub body: Option<Body>,
    /// What is wrong.
    pub damage: Option<String>,
}

impl Place {
    /// Time of the newest record; none for a gap and for damage.
    pub(super) fn newest_ms(&self) -> Option<u64> {
        match &self.body {
            Some(Body::Records(records)) => records.iter().map(|record| record.time_ms).max(),
            _ => None,
        }
    }
}

/// Looks at `seq`, which something covers; damage reaches no further than `end`, without it.
pub(super) fn at(
    store: &dyn FrameStore,
    stream: &str,
    id: StreamId,
    seq: u64,
    end: u64,
) -> Result<Place, BufferError> {
    let damaged = |first: u64, frame_bytes: usize, until: Option<u64>, damage: String| {
        let last = until.unwrap_or(end).min(end).max(first + 1) - 1;
        Place {
            first,
            last,
            frame_bytes,
            records: last - first + 1,
            body: None,
            damage: Some(damage),
        }
    };
    Ok(match look(store, stream, id, seq)? {
        Found::Frame(out) => Place {
            first: out.first,
            last: out.last,
            frame_bytes: out.bytes.len(),
            records: match &out.frame.body {
                Body::Records(records) => records.len() as u64,
                Body::Gap(_) => 0,
            },
            body: Some(out.frame.body),
            damage: None,
        },
        Found::Damaged {
            first,
            frame_bytes,
            reason,
        } if first == seq => {
            let until = store.after(id, first)?.map(|next| next.first);
            damaged(first, frame_bytes, until, reason)
        }
        Found::Damaged { .. } => {
            let until = store.after(id, seq)?.map(|next| next.first);
            damaged(seq, 0, until, "frames are missing".to_owned())
        }
        Found::Hole { until } => damaged(seq, 0, until, "frames are missing".to_owned()),
    })
}
