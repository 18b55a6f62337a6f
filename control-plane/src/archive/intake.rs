//! One stream of one node: what is known of it and what waits for a file. Pure.

use std::collections::BTreeMap;
use std::time::Duration;

use fleet_api::frame::{Body, Frame, Record};
use tokio::time::Instant;

use super::names::{Day, Span};

/// How long a hole is waited for. A node sends in order and repeats what is not acknowledged, so a
/// hole that stays is one the node cannot fill.
const PATIENCE: Duration = Duration::from_secs(30);

/// A run of sequences of one day that becomes one file.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Piece {
    pub(super) span: Span,
    pub(super) day: Day,
    pub(super) content: Content,
}

/// How large a file may get.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    /// Records at most.
    pub(super) records: usize,
    /// Bytes after which no record is added.
    pub(super) bytes: usize,
}

/// When something came.
#[derive(Debug, Clone, Copy)]
pub(super) struct Receipt {
    /// For what has to wait.
    pub(super) at: Instant,
    /// For people, in milliseconds since the Unix epoch.
    pub(super) time_ms: u64,
}

/// What a piece holds.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Content {
    /// Records, one for each sequence.
    Records(Vec<Record>),
    /// No records.
    Gap(Gap),
    /// Another epoch, after the one of the piece.
    Turn { to: u64, noted_ms: u64 },
}

/// Why there are no records.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Gap {
    pub(super) reason: &'static str,
    /// How many there were.
    pub(super) lost: u64,
    /// Time of the last record before it, if that is known.
    pub(super) after_ms: Option<u64>,
    /// When the archive heard of it.
    pub(super) noted_ms: u64,
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
    /// When the newest file that was there at start had been written.
    restored_ms: i64,
    /// Whether a file says which epoch was the last.
    has_turned: bool,
    /// Time of the newest record.
    newest_ms: Option<u64>,
    /// What may still grow.
    pending: Vec<Piece>,
    /// What keeps its name: a write that failed may have reached the store all the same, and is
    /// repeated under the same name.
    formed: Vec<Piece>,
    hole_since: Option<Instant>,
    records: u64,
    duplicates: u64,
    lost: u64,
}

impl Intake {
    /// Notes a file that was there at start. Of several epochs, the one that was written last
    /// counts as the node's.
    pub(super) fn restore(&mut self, span: Span, written_ms: i64) {
        for marks in [&mut self.durable, &mut self.taken] {
            let mark = marks.entry(span.epoch).or_default();
            *mark = span.last.max(*mark);
        }
        if self.current.is_none() || (!self.has_turned && written_ms >= self.restored_ms) {
            self.current = Some(span.epoch);
            self.restored_ms = written_ms;
        }
    }

    /// Notes that a file says which epoch followed another.
    pub(super) fn restore_turn(&mut self, to: u64, noted_ms: i64) {
        if !self.has_turned || noted_ms >= self.restored_ms {
            self.current = Some(to);
            self.has_turned = true;
            self.restored_ms = noted_ms;
        }
    }

    /// Takes what is new of a frame.
    pub(super) fn take(&mut self, frame: Frame, receipt: Receipt) -> Taken {
        let epoch = frame.epoch;
        let last = frame.last();
        if let Some(before) = self.current.replace(epoch)
            && before != epoch
            && let Some(mark) = self.taken.get(&before).copied()
        {
            self.push_turn(before, mark, epoch, receipt);
        }
        // An epoch that is new here starts wherever the node starts: it sends the oldest first.
        let mark = *self.taken.entry(epoch).or_insert(frame.first - 1);
        if frame.first > mark + 1 {
            let since = *self.hole_since.get_or_insert(receipt.at);
            if receipt.at.duration_since(since) < PATIENCE {
                return Taken::Hole {
                    expected: mark + 1,
                    first: frame.first,
                };
            }
            let lost = frame.first - mark - 1;
            self.lost += lost;
            let span = Span {
                epoch,
                first: mark + 1,
                last: frame.first - 1,
            };
            self.push_gap(span, "missing", lost, receipt);
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
                self.push_records(epoch, first, new, receipt);
            }
            Body::Gap(gap) => {
                if last <= mark {
                    return Taken::Known;
                }
                let first = frame.first.max(mark + 1);
                let lost = gap.lost.min(last - first + 1);
                self.lost += lost;
                let span = Span { epoch, first, last };
                self.push_gap(span, gap.reason.as_str(), lost, receipt);
            }
        }
        self.taken.insert(epoch, last);
        Taken::Pending
    }

    /// Appends records; a file holds those of one day.
    fn push_records(&mut self, epoch: u64, first: u64, records: Vec<Record>, receipt: Receipt) {
        self.newest_ms = records.last().map(|r| r.time_ms).or(self.newest_ms);
        for (sequence, record) in (first..).zip(records) {
            let day = Day::of(record.time_ms, receipt.time_ms);
            if let Some(Piece {
                span,
                day: of,
                content: Content::Records(records),
            }) = self.pending.last_mut()
                && (span.epoch, *of) == (epoch, day)
            {
                records.push(record);
                span.last = sequence;
                continue;
            }
            self.pending.push(Piece {
                span: Span {
                    epoch,
                    first: sequence,
                    last: sequence,
                },
                day,
                content: Content::Records(vec![record]),
            });
        }
    }

    fn push_gap(&mut self, span: Span, reason: &'static str, lost: u64, receipt: Receipt) {
        self.pending.push(Piece {
            span,
            day: Day::of(receipt.time_ms, receipt.time_ms),
            content: Content::Gap(Gap {
                reason,
                lost,
                after_ms: self.newest_ms,
                noted_ms: receipt.time_ms,
            }),
        });
    }

    /// The node's buffer was made anew: what it had not sent of the old one never comes.
    fn push_turn(&mut self, epoch: u64, mark: u64, to: u64, receipt: Receipt) {
        let next = mark + 1;
        self.pending.push(Piece {
            span: Span {
                epoch,
                first: next,
                last: next,
            },
            day: Day::of(receipt.time_ms, receipt.time_ms),
            content: Content::Turn {
                to,
                noted_ms: receipt.time_ms,
            },
        });
    }

    /// Hands over all that has no file yet, in pieces within the bounds.
    pub(super) fn pieces(&mut self, bounds: Bounds) -> Vec<Piece> {
        let mut pieces = std::mem::take(&mut self.formed);
        for piece in std::mem::take(&mut self.pending) {
            piece.cut(bounds, &mut pieces);
        }
        pieces
    }

    /// Notes which pieces are in files, and takes back those that are not.
    pub(super) fn settle(&mut self, done: &[Span], rest: Vec<Piece>) {
        for Span { epoch, last, .. } in done {
            let mark = self.durable.entry(*epoch).or_default();
            *mark = (*last).max(*mark);
        }
        self.formed = rest;
    }

    /// The watermark of the epoch that the node is in: epoch and sequence.
    pub(super) fn durable(&self) -> Option<(u64, u64)> {
        let epoch = self.current?;
        Some((epoch, *self.durable.get(&epoch)?))
    }

    pub(super) fn pending_records(&self) -> usize {
        self.waiting().map(Piece::records).sum()
    }

    pub(super) fn pending_bytes(&self) -> usize {
        self.waiting().map(Piece::bytes).sum()
    }

    fn waiting(&self) -> impl Iterator<Item = &Piece> {
        self.formed.iter().chain(&self.pending)
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

impl Piece {
    fn records(&self) -> usize {
        match &self.content {
            Content::Records(records) => records.len(),
            Content::Gap(_) | Content::Turn { .. } => 0,
        }
    }

    /// Memory that it holds, roughly.
    fn bytes(&self) -> usize {
        match &self.content {
            Content::Records(records) => records.iter().map(record_bytes).sum(),
            Content::Gap(_) | Content::Turn { .. } => 64,
        }
    }

    fn cut(self, bounds: Bounds, pieces: &mut Vec<Self>) {
        let Content::Records(records) = self.content else {
            pieces.push(self);
            return;
        };
        let (mut first, mut bytes, mut run) = (self.span.first, 0, Vec::new());
        let mut records = records.into_iter().peekable();
        while let Some(record) = records.next() {
            bytes += record_bytes(&record);
            run.push(record);
            if run.len() >= bounds.records || bytes >= bounds.bytes || records.peek().is_none() {
                let last = first + run.len() as u64 - 1;
                pieces.push(Self {
                    span: Span {
                        epoch: self.span.epoch,
                        first,
                        last,
                    },
                    day: self.day,
                    content: Content::Records(std::mem::take(&mut run)),
                });
                (first, bytes) = (last + 1, 0);
            }
        }
    }
}

fn record_bytes(record: &Record) -> usize {
    record.value.len() + 64
}

#[cfg(test)]
mod tests;
