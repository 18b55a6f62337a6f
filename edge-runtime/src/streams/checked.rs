//! What a read has found in order, so that its release need not read it again.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use fleet_api::frame::Body;

use super::read::OutFrame;
use crate::buffer::StreamId;

/// Frames that are known at most; what lies beyond is read again.
const FRAMES: usize = 4_096;

/// Sizes of frames of records that were read, passed their checksum and are not released.
#[derive(Debug, Default)]
pub(super) struct Checked {
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    /// Counts the times that stored frames were changed.
    changes: u64,
    frames: BTreeMap<(StreamId, u64), Size>,
}

/// A frame of records, as far as its release needs it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Size {
    /// Its last sequence.
    pub last: u64,
    /// Its records.
    pub records: u64,
    /// Its encoded size.
    pub frame_bytes: usize,
    /// Time of its first record, in milliseconds since the Unix epoch.
    pub time_ms: u64,
}

/// The state of the store that a read has before it; see [`Checked::add`].
pub(super) struct Before(u64);

impl Checked {
    /// To be called before the frames are read.
    pub(super) fn before(&self) -> Before {
        Before(self.lock().changes)
    }

    /// Remembers what was read since `before`, unless stored frames were changed meanwhile.
    /// Frames below `released` are of no use.
    pub(super) fn add(&self, before: &Before, id: StreamId, released: u64, frames: &[OutFrame]) {
        let mut known = self.lock();
        if known.changes != before.0 {
            return;
        }
        for out in frames.iter().filter(|out| out.first >= released) {
            if known.frames.len() >= FRAMES {
                return;
            }
            if let Body::Records(records) = &out.frame.body {
                let size = Size {
                    last: out.last,
                    records: records.len() as u64,
                    frame_bytes: out.bytes.len(),
                    time_ms: records.first().map_or(0, |record| record.time_ms),
                };
                known.frames.insert((id, out.first), size);
            }
        }
    }

    /// The frame of records that starts at `first`, below which all is released.
    pub(super) fn get(&self, id: StreamId, first: u64) -> Option<Size> {
        let mut known = self.lock();
        while let Some((&below, _)) = known.frames.range((id, 0)..(id, first)).next() {
            known.frames.remove(&below);
        }
        known.frames.get(&(id, first)).copied()
    }

    /// Stored frames have been changed, not only released.
    pub(super) fn forget(&self) {
        let mut known = self.lock();
        known.changes += 1;
        known.frames.clear();
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use fleet_api::frame::{Encoding, Frame, Record};

    use super::*;

    fn frame(first: u64, records: usize) -> OutFrame {
        let record = Record {
            time_ms: 5,
            encoding: Encoding::Bytes,
            value: "x".into(),
        };
        let frame = Frame {
            epoch: 1,
            first,
            body: Body::Records(vec![record; records]),
        };
        OutFrame {
            first,
            last: frame.last(),
            bytes: frame.encode("s").unwrap(),
            frame,
        }
    }

    #[test]
    fn knows_what_was_read_and_drops_what_is_released() {
        let checked = Checked::default();
        let before = checked.before();
        checked.add(&before, 1, 11, &[frame(1, 10), frame(11, 10), frame(21, 5)]);
        checked.add(&before, 2, 1, &[frame(1, 3)]);
        let size = checked.get(1, 21).unwrap();
        assert_eq!((size.last, size.records, size.time_ms), (25, 5, 5));
        assert_eq!(checked.get(1, 11), None, "it lies below what was asked for");
        assert_eq!(checked.get(2, 1).unwrap().last, 3);
        assert_eq!(checked.lock().frames.len(), 2);
    }

    #[test]
    fn forgets_what_was_read_before_a_change() {
        let checked = Checked::default();
        let before = checked.before();
        checked.add(&before, 1, 1, &[frame(1, 10)]);
        checked.forget();
        assert_eq!(checked.get(1, 1), None);
        checked.add(&before, 1, 1, &[frame(1, 10)]);
        assert_eq!(checked.get(1, 1), None, "read before the change");
        checked.add(&checked.before(), 1, 1, &[frame(1, 10)]);
        assert!(checked.get(1, 1).is_some());
    }

    #[test]
    fn is_bounded() {
        let checked = Checked::default();
        let frames: Vec<_> = (0..5_000).map(|n| frame(n + 1, 1)).collect();
        checked.add(&checked.before(), 1, 1, &frames);
        assert_eq!(checked.lock().frames.len(), FRAMES);
        assert!(checked.get(1, 4_096).is_some());
        assert_eq!(checked.lock().frames.len(), 1);
    }
}
