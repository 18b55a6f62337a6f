use std::collections::BTreeMap;

use fleet_api::frame::GapReason;
use proptest::prelude::*;

use super::*;

#[tokio::test]
async fn a_full_stream_that_rejects_keeps_what_it_has() {
    let dir = tempfile::tempdir().unwrap();
    let streams = open_with(dir.path(), &[limited("a", 10_000, OnFull::Reject)]);
    let mut taken = 0;
    let error = loop {
        match streams.append("a", batch(taken + 1..=taken + 1, 900)).await {
            Ok(appended) => taken = appended.last_seq,
            Err(error) => break error,
        }
    };
    assert!(matches!(error, AppendError::Full { .. }), "{error}");
    assert!((9..=10).contains(&taken), "{taken}");
    assert!(health(&streams, "a").bytes <= 10_000);
    assert_eq!(everything(&streams, "a").await.0.len() as u64, taken);
    streams.release("a", streams.epoch(), taken).await;
    streams.append("a", batch(1..=5, 900)).await.unwrap();
}

#[tokio::test]
async fn what_is_evicted_is_named_by_one_gap_in_its_place() {
    let dir = tempfile::tempdir().unwrap();
    let specs = [limited("a", 20_000, OnFull::DropOldest)];
    let streams = open_with(dir.path(), &specs);
    for n in (1..=200).step_by(5) {
        streams.append("a", batch(n..=n + 4, 500)).await.unwrap();
        assert!(health(&streams, "a").bytes <= 20_000, "after {n}");
    }
    streams.close();
    drop(streams);
    let streams = open_with(dir.path(), &specs);
    let (records, gaps) = everything(&streams, "a").await;
    let oldest = records[0].0;
    let lost = oldest - 1;
    let gap = Gap {
        last: lost,
        reason: GapReason::Quota,
        lost,
    };
    assert_eq!(gaps, [(1, gap)]);
    assert_eq!(records.last().unwrap().0, 200);
    assert!(records.len() >= 30, "the quota is used: {}", records.len());
    for (seq, bytes) in &records {
        assert_eq!(bytes, &value(*seq, 500));
    }
    assert_eq!(health(&streams, "a").evicted, lost);
    assert_eq!(health(&streams, "a").depth, records.len() as u64);

    // Once the receiver has the gap, it goes, and what follows stays.
    streams.release("a", streams.epoch(), lost).await;
    let (after, gaps) = everything(&streams, "a").await;
    assert!(gaps.is_empty());
    assert_eq!(after, records);
}

#[tokio::test]
async fn what_the_receiver_has_is_evicted_without_a_gap() {
    let dir = tempfile::tempdir().unwrap();
    let held = StreamSpec {
        processor: Some("slow:1".parse().unwrap()),
        ..limited("a", 20_000, OnFull::DropOldest)
    };
    let streams = open_with(dir.path(), &[held]);
    streams.append("a", batch(1..=30, 500)).await.unwrap();
    streams.release("a", streams.epoch(), 30).await;
    assert_eq!(health(&streams, "a").depth, 30);
    streams.append("a", batch(31..=60, 500)).await.unwrap();
    let (records, gaps) = everything(&streams, "a").await;
    assert!(gaps.is_empty(), "{gaps:?}");
    assert!(records[0].0 > 1 && records[0].0 <= 31);
    assert_eq!(records.last().unwrap().0, 60);
}

#[tokio::test]
async fn a_request_larger_than_the_quota_is_refused_and_evicts_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let streams = open_with(dir.path(), &[limited("a", 5_000, OnFull::DropOldest)]);
    streams.append("a", batch(1..=3, 1000)).await.unwrap();
    let error = streams.append("a", batch(1..=6, 1000)).await.unwrap_err();
    assert!(
        matches!(error, AppendError::LargerThanQuota { .. }),
        "{error}"
    );
    assert_eq!(health(&streams, "a").depth, 3);
}

#[tokio::test]
async fn records_past_their_time_to_live_become_a_gap() {
    let dir = tempfile::tempdir().unwrap();
    let aged = StreamSpec {
        ttl: Some(Span::from_ms(3_600_000)),
        ..spec("a")
    };
    let streams = open_with(dir.path(), &[aged]);
    let mut old = batch(1..=20, 500);
    for record in &mut old {
        record.time_ms = Some(unix_ms() - 3_700_000);
    }
    streams.append("a", old).await.unwrap();
    streams.append("a", batch(21..=40, 500)).await.unwrap();
    let mut changed = streams.changed();
    while health(&streams, "a").evicted == 0 {
        let waited = tokio::time::timeout(Duration::from_secs(20), changed.changed()).await;
        waited.expect("eviction within a few seconds").unwrap();
    }
    let (records, gaps) = everything(&streams, "a").await;
    assert_eq!(gaps.len(), 1);
    assert_eq!(gaps[0].1.reason, GapReason::Expired);
    assert_eq!(gaps[0].1.lost, 20);
    assert_eq!(records.first().map(|r| r.0), Some(21));
}

#[tokio::test]
async fn a_nearly_full_disk_refuses_before_it_is_full() {
    let dir = tempfile::tempdir().unwrap();
    let config = BufferConfig {
        free_floor_bytes: u64::MAX - 1,
        ..config()
    };
    let streams = Streams::open(dir.path(), config).unwrap();
    streams.configure(&[spec("a")]);
    let error = streams.append("a", batch(1..=1, 10)).await.unwrap_err();
    assert!(matches!(error, AppendError::NoSpace { .. }), "{error}");
    assert_eq!(streams.failed(), None);
}

#[derive(Debug, Clone)]
enum Step {
    Append(u64, usize),
    Together(Vec<(u64, usize)>),
    Ack(u64),
    Process(u64),
    Restart,
}

fn step() -> impl Strategy<Value = Step> {
    let size = prop_oneof![6 => 8..400usize, 1 => 5_000..9_000usize];
    let append = (1..20u64, size);
    prop_oneof![
        6 => append.clone().prop_map(|(count, size)| Step::Append(count, size)),
        2 => prop::collection::vec(append, 1..8).prop_map(Step::Together),
        3 => (0..100u64).prop_map(Step::Ack),
        3 => (0..100u64).prop_map(Step::Process),
        1 => Just(Step::Restart),
    ]
}

/// What was appended and what the receiver and the processor have passed.
#[derive(Default)]
struct Model {
    appended: BTreeMap<u64, Bytes>,
    acked: u64,
    cursor: u64,
}

impl Model {
    async fn check(&self, streams: &Streams, quota: u64, processed: bool) {
        let (records, gaps) = everything(streams, "a").await;
        let state = health(streams, "a");
        assert!(state.bytes <= quota);
        assert_eq!(state.depth, records.len() as u64);
        let next = self.appended.keys().next_back().map_or(1, |last| last + 1);
        assert_eq!(state.next_seq, next);
        let stored: BTreeMap<_, _> = records.into_iter().collect();
        for (seq, bytes) in &stored {
            assert_eq!(self.appended.get(seq), Some(bytes), "record {seq}");
        }
        let in_gap = |seq: u64| {
            gaps.iter()
                .any(|(first, gap)| (*first..=gap.last).contains(&seq))
        };
        for seq in self.appended.keys() {
            let passed = *seq <= self.acked;
            let named = in_gap(*seq);
            assert!(
                stored.contains_key(seq) || passed || named,
                "{seq} is lost silently"
            );
            assert!(
                !(stored.contains_key(seq) && named),
                "{seq} is there and in a gap"
            );
        }
        // Nothing that both have passed is kept, but for the frame at the edge.
        let edge = if processed {
            self.acked.min(self.cursor)
        } else {
            self.acked
        };
        let kept = stored.keys().filter(|seq| **seq <= edge).count();
        assert!(kept < 800, "{kept} records are kept for nothing");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn every_record_is_stored_passed_or_named_by_a_gap(
        steps in prop::collection::vec(step(), 1..40), quota in 12_000..60_000u64, processed in any::<bool>()
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let dir = tempfile::tempdir().unwrap();
            let limited = StreamSpec {
                processor: processed.then(|| "p:1".parse().unwrap()),
                ..limited("a", quota, OnFull::DropOldest)
            };
            let specs = [limited];
            let mut streams = open_with(dir.path(), &specs);
            let mut model = Model::default();
            let mut number = 0;
            for step in steps {
                let (appends, restart) = match step {
                    Step::Append(count, size) => (vec![(count, size)], false),
                    Step::Together(appends) => (appends, false),
                    Step::Restart => (Vec::new(), true),
                    Step::Ack(percent) => {
                        let next = health(&streams, "a").next_seq;
                        model.acked = model.acked.max((next - 1) * percent / 99);
                        streams.release("a", streams.epoch(), model.acked).await;
                        (Vec::new(), false)
                    }
                    Step::Process(percent) => {
                        let next = health(&streams, "a").next_seq;
                        let upto = (next - 1) * percent / 99;
                        let done = streams.commit_processed("p", "a", upto, Vec::new()).await;
                        assert_eq!(done.is_ok(), upto > model.cursor);
                        model.cursor = model.cursor.max(upto);
                        (Vec::new(), false)
                    }
                };
                let mut waiting = Vec::new();
                for (count, size) in appends {
                    let values: Vec<Bytes> = (0..count).map(|i| value(number + i, size).into()).collect();
                    number += count;
                    let records = values.iter().map(|v| NewRecord::new(Encoding::Bytes, v.clone())).collect();
                    waiting.push(async { (streams.append("a", records).await, values) });
                }
                for (appended, values) in futures_util::future::join_all(waiting).await {
                    match appended {
                        Ok(appended) => model.appended.extend((appended.first_seq..).zip(values)),
                        Err(error) => assert!(matches!(error, AppendError::LargerThanQuota { .. }), "{error}"),
                    }
                }
                if restart {
                    streams.close();
                    drop(streams);
                    streams = open_with(dir.path(), &specs);
                }
                model.check(&streams, quota, processed).await;
            }
        });
    }
}
