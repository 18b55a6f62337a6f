use fleet_api::frame::{Body, Gap};
use serde::Serialize;

use crate::buffer::{BufferError, FrameStore};
use crate::streams::{CatalogStream, Found, OutFrame, look};

/// A place of a stream that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Damage {
    pub first: u64,
    pub last: u64,
    pub reason: String,
}

/// Records that the node gave up, as a gap frame says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct GapRow {
    pub first: u64,
    pub last: u64,
    pub lost: u64,
    pub reason: fleet_api::frame::GapReason,
}

impl GapRow {
    pub(super) fn new(first: u64, gap: &Gap) -> Self {
        Self {
            first,
            last: gap.last,
            lost: gap.lost,
            reason: gap.reason,
        }
    }
}

/// What was found on the way through a stream.
#[derive(Debug, Default)]
pub(super) struct Walked {
    pub frames: u64,
    pub records: u64,
    pub bytes: u64,
    pub gaps: Vec<GapRow>,
    pub damage: Vec<Damage>,
}

/// Goes through `stream` from `from` to `to`, inclusive, and hands every intact frame over.
pub(super) fn walk<E: From<BufferError>>(
    store: &dyn FrameStore,
    stream: &CatalogStream,
    from: u64,
    to: u64,
    mut frame: impl FnMut(&OutFrame) -> Result<(), E>,
) -> Result<Walked, E> {
    let mut walked = Walked::default();
    let mut at = from.max(stream.low);
    let end = stream.next.min(to.saturating_add(1));
    while at < end {
        let (until, reason) = match look(store, &stream.name, stream.id, at)? {
            Found::Frame(out) => {
                walked.frames += 1;
                walked.bytes += out.bytes.len() as u64;
                match &out.frame.body {
                    Body::Records(records) => walked.records += records.len() as u64,
                    Body::Gap(gap) => walked.gaps.push(GapRow::new(out.first, gap)),
                }
                frame(&out)?;
                at = out.last + 1;
                continue;
            }
            Found::Damaged { reason, .. } => {
                let after = store.after(stream.id, at)?;
                (after.map(|next| next.first), reason)
            }
            Found::Hole { until } => (until, "frames are missing".to_owned()),
        };
        let last = until.unwrap_or(stream.next).min(end).max(at + 1) - 1;
        let first = at;
        walked.damage.push(Damage {
            first,
            last,
            reason,
        });
        at = last + 1;
    }
    Ok(walked)
}
