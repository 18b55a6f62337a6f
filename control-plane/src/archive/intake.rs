//! One stream of one node: what is known of it and what waits for a file. Pure.

use std::collections::BTreeMap;
use std::time::Duration;

use fleet_api::frame::{Body, Encoding, Frame, Record};
use tokio::time::Instant;

/// How long a hole is waited for. A node sends in order and repeats what is not acknowledged, so a
/// hole that stays is one the node cannot fill.
const PATIENCE: Duration = Duration::from_secs(30);

/// A run of sequences that becomes one file.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Piece {
    pub(super) epoch: u64,
    pub(super) first: u64,
    /// Inclusive.
    pub(super) last: u64,
    pub(super) content: Content,
}

/// What a piece holds.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Content {
    /// Records, one for each sequence.
    Records(Vec<Record>),
    /// No records: why, and how many there were.
    Gap { reason: &'static str, lost: u64 },
}

/// What became of a frame.
#[derive(Debug, PartialEq)]
pub(super) enum Taken {
    /// It waits for its file.
    Pending,
    /// All of it was there before.
    Known,
    /// It does not follow what is there.
    Hole { expected: u64, first: u64 },
}

/// One stream of one node.
#[derive(Debug, Default)]
pub(super) struct Intake {
    /// Per epoch, the last sequence that is in a file.
    durable: BTreeMap<u64, u64>,
    /// Per epoch, the last sequence that was taken.
    taken: BTreeMap<u64, u64>,
    /// The epoch that the node is sending; its watermark is what it wants to hear.
    current: Option<u64>,
    pending: Vec<Piece>,
    hole_since: Option<Instant>,
    records: u64,
    duplicates: u64,
    lost: u64,
}

impl Intake {
    /// Notes a file that was there at start.
    pub(super) fn restore(&mut self, epoch: u64, last: u64) {
        for marks in [&mut self.durable, &mut self.taken] {
            let mark = marks.entry(epoch).or_default();
            *mark = last.max(*mark);
        }
        self.current = self.current.max(Some(epoch));
    }

    /// Takes what is new of a frame.
    pub(super) fn take(&mut self, frame: Frame, now: Instant) -> Taken {
        let epoch = frame.epoch;
        let last = frame.last();
        self.current = Some(epoch);
        // An epoch that is new here starts wherever the node starts: it sends the oldest first.
        let mark = *self.taken.entry(epoch).or_insert(frame.first - 1);
        if frame.first > mark + 1 {
            let since = *self.hole_since.get_or_insert(now);
            if now.duration_since(since) < PATIENCE {
                return Taken::Hole {
                    expected: mark + 1,
                    first: frame.first,
                };
            }
            let lost = frame.first - mark - 1;
            self.lost += lost;
            let reason = "missing";
            let content = Content::Gap { reason, lost };
            self.push(epoch, mark + 1, frame.first - 1, content);
        }
        self.hole_since = None;
        let skip = (mark + 1).saturating_sub(frame.first);
        match frame.body {
            Body::Records(records) => {
                let total = records.len() as u64;
                self.duplicates += skip.min(total);
                if last <= mark {
                    return Taken::Known;
                }
                let skip = usize::try_from(skip).unwrap_or(usize::MAX);
                let new: Vec<_> = records.into_iter().skip(skip).collect();
                self.records += new.len() as u64;
                let first = frame.first.max(mark + 1);
                self.push_records(epoch, first, new);
            }
            Body::Gap(gap) => {
                if last <= mark {
                    return Taken::Known;
                }
                let first = frame.first.max(mark + 1);
                let lost = gap.lost.min(last - first + 1);
                self.lost += lost;
                let reason = gap.reason.as_str();
                self.push(epoch, first, last, Content::Gap { reason, lost });
            }
        }
        self.taken.insert(epoch, last);
        Taken::Pending
    }

    /// Appends records; a file holds JSON only or no JSON at all.
    fn push_records(&mut self, epoch: u64, mut first: u64, records: Vec<Record>) {
        let mut records = records.into_iter().peekable();
        while let Some(record) = records.next() {
            let json = record.encoding == Encoding::Json;
            let mut run = vec![record];
            while let Some(next) = records.next_if(|r| (r.encoding == Encoding::Json) == json) {
                run.push(next);
            }
            let count = run.len() as u64;
            self.push(epoch, first, first + count - 1, Content::Records(run));
            first += count;
        }
    }

    /// Appends a piece, to the one before it where the two make one file.
    fn push(&mut self, epoch: u64, first: u64, last: u64, content: Content) {
        if let Some(before) = self.pending.last_mut()
            && before.epoch == epoch
            && let (Content::Records(old), Content::Records(new)) = (&mut before.content, &content)
            && is_json(old) == is_json(new)
        {
            old.extend_from_slice(new);
            before.last = last;
            return;
        }
        self.pending.push(Piece {
            epoch,
            first,
            last,
            content,
        });
    }

    /// Hands over what is pending, in pieces of at most `max` records.
    pub(super) fn pieces(&mut self, max: usize) -> Vec<Piece> {
        let mut pieces = Vec::new();
        for piece in std::mem::take(&mut self.pending) {
            let Content::Records(records) = piece.content else {
                pieces.push(piece);
                continue;
            };
            let mut first = piece.first;
            for chunk in records.chunks(max.max(1)) {
                let last = first + chunk.len() as u64 - 1;
                pieces.push(Piece {
                    epoch: piece.epoch,
                    first,
                    last,
                    content: Content::Records(chunk.to_vec()),
                });
                first = last + 1;
            }
        }
        pieces
    }

    /// Notes which pieces are in files, and takes back those that are not.
    pub(super) fn settle(&mut self, done: &[(u64, u64)], rest: Vec<Piece>) {
        for (epoch, last) in done {
            let mark = self.durable.entry(*epoch).or_default();
            *mark = (*last).max(*mark);
        }
        self.pending.splice(0..0, rest);
    }

    /// The watermark of the epoch that the node is in: epoch and sequence.
    pub(super) fn durable(&self) -> Option<(u64, u64)> {
        let epoch = self.current?;
        Some((epoch, *self.durable.get(&epoch)?))
    }

    pub(super) fn pending_records(&self) -> usize {
        self.pending.iter().map(Piece::records).sum()
    }

    pub(super) fn pending_bytes(&self) -> usize {
        self.pending.iter().map(Piece::bytes).sum()
    }

    pub(super) fn records(&self) -> u64 {
        self.records
    }

    pub(super) fn duplicates(&self) -> u64 {
        self.duplicates
    }

    pub(super) fn lost(&self) -> u64 {
        self.lost
    }
}

fn is_json(records: &[Record]) -> bool {
    records
        .first()
        .is_some_and(|r| r.encoding == Encoding::Json)
}

impl Piece {
    fn records(&self) -> usize {
        match &self.content {
            Content::Records(records) => records.len(),
            Content::Gap { .. } => 0,
        }
    }

    /// Memory that it holds, roughly.
    fn bytes(&self) -> usize {
        match &self.content {
            Content::Records(records) => records.iter().map(|r| r.value.len() + 64).sum(),
            Content::Gap { .. } => 64,
        }
    }
}

#[cfg(test)]
mod tests;
