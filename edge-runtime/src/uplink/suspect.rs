use std::collections::BTreeMap;
use std::time::Duration;

/// Connections that break on a frame before it is sent alone.
const IN_COMPANY: u32 = 2;
/// Connections that break on a frame sent alone before it is set aside.
const ALONE: u32 = 3;
/// How long a connection has to hold without the frame before it is sent alone.
const QUIET: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(10));

/// A frame: stream and first sequence.
pub(super) type FrameId = (String, u64);

/// Finds the frame that the broker answers by breaking the connection. No I/O, no clock.
///
/// A frame is suspected if connection after connection breaks while it is the oldest of its
/// stream without an acknowledgement. It is to blame if they also break when it is sent alone,
/// each after holding without it for longer than one held with it: a link that breaks anyway
/// proves nothing.
#[derive(Debug, Default)]
pub(super) struct Suspect {
    breaks: BTreeMap<FrameId, u32>,
    /// The one that is sent alone, and on how many connections that broke.
    alone: Option<(FrameId, u32)>,
    held: Duration,
}

impl Suspect {
    /// The frame that is to be sent alone, and after how long a silence.
    pub(super) fn alone(&self) -> Option<(&FrameId, Duration)> {
        let (frame, _) = self.alone.as_ref()?;
        Some((frame, (2 * self.held).clamp(QUIET.0, QUIET.1)))
    }

    /// The peer has broken a connection: `heads` are the oldest frames without an
    /// acknowledgement, one of each stream, and the time since the first of them was sent.
    /// Returns the frame that has to be set aside.
    pub(super) fn broke(&mut self, heads: &[FrameId], held: Duration) -> Option<FrameId> {
        if let Some((frame, times)) = &mut self.alone {
            if !heads.contains(frame) {
                // It broke without the frame.
                self.clear();
                return None;
            }
            *times += 1;
            self.held = held;
            if *times < ALONE {
                return None;
            }
            let frame = frame.clone();
            self.clear();
            return Some(frame);
        }
        self.breaks.retain(|frame, _| heads.contains(frame));
        for head in heads {
            *self.breaks.entry(head.clone()).or_default() += 1;
        }
        let worst = self.breaks.iter().max_by_key(|(_, times)| **times);
        if let Some((frame, times)) = worst
            && *times >= IN_COMPANY
        {
            self.alone = Some((frame.clone(), 0));
            self.held = held;
        }
        None
    }

    /// The broker has acknowledged the frame, in whatever way.
    pub(super) fn acknowledged(&mut self, stream: &str, first: u64) {
        if self.breaks.is_empty() {
            return;
        }
        let is = |frame: &FrameId| frame.1 == first && frame.0 == stream;
        self.breaks.retain(|frame, _| !is(frame));
        if self.alone.as_ref().is_some_and(|(frame, _)| is(frame)) {
            self.alone = None;
        }
    }

    /// Nothing is suspected any more.
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HELD: Duration = Duration::from_millis(10);

    fn frame(stream: &str, first: u64) -> FrameId {
        (stream.to_owned(), first)
    }

    #[test]
    fn a_frame_that_breaks_five_connections_is_to_blame() {
        let mut suspect = Suspect::default();
        let (bad, other) = (frame("b", 1), |n| frame("a", n));
        assert!(suspect.broke(&[other(1), bad.clone()], HELD).is_none());
        assert!(suspect.alone().is_none(), "one break says nothing");
        suspect.acknowledged("a", 1);
        assert!(suspect.broke(&[other(2), bad.clone()], HELD).is_none());
        assert_eq!(suspect.alone().map(|(frame, _)| frame), Some(&bad));
        for _ in 0..2 {
            assert!(suspect.broke(std::slice::from_ref(&bad), HELD).is_none());
        }
        assert_eq!(suspect.broke(std::slice::from_ref(&bad), HELD), Some(bad));
        assert!(suspect.alone().is_none());
    }

    #[test]
    fn one_that_was_wrongly_suspected_makes_room_for_the_next() {
        let mut suspect = Suspect::default();
        let heads = [frame("a", 1), frame("b", 1)];
        suspect.broke(&heads, HELD);
        suspect.broke(&heads, HELD);
        let first = suspect.alone().map(|(frame, _)| frame.clone());
        let first = first.expect("one of the two");
        suspect.acknowledged(&first.0, first.1);
        let rest: Vec<_> = heads.into_iter().filter(|head| *head != first).collect();
        suspect.broke(&rest, HELD);
        assert_eq!(suspect.alone().map(|(frame, _)| frame), rest.first());
    }

    #[test]
    fn a_link_that_breaks_anyway_proves_nothing() {
        let mut suspect = Suspect::default();
        let head = frame("a", 1);
        for round in 0..100 {
            suspect.broke(std::slice::from_ref(&head), HELD);
            suspect.broke(std::slice::from_ref(&head), HELD);
            assert!(suspect.alone().is_some());
            // Of every three, one breaks before the frame was sent.
            for _ in 0..round % 3 {
                assert!(suspect.broke(std::slice::from_ref(&head), HELD).is_none());
            }
            assert!(suspect.broke(&[], HELD).is_none());
            assert!(suspect.alone().is_none());
        }
    }

    #[test]
    fn the_longer_it_held_the_longer_it_has_to_hold_without() {
        let mut suspect = Suspect::default();
        let head = [frame("a", 1)];
        suspect.broke(&head, HELD);
        suspect.broke(&head, Duration::from_secs(2));
        let silence = suspect.alone().map(|(_, silence)| silence);
        assert_eq!(silence, Some(Duration::from_secs(4)));
    }
}
