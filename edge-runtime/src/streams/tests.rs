mod crash;
mod damage;
mod limits;
mod one_commit;
mod promise;
mod ranges;
mod rate;
mod repeated;
mod serve;
mod total;
mod window;

use std::path::Path;

use fleet_api::deployment::OnFull;
use fleet_api::frame::{Body, Gap};
use fleet_api::ids::StreamName;
use fleet_api::units::{ByteSize, Span};

use super::*;

fn config() -> BufferConfig {
    BufferConfig {
        ballast_bytes: 0,
        ..BufferConfig::default()
    }
}

/// A stream that keeps nothing once it is released.
fn spec(name: &str) -> StreamSpec {
    StreamSpec {
        keep: Span::from_ms(0),
        ..StreamSpec::named(StreamName::new(name).unwrap())
    }
}

fn limited(name: &str, quota: u64, on_full: OnFull) -> StreamSpec {
    StreamSpec {
        quota: ByteSize(quota),
        on_full,
        ..spec(name)
    }
}

fn open_with(dir: &Path, specs: &[StreamSpec]) -> Streams {
    let streams = Streams::open(dir, config()).unwrap();
    streams.configure(specs);
    streams
}

fn value(number: u64, size: usize) -> Vec<u8> {
    let mut value = number.to_be_bytes().to_vec();
    value.resize(size.max(8), number as u8);
    value
}

fn batch(numbers: std::ops::RangeInclusive<u64>, size: usize) -> Vec<NewRecord> {
    numbers
        .map(|n| NewRecord::new(Encoding::Bytes, value(n, size)))
        .collect()
}

/// Everything that is buffered: sequences with their values, and the gaps.
async fn everything(streams: &Streams, stream: &str) -> (Vec<(u64, Bytes)>, Vec<(u64, Gap)>) {
    let (mut records, mut gaps) = (Vec::new(), Vec::new());
    let mut at = 0;
    loop {
        let frames = streams.frames(stream, at, 100).await.unwrap();
        let Some(last) = frames.last() else { break };
        let end = last.last;
        for out in frames {
            if at > 1 {
                assert_eq!(out.first, at, "frames follow each other");
            }
            at = out.last + 1;
            match out.frame.body {
                Body::Records(list) => {
                    records.extend((out.first..).zip(list.into_iter().map(|r| r.value)));
                }
                Body::Gap(gap) => gaps.push((out.first, gap)),
            }
        }
        assert_eq!(at, end + 1);
    }
    (records, gaps)
}

fn health(streams: &Streams, name: &str) -> StreamHealth {
    let all = streams.health();
    all.into_iter().find(|h| h.name.as_str() == name).unwrap()
}

#[tokio::test]
async fn appended_records_are_there_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let streams = open_with(dir.path(), &[spec("a"), spec("b")]);
    let first = streams.append("a", batch(1..=3, 100)).await.unwrap();
    assert_eq!((first.first_seq, first.last_seq), (1, 3));
    let second = streams.append("a", batch(4..=500, 100)).await.unwrap();
    assert_eq!((second.first_seq, second.last_seq), (4, 500));
    let other = streams.append("b", batch(1..=1, 10)).await.unwrap();
    assert_eq!((other.first_seq, other.epoch), (1, first.epoch));
    streams.close();
    drop(streams);

    let streams = open_with(dir.path(), &[spec("a"), spec("b")]);
    assert_eq!(streams.epoch(), first.epoch);
    let (records, gaps) = everything(&streams, "a").await;
    assert!(gaps.is_empty());
    let expected: Vec<_> = (1..=500).map(|n| (n, value(n, 100).into())).collect();
    assert_eq!(records, expected);
    assert_eq!(health(&streams, "a").depth, 500);
    assert!(health(&streams, "a").oldest_age_ms.is_some());
    let next = streams.append("a", batch(1..=1, 10)).await.unwrap();
    assert_eq!(next.first_seq, 501);
}

#[tokio::test]
async fn records_of_every_allowed_size_come_back() {
    let dir = tempfile::tempdir().unwrap();
    let streams = open_with(dir.path(), &[spec("a")]);
    let sizes = [
        0,
        1,
        5_900,
        5_955,
        5_956,
        6_000,
        6_100,
        70_000,
        MAX_VALUE_BYTES,
    ];
    let records = sizes
        .iter()
        .map(|size| NewRecord::new(Encoding::Bytes, vec![9; *size]))
        .collect();
    streams.append("a", records).await.unwrap();
    let rows = streams.read("a", 1, 100).await.unwrap();
    let read: Vec<_> = rows.iter().map(|row| row.record.value.len()).collect();
    assert_eq!(read, sizes);
    let large = vec![NewRecord::new(
        Encoding::Bytes,
        vec![0; MAX_VALUE_BYTES + 1],
    )];
    let error = streams.append("a", large).await.unwrap_err();
    assert!(
        matches!(error, AppendError::ValueTooLarge { .. }),
        "{error}"
    );
}

#[tokio::test]
async fn a_record_is_freed_only_when_receiver_and_processor_have_passed_it() {
    let dir = tempfile::tempdir().unwrap();
    let processed = StreamSpec {
        processor: Some("anomaly:1.0.0".parse().unwrap()),
        ..spec("raw")
    };
    let specs = [processed, spec("alerts")];
    let streams = open_with(dir.path(), &specs);
    let epoch = streams.epoch();
    streams.append("raw", batch(1..=100, 1000)).await.unwrap();

    streams.release("raw", epoch, 100).await;
    assert_eq!(health(&streams, "raw").acked_seq, Some(100));
    assert_eq!(
        health(&streams, "raw").depth,
        100,
        "the processor has seen none"
    );

    let alert = ("alerts".to_owned(), NewRecord::new(Encoding::Json, "1"));
    let outputs = vec![alert];
    streams
        .commit_processed("anomaly", "raw", 50, outputs.clone())
        .await
        .unwrap();
    assert_eq!(streams.cursor("anomaly", "raw"), 50);
    assert_eq!(health(&streams, "alerts").depth, 1);
    let left = health(&streams, "raw").depth;
    assert!(
        (50..56).contains(&left),
        "whole frames up to 50 are gone: {left}"
    );

    let again = streams
        .commit_processed("anomaly", "raw", 50, outputs)
        .await;
    assert!(matches!(
        again,
        Err(AppendError::AlreadyProcessed { cursor: 50, .. })
    ));
    assert_eq!(health(&streams, "alerts").depth, 1, "not added twice");

    streams.close();
    drop(streams);
    let streams = open_with(dir.path(), &specs);
    assert_eq!(streams.cursor("anomaly", "raw"), 50);
    streams
        .commit_processed("anomaly", "raw", 100, Vec::new())
        .await
        .unwrap();
    assert_eq!(health(&streams, "raw").depth, 0);
    assert_eq!(health(&streams, "raw").bytes, 0);
    assert!(streams.read("raw", 0, 10).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_watermark_of_another_epoch_frees_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let streams = open_with(dir.path(), &[spec("a")]);
    streams.append("a", batch(1..=10, 100)).await.unwrap();
    streams.release("a", streams.epoch() + 1, 10).await;
    streams.release("unknown", streams.epoch(), 10).await;
    assert_eq!(health(&streams, "a").depth, 10);
    streams.release("a", streams.epoch(), u64::MAX).await;
    assert_eq!(health(&streams, "a").depth, 10, "a nonsense watermark too");
}

#[tokio::test]
async fn numbers_that_the_receiver_knows_are_not_used_again() {
    let dir = tempfile::tempdir().unwrap();
    let streams = open_with(dir.path(), &[spec("a")]);
    streams.append("a", batch(1..=10, 100)).await.unwrap();
    streams.release("a", streams.epoch(), 25).await;
    let next = streams.append("a", batch(1..=1, 100)).await.unwrap();
    assert_eq!(next.first_seq, 26);
    let (records, gaps) = everything(&streams, "a").await;
    assert_eq!(records.len(), 1);
    assert!(gaps.is_empty());
}

#[tokio::test]
async fn many_writers_get_their_own_contiguous_numbers() {
    let dir = tempfile::tempdir().unwrap();
    let streams = open_with(dir.path(), &[spec("a")]);
    let mut tasks = tokio::task::JoinSet::new();
    for writer in 0..40u64 {
        let streams = streams.clone();
        tasks.spawn(async move {
            let mut mine = Vec::new();
            for step in 0..5 {
                let number = writer * 1000 + step * 10;
                let appended = streams
                    .append("a", batch(number..=number + 2, 50))
                    .await
                    .unwrap();
                assert_eq!(appended.last_seq, appended.first_seq + 2);
                mine.extend((appended.first_seq..).zip(number..=number + 2));
            }
            mine
        });
    }
    let mut expected = std::collections::BTreeMap::new();
    while let Some(done) = tasks.join_next().await {
        for (seq, number) in done.unwrap() {
            assert!(
                expected
                    .insert(seq, Bytes::from(value(number, 50)))
                    .is_none()
            );
        }
    }
    let (records, _) = everything(&streams, "a").await;
    assert_eq!(records, expected.into_iter().collect::<Vec<_>>());
    assert_eq!(records.len(), 600);
}

#[tokio::test]
async fn a_removed_stream_empties_itself_but_takes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let streams = open_with(dir.path(), &[spec("a")]);
    streams.append("a", batch(1..=10, 100)).await.unwrap();
    streams.configure(&[spec("b")]);
    let error = streams.append("a", batch(1..=1, 10)).await.unwrap_err();
    assert!(matches!(error, AppendError::Removed { .. }), "{error}");
    let error = streams.append("c", batch(1..=1, 10)).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "there is no stream \"c\" on this node; it has b"
    );
    assert_eq!(streams.read("a", 0, 100).await.unwrap().len(), 10);
    assert_eq!(streams.outlook().len(), 1, "it is still forwarded");
    streams.release("a", streams.epoch(), 10).await;
    assert_eq!(health(&streams, "a").depth, 0);
}
