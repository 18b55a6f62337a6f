//! edge:runtime/streams: records into the node's streams and back, of the
//! streams that the deployment allows.

use wasmtime::Result;
use wasmtime::component::Linker;

use super::Host;
use super::bindings::edge::runtime::streams;
use crate::handlers::processor::{from_wit, to_wit};
use crate::handlers::state::GuestState;
use crate::streams::{AppendError, NewRecord, Row, Streams};

/// Most records that one read hands out.
const READ_RECORDS: u32 = 1000;

type Outcome<T> = Result<std::result::Result<T, streams::Error>>;

pub(super) fn add_to_linker(linker: &mut Linker<GuestState>) -> Result<()> {
    streams::add_to_linker::<_, Host>(linker, |state| state)
}

impl From<AppendError> for streams::Error {
    fn from(error: AppendError) -> Self {
        let text = error.to_string();
        match error {
            AppendError::Unknown { .. } | AppendError::Removed { .. } => Self::NoSuchStream(text),
            AppendError::Full { .. }
            | AppendError::BufferFull { .. }
            | AppendError::NoSpace { .. }
            | AppendError::Busy => Self::Full(text),
            AppendError::LargerThanQuota { .. } | AppendError::ValueTooLarge { .. } => {
                Self::TooLarge(text)
            }
            _ => Self::Other(text),
        }
    }
}

impl GuestState {
    /// The node's streams, if `stream` is one that the handler may use.
    fn granted(&self, stream: &str) -> std::result::Result<Streams, streams::Error> {
        let denied = |reason: String| {
            self.denied(&reason);
            Err(streams::Error::AccessDenied(reason))
        };
        if !self.grant.allow.streams.contains(stream) {
            return denied(format!(
                "stream {stream:?} is not granted: name it in the deployment's allow.streams"
            ));
        }
        match &self.grant.streams {
            Some(streams) => Ok(streams.clone()),
            None => denied("this runtime keeps no streams: start it with --data-dir".to_owned()),
        }
    }
}

impl streams::Host for GuestState {
    async fn append(
        &mut self,
        stream: String,
        records: Vec<streams::NewRecord>,
    ) -> Outcome<streams::Position> {
        let granted = match self.granted(&stream) {
            Ok(granted) => granted,
            Err(error) => return Ok(Err(error)),
        };
        let records = records
            .into_iter()
            .map(|record| NewRecord::new(from_wit(record.encoding), record.value));
        let appended = granted.append(&stream, records.collect()).await;
        Ok(appended.map_err(Into::into).map(|at| streams::Position {
            epoch: at.epoch,
            first: at.first_seq,
            last: at.last_seq,
        }))
    }

    async fn read(
        &mut self,
        stream: String,
        from: u64,
        limit: u32,
    ) -> Outcome<Vec<streams::Record>> {
        let granted = match self.granted(&stream) {
            Ok(granted) => granted,
            Err(error) => return Ok(Err(error)),
        };
        let limit = limit.min(READ_RECORDS) as usize;
        let rows = granted.read(&stream, from, limit).await;
        let record = |row: Row| streams::Record {
            sequence: row.seq,
            time_ms: row.record.time_ms,
            encoding: to_wit(row.record.encoding),
            value: row.record.value.to_vec(),
        };
        let records = rows.map(|rows| rows.into_iter().map(record).collect());
        Ok(records.map_err(Into::into))
    }

    fn held(&mut self, stream: String) -> Outcome<streams::Window> {
        let window = self.granted(&stream).and_then(|granted| {
            let held = granted.held(&stream)?;
            Ok(streams::Window {
                epoch: granted.epoch(),
                first: held.start,
                next: held.end,
            })
        });
        Ok(window)
    }
}
