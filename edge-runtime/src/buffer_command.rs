//! `edge-runtime buffer`: looks into a buffer that no process uses, copies
//! records out of it, and saves what can be read of a damaged one.
//!
//! ```text
//! folder of a node, of a buffer, of a database ─► Place ─┬─► inspect: figures, damage
//!                                                        ├─► export: a stream to standard output
//!                                  a copy, or its bytes ─┴─► salvage: all frames to files
//! ```
//!
//! Nothing here changes the buffer's records. Opening a database does what a
//! start of the node does to it; a damaged one is only ever opened as a copy.

mod export;
mod inspect;
mod place;
mod raw;
mod salvage;
mod table;
mod walk;

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use fleet_api::ids::StreamName;

use crate::buffer::BufferError;

/// What can be done with a buffer.
#[derive(Debug, Subcommand)]
pub enum BufferCommand {
    /// Show what a buffer holds: streams, gaps, watermarks, cursors, damage.
    Inspect(InspectArgs),
    /// Copy every frame that can be read of a damaged buffer to files.
    Salvage(SalvageArgs),
    /// Write the records of a stream to standard output.
    Export(ExportArgs),
}

/// Arguments of `buffer inspect`.
#[derive(Debug, Args)]
pub struct InspectArgs {
    /// A node's data folder, or its folder `buffer`, or a database in it.
    dir: PathBuf,
    /// Read every frame and check its checksum; fails if one is damaged.
    #[arg(long)]
    verify: bool,
    /// How to print it.
    #[arg(short, long, value_name = "FORM", default_value = "table")]
    output: Output,
}

/// Arguments of `buffer salvage`.
#[derive(Debug, Args)]
pub struct SalvageArgs {
    /// The folder `quarantine-..` that was set aside, or a buffer that does not open.
    dir: PathBuf,
    /// Where the files go: for each stream `STREAM.EPOCH.ndjson` and `STREAM.EPOCH.frames`.
    #[arg(long, value_name = "DIR")]
    to: PathBuf,
    /// A stream that may be in there, where neither the database nor `bounds.json` tell; repeatable.
    #[arg(long = "stream", value_name = "NAME")]
    streams: Vec<StreamName>,
    /// How to print the summary.
    #[arg(short, long, value_name = "FORM", default_value = "table")]
    output: Output,
}

/// Arguments of `buffer export`.
#[derive(Debug, Args)]
pub struct ExportArgs {
    /// A node's data folder, or its folder `buffer`, or a database in it.
    dir: PathBuf,
    /// The stream.
    #[arg(long, value_name = "NAME")]
    stream: StreamName,
    /// The first sequence; the oldest if not given.
    #[arg(long, value_name = "SEQ")]
    from: Option<u64>,
    /// The last sequence, inclusive; the newest if not given.
    #[arg(long, value_name = "SEQ")]
    to: Option<u64>,
    /// Rows of JSON, or the frames as they are stored and sent.
    #[arg(long, value_name = "FORM", default_value = "ndjson")]
    format: ExportFormat,
}

/// How a summary is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Output {
    /// For people.
    Table,
    /// For programs.
    Json,
}

/// The form of exported records.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum ExportFormat {
    /// One record a line, as `GET /streams/NAME` gives them.
    Ndjson,
    /// Whole frames behind each other.
    Frames,
}

/// Why it cannot be done.
#[derive(Debug, thiserror::Error)]
pub enum BufferCommandError {
    /// There is no buffer.
    #[error(
        "{0} is no buffer: give a node's data folder, its folder buffer, or a folder quarantine-.. in it"
    )]
    NoBuffer(PathBuf),
    /// A process uses it.
    #[error(
        "the buffer {path} is in use by {owner}: stop it first; what a running node holds is at GET /streams"
    )]
    InUse {
        /// The buffer.
        path: PathBuf,
        /// Who has it.
        owner: String,
    },
    /// It cannot be opened or read.
    #[error(
        "cannot read the buffer {path}: {reason}; `edge-runtime buffer salvage {path} --to DIR` saves what can be read"
    )]
    Unreadable {
        /// The buffer.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// Any other failure of the store.
    #[error(transparent)]
    Buffer(#[from] BufferError),
    /// There is no such stream.
    #[error("there is no stream {stream:?} in this buffer; it has {known}")]
    NoStream {
        /// The name asked for.
        stream: String,
        /// The names there are.
        known: String,
    },
    /// The check found damage.
    #[error("{0} places are damaged; the node puts a gap in place of each when it gets there")]
    Damaged(usize),
    /// The target has files already.
    #[error("{0} is not empty: give a new folder")]
    NotEmpty(PathBuf),
    /// A file operation failed.
    #[error("cannot {act} {path}")]
    Io {
        /// What was tried.
        act: &'static str,
        /// On which file.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
}

impl BufferCommandError {
    fn io(act: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { act, path, source }
    }
}

/// Runs the command; blocks. Results go to standard output.
///
/// # Errors
/// [`BufferCommandError`]
pub fn run(command: BufferCommand) -> Result<(), BufferCommandError> {
    let mut out = std::io::stdout().lock();
    let done = match command {
        BufferCommand::Inspect(args) => inspect::run(&args, &mut out),
        BufferCommand::Salvage(args) => salvage::run(&args, &mut out),
        BufferCommand::Export(args) => export::run(&args, &mut out),
    };
    match done {
        // A reader that has gone away, as `head` does, is no error.
        Err(BufferCommandError::Io { source, .. })
            if source.kind() == std::io::ErrorKind::BrokenPipe =>
        {
            Ok(())
        }
        done => done,
    }
}

#[cfg(test)]
mod tests;
