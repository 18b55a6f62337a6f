use fleet_api::frame::GapReason;

use super::*;

/// Fills a buffer, closes it, and says which file holds the data.
async fn filled(dir: &Path, records: u64) -> (u64, std::path::PathBuf) {
    let streams = open_with(dir, &[spec("a")]);
    let mut at = 1;
    while at <= records {
        streams.append("a", batch(at..=at + 19, 300)).await.unwrap();
        at += 20;
    }
    let epoch = streams.epoch();
    streams.close();
    (epoch, dir.join("sled/db"))
}

/// No panic gets out, no record is wrong, and every missing one is in a gap or
/// the whole buffer was set aside under a new epoch.
async fn is_lost_loudly(dir: &Path, epoch: u64, records: u64) -> &'static str {
    for _ in 0..3 {
        let streams = match Streams::open(dir, config()) {
            Ok(streams) => streams,
            Err(BufferError::Failed(_) | BufferError::Damaged { .. }) => continue,
            Err(error) => panic!("{error}"),
        };
        streams.configure(&[spec("a")]);
        if streams.epoch() != epoch {
            streams.close();
            return "set aside";
        }
        let mut seen = std::collections::BTreeMap::new();
        let mut gaps = Vec::new();
        let mut at = 1;
        let readable = loop {
            match streams.frames("a", at, 100).await {
                Ok(frames) => {
                    let Some(last) = frames.last() else {
                        break true;
                    };
                    at = last.last + 1;
                    for out in frames {
                        match out.frame.body {
                            Body::Records(list) => {
                                seen.extend((out.first..).zip(list.into_iter().map(|r| r.value)));
                            }
                            Body::Gap(gap) => gaps.push(out.first..=gap.last),
                        }
                    }
                }
                // It is set aside at the next start.
                Err(AppendError::Buffer(_)) => break false,
                Err(AppendError::Unknown { .. }) => panic!("the stream is gone silently"),
                Err(error) => panic!("{error}"),
            }
        };
        if !readable {
            streams.close();
            continue;
        }
        for (seq, bytes) in &seen {
            assert_eq!(bytes, &value(*seq, 300), "record {seq} is wrong");
        }
        for seq in 1..=records {
            let named = gaps.iter().any(|gap| gap.contains(&seq));
            assert!(seen.contains_key(&seq) || named, "{seq} is lost silently");
        }
        let next = streams.append("a", batch(1..=1, 10)).await;
        if let Ok(next) = next {
            assert!(next.first_seq > records, "{} is used twice", next.first_seq);
        }
        streams.close();
        return if gaps.is_empty() { "harmless" } else { "gap" };
    }
    panic!("three starts were not enough");
}

#[tokio::test]
async fn a_flipped_bit_never_loses_records_silently() {
    let mut outcomes = std::collections::BTreeMap::<_, u32>::new();
    let dir = tempfile::tempdir().unwrap();
    let pristine = dir.path().join("pristine");
    let (epoch, _) = filled(&pristine, 2_000).await;
    let length = std::fs::metadata(pristine.join("sled/db")).unwrap().len();
    for round in 0..40u64 {
        let copy = dir.path().join(format!("copy-{round}"));
        copy_folder(&pristine, &copy);
        let db = copy.join("sled/db");
        let mut bytes = std::fs::read(&db).unwrap();
        let at = (length / 40 * round + round * 37) as usize % bytes.len();
        bytes[at] ^= 1 << (round % 8);
        std::fs::write(&db, bytes).unwrap();
        *outcomes
            .entry(is_lost_loudly(&copy, epoch, 2_000).await)
            .or_default() += 1;
        std::fs::remove_dir_all(&copy).unwrap();
    }
    println!("{outcomes:?}");
    assert!(
        outcomes.keys().any(|outcome| *outcome != "harmless"),
        "{outcomes:?}"
    );
}

#[tokio::test]
async fn a_cut_off_file_never_loses_records_silently() {
    let mut outcomes = std::collections::BTreeMap::<_, u32>::new();
    let dir = tempfile::tempdir().unwrap();
    let pristine = dir.path().join("pristine");
    let (epoch, _) = filled(&pristine, 2_000).await;
    let length = std::fs::metadata(pristine.join("sled/db")).unwrap().len();
    for round in 1..20u64 {
        let copy = dir.path().join(format!("copy-{round}"));
        copy_folder(&pristine, &copy);
        let db = std::fs::File::options()
            .write(true)
            .open(copy.join("sled/db"))
            .unwrap();
        db.set_len(length / 20 * round + round * 101).unwrap();
        *outcomes
            .entry(is_lost_loudly(&copy, epoch, 2_000).await)
            .or_default() += 1;
        std::fs::remove_dir_all(&copy).unwrap();
    }
    println!("{outcomes:?}");
    assert!(
        outcomes.keys().any(|outcome| *outcome != "harmless"),
        "{outcomes:?}"
    );
}

#[tokio::test]
async fn a_frame_that_is_missing_or_changed_in_the_store_becomes_a_gap() {
    let dir = tempfile::tempdir().unwrap();
    let streams = open_with(dir.path(), &[spec("a")]);
    for n in 1..=5 {
        streams.append("a", batch(n..=n, 5_900)).await.unwrap();
    }
    let store = Arc::clone(&streams.inner.shared.store);
    let second = store.at_or_before(1, 2).unwrap().unwrap();
    let fourth = store.at_or_before(1, 4).unwrap().unwrap();
    let mut changed = fourth.bytes.to_vec();
    changed[2_000] ^= 1;
    let changes = crate::buffer::Changes {
        remove: vec![(1, 2, second.bytes.len())],
        put: vec![(1, 4, changed.into())],
        ..crate::buffer::Changes::default()
    };
    store
        .commit(&changes, crate::buffer::Durability::Durable)
        .unwrap();
    let (records, gaps) = everything(&streams, "a").await;
    let left: Vec<_> = records.iter().map(|r| r.0).collect();
    assert_eq!(left, [1, 3, 5]);
    let gap = |last| Gap {
        last,
        reason: GapReason::Damaged,
        lost: 1,
    };
    assert_eq!(gaps, [(2, gap(2)), (4, gap(4))]);
    assert_eq!(health(&streams, "a").depth, 3);
}

fn copy_folder(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_folder(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

#[tokio::test]
async fn what_went_with_a_damaged_buffer_is_named_in_the_new_epoch() {
    let dir = tempfile::tempdir().unwrap();
    let streams = open_with(dir.path(), &[spec("a"), spec("b")]);
    streams.append("a", batch(1..=40, 300)).await.unwrap();
    streams.append("b", batch(1..=5, 300)).await.unwrap();
    streams.release("a", streams.epoch(), 15).await;
    streams.release("b", streams.epoch(), 5).await;
    let epoch = streams.epoch();
    streams.close();
    drop(streams);
    std::fs::write(dir.path().join("sled/conf"), b"segment_size: x\n........").unwrap();

    let streams = open_with(dir.path(), &[spec("a"), spec("b")]);
    assert_ne!(streams.epoch(), epoch);
    let events = streams.events().waiting();
    let told: Vec<_> = events
        .iter()
        .map(|event| (event.kind.as_str(), event.stream.as_deref()))
        .collect();
    assert_eq!(
        told,
        [("quarantine", None), ("gap", Some("a"))],
        "nothing of b was lost"
    );
    assert!(events[1].text.contains("records 16 to 40 of epoch"));
    assert_eq!(streams.buffer_health().quarantines, 1);
    let (records, gaps) = everything(&streams, "a").await;
    let gap = Gap {
        last: 1,
        reason: GapReason::Damaged,
        lost: 25,
    };
    assert_eq!((records.len(), gaps), (0, vec![(1, gap)]));
    let next = streams.append("a", batch(1..=1, 300)).await.unwrap();
    assert_eq!(next.first_seq, 2);
    streams.close();
    drop(streams);

    let streams = open_with(dir.path(), &[spec("a")]);
    assert!(streams.events().waiting().is_empty(), "it is told once");
    assert_eq!(everything(&streams, "a").await.1.len(), 1);
}
