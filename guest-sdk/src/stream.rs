//! Stream processors: batches of records in, records out; and streams from any
//! handler: [`append`] adds to one, [`read`] and [`held`] look back.
//!
//! The deployment grants the streams: `allow = { streams = ["inspections"] }`.

use std::fmt;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::capabilities::edge::runtime::streams;
pub use crate::capabilities::edge::runtime::streams::{Position, Window};

/// The bindings of `wit/processor.wit`.
#[doc(hidden)]
pub mod bindings {
    wit_bindgen::generate!({
        path: "../wit",
        world: "processor",
        pub_export_macro: true,
        default_bindings_module: "guest_sdk::stream::bindings",
    });
}

pub use bindings::edge::runtime::records::{Encoding, Output, Record};

/// Works on the batches of a stream. Register it with
/// [`stream_handler!`](crate::stream_handler).
pub trait Handler {
    /// Works on one batch. Its outputs, its progress and what it changes in
    /// [`keyvalue`](crate::keyvalue) become durable together. An error is
    /// retried with the same batch, and leaves nothing behind.
    fn process(stream: &str, batch: Vec<Record>) -> Result<Vec<Output>, String>;
}

impl Record {
    /// The value as JSON.
    ///
    /// # Errors
    /// A sentence that says why it is none of that shape.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T, String> {
        match self.encoding {
            Encoding::Json => serde_json::from_slice(&self.value).map_err(|e| e.to_string()),
            other => Err(format!("the record is not JSON, but {other:?}")),
        }
    }
}

impl Output {
    /// `record` as it is, for `stream`.
    pub fn copy(stream: &str, record: Record) -> Self {
        Self {
            stream: stream.to_owned(),
            encoding: record.encoding,
            value: record.value,
        }
    }

    /// A record for `stream` with a value as JSON.
    pub fn json(stream: &str, value: &impl Serialize) -> Result<Self, String> {
        let value = serde_json::to_vec(value).map_err(|error| error.to_string())?;
        Ok(Self {
            stream: stream.to_owned(),
            encoding: Encoding::Json,
            value,
        })
    }
}

/// Why records were not added, or not given; the text says what to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StreamError {
    /// The deployment does not grant the stream.
    Denied(String),
    /// The node has no such stream.
    Unknown(String),
    /// Stream, disk or queue are full: try again later.
    Full(String),
    /// More than can be taken at once.
    TooLarge(String),
    /// Another reason.
    Other(String),
}

impl fmt::Display for StreamError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self::Denied(text)
        | Self::Unknown(text)
        | Self::Full(text)
        | Self::TooLarge(text)
        | Self::Other(text)) = self;
        f.write_str(text)
    }
}

impl std::error::Error for StreamError {}

impl From<streams::Error> for StreamError {
    fn from(error: streams::Error) -> Self {
        match error {
            streams::Error::AccessDenied(text) => Self::Denied(text),
            streams::Error::NoSuchStream(text) => Self::Unknown(text),
            streams::Error::Full(text) => Self::Full(text),
            streams::Error::TooLarge(text) => Self::TooLarge(text),
            streams::Error::Other(text) => Self::Other(text),
        }
    }
}

/// Adds one value as JSON to `stream`; it is on the node's disk once this returns.
///
/// # Errors
/// [`StreamError`]; then nothing was added.
pub fn append(stream: &str, value: &impl Serialize) -> Result<Position, StreamError> {
    append_all(stream, std::slice::from_ref(value))
}

/// Adds values as JSON to `stream`, in order and all or none; they are on the
/// node's disk once this returns.
///
/// # Errors
/// [`StreamError`]; then nothing was added.
pub fn append_all(stream: &str, values: &[impl Serialize]) -> Result<Position, StreamError> {
    let records = values.iter().map(|value| {
        let value = serde_json::to_vec(value)?;
        let encoding = Encoding::Json;
        Ok(streams::NewRecord { encoding, value })
    });
    let records: serde_json::Result<Vec<_>> = records.collect();
    let records = records.map_err(|error| StreamError::Other(error.to_string()))?;
    Ok(streams::append(stream, &records)?)
}

/// Records of `stream` that the node still holds, from sequence `from` on, at
/// most `limit` and 1000. Empty when there is no more yet.
///
/// # Errors
/// [`StreamError`]
pub fn read(stream: &str, from: u64, limit: u32) -> Result<Vec<Record>, StreamError> {
    Ok(streams::read(stream, from, limit)?)
}

/// The sequences of `stream` that the node still holds.
///
/// # Errors
/// [`StreamError`]
pub fn held(stream: &str) -> Result<Window, StreamError> {
    Ok(streams::held(stream)?)
}

/// Exports a type that implements [`stream::Handler`](Handler) as
/// `edge:runtime/process`.
#[macro_export]
macro_rules! stream_handler {
    ($handler:ty) => {
        struct ExportedHandler;

        impl $crate::stream::bindings::exports::edge::runtime::process::Guest for ExportedHandler {
            fn process(
                stream: String,
                batch: Vec<$crate::stream::Record>,
            ) -> Result<Vec<$crate::stream::Output>, String> {
                <$handler as $crate::stream::Handler>::process(&stream, batch)
            }
        }

        $crate::stream::bindings::export!(ExportedHandler with_types_in $crate::stream::bindings);
    };
}
