mod free;
mod place;
mod total;

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use fleet_api::deployment::OnFull;
use fleet_api::desired::StreamSpec;
use fleet_api::frame::{Body, Frame, FrameWriter, Gap, GapReason, HEADER_BYTES, Header, Record};

use super::checked::Checked;
use super::notes::Notes;
use super::state::{Cursors, States, StreamState, cursor_note, stream_note};
use super::{AppendError, Appended};
use crate::buffer::{BufferError, Changes, FrameStore};

/// A frame is closed at this size, so that it is one value in the store.
const FRAME_BYTES: usize = 6_000;
/// Size of an encoded gap frame.
pub(super) const GAP_BYTES: u64 = (HEADER_BYTES + 17) as u64;
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
    /// What time it is, in milliseconds since the Unix epoch.
    pub now_ms: u64,
    /// Bytes that the frames of all streams may have.
    pub limit: u64,
    /// Frames that need not be read again to be released.
    pub checked: Option<&'a Checked>,
    plan: Plan,
}

#[derive(Default)]
struct Plan {
    changes: Changes,
    packers: BTreeMap<String, Packer>,
    gaps: BTreeMap<String, PendingGap>,
    notes: Notes,
    touched: BTreeSet<String>,
    /// Bytes that a command will add once all its streams have room.
    promised: u64,
    durable: bool,
    /// Whether frames that are not released are changed.
    rewrites: bool,
}

/// What a finished group asks of the store.
pub(super) struct Planned {
    pub changes: Changes,
    pub touched: BTreeSet<String>,
    /// Whether somebody waits for it to be durable.
    pub durable: bool,
    /// Whether frames that are not released are changed.
    pub rewrites: bool,
}

/// Records that are packed into frames.
struct Packer {
    first: u64,
    frames: Vec<FrameWriter>,
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
        now_ms: u64,
    ) -> Self {
        Self {
            store,
            epoch,
            specs,
            states,
            cursors,
            now_ms,
            limit: u64::MAX,
            checked: None,
            plan: Plan::default(),
        }
    }

    /// Plans to append `records`, evicting old ones if the stream's rule is so.
    pub(super) fn append(&mut self, stream: &str, records: &[Record]) -> Result<Appended, Refusal> {
        self.check_room(stream, records)?;
        self.plan.promised = 0;
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
        self.plan.promised = 0;
        for (output, records) in outputs {
            self.make_room(output, records)?;
            self.plan.promised += self.cost(output, records);
        }
        self.plan.promised = 0;
        for (output, records) in outputs {
            self.pack(output, records);
        }
        let note = cursor_note(processor, stream, upto);
        self.plan.changes.notes.push(note);
        self.cursors.insert(key, upto);
        self.plan.durable = true;
        Ok(())
    }

    /// Plans to change notes of others; the last change of each is what counts.
    pub(super) fn note(&mut self, notes: Notes) {
        self.plan.durable |= !notes.is_empty();
        self.plan.notes.extend(notes);
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
        // Released records and those that are not are counted apart, so no gap covers both.
        let released = seq < state.released;
        let end = if released { state.released } else { state.next };
        let place = place::at(self.store, stream, state.id, seq, end)?;
        let why = match (&place.body, reason) {
            (Some(Body::Records(_)), Some(reason)) => reason,
            (Some(_), _) => return Ok(()),
            (None, _) => GapReason::Damaged,
        };
        if let Some(damage) = &place.damage {
            tracing::error!(stream, first = place.first, damage, "damage in the buffer");
        }
        let lost = place.records;
        let gap = Gap {
            last: place.last,
            reason: why,
            lost,
        };
        let frame = encode_gap(self.epoch, stream, place.first, gap);
        self.plan
            .changes
            .remove
            .push((state.id, place.first, place.frame_bytes));
        self.plan.changes.put.push((state.id, place.first, frame));
        let frame_bytes = place.frame_bytes as u64;
        if released {
            state.retained_bytes = (state.retained_bytes + GAP_BYTES).saturating_sub(frame_bytes);
            state.retained = state.retained.saturating_sub(lost);
        } else {
            state.bytes = (state.bytes + GAP_BYTES).saturating_sub(frame_bytes);
            state.records = state.records.saturating_sub(lost);
            state.evicted += lost;
            state.oldest = None;
        }
        self.plan.touched.insert(stream.to_owned());
        self.plan.durable = true;
        self.plan.rewrites = true;
        Ok(())
    }

    /// Everything the group changes, ready to be committed.
    pub(super) fn finish(self) -> Planned {
        let mut plan = self.plan;
        for (key, value) in plan.notes {
            match value {
                Some(value) => plan.changes.notes.push((key, value)),
                None => plan.changes.forget.push(key),
            }
        }
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
            for frame in packer.frames {
                let first = frame.first();
                let bytes = frame
                    .finish(&stream)
                    .expect("a packer's frames have records");
                plan.changes.put.push((state.id, first, bytes));
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
            rewrites: plan.rewrites,
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
            let used = self.states.get(stream).map_or(0, StreamState::all_bytes);
            if used + self.cost(stream, records) <= quota {
                return self.make_room_in_total(stream, records);
            }
            if self.drop_retained(stream, None)? {
                continue;
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
        for (record, seq) in records.iter().zip(first_seq..) {
            packer.push(record, self.epoch, seq);
        }
        state.bytes += bytes;
        state.records += records.len() as u64;
        state.next += records.len() as u64;
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
    fn push(&mut self, record: &Record, epoch: u64, seq: u64) {
        let (added, open) = packed_one(self.open_bytes, record.encoded_bytes());
        self.open_bytes = open;
        if added == open {
            self.frames.push(FrameWriter::new(epoch, seq));
        }
        let frame = self.frames.last_mut().expect("the first record opens one");
        frame
            .push(record)
            .expect("records are checked and packed below the limits");
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
