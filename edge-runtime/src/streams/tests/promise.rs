//! The whole of the streams over a disk with faults, compared with the promise:
//! what was acknowledged reaches the receiver in order or is named by a gap.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;
use crate::buffer::Opened;
use crate::buffer::fault_store::{FaultStore, Outcome};

const EPOCH: u64 = 77;
const DISK_LIMIT: u64 = 300_000;
const QUOTA: u64 = 60_000;
const HOUR: u64 = 3_600_000;

#[derive(Debug, Clone)]
enum Step {
    /// Records for some streams, all at once: stream, count, size, whether they are old.
    Append(Vec<(usize, u64, usize, bool)>),
    /// The receiver takes up to so many frames of a stream, of the last one not all records,
    /// and may say so.
    Deliver(usize, usize, usize, bool),
    /// The processor works on up to so many records.
    Process(usize),
    /// Age limits are looked after.
    Expire,
    /// The system writes pending commits.
    WriteBack(usize),
    /// A kill or a power cut; so many of the pending commits are kept.
    Crash(usize),
    /// A crash amid appends.
    CrashAmid(u64, usize),
    /// A commit fails after so many good ones; it may be on the disk all the same.
    FailCommit(u64, bool),
    FailRead(u64),
    Corrupt(usize, usize),
    Lose(usize),
}

fn step() -> impl Strategy<Value = Step> {
    let size = prop_oneof![6 => 8..400usize, 1 => 5_000..9_000usize];
    let append = (0..3usize, 1..20u64, size, prop::bool::weighted(0.2));
    prop_oneof![
        10 => prop::collection::vec(append, 1..6).prop_map(Step::Append),
        6 => (0..3usize, 1..12usize, prop_oneof![Just(0), 1..9usize], prop::bool::weighted(0.8))
            .prop_map(|(stream, most, cut, tell)| Step::Deliver(stream, most, cut, tell)),
        4 => (1..60usize).prop_map(Step::Process),
        2 => Just(Step::Expire),
        1 => (0..5usize).prop_map(Step::WriteBack),
        2 => (0..5usize).prop_map(Step::Crash),
        1 => (0..4u64, 0..5usize).prop_map(|(after, kept)| Step::CrashAmid(after, kept)),
        1 => (0..4u64, any::<bool>()).prop_map(|(after, stored)| Step::FailCommit(after, stored)),
        1 => (0..40u64).prop_map(Step::FailRead),
        1 => (any::<usize>(), any::<usize>()).prop_map(|(frame, bit)| Step::Corrupt(frame, bit)),
        1 => any::<usize>().prop_map(Step::Lose),
    ]
}

fn specs(keep_ms: u64) -> [StreamSpec; 3] {
    let keep = Span::from_ms(keep_ms);
    [
        StreamSpec {
            processor: Some("p:1".parse().unwrap()),
            keep,
            priority: 6,
            ttl: Some(Span::from_ms(HOUR)),
            ..limited("a", QUOTA, OnFull::DropOldest)
        },
        StreamSpec {
            keep,
            priority: 9,
            ..limited("b", QUOTA, OnFull::Reject)
        },
        StreamSpec {
            keep,
            priority: 1,
            ..limited("c", QUOTA, OnFull::DropOldest)
        },
    ]
}

const NAMES: [&str; 3] = ["a", "b", "c"];

/// What is known of one stream from outside.
#[derive(Default)]
struct Known {
    acknowledged: BTreeMap<u64, Bytes>,
    /// Values whose append failed; they may be stored.
    unsure: BTreeSet<Bytes>,
    /// What the receiver has: contiguous up to the watermark.
    delivered: BTreeMap<u64, Bytes>,
    gaps: Vec<std::ops::RangeInclusive<u64>>,
    watermark: u64,
    /// What it has told the node.
    told: u64,
    /// Frames were damaged or lost on purpose.
    harmed: bool,
    lost_frames: bool,
}

impl Known {
    fn receive(&mut self, out: OutFrame) {
        assert!(
            out.first <= self.watermark + 1,
            "{} follows {}",
            out.first,
            self.watermark
        );
        match out.frame.body {
            Body::Records(records) => {
                for (seq, record) in (out.first..).zip(records) {
                    if seq <= self.watermark {
                        continue;
                    }
                    match self.acknowledged.get(&seq) {
                        Some(value) => assert_eq!(*value, record.value, "record {seq}"),
                        None => assert!(self.unsure.contains(&record.value), "{seq} from nowhere"),
                    }
                    let other = self.delivered.insert(seq, record.value);
                    assert_eq!(other, None, "{seq} is delivered once");
                }
            }
            Body::Gap(gap) => self.gaps.push(self.watermark + 1..=gap.last),
        }
        self.watermark = self.watermark.max(out.last);
    }

    /// The receiver did not get to its newest records.
    fn forget(&mut self, cut: usize) {
        for _ in 0..cut {
            if self.watermark <= self.told || self.delivered.remove(&self.watermark).is_none() {
                break;
            }
            self.watermark -= 1;
        }
    }

    /// Every acknowledged record up to the watermark has come or was named.
    fn check(&self, name: &str) {
        for seq in self
            .acknowledged
            .range(..=self.watermark)
            .map(|(seq, _)| seq)
        {
            let named = self.gaps.iter().any(|gap| gap.contains(seq));
            let delivered = self.delivered.contains_key(seq);
            assert!(delivered || named, "{name}: {seq} is lost silently");
            assert!(
                !(delivered && named),
                "{name}: {seq} has come and is in a gap"
            );
        }
    }
}

struct World {
    dir: tempfile::TempDir,
    store: Arc<FaultStore>,
    specs: [StreamSpec; 3],
    streams: Streams,
    known: [Known; 3],
    number: u64,
    /// What the processor was told it has finished.
    cursor: u64,
}

fn open(dir: &Path, store: &Arc<FaultStore>, specs: &[StreamSpec]) -> Streams {
    let opened = Opened::over(Arc::clone(store) as Arc<_>, EPOCH, dir);
    let streams = Streams::start(dir, opened, DISK_LIMIT).unwrap();
    streams.configure(specs);
    streams
}

impl World {
    fn new(keep_ms: u64) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = Arc::new(FaultStore::default());
        let specs = specs(keep_ms);
        let streams = open(dir.path(), &store, &specs);
        Self {
            dir,
            store,
            specs,
            streams,
            known: Default::default(),
            number: 0,
            cursor: 0,
        }
    }

    fn crash(&mut self, kept: usize) {
        self.store.kill();
        self.streams.close();
        self.store.crash(kept.min(self.store.pending()));
        self.streams = open(self.dir.path(), &self.store, &self.specs);
        let cursor = self.stored_cursor();
        assert!(cursor >= self.cursor, "the cursor went back");
        self.cursor = cursor;
    }

    fn stored_cursor(&self) -> u64 {
        let published = self.streams.inner.shared.published();
        published.cursors.values().copied().next().unwrap_or(0)
    }

    /// A failed buffer is opened again, as a restart of the process would.
    fn recover(&mut self) {
        if self.streams.failed().is_some() {
            self.crash(usize::MAX);
        }
    }

    async fn append(&mut self, appends: &[(usize, u64, usize, bool)], kill_after: Option<u64>) {
        if let Some(commits) = kill_after {
            self.store.fail_commit_in(commits, Outcome::Lost);
        }
        let mut waiting = Vec::new();
        for &(stream, count, size, old) in appends {
            let values: Vec<Bytes> = (0..count)
                .map(|i| value(self.number + i, size).into())
                .collect();
            self.number += count;
            let time_ms = old.then(|| unix_ms() - 2 * HOUR);
            let records = values
                .iter()
                .map(|v| NewRecord {
                    time_ms,
                    ..NewRecord::new(Encoding::Bytes, v.clone())
                })
                .collect();
            let streams = self.streams.clone();
            waiting.push(async move {
                let appended = streams.append(NAMES[stream], records).await;
                (stream, appended, values)
            });
        }
        for (stream, appended, values) in futures_util::future::join_all(waiting).await {
            self.note(stream, appended, values);
        }
    }

    fn note(&mut self, stream: usize, appended: Result<Appended, AppendError>, values: Vec<Bytes>) {
        let known = &mut self.known[stream];
        match appended {
            Ok(appended) => {
                for (seq, value) in (appended.first_seq..).zip(values) {
                    assert!(seq > known.watermark, "{seq} is used again");
                    let other = known.acknowledged.insert(seq, value);
                    assert_eq!(other, None, "{seq} is used twice");
                }
            }
            Err(AppendError::Buffer(_) | AppendError::Closed) => known.unsure.extend(values),
            Err(
                AppendError::Full { .. }
                | AppendError::BufferFull { .. }
                | AppendError::LargerThanQuota { .. },
            ) => {}
            Err(error) => panic!("{error}"),
        }
    }

    async fn deliver(&mut self, stream: usize, most: usize, cut: usize, tell: bool) {
        let name = NAMES[stream];
        let from = self.known[stream].watermark + 1;
        let Ok(frames) = self.streams.frames(name, from, most).await else {
            return;
        };
        for out in frames {
            self.known[stream].receive(out);
        }
        self.known[stream].forget(cut);
        if tell {
            let watermark = self.known[stream].watermark;
            self.known[stream].told = watermark;
            self.streams.release(name, EPOCH, watermark).await;
        }
    }

    /// One output for each batch: it says what the batch was.
    async fn process(&mut self, most: usize) {
        let from = self.streams.cursor("p", "a") + 1;
        let Ok(rows) = self.streams.read("a", from, most).await else {
            return;
        };
        let Some(last) = rows.last().map(|row| row.seq) else {
            return;
        };
        let mut output = b"batch".to_vec();
        output.extend(from.to_be_bytes());
        output.extend(last.to_be_bytes());
        let output = Bytes::from(output);
        // It does not count as acknowledged: the cursor says whether it has to be there.
        self.known[1].unsure.insert(output.clone());
        let record = NewRecord::new(Encoding::Bytes, output);
        let done = self
            .streams
            .commit_processed("p", "a", last, vec![("b".to_owned(), record)])
            .await;
        if done.is_ok() {
            self.cursor = last;
        }
        assert_eq!(self.stored_cursor(), self.cursor);
    }

    /// Figures and frames agree, and quotas hold.
    async fn check(&mut self) {
        // An answer says that the writer is done with all that came before, but for its look at
        // the age limits, which may come at any time.
        for last_try in [false, false, true] {
            self.streams.release("none", EPOCH, 0).await;
            if self.streams.failed().is_some() || self.figures_agree(last_try) {
                break;
            }
        }
        for (known, name) in self.known.iter().zip(NAMES) {
            known.check(name);
        }
    }

    fn figures_agree(&self, must: bool) -> bool {
        let frames = self.store.frames();
        let mut total = 0;
        let mut agree = true;
        for (known, name) in self.known.iter().zip(NAMES) {
            let Some(state) = self.streams.inner.shared.state(name) else {
                continue;
            };
            let sum = |released: bool| -> u64 {
                let of = frames.iter().filter(|(stream, first, _)| {
                    *stream == state.id && (*first < state.released) == released
                });
                of.map(|(.., bytes)| *bytes as u64).sum()
            };
            let (bytes, retained) = (sum(false), sum(true));
            let same = if known.lost_frames {
                state.bytes >= bytes && state.retained_bytes >= retained
            } else {
                state.bytes == bytes && state.retained_bytes == retained
            };
            assert!(
                !must || same,
                "{name}: {state:?}, frames of {retained} and {bytes} bytes"
            );
            agree &= same;
            assert!(
                known.harmed || state.all_bytes() <= QUOTA,
                "{name}: {state:?}"
            );
            total += state.all_bytes();
        }
        let harmed = self.known.iter().any(|known| known.harmed);
        assert!(harmed || 3 * total <= DISK_LIMIT, "{total} bytes in all");
        agree
    }

    fn harm(&mut self, frame: usize, bit: Option<usize>) {
        let frames = self.store.frames();
        if frames.is_empty() {
            return;
        }
        let (id, first, _) = frames[frame % frames.len()];
        let shared = &self.streams.inner.shared;
        let stream = NAMES
            .iter()
            .position(|name| shared.state(name).is_some_and(|state| state.id == id));
        let known = &mut self.known[stream.unwrap()];
        known.harmed = true;
        match bit {
            Some(bit) => self.store.corrupt(id, first, bit),
            None => {
                known.lost_frames = true;
                self.store.lose(id, first);
            }
        }
    }

    async fn run(&mut self, step: Step) {
        match step {
            Step::Append(appends) => self.append(&appends, None).await,
            Step::Deliver(stream, most, cut, tell) => {
                self.deliver(stream, most, cut, tell).await;
            }
            Step::Process(most) => self.process(most).await,
            Step::Expire => self.streams.configure(&self.specs),
            Step::WriteBack(commits) => self.store.write_back(commits),
            Step::Crash(kept) => self.crash(kept),
            Step::CrashAmid(commits, kept) => {
                let appends = [(0, 5, 100, false), (2, 9, 200, false), (0, 3, 90, true)];
                self.append(&appends, Some(commits)).await;
                self.crash(kept);
            }
            Step::FailCommit(commits, stored) => {
                let outcome = if stored {
                    Outcome::Stored
                } else {
                    Outcome::Lost
                };
                self.store.fail_commit_in(commits, outcome);
            }
            Step::FailRead(reads) => self.store.fail_read_in(reads),
            Step::Corrupt(frame, bit) => self.harm(frame, Some(bit)),
            Step::Lose(frame) => self.harm(frame, None),
        }
        self.check().await;
        self.recover();
    }

    /// The link stands and the receiver takes all.
    async fn drain(&mut self) {
        self.crash(usize::MAX);
        for (stream, name) in NAMES.iter().enumerate() {
            for _ in 0..10_000 {
                let before = self.known[stream].watermark;
                self.deliver(stream, 50, 0, true).await;
                if self.known[stream].watermark == before {
                    break;
                }
            }
            let known = &self.known[stream];
            known.check(name);
            let last = known.acknowledged.keys().next_back().copied().unwrap_or(0);
            assert!(known.watermark >= last, "{name}: not all came");
        }
        self.check().await;
        self.check_outputs();
    }

    /// The outputs are those of a processor that works on each record once.
    fn check_outputs(&self) {
        let outputs: Vec<(u64, u64)> = self.known[1]
            .delivered
            .values()
            .filter_map(|value| {
                let numbers = value.strip_prefix(b"batch")?;
                let (from, last) = numbers.split_at(8);
                let number = |bytes: &[u8]| u64::from_be_bytes(bytes.try_into().unwrap());
                Some((number(from), number(last)))
            })
            .collect();
        let complete = !self.known[1].harmed;
        for pair in outputs.windows(2) {
            let ((_, last), (from, _)) = (pair[0], pair[1]);
            assert!(from > last, "{outputs:?}: a batch is worked on twice");
            assert!(
                !complete || from == last + 1,
                "{outputs:?}: an output is gone"
            );
        }
        if complete {
            let last = outputs.last().map_or(0, |(_, last)| *last);
            assert_eq!(last, self.cursor, "cursor and outputs move together");
        }
    }
}

/// So many cases, or as many as `PROPTEST_CASES` says.
fn cases(usual: u32) -> ProptestConfig {
    match std::env::var("PROPTEST_CASES") {
        Ok(_) => ProptestConfig::default(),
        Err(_) => ProptestConfig::with_cases(usual),
    }
}

proptest! {
    #![proptest_config(cases(96))]
    #[test]
    fn what_was_acknowledged_is_delivered_in_order_or_named_by_a_gap(
        steps in prop::collection::vec(step(), 1..50), keep in any::<bool>()
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut world = World::new(if keep { 24 * HOUR } else { 0 });
            for step in steps {
                world.run(step).await;
            }
            world.drain().await;
        });
    }
}
