use super::*;

const DAY: Span = Span::from_ms(24 * 3_600_000);

/// Streams over a disk that takes three times its frames, with room for 200 000 bytes of them.
fn open_small(dir: &Path, specs: &[StreamSpec]) -> Streams {
    let store = Arc::new(crate::buffer::fault_store::FaultStore::default());
    let opened = Opened::over(store, 7, dir);
    let streams = Streams::start(dir, opened, 600_000).unwrap();
    streams.configure(specs);
    streams
}

fn prioritised(name: &str, priority: u8, on_full: OnFull) -> StreamSpec {
    StreamSpec {
        priority,
        ..limited(name, 1 << 30, on_full)
    }
}

async fn fill(streams: &Streams, name: &str, count: u64) -> Result<(), AppendError> {
    for n in (1..=count).step_by(10) {
        streams.append(name, batch(n..=n + 9, 1_000)).await?;
        let total = streams.buffer_health().live_bytes;
        assert!(total <= 220_000, "{total}");
    }
    Ok(())
}

#[tokio::test]
async fn a_higher_priority_takes_room_from_a_lower_one_but_for_its_share() {
    let dir = tempfile::tempdir().unwrap();
    let streams = open_small(
        dir.path(),
        &[
            prioritised("high", 9, OnFull::Reject),
            prioritised("low", 1, OnFull::DropOldest),
        ],
    );
    fill(&streams, "low", 400).await.unwrap();
    let before = health(&streams, "low");
    assert!(
        before.bytes > 150_000,
        "alone it has nearly all: {before:?}"
    );
    let full = fill(&streams, "high", 400).await.unwrap_err();
    assert!(matches!(full, AppendError::BufferFull { .. }), "{full}");
    let (low, high) = (health(&streams, "low"), health(&streams, "high"));
    assert!((15_000..40_000).contains(&low.bytes), "{low:?}");
    assert!(high.bytes > 150_000, "{high:?}");
    let (records, gaps) = everything(&streams, "low").await;
    assert_eq!(gaps.len(), 1, "what gave way is named");
    assert_eq!(gaps[0].1.lost + records.len() as u64, 400);

    // The low one goes on with its share.
    streams
        .append("low", batch(401..=410, 1_000))
        .await
        .unwrap();
    assert_eq!(everything(&streams, "low").await.0.last().unwrap().0, 410);
    assert_eq!(health(&streams, "high").evicted, 0);
}

#[tokio::test]
async fn a_stream_without_its_share_is_not_shut_out() {
    let dir = tempfile::tempdir().unwrap();
    let streams = open_small(
        dir.path(),
        &[
            prioritised("high", 9, OnFull::DropOldest),
            prioritised("low", 1, OnFull::Reject),
        ],
    );
    fill(&streams, "high", 400).await.unwrap();
    streams.append("low", batch(1..=10, 1_000)).await.unwrap();
    assert_eq!(health(&streams, "low").depth, 10);
    let full = fill(&streams, "low", 100).await.unwrap_err();
    assert!(matches!(full, AppendError::BufferFull { .. }), "{full}");
    assert!(health(&streams, "low").bytes > 15_000);
}

#[tokio::test]
async fn released_records_of_any_stream_go_before_anything_is_lost() {
    let dir = tempfile::tempdir().unwrap();
    let keeping = StreamSpec {
        keep: DAY,
        ..prioritised("high", 9, OnFull::Reject)
    };
    let specs = [keeping, prioritised("low", 1, OnFull::DropOldest)];
    let streams = open_small(dir.path(), &specs);
    fill(&streams, "high", 150).await.unwrap();
    streams.release("high", 7, 150).await;
    assert_eq!(health(&streams, "high").retained, 150);
    fill(&streams, "low", 180).await.unwrap();
    assert_eq!(health(&streams, "low").evicted, 0);
    assert_eq!(health(&streams, "low").depth, 180);
    assert!(health(&streams, "high").retained < 30);
}

#[tokio::test]
async fn the_file_on_the_disk_stays_within_its_limit_under_churn() {
    const MAX: u64 = 12 << 20;
    let dir = tempfile::tempdir().unwrap();
    let config = BufferConfig {
        max_bytes: Some(MAX),
        ..config()
    };
    let streams = Streams::open(dir.path(), config).unwrap();
    streams.configure(&[StreamSpec {
        keep: DAY,
        ..limited("a", 1 << 30, OnFull::DropOldest)
    }]);
    let mut worst = 0;
    for n in 0..400u64 {
        // Small and large frames in turn; the receiver has half of it.
        let size = if n % 3 == 0 { 20_000 } else { 400 };
        let records = if n % 3 == 0 { 5 } else { 250 };
        let done = streams.append("a", batch(1..=records, size)).await.unwrap();
        streams
            .release("a", streams.epoch(), done.last_seq / 2)
            .await;
        worst = worst.max(streams.disk_bytes());
    }
    let figures = streams.buffer_health();
    assert!(worst <= MAX + MAX / 4, "{worst} bytes, {figures:?}");
    assert!(figures.live_bytes > MAX / 16, "{figures:?}");
    assert_eq!(figures.blobs, 0);
}
