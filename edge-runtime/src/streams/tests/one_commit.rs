use std::collections::BTreeMap;

use super::super::group::{Group, Refusal};
use super::super::state::{Cursors, States};
use super::*;
use crate::buffer::fault_store::FaultStore;

fn key(text: &str) -> Vec<u8> {
    text.as_bytes().to_vec()
}

#[test]
fn cursor_outputs_and_values_of_a_batch_are_one_change_of_the_store() {
    let store = FaultStore::default();
    let specs = BTreeMap::from(["raw", "out"].map(|name| (name.to_owned(), spec(name))));
    let (mut states, mut cursors) = (States::new(), Cursors::new());
    let mut group = Group::new(&store, 1, &specs, &mut states, &mut cursors, 0);
    let records = checked(batch(1..=3, 10)).unwrap();
    group.append("raw", &records).unwrap();
    let outputs = [("out".to_owned(), records)];
    group.process("p", "raw", 3, &outputs).unwrap();
    group.note(Notes::from([
        (key("value/kept"), Some(key("1"))),
        (key("value/gone"), Some(key("2"))),
    ]));
    // The last change counts, also of commands that share a commit.
    group.note(Notes::from([
        (key("value/kept"), Some(key("3"))),
        (key("value/gone"), None),
    ]));
    let planned = group.finish();
    let changes = planned.changes;
    assert!(planned.durable);
    assert_eq!(changes.put.len(), 2, "frames of input and output");
    let note = |name: &str| {
        let notes = changes.notes.iter();
        let values = notes.filter(|(k, _)| *k == key(name));
        values.map(|(_, v)| v.clone()).collect::<Vec<_>>()
    };
    assert_eq!(note("cursor/p/raw"), [key("3")]);
    assert_eq!(note("value/kept"), [key("3")]);
    assert!(note("value/gone").is_empty());
    assert_eq!(changes.forget, [key("value/gone")]);
}

#[test]
fn outputs_that_find_no_room_leave_the_cursor_where_it_was() {
    let store = FaultStore::default();
    let specs = BTreeMap::from([
        ("raw".to_owned(), spec("raw")),
        ("out".to_owned(), limited("out", 600, OnFull::Reject)),
    ]);
    let (mut states, mut cursors) = (States::new(), Cursors::new());
    let mut group = Group::new(&store, 1, &specs, &mut states, &mut cursors, 0);
    let records = checked(batch(1..=2, 200)).unwrap();
    group.append("out", &records).unwrap();
    let outputs = [("out".to_owned(), records)];
    let refused = group.process("p", "raw", 2, &outputs).unwrap_err();
    assert!(
        matches!(refused, Refusal::Append(AppendError::Full { .. })),
        "{refused:?}"
    );
    let planned = group.finish();
    assert!(cursors.is_empty());
    let cursor = planned.changes.notes.iter();
    assert!(!cursor.clone().any(|(key, _)| key.starts_with(b"cursor/")));
}
