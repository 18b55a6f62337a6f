use std::path::Path;
use std::sync::Arc;

use proptest::prelude::*;

use super::fault_store::FaultStore;
use super::*;

fn config() -> BufferConfig {
    BufferConfig {
        ballast_bytes: 0,
        ..BufferConfig::default()
    }
}

fn put(store: &dyn FrameStore, stream: StreamId, first: u64, bytes: Vec<u8>) {
    let changes = Changes {
        put: vec![(stream, first, bytes.into())],
        ..Changes::default()
    };
    store.commit(&changes, Durability::Durable).unwrap();
}

#[test]
fn a_frame_of_any_size_comes_back_whole() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path(), &config()).unwrap().store;
    let chunk = sled_store_chunk();
    for (first, size) in [1, chunk - 1, chunk, chunk + 1, 2 * chunk, 264_000]
        .into_iter()
        .enumerate()
    {
        let bytes: Vec<u8> = (0..size).map(|i| (i % 251) as u8).collect();
        put(store.as_ref(), 1, first as u64 + 1, bytes.clone());
        let stored = store.at_or_before(1, first as u64 + 1).unwrap().unwrap();
        assert_eq!(stored.bytes, bytes, "{size} bytes");
        let changes = Changes {
            remove: vec![(1, first as u64 + 1, size)],
            ..Changes::default()
        };
        store.commit(&changes, Durability::Lazy).unwrap();
        assert_eq!(store.at_or_before(1, u64::MAX).unwrap(), None);
    }
    let blobs = std::fs::read_dir(dir.path().join("sled/blobs")).unwrap();
    assert_eq!(blobs.count(), 0, "blobs are never synced");
}

fn sled_store_chunk() -> usize {
    super::sled_store::CHUNK_BYTES
}

#[test]
fn a_second_user_is_told_who_has_it() {
    let dir = tempfile::tempdir().unwrap();
    let first = open(dir.path(), &config()).unwrap();
    let Err(error) = open(dir.path(), &config()) else {
        panic!("opened twice");
    };
    assert!(matches!(error, BufferError::InUse { .. }), "{error}");
    let process = format!("process {}", std::process::id());
    assert!(error.to_string().contains(&process), "{error}");
    drop(first);
    open(dir.path(), &config()).unwrap();
}

#[test]
fn a_buffer_of_another_format_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let opened = open(dir.path(), &config()).unwrap();
    let changes = Changes {
        notes: vec![(b"format".to_vec(), b"9".to_vec())],
        ..Changes::default()
    };
    opened.store.commit(&changes, Durability::Durable).unwrap();
    drop(opened);
    let Err(error) = open(dir.path(), &config()) else {
        panic!("opened a foreign format");
    };
    assert!(matches!(error, BufferError::Format { .. }), "{error}");
}

#[test]
fn a_buffer_that_does_not_open_is_set_aside() {
    let dir = tempfile::tempdir().unwrap();
    let epoch = open(dir.path(), &config()).unwrap().epoch;
    std::fs::write(dir.path().join("sled/conf"), b"segment_size: x\n........").unwrap();
    let opened = open(dir.path(), &config()).unwrap();
    let (aside, _) = opened.quarantined.unwrap();
    assert!(aside.join("db").exists());
    assert_ne!(opened.epoch, epoch);
}

#[test]
fn an_unfinished_snapshot_does_not_stop_it() {
    let dir = tempfile::tempdir().unwrap();
    let opened = open(dir.path(), &config()).unwrap();
    put(opened.store.as_ref(), 1, 1, vec![7; 10]);
    let epoch = opened.epoch;
    drop(opened);
    let left = dir.path().join("sled/snap.00000000000000FF.generating");
    std::fs::write(&left, b"torn").unwrap();
    let opened = open(dir.path(), &config()).unwrap();
    assert_eq!(opened.epoch, epoch);
    assert!(opened.store.at_or_before(1, 1).unwrap().is_some());
    assert!(!left.exists());
}

fn numbered(store: &dyn FrameStore) -> Vec<u64> {
    let mut found = Vec::new();
    while let Some(next) = store.after(1, found.last().copied().unwrap_or(0)).unwrap() {
        assert_eq!(next.bytes, vec![next.first as u8; 9_000]);
        found.push(next.first);
    }
    found
}

#[test]
fn a_database_written_anew_has_the_same_content_in_less_space() {
    let dir = tempfile::tempdir().unwrap();
    let opened = open(dir.path(), &config()).unwrap();
    for first in 1..=600u64 {
        put(opened.store.as_ref(), 1, first, vec![first as u8; 9_000]);
        if first > 20 {
            let changes = Changes {
                remove: vec![(1, first - 20, 9_000)],
                ..Changes::default()
            };
            opened.store.commit(&changes, Durability::Lazy).unwrap();
        }
    }
    let (epoch, before) = (opened.epoch, opened.store.disk_bytes());
    drop(opened);
    let after = compact(dir.path(), &config()).unwrap();
    assert!(after < before, "{after} of {before}");
    let opened = open(dir.path(), &config()).unwrap();
    assert_eq!(opened.epoch, epoch);
    assert_eq!(
        numbered(opened.store.as_ref()),
        (581..=600).collect::<Vec<_>>()
    );
    assert!(!is_worth_compacting(60 << 20, 0));
    assert!(!is_worth_compacting(800 << 20, 200 << 20));
    assert!(is_worth_compacting(800 << 20, 80 << 20));
}

#[test]
fn a_crash_while_the_database_is_written_anew_leaves_it_whole() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let opened = open(dir.path(), &config()).unwrap();
    put(opened.store.as_ref(), 1, 7, vec![7; 9_000]);
    let epoch = opened.epoch;
    drop(opened);
    let whole = || {
        let opened = open(dir.path(), &config()).unwrap();
        assert_eq!(opened.epoch, epoch);
        assert_eq!(numbered(opened.store.as_ref()), [7]);
        drop(opened);
        assert!(!at("sled.next").exists() && !at("sled.old").exists());
    };
    // While it is copied.
    std::fs::create_dir(at("sled.next")).unwrap();
    std::fs::write(at("sled.next/db"), b"half").unwrap();
    whole();
    // The old one is moved, the new one not yet.
    copy_folder(&at("sled"), &at("sled.next"));
    std::fs::rename(at("sled"), at("sled.old")).unwrap();
    whole();
    // Both are moved.
    copy_folder(&at("sled"), &at("sled.old"));
    whole();
}

fn copy_folder(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let target = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copy_folder(&path, &target);
        } else {
            std::fs::copy(path, target).unwrap();
        }
    }
}

#[derive(Debug, Clone)]
enum Action {
    Put(StreamId, u64, usize),
    Remove(StreamId, u64),
    Note(u8, u8),
    Reopen,
}

fn action() -> impl Strategy<Value = Action> {
    let size = prop_oneof![4 => 0..300usize, 1 => 5_900..6_200usize, 1 => 11_900..30_000usize];
    prop_oneof![
        6 => (1..3u32, 1..40u64, size).prop_map(|(stream, first, size)| Action::Put(stream, first, size)),
        3 => (1..3u32, 1..40u64).prop_map(|(stream, first)| Action::Remove(stream, first)),
        1 => (0..4u8, any::<u8>()).prop_map(|(key, value)| Action::Note(key, value)),
        1 => Just(Action::Reopen),
    ]
}

fn size_of(store: &dyn FrameStore, stream: StreamId, first: u64) -> Option<usize> {
    let stored = store.at_or_before(stream, first).unwrap()?;
    (stored.first == first).then(|| stored.bytes.len())
}

fn compare(store: &dyn FrameStore, model: &dyn FrameStore) {
    for stream in 0..4 {
        for seq in 0..42 {
            assert_eq!(
                store.at_or_before(stream, seq).unwrap(),
                model.at_or_before(stream, seq).unwrap()
            );
            assert_eq!(
                store.after(stream, seq).unwrap(),
                model.after(stream, seq).unwrap()
            );
        }
    }
    assert_eq!(store.notes(b"k").unwrap(), model.notes(b"k").unwrap());
}

fn reopen(path: &Path, store: Arc<dyn FrameStore>) -> Arc<dyn FrameStore> {
    drop(store);
    let opened = open(path, &config()).unwrap();
    assert!(opened.quarantined.is_none());
    opened.store
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]
    #[test]
    fn the_store_behaves_like_its_model(groups in prop::collection::vec(prop::collection::vec(action(), 1..6), 1..25)) {
        let dir = tempfile::tempdir().unwrap();
        let mut store = open(dir.path(), &config()).unwrap().store;
        let model = FaultStore::default();
        for group in groups {
            let mut changes = Changes::default();
            let mut restart = false;
            for action in group {
                match action {
                    Action::Put(stream, first, size) => {
                        // A frame's key is put once; what is there is removed first.
                        if changes.put.iter().any(|(s, f, _)| (*s, *f) == (stream, first)) {
                            continue;
                        }
                        if let Some(old) = size_of(&model, stream, first) {
                            changes.remove.push((stream, first, old));
                        }
                        let bytes: Vec<u8> = (0..size).map(|i| (i as u64 * first) as u8).collect();
                        changes.put.push((stream, first, bytes.into()));
                    }
                    Action::Remove(stream, first) => {
                        if let Some(old) = size_of(&model, stream, first) {
                            changes.remove.push((stream, first, old));
                        }
                    }
                    Action::Note(key, value) => changes.notes.push((vec![b'k', key], vec![value])),
                    Action::Reopen => restart = true,
                }
            }
            store.commit(&changes, Durability::Durable).unwrap();
            model.commit(&changes, Durability::Durable).unwrap();
            if restart {
                store = reopen(dir.path(), store);
            }
            compare(store.as_ref(), &model);
        }
    }
}
