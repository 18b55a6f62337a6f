use super::*;

const HOUR: u64 = 3_600_000;

fn keeping(name: &str, keep_ms: u64) -> StreamSpec {
    StreamSpec {
        keep: Span::from_ms(keep_ms),
        ..spec(name)
    }
}

async fn until(streams: &Streams, what: &str, mut is_so: impl FnMut() -> bool) {
    let mut changed = streams.changed();
    while !is_so() {
        let waited = tokio::time::timeout(Duration::from_secs(20), changed.changed()).await;
        waited.expect(what).unwrap();
    }
}

fn sequences(rows: &[Row]) -> Vec<u64> {
    rows.iter().map(|row| row.seq).collect()
}

#[tokio::test]
async fn what_the_receiver_has_stays_readable_and_is_not_forwarded_again() {
    let dir = tempfile::tempdir().unwrap();
    let specs = [keeping("a", 24 * HOUR)];
    let streams = open_with(dir.path(), &specs);
    for n in (1..=40).step_by(10) {
        streams.append("a", batch(n..=n + 9, 300)).await.unwrap();
    }
    streams.release("a", streams.epoch(), 25).await;
    let figures = health(&streams, "a");
    assert_eq!((figures.retained, figures.depth), (20, 20));
    assert_eq!(figures.bytes, figures.retained_bytes);
    let outlook = streams.outlook().remove(0);
    assert_eq!((outlook.acked, outlook.low, outlook.next), (25, 21, 41));
    let all: Vec<_> = (1..=40).collect();
    assert_eq!(sequences(&streams.read("a", 0, 100).await.unwrap()), all);
    assert_eq!(streams.held("a").unwrap(), 1..41);

    streams.close();
    drop(streams);
    let streams = open_with(dir.path(), &specs);
    assert_eq!(health(&streams, "a").retained, 20);
    assert_eq!(health(&streams, "a").depth, 20);
    assert_eq!(sequences(&streams.read("a", 0, 100).await.unwrap()), all);
    streams.release("a", streams.epoch(), 40).await;
    let figures = health(&streams, "a");
    assert_eq!((figures.retained, figures.depth, figures.bytes), (40, 0, 0));
    assert_eq!(figures.oldest_age_ms, None, "nothing waits to be forwarded");
}

#[tokio::test]
async fn released_records_go_once_they_are_older_than_the_stream_keeps_them() {
    let dir = tempfile::tempdir().unwrap();
    let streams = open_with(dir.path(), &[keeping("a", HOUR)]);
    let mut old = batch(1..=10, 300);
    for record in &mut old {
        record.time_ms = Some(unix_ms() - HOUR - 60_000);
    }
    streams.append("a", old).await.unwrap();
    streams.append("a", batch(11..=20, 300)).await.unwrap();
    streams.release("a", streams.epoch(), 20).await;
    until(&streams, "the old ones go", || {
        streams.held("a").unwrap().start == 11
    })
    .await;
    assert_eq!(health(&streams, "a").retained, 10);
    assert_eq!(health(&streams, "a").evicted, 0);

    // The operator no longer wants them.
    streams.configure(&[keeping("a", 0)]);
    until(&streams, "all go", || streams.held("a").unwrap().is_empty()).await;
    let figures = health(&streams, "a");
    assert_eq!((figures.retained, figures.retained_bytes), (0, 0));
}

#[tokio::test]
async fn released_records_make_room_first_and_without_a_gap() {
    for on_full in [OnFull::DropOldest, OnFull::Reject] {
        let dir = tempfile::tempdir().unwrap();
        let limited = StreamSpec {
            keep: Span::from_ms(24 * HOUR),
            ..limited("a", 20_000, on_full)
        };
        let streams = open_with(dir.path(), &[limited]);
        for n in (1..=300).step_by(10) {
            streams.append("a", batch(n..=n + 9, 500)).await.unwrap();
            let figures = health(&streams, "a");
            assert!(figures.bytes + figures.retained_bytes <= 20_000);
            streams.release("a", streams.epoch(), n + 4).await;
        }
        let (records, gaps) = everything(&streams, "a").await;
        assert!(gaps.is_empty(), "{gaps:?}");
        assert_eq!(records.last().unwrap().0, 300);
        assert!(records.len() >= 25, "the room is used: {}", records.len());
        assert_eq!(health(&streams, "a").evicted, 0);
    }
}

#[tokio::test]
async fn nothing_is_freed_before_it_is_known_who_needs_it() {
    let dir = tempfile::tempdir().unwrap();
    let processed = StreamSpec {
        processor: Some("slow:1".parse().unwrap()),
        ..spec("a")
    };
    let specs = [processed, keeping("b", 24 * HOUR)];
    let streams = open_with(dir.path(), &specs);
    for name in ["a", "b"] {
        streams.append(name, batch(1..=20, 300)).await.unwrap();
        streams.release(name, streams.epoch(), 20).await;
    }
    streams.close();
    drop(streams);

    let streams = Streams::open(dir.path(), config()).unwrap();
    streams.release("a", streams.epoch(), 20).await;
    streams.release("b", streams.epoch(), 20).await;
    streams.configure(&specs);
    streams.release("a", streams.epoch(), 20).await;
    assert_eq!(health(&streams, "a").depth, 20, "its processor saw none");
    assert_eq!(health(&streams, "b").retained, 20);
}

#[tokio::test]
async fn a_new_processor_starts_with_what_is_not_released() {
    let dir = tempfile::tempdir().unwrap();
    let streams = open_with(dir.path(), &[keeping("a", 24 * HOUR)]);
    for n in (1..=40).step_by(10) {
        streams.append("a", batch(n..=n + 9, 300)).await.unwrap();
    }
    streams.release("a", streams.epoch(), 20).await;
    let processed = StreamSpec {
        processor: Some("new:1".parse().unwrap()),
        ..keeping("a", 24 * HOUR)
    };
    streams.configure(&[processed]);
    streams.release("a", streams.epoch(), 40).await;
    assert_eq!(streams.cursor("new", "a"), 20);
    assert_eq!(health(&streams, "a").depth, 20);
    streams
        .commit_processed("new", "a", 30, Vec::new())
        .await
        .unwrap();
    assert_eq!(health(&streams, "a").retained, 30);
}

#[tokio::test]
async fn damage_among_released_records_is_a_gap_for_readers_and_no_loss() {
    let dir = tempfile::tempdir().unwrap();
    let streams = open_with(dir.path(), &[keeping("a", 24 * HOUR)]);
    for n in 1..=4 {
        streams.append("a", batch(n..=n, 5_900)).await.unwrap();
    }
    streams.release("a", streams.epoch(), 2).await;
    let store = Arc::clone(&streams.inner.shared.store);
    let size = store.at_or_before(1, 2).unwrap().unwrap().bytes.len();
    let lost = crate::buffer::Changes {
        remove: vec![(1, 2, size), (1, 3, size)],
        ..crate::buffer::Changes::default()
    };
    store
        .commit(&lost, crate::buffer::Durability::Durable)
        .unwrap();
    let (records, gaps) = everything(&streams, "a").await;
    assert_eq!(records.iter().map(|r| r.0).collect::<Vec<_>>(), [1, 4]);
    let places: Vec<_> = gaps.iter().map(|(first, gap)| (*first, gap.last)).collect();
    assert_eq!(places, [(2, 2), (3, 3)]);
    let figures = health(&streams, "a");
    assert_eq!((figures.retained, figures.depth), (1, 1));
    assert_eq!(figures.evicted, 1, "the receiver has the other one");
}
