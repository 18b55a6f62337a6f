use std::path::Path;
use std::sync::Arc;

use fleet_api::event::EventKind;
use fleet_api::frame::{Body, Gap, GapReason};

use super::catalog::Catalog;
use super::checked::Checked;
use super::group::{GAP_BYTES, encode_gap};
use super::read::{Found, look};
use super::state::{
    CURSOR_NOTES, Cursors, Head, Published, STREAM_NOTES, Shared, States, StreamNote, StreamState,
    stream_note,
};
use crate::buffer::{
    self, Bounds, BufferConfig, BufferError, Changes, Durability, FrameStore, Opened,
};

/// Numbers that are skipped after a lost tail, for what was appended after the
/// bounds were last written: more than a node appends in that time.
const SKIP: u64 = 1 << 20;

/// What people should hear of the opening.
type Told = Vec<(EventKind, Option<String>, String)>;

/// Opens the buffer.
pub(super) fn open(dir: &Path, config: &BufferConfig) -> Result<Opened, BufferError> {
    let opened = buffer::open(dir, config)?;
    let before = opened.store.disk_bytes();
    // Notes are few, unless handlers keep much.
    let live = |store: &dyn FrameStore| -> Result<u64, BufferError> {
        let streams = Catalog::read(store)?.streams;
        let frames: u64 = streams.iter().map(|s| s.bytes + s.retained_bytes).sum();
        let notes = store.notes(b"")?;
        let notes: usize = notes.iter().map(|(key, note)| key.len() + note.len()).sum();
        Ok(frames + notes as u64)
    };
    if !buffer::is_worth_compacting(before, 0) {
        return Ok(opened);
    }
    match live(opened.store.as_ref()) {
        Ok(live) if buffer::is_worth_compacting(before, live) => {}
        _ => return Ok(opened),
    }
    let quarantined = opened.quarantined.clone();
    drop(opened);
    match buffer::compact(dir, config) {
        Ok(after) => tracing::info!(before, after, "wrote the buffer's database anew"),
        Err(error) => tracing::warn!(%error, "cannot write the buffer's database anew"),
    }
    let mut opened = buffer::open(dir, config)?;
    opened.quarantined = quarantined.or(opened.quarantined);
    Ok(opened)
}

/// Reads the streams' states; no frame but the oldest of each stream is read.
pub(super) fn read(
    dir: &Path,
    opened: Opened,
    disk_limit: u64,
) -> Result<(Arc<Shared>, States), BufferError> {
    let mut told = Told::new();
    if let Some((path, reason)) = &opened.quarantined {
        tracing::error!(
            path = %path.display(), reason, epoch = opened.epoch,
            "the buffer was damaged and has been set aside; what it held is lost unless recovered from there"
        );
        let text = format!(
            "the buffer was damaged ({reason}) and lies in {}",
            path.display()
        );
        told.push((EventKind::Quarantine, None, text));
    }
    let store = Arc::clone(&opened.store);
    let damaged = |what: &str| BufferError::Damaged {
        path: dir.to_owned(),
        reason: format!("{what} cannot be read"),
    };

    let mut states = States::new();
    for (key, value) in store.notes(STREAM_NOTES)? {
        let name = String::from_utf8(key[STREAM_NOTES.len()..].to_vec())
            .map_err(|_| damaged("a stream's name"))?;
        let note: StreamNote =
            serde_json::from_slice(&value).map_err(|_| damaged("a stream's state"))?;
        let mut state = note.state;
        state.id = note.id;
        states.insert(name, state);
    }
    let mut cursors = Cursors::new();
    for (key, value) in store.notes(CURSOR_NOTES)? {
        let cursor = || {
            let key = std::str::from_utf8(&key[CURSOR_NOTES.len()..]).ok()?;
            let (processor, stream) = key.split_once('/')?;
            let at = std::str::from_utf8(&value).ok()?.parse().ok()?;
            Some(((processor.to_owned(), stream.to_owned()), at))
        };
        let (key, at) = cursor().ok_or_else(|| damaged("a processor's cursor"))?;
        cursors.insert(key, at);
    }
    match Bounds::load(dir) {
        Some(bounds) if bounds.epoch == opened.epoch => {
            skip_lost_tails(store.as_ref(), &bounds, &mut states, &mut told)?;
        }
        Some(bounds) => {
            let epoch = opened.epoch;
            tell_of_lost_epoch(store.as_ref(), epoch, &bounds, &mut states, &mut told)?;
        }
        None => {}
    }
    for (name, state) in &mut states {
        state.released = state.released.clamp(state.low, state.next);
        state.oldest = oldest(store.as_ref(), None, name, state)?;
    }

    let published = Published {
        states: states.clone(),
        cursors,
    };
    let shared = Shared::new(dir.to_owned(), opened, disk_limit, published);
    for (kind, stream, text) in told {
        shared.events.note(kind, stream.as_deref(), text);
    }
    Ok((Arc::new(shared), states))
}

/// Where records went with an earlier database, the stream's new epoch starts with a gap, so
/// that the receiver learns how many it will never get.
fn tell_of_lost_epoch(
    store: &dyn FrameStore,
    epoch: u64,
    bounds: &Bounds,
    states: &mut States,
    told: &mut Told,
) -> Result<(), BufferError> {
    let mut changes = Changes::default();
    for (name, &next) in &bounds.next {
        let acked = bounds.acked.get(name).copied().unwrap_or(0);
        let lost = next.saturating_sub(acked + 1);
        let id = states.values().map(|s| s.id).max().unwrap_or(0) + 1;
        let state = states
            .entry(name.clone())
            .or_insert_with(|| StreamState::new(id));
        if lost == 0 || state.next > 1 {
            continue;
        }
        tracing::error!(stream = %name, lost, epoch = bounds.epoch, "records of an earlier epoch are gone");
        let gap = Gap {
            last: 1,
            reason: GapReason::Damaged,
            lost,
        };
        changes
            .put
            .push((state.id, 1, encode_gap(epoch, name, 1, gap)));
        state.bytes += GAP_BYTES;
        state.evicted += lost;
        state.next = 2;
        changes.notes.push(stream_note(name, state));
        let text = format!(
            "records {} to {} of epoch {} are lost, the receiver had not acknowledged them",
            acked + 1,
            next - 1,
            bounds.epoch
        );
        told.push((EventKind::Gap, Some(name.clone()), text));
    }
    if changes.is_empty() {
        return Ok(());
    }
    store.commit(&changes, Durability::Durable)
}

/// Where the store is shorter than it was, its numbers may be known elsewhere:
/// a gap takes their place.
fn skip_lost_tails(
    store: &dyn FrameStore,
    bounds: &Bounds,
    states: &mut States,
    told: &mut Told,
) -> Result<(), BufferError> {
    let mut changes = Changes::default();
    for (name, &next) in &bounds.next {
        let id = states.values().map(|s| s.id).max().unwrap_or(0) + 1;
        let state = states
            .entry(name.clone())
            .or_insert_with(|| StreamState::new(id));
        if next <= state.next {
            continue;
        }
        let lost = next - state.next;
        tracing::error!(
            stream = %name, lost,
            "the buffer came back without its newest records: skipping their numbers"
        );
        let gap = Gap {
            last: next.saturating_add(SKIP),
            reason: GapReason::Damaged,
            lost,
        };
        let frame = encode_gap(bounds.epoch, name, state.next, gap);
        changes.put.push((state.id, state.next, frame));
        let text = format!(
            "the newest {lost} records or more are lost, from {} on",
            state.next
        );
        told.push((EventKind::Gap, Some(name.clone()), text));
        state.bytes += GAP_BYTES;
        state.evicted += lost;
        state.next = gap.last + 1;
        changes.notes.push(stream_note(name, state));
    }
    if changes.is_empty() {
        return Ok(());
    }
    store.commit(&changes, Durability::Durable)
}

/// The oldest record that is not released, unless the place is damaged.
pub(super) fn oldest(
    store: &dyn FrameStore,
    checked: Option<&Checked>,
    name: &str,
    state: &StreamState,
) -> Result<Option<Head>, BufferError> {
    let mut at = state.released;
    let known = state
        .oldest
        .filter(|head| (at..state.next).contains(&head.at));
    if known.is_some() {
        return Ok(known);
    }
    // At most one gap lies at the head.
    for _ in 0..2 {
        if at >= state.next {
            return Ok(None);
        }
        if let Some(size) = checked.and_then(|checked| checked.get(state.id, at)) {
            let time_ms = Some(size.time_ms);
            return Ok(Some(Head { at, time_ms }));
        }
        match look(store, name, state.id, at)? {
            Found::Frame(out) => match &out.frame.body {
                Body::Records(records) => {
                    let time_ms = records.first().map(|record| record.time_ms);
                    return Ok(Some(Head {
                        at: out.first,
                        time_ms,
                    }));
                }
                Body::Gap(gap) => at = gap.last + 1,
            },
            Found::Damaged { .. } | Found::Hole { .. } => return Ok(None),
        }
    }
    Ok(None)
}
