use std::fs::{File, Metadata};
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use fleet_api::source::FileSource;

use super::FileError;
use super::lines::Reader;
use super::position::Position;
use crate::streams::NewRecord;

/// Bytes that are read at once; a line that is longer is left out.
const PIECE_BYTES: usize = 1 << 20;

/// Follows one file, whatever name it gets. Blocks.
pub(super) struct Tail {
    path: PathBuf,
    reader: Reader,
    file: Option<File>,
    position: Option<Position>,
    /// The file has another name by now, and had no more lines the last time.
    at_its_end: bool,
}

/// What a look at the file has brought.
pub(super) enum Step {
    /// No whole line.
    Nothing,
    Lines(Lines),
}

/// Records, and the position behind them.
pub(super) struct Lines {
    pub records: Vec<NewRecord>,
    pub rejected: Vec<String>,
    pub next: Position,
}

impl Tail {
    pub(super) fn new(source: &str, file: &FileSource, position: Option<Position>) -> Self {
        Self {
            path: PathBuf::from(&file.path),
            reader: Reader {
                source: source.to_owned(),
                format: file.format,
                delimiter: file.delimiter.unwrap_or(','),
            },
            file: None,
            position,
            at_its_end: false,
        }
    }

    /// Notes that everything up to `next` is durable.
    pub(super) fn advance(&mut self, next: Position) {
        self.position = Some(next);
    }

    /// Reads what follows the position.
    ///
    /// # Errors
    /// [`FileError`] if there is no file or it cannot be read.
    pub(super) fn step(&mut self) -> Result<Step, FileError> {
        let (file, position) = self.open()?;
        let size = file
            .metadata()
            .map_err(|e| error("look at", &self.path, e))?
            .len();
        let known = position.before.len() as u64;
        let mut piece = vec![0; PIECE_BYTES];
        let from = position.offset - known;
        let read = read_at(&file, &mut piece, from).map_err(|e| error("read", &self.path, e))?;
        piece.truncate(read);
        if size < position.offset || !piece.starts_with(&position.before) {
            tracing::info!(path = %self.path.display(), "the file was truncated or written anew");
            self.position = Some(Position::start_of(position.file));
            self.file = Some(file);
            return self.step();
        }
        let piece = &piece[position.before.len()..];
        let gone = self.is_renamed(&position);
        let last = gone && self.at_its_end;
        let parsed = self.reader.parse(piece, position.header.clone(), last);
        self.file = Some(file);
        if parsed.consumed > 0 {
            self.at_its_end = false;
            let next = position.behind(&piece[..parsed.consumed], parsed.header);
            self.position = Some(position);
            return Ok(Step::Lines(Lines {
                records: parsed.records,
                rejected: parsed.rejected,
                next,
            }));
        }
        if read == PIECE_BYTES {
            let next = position.behind(piece, position.header.clone());
            self.position = Some(position);
            let rejected = vec![format!("a line is longer than {PIECE_BYTES} bytes")];
            let records = Vec::new();
            return Ok(Step::Lines(Lines {
                records,
                rejected,
                next,
            }));
        }
        if last {
            // Nothing is left of the old file: on with the new one.
            self.file = None;
            self.position = None;
            self.at_its_end = false;
            return self.step();
        }
        self.position = Some(position);
        self.at_its_end = gone;
        Ok(Step::Nothing)
    }

    /// The file that is being read: that of the position, else the one under the name.
    fn open(&mut self) -> Result<(File, Position), FileError> {
        if let (Some(file), Some(position)) = (self.file.take(), self.position.clone()) {
            return Ok((file, position));
        }
        let open = |path: &Path| File::open(path).map_err(|e| error("open", path, e));
        if let Some(position) = self.position.clone()
            && let Some(path) = self.find(position.file)
        {
            return Ok((open(&path)?, position));
        }
        let file = open(&self.path)?;
        let metadata = file
            .metadata()
            .map_err(|e| error("look at", &self.path, e))?;
        if !metadata.is_file() {
            return Err(FileError::NoFile(self.path.display().to_string()));
        }
        Ok((file, Position::start_of(id(&metadata))))
    }

    /// Where a file is by now: under its name, or under that of a rotated one beside it.
    fn find(&self, file: (u64, u64)) -> Option<PathBuf> {
        let is_it =
            |path: &Path| std::fs::metadata(path).is_ok_and(|m| m.is_file() && id(&m) == file);
        if is_it(&self.path) {
            return Some(self.path.clone());
        }
        let beside = std::fs::read_dir(self.path.parent()?).ok()?;
        beside
            .filter_map(|entry| Some(entry.ok()?.path()))
            .find(|path| is_it(path))
    }

    /// Whether the name leads to another file than the position's.
    fn is_renamed(&self, position: &Position) -> bool {
        std::fs::metadata(&self.path).is_ok_and(|metadata| id(&metadata) != position.file)
    }
}

fn read_at(file: &File, piece: &mut [u8], from: u64) -> std::io::Result<usize> {
    let mut read = 0;
    while read < piece.len() {
        match file.read_at(&mut piece[read..], from + read as u64) {
            Ok(0) => break,
            Ok(more) => read += more,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(read)
}

fn id(metadata: &Metadata) -> (u64, u64) {
    (metadata.dev(), metadata.ino())
}

fn error(act: &'static str, path: &Path, source: std::io::Error) -> FileError {
    FileError::Io {
        act,
        path: path.display().to_string(),
        source,
    }
}
