//! What lies in the archive of one stream of one node, kept from the names of its files. Pure.

use std::collections::BTreeMap;

use fleet_api::rest::ArchiveEpoch;

use super::names::{Day, FileName, Kind, Span};

/// Gaps that are kept in memory of a stream; the files know the older ones.
const MAX_GAPS: usize = 10_000;

/// One stream of one node.
#[derive(Debug, Clone, Default)]
pub(super) struct Catalog {
    epochs: BTreeMap<u64, Reach>,
    /// By epoch and first sequence.
    gaps: BTreeMap<(u64, u64), GapFile>,
    /// By the epochs before and after.
    turns: BTreeMap<(u64, u64), Turn>,
    gap_files: u64,
    missing: u64,
    /// Signed: what merges files may tell of a removal before the writer tells of the file.
    files: i64,
    bytes: i64,
}

/// A gap's file.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct GapFile {
    pub(super) span: Span,
    pub(super) day: Day,
}

/// One epoch ended and another followed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Turn {
    pub(super) epoch: u64,
    /// The first sequence that never came.
    pub(super) next: u64,
    pub(super) noted_ms: u64,
}

#[derive(Debug, Clone, Copy)]
struct Reach {
    first: u64,
    last: u64,
    written_ms: u64,
}

impl Catalog {
    /// Notes a file that is there.
    pub(super) fn add(&mut self, name: &FileName, bytes: u64, written_ms: u64) {
        let Span { epoch, first, last } = name.span;
        self.bytes += signed(bytes);
        if let Kind::Turn { to } = name.kind {
            let turn = Turn {
                epoch,
                next: first,
                noted_ms: written_ms,
            };
            self.turns.insert((epoch, to), turn);
            return;
        }
        let reach = self.epochs.entry(epoch).or_insert(Reach {
            first,
            last,
            written_ms,
        });
        reach.first = reach.first.min(first);
        reach.last = reach.last.max(last);
        reach.written_ms = reach.written_ms.max(written_ms);
        match name.kind {
            Kind::Turn { .. } => {}
            Kind::Records => self.files += 1,
            Kind::Gap => {
                let gap = GapFile {
                    span: name.span,
                    day: name.day,
                };
                if self.gaps.insert((epoch, first), gap).is_none() {
                    self.gap_files += 1;
                    self.missing += last - first + 1;
                }
                if self.gaps.len() > MAX_GAPS {
                    self.forget_a_gap();
                }
            }
        }
    }

    /// Notes that a file of records has been removed, after another took its place.
    pub(super) fn remove(&mut self, bytes: u64) {
        self.files -= 1;
        self.bytes -= signed(bytes);
    }

    /// The oldest one of the oldest epoch.
    fn forget_a_gap(&mut self) {
        let age = |epoch: u64| self.epochs.get(&epoch).map(|reach| reach.written_ms);
        let mut oldest: Option<(u64, u64)> = None;
        let mut next = self.gaps.keys().next().copied();
        while let Some(key) = next {
            if oldest.is_none_or(|known| age(key.0) < age(known.0)) {
                oldest = Some(key);
            }
            next = self
                .gaps
                .range((key.0 + 1, 0)..)
                .next()
                .map(|(key, _)| *key);
        }
        if let Some(key) = oldest {
            self.gaps.remove(&key);
        }
    }

    /// The epochs in the order in which they followed each other, the present one last.
    pub(super) fn epochs(&self) -> Vec<ArchiveEpoch> {
        let mut epochs: Vec<_> = self
            .epochs
            .iter()
            .map(|(epoch, reach)| ArchiveEpoch {
                epoch: *epoch,
                first: reach.first,
                last: reach.last,
                written_ms: reach.written_ms,
            })
            .collect();
        // Files that were merged are newer than what they hold: a turn is the better witness.
        let began_ms = |epoch: u64| {
            let into = self.turns.iter().filter(|((_, to), _)| *to == epoch);
            into.map(|(_, turn)| turn.noted_ms).max()
        };
        epochs.sort_by_key(|epoch| (began_ms(epoch.epoch), epoch.written_ms));
        epochs
    }

    /// Where an epoch ended, if another followed.
    pub(super) fn turn(&self, epoch: u64) -> Option<Turn> {
        let of = (epoch, 0)..=(epoch, u64::MAX);
        let turns = self.turns.range(of).map(|(_, turn)| *turn);
        turns.max_by_key(|turn| turn.noted_ms)
    }

    /// An epoch's gaps in the order of their sequences.
    pub(super) fn gaps(&self, epoch: u64) -> impl Iterator<Item = GapFile> {
        let of = (epoch, 0)..=(epoch, u64::MAX);
        self.gaps.range(of).map(|(_, gap)| *gap)
    }

    pub(super) fn gap_files(&self) -> u64 {
        self.gap_files
    }

    /// Sequences without a record, in all gaps.
    pub(super) fn missing(&self) -> u64 {
        self.missing
    }

    pub(super) fn files(&self) -> u64 {
        u64::try_from(self.files).unwrap_or(0)
    }

    pub(super) fn bytes(&self) -> u64 {
        u64::try_from(self.bytes).unwrap_or(0)
    }
}

fn signed(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use fleet_api::ids::{NodeId, StreamName};

    use super::*;

    fn name(kind: Kind, epoch: u64, first: u64, last: u64) -> FileName {
        FileName {
            node: NodeId::new("n1").unwrap(),
            stream: StreamName::new("s").unwrap(),
            day: Day::of(0, 1_764_028_800_000),
            span: Span { epoch, first, last },
            kind,
        }
    }

    #[test]
    fn gaps_and_epochs_are_told_in_the_order_of_writing() {
        let mut catalog = Catalog::default();
        catalog.add(&name(Kind::Records, 9, 1, 10), 100, 1_000);
        catalog.add(&name(Kind::Gap, 9, 11, 20), 10, 1_001);
        catalog.add(&name(Kind::Turn { to: 4 }, 9, 21, 21), 10, 1_900);
        catalog.add(&name(Kind::Records, 4, 1, 5), 100, 2_000);
        catalog.add(&name(Kind::Records, 9, 1, 10), 0, 9_000);
        catalog.remove(0);
        catalog.add(&name(Kind::Gap, 4, 6, 6), 10, 2_001);
        let epochs = catalog.epochs();
        let reach: Vec<_> = epochs.iter().map(|e| (e.epoch, e.first, e.last)).collect();
        assert_eq!(reach, [(9, 1, 20), (4, 1, 6)]);
        let gaps = epochs.iter().flat_map(|e| catalog.gaps(e.epoch));
        let gaps: Vec<_> = gaps.map(|gap| gap.span.first).collect();
        assert_eq!(gaps, [11, 6]);
        assert_eq!((catalog.missing(), catalog.gap_files()), (11, 2));
        assert_eq!((catalog.files(), catalog.bytes()), (2, 230));
        assert_eq!(catalog.turn(9).map(|turn| turn.next), Some(21));
        assert_eq!(catalog.turn(4), None);
    }

    #[test]
    fn old_gaps_leave_the_memory_but_not_the_count() {
        let mut catalog = Catalog::default();
        catalog.add(&name(Kind::Gap, 1, 7, 7), 1, 3);
        for sequence in 0..MAX_GAPS as u64 {
            catalog.add(
                &name(Kind::Gap, 5, 2 * sequence + 1, 2 * sequence + 1),
                1,
                4,
            );
        }
        assert_eq!(
            (catalog.gaps(1).count(), catalog.gaps(5).count()),
            (0, MAX_GAPS)
        );
        assert_eq!(catalog.gap_files(), MAX_GAPS as u64 + 1);
    }
}
