use std::io::Write;

use fleet_api::frame::GapReason;
use serde::Serialize;

use super::place::{Place, folder_bytes};
use super::table::{bytes, number, range, table};
use super::walk::{Damage, GapRow, walk};
use super::{BufferCommandError, InspectArgs, Output};
use crate::buffer;
use crate::streams::Catalog;

#[derive(Debug, Serialize)]
struct Report {
    path: String,
    #[serde(flatten)]
    catalog: Catalog,
    open_ms: u64,
    disk_bytes: u64,
    live_bytes: u64,
    disk_ratio: Option<f64>,
    blobs: u64,
    quarantines: Vec<Quarantine>,
    contents: Vec<Contents>,
}

#[derive(Debug, Serialize)]
struct Quarantine {
    path: String,
    bytes: u64,
}

/// What reading all frames of a stream gave.
#[derive(Debug, Serialize)]
struct Contents {
    stream: String,
    frames: u64,
    records: u64,
    bytes: u64,
    gaps: Vec<GapRow>,
    damage: Vec<Damage>,
}

pub(super) fn run(args: &InspectArgs, out: &mut dyn Write) -> Result<(), BufferCommandError> {
    let place = Place::find(&args.dir)?;
    let started = std::time::Instant::now();
    let store = place.open()?;
    let open_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
    let catalog = place.catalog(store.as_ref())?;
    let mut contents = Vec::new();
    for stream in &catalog.streams {
        let read = walk(store.as_ref(), stream, 0, u64::MAX, |_| {
            Ok::<_, crate::buffer::BufferError>(())
        });
        let walked = read.map_err(|error| place.unreadable(error.to_string()))?;
        contents.push(Contents {
            stream: stream.name.clone(),
            frames: walked.frames,
            records: walked.records,
            bytes: walked.bytes,
            gaps: walked.gaps,
            damage: walked.damage,
        });
    }
    let disk_bytes = store.disk_bytes();
    let live_bytes = contents.iter().map(|c| c.bytes).sum();
    let report = Report {
        path: place.database.display().to_string(),
        open_ms,
        disk_bytes,
        live_bytes,
        disk_ratio: (live_bytes > 0).then(|| disk_bytes as f64 / live_bytes as f64),
        blobs: store.blobs(),
        quarantines: buffer::quarantines(&place.dir)
            .into_iter()
            .filter(|path| *path != place.database)
            .map(|path| Quarantine {
                bytes: folder_bytes(&path),
                path: path.display().to_string(),
            })
            .collect(),
        catalog,
        contents,
    };
    let text = match args.output {
        Output::Json => {
            let json = serde_json::to_string_pretty(&report).expect("only string keys");
            format!("{json}\n")
        }
        Output::Table => report.text(args.verify),
    };
    out.write_all(text.as_bytes())
        .map_err(BufferCommandError::io("write to", "standard output"))?;
    let damaged = report.contents.iter().map(|c| c.damage.len()).sum();
    if args.verify && damaged > 0 {
        return Err(BufferCommandError::Damaged(damaged));
    }
    Ok(())
}

impl Report {
    fn text(&self, verified: bool) -> String {
        let catalog = &self.catalog;
        let ratio = self.disk_ratio.map_or_else(String::new, |ratio| {
            format!(" for {} of records, {ratio:.1} : 1", bytes(self.live_bytes))
        });
        let mut text = format!(
            "buffer  {}\nformat  {}, epoch {}, opened in {} ms\ndisk    {}{ratio}\n",
            self.path,
            catalog.format,
            catalog.epoch,
            self.open_ms,
            bytes(self.disk_bytes),
        );
        if self.blobs > 0 {
            text += &format!(
                "alarm   {} values lie outside of the database's file; a power cut may lose them\n",
                self.blobs
            );
        }
        for aside in &self.quarantines {
            text += &format!("aside   {} ({})\n", aside.path, bytes(aside.bytes));
        }
        text.push('\n');
        let rows: Vec<_> = catalog
            .streams
            .iter()
            .zip(&self.contents)
            .map(|(stream, contents)| {
                vec![
                    stream.name.clone(),
                    number(stream.records),
                    bytes(stream.bytes),
                    number(stream.retained),
                    range(stream.low, stream.next - 1),
                    match stream.acked {
                        0 => "-".to_owned(),
                        acked => format!("up to {acked}"),
                    },
                    number(contents.gaps.len() as u64),
                    number(stream.evicted),
                    number(contents.damage.len() as u64),
                ]
            })
            .collect();
        if rows.is_empty() {
            text += "no streams\n";
        } else {
            text += &table(
                &[
                    "STREAM",
                    "WAITING",
                    "SIZE",
                    "RELEASED",
                    "SEQUENCES",
                    "ACKNOWLEDGED",
                    "GAPS",
                    "LOST",
                    "DAMAGED",
                ],
                &rows,
            );
        }
        let cursors: Vec<_> = catalog
            .cursors
            .iter()
            .map(|cursor| {
                vec![
                    cursor.processor.clone(),
                    cursor.stream.clone(),
                    format!("up to {}", cursor.upto),
                ]
            })
            .collect();
        if !cursors.is_empty() {
            text += &format!(
                "\n{}",
                table(&["PROCESSOR", "STREAM", "FINISHED"], &cursors)
            );
        }
        text + &self.gaps() + &self.damage(verified)
    }

    fn gaps(&self) -> String {
        let rows: Vec<_> = self
            .contents
            .iter()
            .flat_map(|contents| {
                contents.gaps.iter().map(|gap| {
                    vec![
                        contents.stream.clone(),
                        range(gap.first, gap.last),
                        number(gap.lost),
                        reason(gap.reason).to_owned(),
                    ]
                })
            })
            .collect();
        if rows.is_empty() {
            return String::new();
        }
        format!("\n{}", table(&["STREAM", "GAP", "LOST", "WHY"], &rows))
    }

    fn damage(&self, verified: bool) -> String {
        let rows: Vec<_> = self
            .contents
            .iter()
            .flat_map(|contents| {
                contents.damage.iter().map(|damage| {
                    vec![
                        contents.stream.clone(),
                        range(damage.first, damage.last),
                        damage.reason.clone(),
                    ]
                })
            })
            .collect();
        if !rows.is_empty() {
            return format!("\n{}", table(&["STREAM", "DAMAGED", "WHY"], &rows));
        }
        let frames: u64 = self.contents.iter().map(|c| c.frames).sum();
        if verified {
            format!("\nall {} frames are intact\n", number(frames))
        } else {
            String::new()
        }
    }
}

fn reason(reason: GapReason) -> &'static str {
    match reason {
        GapReason::Quota => "no room",
        GapReason::Expired => "too old",
        GapReason::Damaged => "damaged",
        GapReason::TooLarge => "too large for the broker",
    }
}
