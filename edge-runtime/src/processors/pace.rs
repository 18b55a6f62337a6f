//! How large the next batch is, and what becomes of one that fails. Pure.
//!
//! ```text
//!  full batch, quick ──► twice as large, up to LARGEST        slow ──► half
//!
//!  failed: larger than USUAL ──► again at once, of USUAL size
//!          else ──► again after a wait, ATTEMPTS times
//!               ──► half of it, at once, until one record is left ──► set aside
//! ```
//!
//! A batch is narrowed down because one record that cannot be processed must
//! not take good ones with it.

use std::time::Duration;

/// Records in a batch to begin with.
pub(super) const USUAL: usize = 256;
/// Most records in a batch; reads are bounded in bytes too.
const LARGEST: usize = 4_096;
/// Tries of a batch before it is narrowed down.
pub(super) const ATTEMPTS: u32 = 5;
/// A full batch that took less may be followed by a larger one.
const QUICK: Duration = Duration::from_millis(200);
/// A batch that took longer is followed by a smaller one.
const SLOW: Duration = Duration::from_secs(2);

/// The size of a stream's batches.
#[derive(Debug)]
pub(super) struct Pace {
    size: usize,
    suspect: Option<Suspect>,
}

/// A batch that has failed.
#[derive(Debug)]
struct Suspect {
    /// Its last record.
    last: u64,
    /// Tries of the whole batch.
    tries: u32,
    /// The last record of each try that failed, of the whole and of parts.
    failed: Vec<u64>,
}

/// What to do about a batch that has failed.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Try the same again after a wait.
    Wait,
    /// Try fewer records at once.
    Narrower,
    /// This one record fails for good after so many tries.
    SetAside { attempts: u32 },
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            size: USUAL,
            suspect: None,
        }
    }
}

impl Pace {
    /// Most records in the next batch.
    pub(super) fn size(&self) -> usize {
        self.size
    }

    /// The last record that the next batch may have: a batch that has failed gets no larger.
    pub(super) fn last(&self) -> u64 {
        self.suspect.as_ref().map_or(u64::MAX, |s| s.last)
    }

    /// Whether failed records are being told from good ones.
    fn is_narrowing(&self) -> bool {
        self.suspect.as_ref().is_some_and(|s| s.tries >= ATTEMPTS)
    }

    /// A batch of `records` up to `last` is committed, `took` long after its call began.
    pub(super) fn succeeded(&mut self, records: usize, last: u64, took: Duration) {
        let narrowing = self.is_narrowing();
        if self.suspect.as_ref().is_some_and(|s| last >= s.last) || !narrowing {
            self.suspect = None;
        }
        if took > SLOW {
            self.size = (records / 2).max(1);
        } else if records >= self.size && took < QUICK || narrowing {
            self.size = (self.size * 2).min(LARGEST);
        }
    }

    /// The record `last`, a batch of its own, is set aside.
    pub(super) fn set_aside(&mut self, last: u64) {
        self.succeeded(1, last, Duration::ZERO);
    }

    /// A batch of `records` from `first` up to `last` has failed.
    pub(super) fn failed(&mut self, records: usize, first: u64, last: u64) -> Verdict {
        if self.suspect.as_ref().is_some_and(|s| s.last < first) {
            self.suspect = None;
        }
        if records > USUAL && !self.is_narrowing() {
            self.size = USUAL;
            self.suspect = None;
            return Verdict::Narrower;
        }
        let suspect = self.suspect.get_or_insert(Suspect {
            last,
            tries: 0,
            failed: Vec::new(),
        });
        suspect.failed.push(last);
        if suspect.tries < ATTEMPTS {
            suspect.tries += 1;
        }
        if suspect.tries < ATTEMPTS {
            return Verdict::Wait;
        }
        if records > 1 {
            self.size = records / 2;
            return Verdict::Narrower;
        }
        let with_it = suspect.failed.iter().filter(|last| **last >= first);
        let attempts = u32::try_from(with_it.count()).unwrap_or(u32::MAX);
        Verdict::SetAside { attempts }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Works through records 1..=`end`, of which `bad` fail; gives the tries of
    /// those set aside and the number of calls.
    fn work(end: u64, bad: &[u64]) -> (Vec<(u64, u32)>, u32) {
        let (mut pace, mut cursor) = (Pace::default(), 0);
        let (mut aside, mut calls) = (Vec::new(), 0);
        while cursor < end {
            let last = (cursor + pace.size() as u64).min(pace.last()).min(end);
            let records = (last - cursor) as usize;
            calls += 1;
            assert!(calls < 10_000, "it gets on");
            if !bad.iter().any(|b| (cursor + 1..=last).contains(b)) {
                pace.succeeded(records, last, Duration::ZERO);
                cursor = last;
            } else if let Verdict::SetAside { attempts } = pace.failed(records, cursor + 1, last) {
                assert_eq!(records, 1);
                pace.set_aside(last);
                aside.push((last, attempts));
                cursor = last;
            }
        }
        (aside, calls)
    }

    #[test]
    fn sets_aside_the_bad_records_and_no_other() {
        for bad in [
            vec![1],
            vec![256],
            vec![100, 101],
            vec![7, 300, 1_000],
            vec![],
        ] {
            let (aside, calls) = work(1_000, &bad);
            let records: Vec<_> = aside.iter().map(|(seq, _)| *seq).collect();
            assert_eq!(records, bad, "in {calls} calls");
            for (seq, attempts) in aside {
                assert!(attempts >= ATTEMPTS, "{seq} was tried {attempts} times");
            }
            assert!(calls < 30 * (bad.len() as u32 + 1), "{calls} calls");
        }
    }

    #[test]
    fn a_batch_that_fails_again_waits_and_does_not_grow() {
        let mut pace = Pace::default();
        for _ in 1..ATTEMPTS {
            assert_eq!(pace.failed(10, 1, 10), Verdict::Wait);
            assert_eq!(pace.last(), 10);
        }
        pace.succeeded(10, 10, Duration::ZERO);
        assert_eq!(pace.last(), u64::MAX);
        assert_eq!(pace.failed(10, 11, 20), Verdict::Wait, "it counts anew");
    }

    #[test]
    fn batches_grow_with_a_backlog_and_shrink_when_they_are_slow() {
        let mut pace = Pace::default();
        for _ in 0..9 {
            let records = pace.size();
            pace.succeeded(records, 1, Duration::ZERO);
        }
        assert_eq!(pace.size(), LARGEST);
        pace.succeeded(3, 1, Duration::ZERO);
        assert_eq!(pace.size(), LARGEST, "a small batch says nothing");
        pace.succeeded(LARGEST, 1, SLOW * 2);
        assert_eq!(pace.size(), LARGEST / 2);
        assert_eq!(pace.failed(LARGEST / 2, 1, 2_048), Verdict::Narrower);
        assert_eq!(pace.size(), USUAL, "a large batch may be too large");
    }
}
