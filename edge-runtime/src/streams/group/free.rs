//! What leaves the buffer: released records, then what limits evict.
//!
//! ```text
//!   low ........ released ........ next        a gap of evicted records lies at `released`;
//!   |  retained  |   to forward    |           nothing is evicted while records are retained
//! ```

use fleet_api::frame::{Body, Gap, GapReason};

use super::{GAP_BYTES, Group, PendingGap, Refusal, place};
use crate::streams::state::{Head, StreamState};

/// Frames that one group frees at most.
const FRAMES: usize = 2_048;

impl Group<'_> {
    /// Plans to release what receiver and processor have passed, and to free what has been
    /// readable for long enough. True if there is more than one group should do.
    pub(in crate::streams) fn free(&mut self, stream: &str) -> Result<bool, Refusal> {
        if self.plan.gaps.contains_key(stream) {
            return Err(Refusal::NeedsCommit);
        }
        let more = self.release(stream)?;
        Ok(self.free_old(stream)? || more)
    }

    fn release(&mut self, stream: &str) -> Result<bool, Refusal> {
        let stored_next = self.stored_next(stream);
        let cursor = self
            .specs
            .get(stream)
            .and_then(|spec| spec.processor.as_ref())
            .map(|processor| {
                let key = (processor.name.as_str().to_owned(), stream.to_owned());
                self.cursors.get(&key).copied().unwrap_or(0)
            });
        let keeps = self.keep_ms(stream) > 0;
        let Some(state) = self.states.get_mut(stream) else {
            return Ok(false);
        };
        let limit = cursor.map_or(state.acked, |cursor| cursor.min(state.acked));
        for _ in 0..FRAMES {
            if state.released > limit || state.released >= stored_next {
                return Ok(false);
            }
            let known = self.checked.and_then(|c| c.get(state.id, state.released));
            let (last, records, frame_bytes) = match known {
                Some(size) => (size.last, size.records, size.frame_bytes),
                None => {
                    let at = state.released;
                    let place = place::at(self.store, stream, state.id, at, stored_next)?;
                    (place.last, place.records, place.frame_bytes)
                }
            };
            if last > limit {
                return Ok(false);
            }
            state.bytes = state.bytes.saturating_sub(frame_bytes as u64);
            state.records = state.records.saturating_sub(records);
            if keeps || state.low < state.released {
                state.retained_bytes += frame_bytes as u64;
                state.retained += records;
            } else {
                let removed = (state.id, state.released, frame_bytes);
                self.plan.changes.remove.push(removed);
                state.low = last + 1;
            }
            state.released = last + 1;
            if state.released == stored_next && !self.plan.packers.contains_key(stream) {
                state.bytes = 0;
                state.records = 0;
            }
            self.plan.touched.insert(stream.to_owned());
        }
        Ok(true)
    }

    /// How long released records of `stream` stay; a removed stream keeps none.
    fn keep_ms(&self, stream: &str) -> u64 {
        self.specs.get(stream).map_or(0, |spec| {
            spec.ttl.map_or(spec.keep, |ttl| ttl.min(spec.keep)).ms()
        })
    }

    /// Plans to free released records that are older than the stream keeps them.
    fn free_old(&mut self, stream: &str) -> Result<bool, Refusal> {
        let cutoff = match self.keep_ms(stream) {
            0 => None,
            keep => match self.now_ms.checked_sub(keep) {
                None => return Ok(false),
                cutoff => cutoff,
            },
        };
        for _ in 0..FRAMES {
            if !self.drop_retained(stream, cutoff)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Plans to free the oldest released frame; false if there is none, or it has records that
    /// are not older than `cutoff`.
    pub(super) fn drop_retained(
        &mut self,
        stream: &str,
        cutoff: Option<u64>,
    ) -> Result<bool, Refusal> {
        let Some(state) = self.states.get_mut(stream) else {
            return Ok(false);
        };
        let young = |head: Option<Head>| match (cutoff, head) {
            (Some(cutoff), Some(head)) => head.time_ms.is_some_and(|time| time >= cutoff),
            _ => false,
        };
        let known = state.kept.filter(|head| head.at == state.low);
        if state.low >= state.released || young(known) {
            return Ok(false);
        }
        let place = place::at(self.store, stream, state.id, state.low, state.released)?;
        let head = Head {
            at: state.low,
            time_ms: place.newest_ms(),
        };
        state.kept = Some(head);
        if young(Some(head)) {
            return Ok(false);
        }
        let removed = (state.id, place.first, place.frame_bytes);
        self.plan.changes.remove.push(removed);
        state.retained_bytes = state
            .retained_bytes
            .saturating_sub(place.frame_bytes as u64);
        state.retained = state.retained.saturating_sub(place.records);
        state.low = place.last + 1;
        if state.low >= state.released {
            state.low = state.released;
            state.retained_bytes = 0;
            state.retained = 0;
        }
        self.plan.touched.insert(stream.to_owned());
        Ok(true)
    }

    /// Plans to evict what is older than the streams' time to live, and to free what has been
    /// readable for long enough; returns the streams that have more of it.
    pub(in crate::streams) fn expire(&mut self) -> Result<Vec<String>, Refusal> {
        let mut more = Vec::new();
        let streams: Vec<_> = self.states.keys().cloned().collect();
        for stream in streams {
            let ttl = self.specs.get(&stream).and_then(|spec| spec.ttl);
            let cutoff = ttl.and_then(|ttl| self.now_ms.checked_sub(ttl.ms()));
            if let Some(cutoff) = cutoff {
                self.evict_older(&stream, cutoff)?;
            }
            if !self.plan.gaps.contains_key(&stream) && self.free_old(&stream)? {
                more.push(stream);
            }
        }
        Ok(more)
    }

    fn evict_older(&mut self, stream: &str, cutoff: u64) -> Result<(), Refusal> {
        let old = |state: &StreamState| {
            let oldest = state.oldest.and_then(|head| head.time_ms);
            oldest.is_some_and(|oldest| oldest < cutoff)
        };
        if !self.states.get(stream).is_some_and(old) {
            return Ok(());
        }
        for _ in 0..FRAMES {
            let retained = self.drop_retained(stream, None)?;
            let is_old = |body: &Body| match body {
                Body::Records(records) => records.iter().all(|record| record.time_ms < cutoff),
                Body::Gap(_) => false,
            };
            if !retained && !self.evict(stream, GapReason::Expired, is_old)? {
                break;
            }
        }
        Ok(())
    }

    /// Evicts the oldest frame of records; false if there is none or it is not `wanted`.
    /// No record may be retained any more.
    pub(super) fn evict(
        &mut self,
        stream: &str,
        reason: GapReason,
        wanted: impl Fn(&Body) -> bool,
    ) -> Result<bool, Refusal> {
        let stored_next = self.stored_next(stream);
        let Some(state) = self.states.get_mut(stream) else {
            return Ok(false);
        };
        debug_assert_eq!(state.low, state.released, "released records go first");
        let pending = self.plan.gaps.get(stream);
        let mut at = pending.map_or(state.low, |pending| pending.gap.last + 1);
        let mut old_gap = None;
        loop {
            if at >= stored_next {
                return Ok(false);
            }
            let place = place::at(self.store, stream, state.id, at, stored_next)?;
            match &place.body {
                Some(Body::Gap(gap)) if old_gap.is_none() => {
                    old_gap = Some((place.first, *gap, place.frame_bytes));
                    at = gap.last + 1;
                    continue;
                }
                Some(Body::Gap(_)) => return Ok(false),
                Some(records) if !wanted(records) => return Ok(false),
                Some(Body::Records(_)) | None => {}
            }
            let removed = (state.id, place.first, place.frame_bytes);
            self.plan.changes.remove.push(removed);
            state.bytes = state.bytes.saturating_sub(place.frame_bytes as u64);
            state.records = state.records.saturating_sub(place.records);
            state.evicted += place.records;
            state.oldest = None;
            self.plan.touched.insert(stream.to_owned());

            // The receiver needs to be told only about what it does not have.
            let last = place.last;
            let mut gap_first = place.first.max(state.acked + 1);
            let mut lost = (last + 1).saturating_sub(gap_first).min(place.records);
            if let Some((old_first, old, old_bytes)) = old_gap {
                self.plan
                    .changes
                    .remove
                    .push((state.id, old_first, old_bytes));
                state.bytes = state.bytes.saturating_sub(old_bytes as u64);
                if old.last > state.acked {
                    gap_first = gap_first.min(old_first);
                    lost += old.lost;
                }
            }
            if let Some(pending) = self.plan.gaps.get_mut(stream) {
                pending.gap.last = last;
                pending.gap.reason = reason;
                pending.gap.lost += lost;
            } else if gap_first <= last {
                let gap = Gap { last, reason, lost };
                self.plan.gaps.insert(
                    stream.to_owned(),
                    PendingGap {
                        first: gap_first,
                        gap,
                    },
                );
                state.bytes += GAP_BYTES;
            }
            state.low = self
                .plan
                .gaps
                .get(stream)
                .map_or(last + 1, |pending| pending.first);
            state.released = state.low;
            self.plan.durable = true;
            self.plan.rewrites = true;
            return Ok(true);
        }
    }
}
