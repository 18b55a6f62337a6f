//! A range of a stream, by sequence, by time or by both, read piece by piece.

use std::ops::Range;
use std::sync::Arc;

use fleet_api::frame::Body;

use super::read::{Found, OutFrame, look, rows};
use super::rows::Row;
use super::state::Shared;
use super::{AppendError, Streams};
use crate::buffer::BufferError;

/// Frames that are in memory at a time.
const FRAMES: usize = 32;

/// Which records of a stream; both ends are inclusive, and none is open.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RecordRange {
    /// First sequence.
    pub from: Option<u64>,
    /// Last sequence.
    pub to: Option<u64>,
    /// Earliest time, in milliseconds since the Unix epoch.
    pub since_ms: Option<u64>,
    /// Latest time, in milliseconds since the Unix epoch.
    pub until_ms: Option<u64>,
}

impl RecordRange {
    fn takes(&self, row: &Row) -> bool {
        let time = row.record.time_ms;
        self.from.is_none_or(|from| row.seq >= from)
            && self.to.is_none_or(|to| row.seq <= to)
            && self.since_ms.is_none_or(|since| time >= since)
            && self.until_ms.is_none_or(|until| time <= until)
    }
}

/// Reads a range from its start to its end. The end is fixed when it is opened:
/// records that come later are not part of it.
#[derive(Debug)]
pub(crate) struct RangeReader {
    streams: Streams,
    stream: String,
    range: RecordRange,
    held: Range<u64>,
    at: u64,
    end: u64,
}

impl RangeReader {
    /// Frames of the range in order, with what lies around them in the same
    /// frames; empty at the end.
    ///
    /// # Errors
    /// As [`Streams::frames`].
    pub(crate) async fn next(&mut self) -> Result<Vec<OutFrame>, AppendError> {
        if self.at >= self.end {
            return Ok(Vec::new());
        }
        let mut frames = self.streams.frames(&self.stream, self.at, FRAMES).await?;
        frames.retain(|frame| frame.first < self.end);
        self.at = frames.last().map_or(self.end, |frame| frame.last + 1);
        Ok(frames)
    }

    /// The records of `frame` that are in the range.
    pub(crate) fn rows(&self, frame: OutFrame) -> impl Iterator<Item = Row> {
        let (range, end) = (self.range, self.end);
        rows(frame, 0).filter(move |row| row.seq < end && range.takes(row))
    }

    /// What the node held when the range was opened: from the oldest sequence
    /// up to, without, the next one.
    pub(crate) fn held(&self) -> Range<u64> {
        self.held.clone()
    }

    /// The sequence that is read next.
    pub(crate) fn at(&self) -> u64 {
        self.at
    }

    /// Sequences from the next one to the end.
    pub(crate) fn span(&self) -> u64 {
        self.end.saturating_sub(self.at)
    }

    /// The sequences that were asked for by number and are not held any more.
    pub(crate) fn released(&self) -> Option<(u64, u64)> {
        let from = self.range.from?.max(1);
        let last = self.range.to.unwrap_or(u64::MAX).min(self.held.start - 1);
        (from <= last).then_some((from, last))
    }
}

impl Streams {
    /// Opens a range of `stream`. Times are found by halving, as if they only
    /// grew with the sequence; what a clock that was set back has put elsewhere
    /// may be missed.
    ///
    /// # Errors
    /// [`AppendError::Unknown`] for an unknown stream, else [`AppendError::Buffer`].
    pub(crate) async fn range(
        &self,
        stream: &str,
        range: RecordRange,
    ) -> Result<RangeReader, AppendError> {
        let held = self.readable(stream)?;
        let mut at = range.from.unwrap_or(0).max(held.start);
        let mut end = range.to.map_or(held.end, |to| held.end.min(to + 1));
        if let Some(since) = range.since_ms {
            at = at.max(self.first_at(stream, since, held.clone()).await?.first);
        }
        if let Some(until) = range.until_ms {
            let after = self.first_at(stream, until + 1, held.clone()).await?;
            end = end.min(after.last.saturating_add(1));
        }
        Ok(RangeReader {
            streams: self.clone(),
            stream: stream.to_owned(),
            range,
            held,
            at,
            end,
        })
    }

    /// What can be read of `stream`, even if it takes no more records.
    pub(super) fn readable(&self, stream: &str) -> Result<Range<u64>, AppendError> {
        let shared = &self.inner.shared;
        match shared.state(stream) {
            Some(state) => Ok(state.low..state.next),
            None => shared.spec(stream).map(|_| 1..1),
        }
    }

    /// The first frame of `within` with a record of `time_ms` or later.
    async fn first_at(
        &self,
        stream: &str,
        time_ms: u64,
        within: Range<u64>,
    ) -> Result<Place, AppendError> {
        let shared = Arc::clone(&self.inner.shared);
        let stream = stream.to_owned();
        let search = tokio::task::spawn_blocking(move || halve(&shared, &stream, time_ms, within));
        search
            .await
            .map_err(|error| BufferError::Failed(error.to_string()))?
    }
}

/// Where a frame lies.
struct Place {
    first: u64,
    last: u64,
}

/// Blocks, for a look at about `log2(within)` frames.
fn halve(
    shared: &Shared,
    stream: &str,
    time_ms: u64,
    within: Range<u64>,
) -> Result<Place, AppendError> {
    let mut found = Place {
        first: within.end,
        last: within.end,
    };
    let Some(state) = shared.state(stream) else {
        return Ok(found);
    };
    let (mut low, mut high) = (within.start, within.end);
    while low < high {
        let middle = low + (high - low) / 2;
        // A gap or a damaged place has no time: what follows it tells on which side to go on.
        let mut at = middle;
        let newest = loop {
            if at >= high {
                break None;
            }
            match look(shared.store.as_ref(), stream, state.id, at)? {
                Found::Frame(out) => match &out.frame.body {
                    Body::Records(records) => {
                        let newest = records.last().map_or(0, |record| record.time_ms);
                        break Some((out.first, out.last, newest));
                    }
                    Body::Gap(gap) => at = gap.last.saturating_add(1),
                },
                Found::Damaged { first, .. } => {
                    let after = shared.store.after(state.id, first)?;
                    at = after.map_or(u64::MAX, |next| next.first).max(at + 1);
                }
                Found::Hole { until } => at = until.unwrap_or(u64::MAX).max(at + 1),
            }
        };
        match newest {
            Some((_, last, newest)) if newest < time_ms => low = last + 1,
            Some((first, last, _)) => {
                found = Place { first, last };
                high = middle.min(first);
            }
            None => high = middle,
        }
    }
    Ok(found)
}
