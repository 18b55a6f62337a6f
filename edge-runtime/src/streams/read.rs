use std::sync::Arc;

use bytes::Bytes;
use fleet_api::frame::{Body, Frame};
use tokio::sync::oneshot;

use super::rows::Row;
use super::state::{Shared, StreamState};
use super::writer::Command;
use super::{AppendError, Streams};
use crate::buffer::{BufferError, FrameStore, StreamId};

/// Bytes of frames that one read draws into memory.
const READ_BYTES: usize = 1 << 20;
/// Damaged places that one read repairs before it gives up.
const REPAIRS: usize = 8;

/// A frame that is ready to be sent.
#[derive(Debug, Clone)]
pub(crate) struct OutFrame {
    pub first: u64,
    pub last: u64,
    pub bytes: Bytes,
    pub frame: Frame,
}

/// What the store has at a sequence.
pub(crate) enum Found {
    /// The intact frame that covers it.
    Frame(OutFrame),
    /// A frame that cannot be read.
    Damaged {
        first: u64,
        frame_bytes: usize,
        reason: String,
    },
    /// Nothing; the next frame starts at `until`.
    Hole { until: Option<u64> },
}

/// Looks up the frame that covers `seq`.
pub(crate) fn look(
    store: &dyn FrameStore,
    stream: &str,
    id: StreamId,
    seq: u64,
) -> Result<Found, BufferError> {
    if let Some(stored) = store.at_or_before(id, seq)? {
        let damaged = |reason: String| Found::Damaged {
            first: stored.first,
            frame_bytes: stored.bytes.len(),
            reason,
        };
        match Frame::decode(stream, &stored.bytes) {
            Ok(frame) if frame.first != stored.first => {
                return Ok(damaged("it lies in another frame's place".to_owned()));
            }
            Ok(frame) if frame.last() >= seq => {
                return Ok(Found::Frame(OutFrame {
                    first: frame.first,
                    last: frame.last(),
                    bytes: stored.bytes,
                    frame,
                }));
            }
            Ok(_) => {}
            Err(error) => return Ok(damaged(error.to_string())),
        }
    }
    let until = store.after(id, seq)?.map(|next| next.first);
    Ok(Found::Hole { until })
}

impl Streams {
    /// Intact frames from `from` on, without a hole between them; empty when
    /// there is no more yet. Damage on the way is replaced by gap frames.
    pub(crate) async fn frames(
        &self,
        stream: &str,
        from: u64,
        max_frames: usize,
    ) -> Result<Vec<OutFrame>, AppendError> {
        for _ in 0..REPAIRS {
            let shared = Arc::clone(&self.inner.shared);
            let name = stream.to_owned();
            let scan = tokio::task::spawn_blocking(move || scan(&shared, &name, from, max_frames));
            let (frames, bad) = scan
                .await
                .map_err(|error| BufferError::Failed(error.to_string()))??;
            match bad {
                Some(seq) if frames.is_empty() => self.repair(stream, seq, None).await?,
                _ => return Ok(frames),
            }
        }
        Err(AppendError::Buffer(BufferError::Damaged {
            path: self.inner.shared.dir.clone(),
            reason: format!("stream {stream} cannot be repaired at {from}"),
        }))
    }

    pub(super) async fn rows(
        &self,
        stream: &str,
        from: u64,
        limit: usize,
    ) -> Result<Vec<Row>, AppendError> {
        let mut found = Vec::new();
        let mut at = from;
        // Gaps alone give no row; one read of anything else is enough for one answer.
        while found.is_empty() && limit > 0 {
            let frames = self.frames(stream, at, limit).await?;
            let Some(last) = frames.last().map(|out| out.last) else {
                break;
            };
            for out in frames {
                found.extend(rows(out, from).take(limit - found.len()));
            }
            at = last + 1;
        }
        Ok(found)
    }

    /// Has the writer look at `seq` again and, if it is damaged or `reason`
    /// says so, put a gap there.
    pub(crate) async fn repair(
        &self,
        stream: &str,
        seq: u64,
        reason: Option<fleet_api::frame::GapReason>,
    ) -> Result<(), AppendError> {
        let (reply, answer) = oneshot::channel();
        self.send(Command::Repair {
            stream: stream.to_owned(),
            seq,
            reason,
            reply,
        });
        answer.await.unwrap_or(Err(AppendError::Closed))
    }
}

/// Blocks. The second value is a place that could not be read.
fn scan(
    shared: &Shared,
    stream: &str,
    from: u64,
    max_frames: usize,
) -> Result<(Vec<OutFrame>, Option<u64>), AppendError> {
    let Some(state) = shared.state(stream) else {
        // Configured and never written to, or unknown.
        return shared.spec(stream).map(|_| (Vec::new(), None));
    };
    let before = shared.checked.before();
    let (frames, bad) = scan_of(shared, stream, &state, from, max_frames)?;
    let checked = &shared.checked;
    checked.add(&before, state.id, state.released, &frames);
    Ok((frames, bad))
}

fn scan_of(
    shared: &Shared,
    stream: &str,
    state: &StreamState,
    from: u64,
    max_frames: usize,
) -> Result<(Vec<OutFrame>, Option<u64>), AppendError> {
    let mut frames = Vec::new();
    let mut bytes = 0;
    let mut at = from.max(state.low);
    while at < state.next && frames.len() < max_frames && bytes < READ_BYTES {
        match look(shared.store.as_ref(), stream, state.id, at)? {
            Found::Frame(out) => {
                at = out.last + 1;
                bytes += out.bytes.len();
                frames.push(out);
            }
            Found::Damaged { .. } | Found::Hole { .. } => {
                // What was freed meanwhile is not damage.
                let low = shared.state(stream).map_or(0, |state| state.low);
                if low > at && frames.is_empty() {
                    at = low;
                } else {
                    return Ok((frames, Some(at)));
                }
            }
        }
    }
    Ok((frames, None))
}

/// The records of a frame from sequence `from` on.
pub(super) fn rows(frame: OutFrame, from: u64) -> impl Iterator<Item = Row> {
    let records = match frame.frame.body {
        Body::Records(records) => records,
        Body::Gap(_) => Vec::new(),
    };
    (frame.first..)
        .zip(records)
        .filter(move |(seq, _)| *seq >= from)
        .map(|(seq, record)| Row { seq, record })
}
