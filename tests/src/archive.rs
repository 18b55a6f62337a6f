use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use parquet::file::reader::{FileReader as _, SerializedFileReader};
use parquet::record::{Row, RowAccessor as _};

use crate::device::Place;

/// What the archive's files hold of one stream of one node: every place with all of its values.
pub type Contents = BTreeMap<Place, Vec<Vec<u8>>>;

/// How the archive compares with what a device was told.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Audit {
    /// Records that the device has an acknowledgement for.
    pub acknowledged: usize,
    /// Records in the files.
    pub archived: usize,
    /// Acknowledged, but not in the files.
    pub missing: usize,
    /// In the files more than once.
    pub duplicates: usize,
    /// In the files with another content than the device has sent.
    pub changed: usize,
}

impl Audit {
    /// Whether every acknowledged record is there exactly once and unchanged.
    pub fn is_exactly_once(self) -> bool {
        self.missing == 0 && self.duplicates == 0 && self.changed == 0
    }

    /// Compares the files with a device's acknowledgements.
    pub fn of(acknowledged: &BTreeMap<Place, String>, contents: &Contents) -> Self {
        let mut audit = Self {
            acknowledged: acknowledged.len(),
            archived: contents.values().map(Vec::len).sum(),
            duplicates: contents.values().filter(|v| v.len() > 1).count(),
            ..Self::default()
        };
        for (place, sent) in acknowledged {
            match contents.get(place).and_then(|values| values.first()) {
                None => audit.missing += 1,
                Some(value) if !same_json(value, sent.as_bytes()) => audit.changed += 1,
                Some(_) => {}
            }
        }
        audit
    }
}

fn same_json(a: &[u8], b: &[u8]) -> bool {
    let parse = |text| serde_json::from_slice::<serde_json::Value>(text).ok();
    a == b || (parse(a).is_some() && parse(a) == parse(b))
}

/// Reads all files of one stream of one node below a control plane's data folder.
///
/// # Errors
/// If a file cannot be read, or holds what belongs to another stream.
pub fn read(data_dir: &Path, node: &str, stream: &str) -> Result<Contents> {
    let mut contents = Contents::new();
    let mut files = Vec::new();
    let folder = format!("objects/archive/stream={stream}/node={node}");
    collect(&data_dir.join(folder), &mut files)?;
    for file in uncovered(files) {
        read_file(&file, node, stream, &mut contents)
            .with_context(|| format!("{} cannot be read", file.display()))?;
    }
    Ok(contents)
}

/// Leaves out the files whose sequences lie within another file: they are about to be removed.
fn uncovered(files: Vec<PathBuf>) -> Vec<PathBuf> {
    let spans: Vec<_> = files.iter().map(|file| span(file)).collect();
    let is_covered = |at: usize| {
        let Some((epoch, first, last)) = spans[at] else {
            return false;
        };
        spans.iter().enumerate().any(|(other, span)| {
            span.is_some_and(|(of, from, to)| {
                other != at
                    && (of == epoch && from <= first && last <= to)
                    && ((from, to) != (first, last) || other < at)
            })
        })
    };
    let kept: Vec<_> = (0..files.len()).filter(|at| !is_covered(*at)).collect();
    kept.into_iter().map(|at| files[at].clone()).collect()
}

/// What a file's name says: epoch, first and last sequence.
fn span(file: &Path) -> Option<(u64, u64, u64)> {
    let numbers = file.file_stem()?.to_str()?.split('-');
    let numbers: Vec<u64> = numbers.map(str::parse).collect::<Result<_, _>>().ok()?;
    match numbers[..] {
        [epoch, first, last] => Some((epoch, first, last)),
        _ => None,
    }
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    if !folder.exists() {
        return Ok(());
    }
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            collect(&path, files)?;
        } else if path.extension().is_some_and(|e| e == "parquet") {
            files.push(path);
        }
    }
    Ok(())
}

fn read_file(file: &Path, node: &str, stream: &str, contents: &mut Contents) -> Result<()> {
    let reader = SerializedFileReader::new(File::open(file)?)?;
    let schema = reader.metadata().file_metadata().schema();
    let column = |name: &str| {
        let at = schema
            .get_fields()
            .iter()
            .position(|field| field.name() == name);
        at.with_context(|| format!("there is no column {name}"))
    };
    let [node_at, stream_at, epoch_at, seq_at, value_at, bytes_at] = [
        column("node")?,
        column("stream")?,
        column("epoch")?,
        column("sequence")?,
        column("value")?,
        column("bytes")?,
    ];
    for row in reader.get_row_iter(None)? {
        let row = row?;
        let (of, on) = (row.get_string(node_at)?, row.get_string(stream_at)?);
        ensure!(of == node && on == stream, "it has a row of {on} of {of}");
        let place = (number(&row, epoch_at)?, number(&row, seq_at)?);
        let value = match row.get_string(value_at) {
            Ok(text) => text.clone().into_bytes(),
            Err(_) => row.get_bytes(bytes_at)?.data().to_vec(),
        };
        contents.entry(place).or_default().push(value);
    }
    Ok(())
}

fn number(row: &Row, at: usize) -> Result<u64> {
    match row.get_ulong(at) {
        Ok(number) => Ok(number),
        Err(_) => Ok(u64::try_from(row.get_long(at)?)?),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_loss_is_seen() {
        let sent: BTreeMap<Place, String> = (1..=4)
            .map(|seq| ((1, seq), format!("{{\"a\": {seq}}}")))
            .collect();
        let value = |seq: u64| format!("{{\"a\":{seq}}}").into_bytes();
        let good: Contents = (1..=5).map(|seq| ((1, seq), vec![value(seq)])).collect();
        let audit = Audit::of(&sent, &good);
        assert!(audit.is_exactly_once(), "{audit:?}");
        assert_eq!((audit.acknowledged, audit.archived), (4, 5));

        let mut bad = good.clone();
        bad.remove(&(1, 1));
        bad.insert((1, 2), vec![value(2), value(2)]);
        bad.insert((1, 3), vec![value(9)]);
        let audit = Audit::of(&sent, &bad);
        assert_eq!((audit.missing, audit.duplicates, audit.changed), (1, 1, 1));
    }
}
