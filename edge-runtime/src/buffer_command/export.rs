use std::io::Write;

use fleet_api::frame::Body;

use super::place::Place;
use super::walk::walk;
use super::{BufferCommandError, ExportArgs, ExportFormat};
use crate::streams::{OutFrame, Row};

pub(super) fn run(args: &ExportArgs, out: &mut dyn Write) -> Result<(), BufferCommandError> {
    let place = Place::find(&args.dir)?;
    let store = place.open()?;
    let catalog = place.catalog(store.as_ref())?;
    let name = args.stream.as_str();
    let Some(stream) = catalog.streams.iter().find(|s| s.name == name) else {
        let known: Vec<_> = catalog.streams.iter().map(|s| s.name.as_str()).collect();
        return Err(BufferCommandError::NoStream {
            stream: name.to_owned(),
            known: if known.is_empty() {
                "none".to_owned()
            } else {
                known.join(", ")
            },
        });
    };
    let (from, to) = (args.from.unwrap_or(0), args.to.unwrap_or(u64::MAX));
    let mut out = std::io::BufWriter::new(out);
    let walked = walk(store.as_ref(), stream, from, to, |frame| {
        write_frame(&mut out, frame, args.format, from, to)
            .map_err(BufferCommandError::io("write to", "standard output"))
    })?;
    out.flush()
        .map_err(BufferCommandError::io("write to", "standard output"))?;
    for gap in &walked.gaps {
        eprintln!(
            "gap: {} to {}, {} records lost",
            gap.first, gap.last, gap.lost
        );
    }
    match walked.damage.len() {
        0 => Ok(()),
        damaged => Err(BufferCommandError::Damaged(damaged)),
    }
}

/// Writes the records from `from` to `to` of a frame, or the whole frame.
pub(super) fn write_frame(
    out: &mut dyn Write,
    frame: &OutFrame,
    format: ExportFormat,
    from: u64,
    to: u64,
) -> std::io::Result<()> {
    match (format, &frame.frame.body) {
        (ExportFormat::Frames, _) => out.write_all(&frame.bytes),
        (ExportFormat::Ndjson, Body::Gap(_)) => Ok(()),
        (ExportFormat::Ndjson, Body::Records(records)) => {
            for (seq, record) in (frame.first..).zip(records) {
                if (from..=to).contains(&seq) {
                    let record = record.clone();
                    let row = Row { seq, record };
                    writeln!(out, "{}", row.to_json())?;
                }
            }
            Ok(())
        }
    }
}
