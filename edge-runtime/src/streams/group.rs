use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use fleet_api::deployment::OnFull;
use fleet_api::desired::StreamSpec;
use fleet_api::frame::{Body, Frame, Gap, GapReason, HEADER_BYTES, Header, Record};

use super::read::{Found, look};
use super::state::{Cursors, States, StreamState, cursor_note, stream_note};
use super::{AppendError, Appended};
use crate::buffer::{BufferError, Changes, FrameStore};

/// A frame is closed at this size, so that it is one value in the store.
const FRAME_BYTES: usize = 6_000;
/// Size of an encoded gap frame.
pub(super) const GAP_BYTES: u64 = (HEADER_BYTES + 17) as u64;
/// Frames that one group frees at most.
const RELEASE_FRAMES: usize = 2_048;
/// A watermark further ahead than this is a mistake, not a lost tail.
const LARGEST_SKIP: u64 = 1 << 32;

/// Why a command is not part of the group.
#[derive(Debug)]
pub(super) enum Refusal {
    /// It is refused for good.
    Append(AppendError),
    /// It has to see the group's changes first: commit, then try again.
    NeedsCommit,
}

impl From<BufferError> for Refusal {
    fn from(error: BufferError) -> Self {
        Self::Append(AppendError::Buffer(error))
    }
}

/// The changes of one commit while they are planned. It works on the writer's
/// own states, which nobody else sees until the commit is done.
pub(super) struct Group<'a> {
    pub store: &'a dyn FrameStore,
    pub epoch: u64,
    pub specs: &'a BTreeMap<String, StreamSpec>,
    pub states: &'a mut States,
    pub cursors: &'a mut Cursors,
    plan: Plan,
}

#[derive(Default)]
struct Plan {
    changes: Changes,
    packers: BTreeMap<String, Packer>,
    gaps: BTreeMap<String, PendingGap>,
    touched: BTreeSet<String>,
    durable: bool,
}

/// What a finished group asks of the store.
pub(super) struct Planned {
    pub changes: Changes,
    pub touched: BTreeSet<String>,
    /// Whether somebody waits for it to be durable.
    pub durable: bool,
}

/// Records that are packed into frames.
struct Packer {
    first: u64,
    frames: Vec<Vec<Record>>,
    open_bytes: usize,
}

struct PendingGap {
    first: u64,
    gap: Gap,
}

impl<'a> Group<'a> {
    pub(super) fn new(
        store: &'a dyn FrameStore,
        epoch: u64,
        specs: &'a BTreeMap<String, StreamSpec>,
        states: &'a mut States,
        cursors: &'a mut Cursors,
    ) -> Self {
        Self {
            store,
            epoch,
            specs,
            states,
            cursors,
            plan: Plan::default(),
        }
    }

    /// Plans to append `records`, evicting old ones if the stream's rule is so.
    pub(super) fn append(&mut self, stream: &str, records: &[Record]) -> Result<Appended, Refusal> {
        self.check_room(stream, records)?;
        self.make_room(stream, records)?;
        Ok(self.pack(stream, records))
    }

    /// Plans a processor's step: its outputs and its cursor.
    pub(super) fn process(
        &mut self,
        processor: &str,
        stream: &str,
        upto: u64,
        outputs: &[(String, Vec<Record>)],
    ) -> Result<(), Refusal> {
        let key = (processor.to_owned(), stream.to_owned());
        let cursor = self.cursors.get(&key).copied().unwrap_or(0);
        if upto <= cursor {
            return Err(Refusal::Append(AppendError::AlreadyProcessed {
                processor: processor.to_owned(),
                stream: stream.to_owned(),
                cursor,
            }));
        }
        for (output, records) in outputs {
            self.check_room(output, records)?;
        }
        for (output, records) in outputs {
            self.make_room(output, records)?;
        }
        for (output, records) in outputs {
            self.pack(output, records);
        }
        let note = cursor_note(processor, stream, upto);
        self.plan.changes.notes.push(note);
        self.cursors.insert(key, upto);
        self.plan.durable = true;
        Ok(())
    }

    /// Notes the receiver's watermark.
    pub(super) fn acknowledge(&mut self, stream: &str, upto: u64) -> Result<(), Refusal> {
        let Some(state) = self.states.get_mut(stream) else {
            return Ok(());
        };
        if upto >= state.next {
            if self.plan.packers.contains_key(stream) {
                return Err(Refusal::NeedsCommit);
            }
            if upto - state.next > LARGEST_SKIP {
                tracing::error!(stream, upto, "ignored a watermark far beyond this stream");
                return Ok(());
            }
            // The store came back shorter than what was sent from it.
            tracing::error!(
                stream,
                watermark = upto,
                next = state.next,
                "the receiver has records that this node has lost: skipping their numbers"
            );
            let gap = Gap {
                last: upto,
                reason: GapReason::Damaged,
                lost: 0,
            };
            let frame = encode_gap(self.epoch, stream, state.next, gap);
            self.plan.changes.put.push((state.id, state.next, frame));
            state.bytes += GAP_BYTES;
            state.next = upto + 1;
            self.plan.touched.insert(stream.to_owned());
            self.plan.durable = true;
            return Err(Refusal::NeedsCommit);
        }
        if upto > state.acked {
            state.acked = upto;
            self.plan.touched.insert(stream.to_owned());
        }
        Ok(())
    }

    /// Plans to free what receiver and processor have passed. True if there is
    /// more than one group should free.
    pub(super) fn free(&mut self, stream: &str) -> Result<bool, Refusal> {
        if self.plan.gaps.contains_key(stream) {
            return Err(Refusal::NeedsCommit);
        }
        let stored_next = self.stored_next(stream);
        let cursor = self
            .specs
            .get(stream)
            .and_then(|spec| spec.processor.as_ref())
            .map(|processor| {
                let key = (processor.name.as_str().to_owned(), stream.to_owned());
                self.cursors.get(&key).copied().unwrap_or(0)
            });
        let Some(state) = self.states.get_mut(stream) else {
            return Ok(false);
        };
        let limit = cursor.map_or(state.acked, |cursor| cursor.min(state.acked));
        for _ in 0..RELEASE_FRAMES {
            if state.low > limit || state.low >= stored_next {
                return Ok(false);
            }
            let (first, last, frame_bytes, records) =
                match look(self.store, stream, state.id, state.low)? {
                    Found::Frame(out) => {
                        let records = match &out.frame.body {
                            Body::Records(records) => records.len() as u64,
                            Body::Gap(_) => 0,
                        };
                        (out.first, out.last, out.bytes.len(), records)
                    }
                    // Whatever was here, the receiver has it.
                    Found::Damaged {
                        first, frame_bytes, ..
                    } => {
                        let after = self.store.after(state.id, first)?;
                        let last = after.map_or(stored_next, |next| next.first) - 1;
                        (first, last, frame_bytes, 0)
                    }
                    Found::Hole { until } => {
                        let last = until.unwrap_or(stored_next) - 1;
                        (state.low, last, 0, 0)
                    }
                };
            if last > limit {
                return Ok(false);
            }
            self.plan
                .changes
                .remove
                .push((state.id, first, frame_bytes));
            state.bytes = state.bytes.saturating_sub(frame_bytes as u64);
            state.records = state.records.saturating_sub(records);
            state.low = last + 1;
            if state.low == stored_next && !self.plan.packers.contains_key(stream) {
                state.bytes = 0;
                state.records = 0;
            }
            self.plan.touched.insert(stream.to_owned());
        }
        Ok(true)
    }

    /// Plans to evict what is older than the streams' time to live.
    pub(super) fn expire(&mut self, now_ms: u64) -> Result<(), Refusal> {
        let limits: Vec<_> = self
            .specs
            .iter()
            .filter_map(|(name, spec)| Some((name.clone(), now_ms.checked_sub(spec.ttl?.ms())?)))
            .collect();
        for (stream, cutoff) in limits {
            let old = |state: &StreamState| state.oldest_ms.is_some_and(|oldest| oldest < cutoff);
            if !self.states.get(&stream).is_some_and(old) {
                continue;
            }
            let is_old = |records: &[Record]| records.iter().all(|record| record.time_ms < cutoff);
            for _ in 0..RELEASE_FRAMES {
                if !self.evict(&stream, GapReason::Expired, is_old)? {
                    break;
                }
            }
        }
        Ok(())
    }

    /// Puts a gap where the store is damaged at `seq`, or where the frame is
    /// refused for `reason`. Nothing if the place is in order.
    pub(super) fn repair(
        &mut self,
        stream: &str,
        seq: u64,
        reason: Option<GapReason>,
    ) -> Result<(), Refusal> {
        if !self.plan.changes.is_empty() || !self.plan.packers.is_empty() {
            return Err(Refusal::NeedsCommit);
        }
        let Some(state) = self.states.get_mut(stream) else {
            return Ok(());
        };
        if seq < state.low || seq >= state.next {
            return Ok(());
        }
        let (first, frame_bytes, last, lost, why) = match look(self.store, stream, state.id, seq)? {
            Found::Frame(out) => match (&out.frame.body, reason) {
                (Body::Records(records), Some(reason)) => {
                    let lost = records.len() as u64;
                    (out.first, out.bytes.len(), out.last, lost, reason)
                }
                _ => return Ok(()),
            },
            Found::Damaged {
                first,
                frame_bytes,
                reason,
            } => {
                tracing::error!(stream, first, reason, "a frame in the buffer is damaged");
                let after = self.store.after(state.id, first)?;
                let last = after.map_or(state.next, |next| next.first) - 1;
                let lost = last - first + 1;
                (first, frame_bytes, last, lost, GapReason::Damaged)
            }
            Found::Hole { until } => {
                tracing::error!(stream, seq, "frames are missing in the buffer");
                let last = until.unwrap_or(state.next) - 1;
                (seq, 0, last, last - seq + 1, GapReason::Damaged)
            }
        };
        let gap = Gap {
            last,
            reason: why,
            lost,
        };
        let frame = encode_gap(self.epoch, stream, first, gap);
        self.plan
            .changes
            .remove
            .push((state.id, first, frame_bytes));
        self.plan.changes.put.push((state.id, first, frame));
        state.bytes = (state.bytes + GAP_BYTES).saturating_sub(frame_bytes as u64);
        state.records = state.records.saturating_sub(lost);
        state.evicted += lost;
        self.plan.touched.insert(stream.to_owned());
        self.plan.durable = true;
        Ok(())
    }

    /// Everything the group changes, ready to be committed.
    pub(super) fn finish(self) -> Planned {
        let mut plan = self.plan;
        for (stream, pending) in plan.gaps {
            let Some(state) = self.states.get(&stream) else {
                continue;
            };
            let frame = encode_gap(self.epoch, &stream, pending.first, pending.gap);
            plan.changes.put.push((state.id, pending.first, frame));
        }
        for (stream, packer) in plan.packers {
            let Some(state) = self.states.get(&stream) else {
                continue;
            };
            let mut first = packer.first;
            for records in packer.frames {
                let count = records.len() as u64;
                let frame = Frame {
                    epoch: self.epoch,
                    first,
                    body: Body::Records(records),
                };
                let bytes = frame
                    .encode(&stream)
                    .expect("records are checked and packed below the limits");
                plan.changes.put.push((state.id, first, bytes));
                first += count;
            }
        }
        for stream in &plan.touched {
            if let Some(state) = self.states.get(stream) {
                plan.changes.notes.push(stream_note(stream, state));
            }
        }
        Planned {
            changes: plan.changes,
            touched: plan.touched,
            durable: plan.durable,
        }
    }

    fn stored_next(&self, stream: &str) -> u64 {
        match self.plan.packers.get(stream) {
            Some(packer) => packer.first,
            None => self.states.get(stream).map_or(1, |state| state.next),
        }
    }

    fn cost(&self, stream: &str, records: &[Record]) -> u64 {
        let open_bytes = self.plan.packers.get(stream).map_or(0, |p| p.open_bytes);
        packed_bytes(open_bytes, records)
    }

    /// Refuses what can never fit, and what a full stream does not take.
    fn check_room(&self, stream: &str, records: &[Record]) -> Result<(), Refusal> {
        let Some(spec) = self.specs.get(stream) else {
            return Err(Refusal::Append(AppendError::Removed {
                stream: stream.to_owned(),
            }));
        };
        let quota = spec.quota.0;
        let stream = stream.to_owned();
        if packed_bytes(0, records) + GAP_BYTES > quota {
            return Err(Refusal::Append(AppendError::LargerThanQuota {
                stream,
                quota,
            }));
        }
        let used = self.states.get(&stream).map_or(0, |state| state.bytes);
        if spec.on_full == OnFull::Reject && used + self.cost(&stream, records) > quota {
            return Err(Refusal::Append(AppendError::Full { stream, quota }));
        }
        Ok(())
    }

    fn make_room(&mut self, stream: &str, records: &[Record]) -> Result<(), Refusal> {
        let Some(spec) = self.specs.get(stream) else {
            return Ok(());
        };
        let quota = spec.quota.0;
        loop {
            let used = self.states.get(stream).map_or(0, |state| state.bytes);
            if used + self.cost(stream, records) <= quota {
                return Ok(());
            }
            if spec.on_full == OnFull::DropOldest
                && self.evict(stream, GapReason::Quota, |_| true)?
            {
                continue;
            }
            let stream = stream.to_owned();
            return Err(if self.plan.packers.contains_key(&stream) {
                // What has to make room is part of this very group.
                Refusal::NeedsCommit
            } else {
                Refusal::Append(AppendError::Full { stream, quota })
            });
        }
    }

    /// Evicts the oldest frame of records; false if there is none or it is not `wanted`.
    fn evict(
        &mut self,
        stream: &str,
        reason: GapReason,
        wanted: impl Fn(&[Record]) -> bool,
    ) -> Result<bool, Refusal> {
        let stored_next = self.stored_next(stream);
        let Some(state) = self.states.get_mut(stream) else {
            return Ok(false);
        };
        let pending = self.plan.gaps.get(stream);
        let mut at = pending.map_or(state.low, |pending| pending.gap.last + 1);
        let mut old_gap = None;
        loop {
            if at >= stored_next {
                return Ok(false);
            }
            let (first, last, frame_bytes, records) = match look(self.store, stream, state.id, at)?
            {
                Found::Frame(out) => match out.frame.body {
                    Body::Gap(gap) if old_gap.is_none() => {
                        old_gap = Some((out.first, gap, out.bytes.len()));
                        at = gap.last + 1;
                        continue;
                    }
                    Body::Gap(_) => return Ok(false),
                    Body::Records(records) => {
                        if !wanted(&records) {
                            return Ok(false);
                        }
                        (out.first, out.last, out.bytes.len(), records.len() as u64)
                    }
                },
                Found::Damaged {
                    first, frame_bytes, ..
                } => {
                    let after = self.store.after(state.id, first)?;
                    let last = after.map_or(stored_next, |next| next.first) - 1;
                    (first, last, frame_bytes, last - first + 1)
                }
                Found::Hole { until } => {
                    let last = until.unwrap_or(stored_next) - 1;
                    (at, last, 0, last - at + 1)
                }
            };
            self.plan
                .changes
                .remove
                .push((state.id, first, frame_bytes));
            state.bytes = state.bytes.saturating_sub(frame_bytes as u64);
            state.records = state.records.saturating_sub(records);
            state.evicted += records;
            self.plan.touched.insert(stream.to_owned());

            // The receiver needs to be told only about what it does not have.
            let mut gap_first = first.max(state.acked + 1);
            let mut lost = (last + 1).saturating_sub(gap_first).min(records);
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
            return Ok(true);
        }
    }

    fn pack(&mut self, stream: &str, records: &[Record]) -> Appended {
        let id = self.states.values().map(|s| s.id).max().unwrap_or(0) + 1;
        let state = self
            .states
            .entry(stream.to_owned())
            .or_insert_with(|| StreamState::new(id));
        let packer = self
            .plan
            .packers
            .entry(stream.to_owned())
            .or_insert_with(|| Packer {
                first: state.next,
                frames: Vec::new(),
                open_bytes: 0,
            });
        let first_seq = state.next;
        let bytes = packed_bytes(packer.open_bytes, records);
        for record in records {
            packer.push(record.clone());
        }
        state.bytes += bytes;
        state.records += records.len() as u64;
        state.next += records.len() as u64;
        if state.oldest_ms.is_none() {
            state.oldest_ms = records.first().map(|record| record.time_ms);
        }
        self.plan.touched.insert(stream.to_owned());
        self.plan.durable = true;
        Appended {
            epoch: self.epoch,
            first_seq,
            last_seq: state.next - 1,
        }
    }
}

impl Packer {
    fn push(&mut self, record: Record) {
        let (added, open) = packed_one(self.open_bytes, record.encoded_bytes());
        self.open_bytes = open;
        match self.frames.last_mut() {
            Some(frame) if added < open => frame.push(record),
            _ => self.frames.push(vec![record]),
        }
    }
}

/// Bytes that the records add behind a frame of `open_bytes`.
fn packed_bytes(mut open_bytes: usize, records: &[Record]) -> u64 {
    let mut total = 0;
    for record in records {
        let (added, open) = packed_one(open_bytes, record.encoded_bytes());
        total += added as u64;
        open_bytes = open;
    }
    total
}

/// Bytes that one record adds, and how large the open frame is then; the two
/// are equal where it starts a new frame.
fn packed_one(open_bytes: usize, record_bytes: usize) -> (usize, usize) {
    if open_bytes == 0 || open_bytes + record_bytes > FRAME_BYTES {
        let bytes = HEADER_BYTES + record_bytes;
        (bytes, bytes)
    } else {
        (record_bytes, open_bytes + record_bytes)
    }
}

/// Encodes a gap frame.
pub(super) fn encode_gap(epoch: u64, stream: &str, first: u64, gap: Gap) -> Bytes {
    let frame = Frame {
        epoch,
        first,
        body: Body::Gap(gap),
    };
    let bytes = frame.encode(stream).expect("a gap ends after it starts");
    debug_assert!(Header::peek(&bytes).is_ok());
    bytes
}
