//! How values lie in the buffer: `value/ handler 0 bucket 0 key 0 chunk u16` →
//! a piece of the value.

use bytes::{Bytes, BytesMut};

use super::Place;
use crate::buffer::{BufferError, MAX_NOTE_BYTES};
use crate::streams::{Notes, Streams};

/// What the keys of all values begin with.
pub(super) const PREFIX: &[u8] = b"value/";

/// A value's place: its handler, then bucket and key.
type Loaded = (String, Place, Bytes);

/// Replaces a value of `old_bytes` by `value`.
pub(super) fn put(
    notes: &mut Notes,
    handler: &str,
    place: &Place,
    old_bytes: usize,
    value: Option<&[u8]>,
) {
    let new = value.map_or(0, |value| chunks(value.len()));
    for chunk in new..chunks(old_bytes) {
        notes.insert(note_key(handler, place, chunk), None);
    }
    let Some(value) = value else { return };
    for chunk in 0..new {
        let start = usize::from(chunk) * MAX_NOTE_BYTES;
        let end = value.len().min(start + MAX_NOTE_BYTES);
        let piece = value[start..end].to_vec();
        notes.insert(note_key(handler, place, chunk), Some(piece));
    }
}

/// An empty value has one piece too, so that it is there.
fn chunks(bytes: usize) -> u16 {
    let chunks = bytes.div_ceil(MAX_NOTE_BYTES).max(1);
    u16::try_from(chunks).unwrap_or(u16::MAX)
}

fn note_key(handler: &str, (bucket, key): &Place, chunk: u16) -> Vec<u8> {
    let parts = handler.len() + bucket.len() + key.len();
    let mut note = Vec::with_capacity(PREFIX.len() + parts + 5);
    note.extend_from_slice(PREFIX);
    for part in [handler, bucket, key] {
        note.extend_from_slice(part.as_bytes());
        note.push(0);
    }
    note.extend_from_slice(&chunk.to_be_bytes());
    note
}

/// All values; the pieces of a value come one after the other.
pub(super) fn load(streams: &Streams) -> Result<Vec<Loaded>, BufferError> {
    let mut loaded: Vec<(String, Place, BytesMut)> = Vec::new();
    for (note, piece) in streams.notes(PREFIX)? {
        let Some((handler, place)) = parse(&note[PREFIX.len()..]) else {
            continue;
        };
        match loaded.last_mut() {
            Some((h, p, value)) if *h == handler && *p == place => value.extend_from_slice(&piece),
            _ => loaded.push((handler, place, BytesMut::from(&piece[..]))),
        }
    }
    let frozen = loaded
        .into_iter()
        .map(|(h, p, value)| (h, p, value.freeze()));
    Ok(frozen.collect())
}

/// Handler, bucket and key of a note without [`PREFIX`]; none if it is another's.
pub(super) fn parse(note: &[u8]) -> Option<(String, Place)> {
    let named = note
        .get(..note.len().checked_sub(2)?)?
        .strip_suffix(b"\0")?;
    let mut parts = std::str::from_utf8(named)
        .ok()?
        .splitn(3, '\0')
        .map(str::to_owned);
    Some((parts.next()?, (parts.next()?, parts.next()?)))
}
