use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufWriter, Write};
use std::path::Path;

use fleet_api::frame::Body;
use serde::Serialize;

use super::export::write_frame;
use super::place::Place;
use super::raw;
use super::table::{bytes, number, range, table};
use super::walk::walk;
use super::{BufferCommandError, ExportFormat, Output, SalvageArgs};
use crate::buffer::{Bounds, BufferError};
use crate::streams::{Catalog, OutFrame};

/// Frames by stream and epoch, then by first sequence.
type Frames = BTreeMap<(String, u64), BTreeMap<u64, OutFrame>>;

#[derive(Debug, Serialize)]
struct Report {
    path: String,
    /// Why the database could not be read as one; then its bytes were searched.
    unreadable: Option<String>,
    /// Places in its bytes that look like frames and are intact for no known stream.
    unknown: u64,
    streams: Vec<Saved>,
}

#[derive(Debug, Serialize)]
struct Saved {
    stream: String,
    epoch: u64,
    records: u64,
    bytes: u64,
    first: u64,
    last: u64,
    /// Sequences that the receiver does not have and that were not found.
    missing: Vec<Missing>,
    file: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Missing {
    first: u64,
    last: u64,
}

pub(super) fn run(args: &SalvageArgs, out: &mut dyn Write) -> Result<(), BufferCommandError> {
    let place = Place::find(&args.dir)?;
    let to = &args.to;
    std::fs::create_dir_all(to).map_err(BufferCommandError::io("create", to))?;
    let mut entries = std::fs::read_dir(to).map_err(BufferCommandError::io("read", to))?;
    if entries.next().is_some() {
        return Err(BufferCommandError::NotEmpty(to.clone()));
    }

    let copy = to.join("copy");
    copy_folder(&place.database, &copy)?;
    let mut found = Frames::new();
    let mut catalog = None;
    let unreadable = match read_database(&place, &copy, &mut found, &mut catalog) {
        Ok(0) => None,
        Ok(damaged) => Some(format!("{damaged} places are damaged")),
        Err(BufferCommandError::Unreadable { reason, .. }) => Some(reason),
        Err(error) => Some(error.to_string()),
    };
    std::fs::remove_dir_all(&copy).map_err(BufferCommandError::io("remove", &copy))?;

    let bounds = [&place.database, &place.dir]
        .into_iter()
        .filter_map(|dir| Bounds::load(dir))
        .collect::<Vec<_>>();
    let unreadable = unreadable.or_else(|| {
        let is_short = lost_its_tail(catalog.as_ref(), &bounds);
        is_short.then(|| "it opens without its newest records".to_owned())
    });
    let mut unknown = 0;
    if unreadable.is_some() {
        let names = names(args, catalog.as_ref(), &bounds);
        let file = place.database.join("db");
        let scanned = raw::scan(&file, &names, |name, frame| {
            add(&mut found, name, frame);
            Ok(())
        });
        unknown = scanned
            .map_err(BufferCommandError::io("read", file))?
            .unknown;
    }

    let mut streams = Vec::new();
    for ((stream, epoch), frames) in &found {
        let expected = expected(stream, *epoch, catalog.as_ref(), &bounds);
        streams.push(save(to, stream, *epoch, frames, expected)?);
    }
    let report = Report {
        path: place.database.display().to_string(),
        unreadable,
        unknown,
        streams,
    };
    let text = match args.output {
        Output::Json => {
            let json = serde_json::to_string_pretty(&report).expect("only string keys");
            format!("{json}\n")
        }
        Output::Table => report.text(),
    };
    out.write_all(text.as_bytes())
        .map_err(BufferCommandError::io("write to", "standard output"))
}

/// Reads the database as one; says how many places are damaged.
fn read_database(
    place: &Place,
    copy: &Path,
    found: &mut Frames,
    catalog: &mut Option<Catalog>,
) -> Result<usize, BufferCommandError> {
    let store = place.open_path(copy)?;
    let read = catalog.insert(place.catalog(store.as_ref())?);
    let mut damaged = 0;
    for stream in &read.streams {
        let walked = walk(store.as_ref(), stream, 0, u64::MAX, |frame| {
            add(found, &stream.name, frame.clone());
            Ok::<_, BufferError>(())
        });
        damaged += walked
            .map_err(|error| place.unreadable(error.to_string()))?
            .damage
            .len();
    }
    Ok(damaged)
}

/// Keeps a frame; records are worth more than the gap that took their place later.
fn add(found: &mut Frames, stream: &str, frame: OutFrame) {
    let frames = found
        .entry((stream.to_owned(), frame.frame.epoch))
        .or_default();
    match frames.get(&frame.first) {
        Some(known) if known.last >= frame.last || matches!(frame.frame.body, Body::Gap(_)) => {}
        _ => {
            frames.insert(frame.first, frame);
        }
    }
}

fn names(args: &SalvageArgs, catalog: Option<&Catalog>, bounds: &[Bounds]) -> Vec<String> {
    let given = args.streams.iter().map(|name| name.as_str().to_owned());
    let known = catalog
        .iter()
        .flat_map(|catalog| catalog.streams.iter().map(|stream| stream.name.clone()));
    let bounded = bounds.iter().flat_map(|bounds| bounds.next.keys().cloned());
    let all: BTreeSet<String> = given.chain(known).chain(bounded).collect();
    all.into_iter().collect()
}

/// Whether a database has less than was noted beside it: it opens at a damaged place as if what
/// follows had never been there.
fn lost_its_tail(catalog: Option<&Catalog>, bounds: &[Bounds]) -> bool {
    let Some(catalog) = catalog else {
        return false;
    };
    let next = |name: &str| {
        let stream = catalog.streams.iter().find(|stream| stream.name == name);
        stream.map_or(1, |stream| stream.next)
    };
    let same = bounds.iter().filter(|bounds| bounds.epoch == catalog.epoch);
    same.flat_map(|bounds| &bounds.next)
        .any(|(name, noted)| *noted > next(name))
}

/// The sequences that the receiver did not have, as far as it is known.
fn expected(
    stream: &str,
    epoch: u64,
    catalog: Option<&Catalog>,
    bounds: &[Bounds],
) -> Option<(u64, u64)> {
    let noted = catalog
        .filter(|catalog| catalog.epoch == epoch)
        .and_then(|catalog| catalog.streams.iter().find(|s| s.name == stream))
        .map(|stream| (stream.acked + 1, stream.next - 1));
    let bounded = bounds
        .iter()
        .filter(|bounds| bounds.epoch == epoch)
        .filter_map(|bounds| {
            let next = bounds.next.get(stream)?;
            let acked = bounds.acked.get(stream).copied().unwrap_or(0);
            Some((acked + 1, next - 1))
        });
    bounded
        .chain(noted)
        .reduce(|a, b| (a.0.max(b.0), a.1.max(b.1)))
}

fn save(
    to: &Path,
    stream: &str,
    epoch: u64,
    frames: &BTreeMap<u64, OutFrame>,
    expected: Option<(u64, u64)>,
) -> Result<Saved, BufferCommandError> {
    let file = format!("{stream}.{epoch}");
    let rows_path = to.join(format!("{file}.ndjson"));
    let frames_path = to.join(format!("{file}.frames"));
    let create = |path: &Path| {
        std::fs::File::create_new(path)
            .map(BufWriter::new)
            .map_err(BufferCommandError::io("create", path))
    };
    let (mut rows, mut whole) = (create(&rows_path)?, create(&frames_path)?);
    let mut saved = Saved {
        stream: stream.to_owned(),
        epoch,
        records: 0,
        bytes: 0,
        first: 0,
        last: 0,
        missing: Vec::new(),
        file: rows_path.display().to_string(),
    };
    let mut at = expected.map_or(1, |(first, _)| first);
    for frame in frames.values() {
        let Body::Records(records) = &frame.frame.body else {
            continue;
        };
        // Where frames overlap, what was written already is left out.
        let from = if saved.records == 0 {
            0
        } else {
            saved.last + 1
        };
        write_frame(&mut rows, frame, ExportFormat::Ndjson, from, u64::MAX)
            .map_err(BufferCommandError::io("write", &rows_path))?;
        whole
            .write_all(&frame.bytes)
            .map_err(BufferCommandError::io("write", &frames_path))?;
        if saved.records == 0 {
            saved.first = frame.first;
        }
        saved.records += (records.len() as u64).min((frame.last + 1).saturating_sub(from));
        saved.bytes += frame.bytes.len() as u64;
        if frame.first > at {
            saved.missing.push(Missing {
                first: at,
                last: frame.first - 1,
            });
        }
        saved.last = saved.last.max(frame.last);
        at = at.max(frame.last + 1);
    }
    if let Some((_, last)) = expected
        && last >= at
    {
        saved.missing.push(Missing { first: at, last });
    }
    for (writer, path) in [(rows, &rows_path), (whole, &frames_path)] {
        writer
            .into_inner()
            .map_err(std::io::IntoInnerError::into_error)
            .and_then(|file| file.sync_all())
            .map_err(BufferCommandError::io("write", path))?;
    }
    Ok(saved)
}

fn copy_folder(from: &Path, to: &Path) -> Result<(), BufferCommandError> {
    std::fs::create_dir_all(to).map_err(BufferCommandError::io("create", to))?;
    let entries = std::fs::read_dir(from).map_err(BufferCommandError::io("read", from))?;
    for entry in entries {
        let path = entry.map_err(BufferCommandError::io("read", from))?.path();
        let target = to.join(path.file_name().unwrap_or_default());
        if path.is_dir() {
            copy_folder(&path, &target)?;
        } else {
            std::fs::copy(&path, &target).map_err(BufferCommandError::io("copy", &path))?;
        }
    }
    Ok(())
}

impl Report {
    fn text(&self) -> String {
        let mut text = format!("buffer  {}\n", self.path);
        match &self.unreadable {
            None => text += "state   it opens and every frame is intact\n",
            Some(reason) => {
                text += &format!("state   {reason}; searched its bytes for frames as well\n");
            }
        }
        if self.unknown > 0 {
            text += &format!(
                "unknown {} places look like frames and are intact for no known stream: give names by --stream\n",
                number(self.unknown)
            );
        }
        text.push('\n');
        if self.streams.is_empty() {
            return text + "no frame could be read\n";
        }
        let rows: Vec<_> = self
            .streams
            .iter()
            .map(|saved| {
                let missing: Vec<_> = saved
                    .missing
                    .iter()
                    .take(4)
                    .map(|missing| range(missing.first, missing.last))
                    .collect();
                let more = saved.missing.len().saturating_sub(4);
                vec![
                    saved.stream.clone(),
                    saved.epoch.to_string(),
                    number(saved.records),
                    bytes(saved.bytes),
                    range(saved.first, saved.last),
                    match (missing.len(), more) {
                        (0, _) => "nothing".to_owned(),
                        (_, 0) => missing.join(" "),
                        (_, more) => format!("{} and {more} more", missing.join(" ")),
                    },
                    saved.file.clone(),
                ]
            })
            .collect();
        text + &table(
            &[
                "STREAM",
                "EPOCH",
                "SAVED",
                "SIZE",
                "SEQUENCES",
                "MISSING",
                "FILE",
            ],
            &rows,
        )
    }
}
