use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use bytes::Bytes;
use fleet_api::frame::{Frame, HEADER_BYTES, Header, MAX_FRAME_BYTES};

use crate::streams::OutFrame;

/// Bytes that are read at a time.
const WINDOW: usize = 4 << 20;
/// How a frame starts: magic and version.
const START: &[u8] = b"EF\x01";

/// What the bytes of a database's file gave.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Scanned {
    /// Places that look like a frame and are intact for none of the names: cut in pieces,
    /// overwritten, or of another stream.
    pub unknown: u64,
}

/// Searches a file for intact frames of the streams in `names`, whatever lies around them. A
/// frame may come several times, and frames that were removed long ago may come too.
///
/// # Errors
/// The system's reason.
pub(super) fn scan(
    file: &Path,
    names: &[String],
    mut found: impl FnMut(&str, OutFrame) -> std::io::Result<()>,
) -> std::io::Result<Scanned> {
    let finder = memchr::memmem::Finder::new(START);
    let mut file = File::open(file)?;
    let mut scanned = Scanned::default();
    let mut window = Vec::new();
    loop {
        let before = window.len();
        (&mut file).take(WINDOW as u64).read_to_end(&mut window)?;
        let is_last = window.len() == before;
        // A frame that starts behind this may not be there to its end.
        let safe = if is_last {
            window.len()
        } else {
            window.len().saturating_sub(MAX_FRAME_BYTES)
        };
        let bytes = Bytes::copy_from_slice(&window);
        let mut at = 0;
        while let Some(start) = finder.find(&bytes[at..]).map(|offset| at + offset) {
            if start >= safe {
                break;
            }
            at = start + 1;
            let Ok(header) = Header::peek(&bytes[start..]) else {
                continue;
            };
            let end = start + header.frame_bytes;
            let intact = (header.frame_bytes > HEADER_BYTES && end <= bytes.len())
                .then(|| bytes.slice(start..end))
                .and_then(|frame| intact(&frame, names));
            match intact {
                Some((name, out)) => {
                    found(name, out)?;
                    at = end;
                }
                None => scanned.unknown += 1,
            }
        }
        if is_last {
            return Ok(scanned);
        }
        window.drain(..safe.max(at.min(window.len())));
    }
}

fn intact<'a>(bytes: &Bytes, names: &'a [String]) -> Option<(&'a str, OutFrame)> {
    names.iter().find_map(|name| {
        // A copy, so that a small frame does not keep the whole window.
        let bytes = Bytes::copy_from_slice(bytes);
        let frame = Frame::decode(name, &bytes).ok()?;
        let out = OutFrame {
            first: frame.first,
            last: frame.last(),
            bytes,
            frame,
        };
        Some((name.as_str(), out))
    })
}
