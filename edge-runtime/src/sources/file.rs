//! File tail: lines that a program appends become records.
//!
//! ```text
//!  file ─ tail: read from the position ─► lines: whole ones only ─► one commit: records + position
//!   ▲ rotated: the old one to its end, then the new one; truncated: from its start
//! ```
//!
//! The position is part of the records' commit, so that each line is a record
//! exactly once, whenever the process is killed.

mod lines;
mod position;
mod tail;

use fleet_api::source::FileSource;

use self::position::Position;
use self::tail::{Step, Tail};
use super::intake::IntakeError;
use super::{Context, Reconnect};
use crate::buffer::BufferError;
use crate::streams::Mark;

/// Why a file is not read any more.
#[derive(Debug, thiserror::Error)]
enum FileError {
    #[error("cannot {act} {path}")]
    Io {
        act: &'static str,
        path: String,
        #[source]
        source: std::io::Error,
    },
    #[error("{0} is a folder or a device: name a file that lines are appended to")]
    NoFile(String),
    #[error("cannot read how far the file was read")]
    Position(#[from] BufferError),
}

/// Runs the source until it is stopped.
pub(super) async fn run(context: &Context, file: &FileSource) {
    let mut turns = Reconnect::new(&context.intake);
    while turns.after(follow(context, file)).await {}
}

async fn follow(context: &Context, file: &FileSource) -> Result<(), FileError> {
    let intake = &context.intake;
    let (streams, name) = (intake.streams.clone(), context.name().to_owned());
    let position = blocking(move || streams.position(&name)).await?;
    let position = position.and_then(|noted| Position::from_note(&noted));
    let mut tail = Tail::new(context.name(), file, position);
    loop {
        let (mut moved, step) = blocking(move || {
            let step = tail.step();
            (tail, step)
        })
        .await;
        let step = match step {
            Ok(step) => step,
            Err(error) => return Err(error),
        };
        intake.report.connected();
        let wait = match step {
            Step::Nothing => true,
            Step::Lines(lines) => {
                for reason in &lines.rejected {
                    intake.report.lost(1, reason);
                }
                if !lines.records.is_empty() {
                    let mark = Mark::Position {
                        source: context.name().to_owned(),
                        position: lines.next.note(),
                    };
                    let records = lines.records.len() as u64;
                    match intake.store_marked(lines.records, Some(mark)).await {
                        Ok(()) => {}
                        Err(IntakeError::Stopped) => return Ok(()),
                        Err(IntakeError::Refused(error)) => {
                            intake.report.lost(records, &error.to_string());
                        }
                    }
                }
                moved.advance(lines.next);
                false
            }
        };
        tail = moved;
        if wait {
            tokio::select! {
                () = intake.stop.cancelled() => return Ok(()),
                () = tokio::time::sleep(file.every.duration()) => {}
            }
        } else if intake.stop.is_cancelled() {
            return Ok(());
        }
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(work)
        .await
        .expect("reading a file does not panic")
}
