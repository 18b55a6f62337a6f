use super::*;

const QUOTA: u64 = 1 << 20;

fn set(key: &str, value: impl Into<Bytes>) -> Vec<(String, Option<Bytes>)> {
    vec![(key.to_owned(), Some(value.into()))]
}

#[tokio::test]
async fn values_outlive_the_process_and_belong_to_their_handler() {
    let dir = tempfile::tempdir().unwrap();
    let large = Bytes::from(vec![7; 3 * MAX_NOTE_BYTES + 5]);
    {
        let values = KeyValue::open(dir.path()).unwrap();
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
    let values = KeyValue::open(dir.path()).unwrap();
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
        let values = KeyValue::open(dir.path()).unwrap();
        values
            .write("h", 100, "b", set("k", vec![0; 99]))
            .await
            .unwrap();
    }
    let values = KeyValue::open(dir.path()).unwrap();
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
    let values = KeyValue::open(dir.path()).unwrap();
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
    let values = KeyValue::open(dir.path()).unwrap();
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
