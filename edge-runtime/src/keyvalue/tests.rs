use super::*;
use crate::buffer::{self, BufferConfig, Changes, Durability, MAX_NOTE_BYTES};

const QUOTA: u64 = 1 << 20;

/// Values in a buffer in `dir`; dropped, they can be opened again.
struct Opened(KeyValue);

impl std::ops::Deref for Opened {
    type Target = KeyValue;

    fn deref(&self) -> &KeyValue {
        &self.0
    }
}

impl Drop for Opened {
    fn drop(&mut self) {
        self.0.0.streams.as_ref().unwrap().close();
    }
}

fn open(dir: &Path) -> Opened {
    let config = BufferConfig {
        ballast_bytes: 0,
        free_floor_bytes: 0,
        ..BufferConfig::default()
    };
    let dir = dir.to_owned();
    let open = move || {
        let streams = Streams::open(&dir.join("buffer"), config).unwrap();
        KeyValue::open(streams, &dir.join("keyvalue")).unwrap()
    };
    // As in the runtime: an import waits for the writer, which no async thread may.
    Opened(std::thread::spawn(open).join().unwrap())
}

fn set(key: &str, value: impl Into<Bytes>) -> Vec<(String, Option<Bytes>)> {
    vec![(key.to_owned(), Some(value.into()))]
}

#[tokio::test]
async fn values_outlive_the_process_and_belong_to_their_handler() {
    let dir = tempfile::tempdir().unwrap();
    let large = Bytes::from(vec![7; 3 * MAX_NOTE_BYTES + 5]);
    {
        let values = open(dir.path());
        values
            .write("h", QUOTA, "b", set("small", "one"))
            .await
            .unwrap();
        values
            .write("h", QUOTA, "b", set("empty", ""))
            .await
            .unwrap();
        values
            .write("h", QUOTA, "b", set("large", large.clone()))
            .await
            .unwrap();
        values
            .write("h", QUOTA, "b", set("shrunk", large.clone()))
            .await
            .unwrap();
        values
            .write("h", QUOTA, "b", set("shrunk", "s"))
            .await
            .unwrap();
        values
            .write("h", QUOTA, "b", set("gone", large.clone()))
            .await
            .unwrap();
        values
            .write("h", QUOTA, "b", vec![("gone".to_owned(), None)])
            .await
            .unwrap();
        values
            .write("other", QUOTA, "b", set("small", "two"))
            .await
            .unwrap();
    }
    let values = open(dir.path());
    let get = |handler: &str, key: &str| values.get(handler, "b", key).unwrap();
    assert_eq!(get("h", "small").unwrap(), "one");
    assert_eq!(get("h", "empty").unwrap(), "");
    assert_eq!(get("h", "large").unwrap(), large);
    assert_eq!(get("h", "shrunk").unwrap(), "s");
    assert_eq!(get("h", "gone"), None);
    assert_eq!(get("other", "small").unwrap(), "two");
    assert_eq!(values.get("h", "another", "small").unwrap(), None);
    let (keys, more) = values.keys("h", "b", 0, 3).unwrap();
    assert_eq!(
        (keys.join(" "), more),
        ("empty large shrunk".to_owned(), Some(3))
    );
    let (keys, more) = values.keys("h", "b", 3, 3).unwrap();
    assert_eq!((keys.join(" "), more), ("small".to_owned(), None));
}

#[tokio::test]
async fn the_quota_holds_also_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    {
        let values = open(dir.path());
        values
            .write("h", 100, "b", set("k", vec![0; 99]))
            .await
            .unwrap();
    }
    let values = open(dir.path());
    let full = values.write("h", 100, "b", set("l", "")).await;
    assert_eq!(
        full,
        Err(KeyValueError::Quota {
            quota: 100,
            wanted: 101
        })
    );
    values.write("other", 100, "b", set("l", "")).await.unwrap();
    values
        .write("h", 100, "b", set("k", vec![0; 98]))
        .await
        .unwrap();
    values.write("h", 100, "b", set("l", "")).await.unwrap();
    // A quota that was lowered lets values shrink.
    values
        .write("h", 10, "b", set("k", vec![0; 50]))
        .await
        .unwrap();
}

#[tokio::test]
async fn a_batch_takes_effect_whole_or_not_at_all() {
    let dir = tempfile::tempdir().unwrap();
    let values = open(dir.path());
    let mut batch = set("a", "1");
    batch.extend(set("", "no key"));
    assert_eq!(
        values.write("h", QUOTA, "b", batch).await,
        Err(KeyValueError::Key)
    );
    assert_eq!(values.get("h", "b", "a").unwrap(), None);
    let long = values
        .write("h", QUOTA, "b", set("a", vec![0; MAX_VALUE_BYTES + 1]))
        .await;
    assert_eq!(long, Err(KeyValueError::Value(MAX_VALUE_BYTES + 1)));
}

#[tokio::test(flavor = "multi_thread")]
async fn counting_loses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let values = open(dir.path());
    let counting = (0..8).map(|_| {
        let values = values.clone();
        tokio::spawn(async move {
            for _ in 0..50 {
                values
                    .increment("h", QUOTA, "b", "n".to_owned(), 2)
                    .await
                    .unwrap();
            }
        })
    });
    for task in counting.collect::<Vec<_>>() {
        task.await.unwrap();
    }
    assert_eq!(values.get("h", "b", "n").unwrap().unwrap(), "800");
    values
        .write("h", QUOTA, "b", set("n", "many"))
        .await
        .unwrap();
    let number = values.increment("h", QUOTA, "b", "n".to_owned(), 1).await;
    assert_eq!(number, Err(KeyValueError::NoNumber("n".to_owned())));
    let last = u64::MAX.to_string();
    values.write("h", QUOTA, "b", set("n", last)).await.unwrap();
    let number = values.increment("h", QUOTA, "b", "n".to_owned(), 1).await;
    assert_eq!(number, Err(KeyValueError::Overflow("n".to_owned())));
}

#[tokio::test]
async fn a_batch_sees_its_own_changes_and_nobody_else_does_before_the_commit() {
    let dir = tempfile::tempdir().unwrap();
    let values = open(dir.path());
    values
        .write("h", QUOTA, "b", set("old", "1"))
        .await
        .unwrap();
    let batch = values.batch("h").await.unwrap();
    let stage = batch.stage();
    stage.write(QUOTA, "b", set("new", "2")).unwrap();
    stage
        .write(QUOTA, "b", vec![("old".to_owned(), None)])
        .unwrap();
    assert_eq!(stage.increment(QUOTA, "b", "new".to_owned(), 5).unwrap(), 7);
    assert_eq!(stage.get("b", "new").unwrap().unwrap(), "7");
    assert_eq!(stage.get("b", "old").unwrap(), None);
    assert_eq!(stage.keys("b", 0, 9).unwrap().0, ["new"]);
    assert_eq!(stage.keys("other", 0, 9).unwrap().0.len(), 0);
    assert_eq!(values.get("h", "b", "new").unwrap(), None);
    assert_eq!(values.keys("h", "b", 0, 9).unwrap().0, ["old"]);

    drop((batch, stage));
    let batch = values.batch("h").await.unwrap();
    assert_eq!(
        batch.stage().get("b", "new").unwrap(),
        None,
        "a batch that is given up leaves nothing behind"
    );
}

#[tokio::test]
async fn a_batch_s_changes_are_durable_with_its_progress() {
    let dir = tempfile::tempdir().unwrap();
    let large = Bytes::from(vec![7; 2 * MAX_NOTE_BYTES]);
    {
        let values = open(dir.path());
        values
            .write("h", QUOTA, "b", set("k", large))
            .await
            .unwrap();
        let batch = values.batch("h").await.unwrap();
        batch.stage().write(QUOTA, "b", set("k", "small")).unwrap();
        batch
            .stage()
            .increment(QUOTA, "b", "n".to_owned(), 3)
            .unwrap();
        let streams = values.0.0.streams.as_ref().unwrap();
        streams
            .commit_batch("h", "raw", 7, Vec::new(), batch.notes())
            .await
            .unwrap();
        batch.committed();
        assert_eq!(values.get("h", "b", "n").unwrap().unwrap(), "3");
        // What another group member changes later in the same group counts.
        let (a, b) = tokio::join!(
            values.write("h", QUOTA, "b", set("twice", "1")),
            values.write("h", QUOTA, "b", vec![("twice".to_owned(), None)]),
        );
        a.and(b).unwrap();
    }
    let values = open(dir.path());
    assert_eq!(values.0.0.streams.as_ref().unwrap().cursor("h", "raw"), 7);
    assert_eq!(values.get("h", "b", "k").unwrap().unwrap(), "small");
    assert_eq!(values.get("h", "b", "n").unwrap().unwrap(), "3");
    assert_eq!(values.get("h", "b", "twice").unwrap(), None);
}

#[tokio::test]
async fn the_quota_holds_within_a_batch_too() {
    let dir = tempfile::tempdir().unwrap();
    let values = open(dir.path());
    values
        .write("h", 100, "b", set("k", vec![0; 49]))
        .await
        .unwrap();
    let batch = values.batch("h").await.unwrap();
    let stage = batch.stage();
    stage.write(100, "b", set("l", vec![0; 49])).unwrap();
    assert_eq!(
        stage.write(100, "b", set("m", "")),
        Err(KeyValueError::Quota {
            quota: 100,
            wanted: 101
        })
    );
    assert_eq!(stage.get("b", "m").unwrap(), None);
    stage.write(100, "b", vec![("k".to_owned(), None)]).unwrap();
    stage.write(100, "b", set("m", vec![0; 49])).unwrap();
}

#[tokio::test]
async fn batches_of_one_handler_take_turns_and_single_writes_wait_for_them() {
    let dir = tempfile::tempdir().unwrap();
    let values = open(dir.path());
    let first = values.batch("h").await.unwrap();
    let other = values.batch("other").await.unwrap();
    let mut write = Box::pin(values.write("h", QUOTA, "b", set("k", "single")));
    let waits = tokio::time::timeout(std::time::Duration::from_millis(20), &mut write).await;
    assert!(waits.is_err(), "the batch has the values to itself");
    drop((first, other));
    write.await.unwrap();
    values.batch("h").await.unwrap();
}

#[tokio::test]
async fn values_of_an_earlier_version_move_into_the_buffer_once() {
    let dir = tempfile::tempdir().unwrap();
    let old = dir.path().join("keyvalue");
    let config = BufferConfig {
        ballast_bytes: 0,
        ..BufferConfig::default()
    };
    {
        let opened = buffer::open(&old, &config).unwrap();
        let piece = |chunk: u8, bytes: Vec<u8>| {
            let key = [b"counter\0north\0count\0\0", &[chunk][..]].concat();
            (key, bytes)
        };
        let changes = Changes {
            notes: vec![piece(0, vec![1; MAX_NOTE_BYTES]), piece(1, vec![2])],
            ..Changes::default()
        };
        opened.store.commit(&changes, Durability::Durable).unwrap();
    }
    {
        let values = open(dir.path());
        let moved = values.get("counter", "north", "count").unwrap().unwrap();
        assert_eq!((moved.len(), moved.last()), (MAX_NOTE_BYTES + 1, Some(&2)));
        assert!(!old.exists(), "the old folder is gone");
        values
            .write("counter", QUOTA, "north", set("count", "5"))
            .await
            .unwrap();
    }
    let values = open(dir.path());
    let count = values.get("counter", "north", "count").unwrap();
    assert_eq!(count.unwrap(), "5");
}

#[tokio::test]
async fn a_copy_in_memory_leaves_the_original_as_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let values = open(dir.path());
    values.write("h", 100, "b", set("k", "1")).await.unwrap();
    let copy = values.copy_in_memory("h");
    assert_eq!(copy.increment("h", 100, "b", "k".into(), 1).await, Ok(2));
    copy.write("h", 100, "b", set("k", "9")).await.unwrap();
    let batch = copy.batch("h").await.unwrap();
    batch.stage().write(100, "b", set("k", "10")).unwrap();
    batch.committed();
    assert_eq!(copy.get("h", "b", "k").unwrap().unwrap(), "10");
    assert_eq!(values.get("h", "b", "k").unwrap().unwrap(), "1");
    assert!(KeyValue::in_memory().get("h", "b", "k").unwrap().is_none());
}
