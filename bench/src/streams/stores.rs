//! The buffer, and the limit that no store passes: the same bytes appended to a file.

use std::fs::File;
use std::io::Write as _;
use std::ops::Range;
use std::path::Path;

use anyhow::Result;
use edge_runtime::streams::{BufferConfig, NewRecord, Streams};
use fleet_api::desired::StreamSpec;
use fleet_api::frame::Encoding;
use fleet_api::ids::StreamName;
use fleet_api::units::{ByteSize, Span};
use tokio::runtime::Handle;

use super::job::Store;

const STREAM: &str = "records";

/// Append and fdatasync, nothing else; old records are never removed.
pub(super) struct Raw {
    file: File,
    buffer: Vec<u8>,
}

impl Raw {
    pub(super) fn create(dir: &Path) -> Result<Self> {
        Ok(Self {
            file: File::create(dir.join("raw"))?,
            buffer: Vec::new(),
        })
    }
}

impl Store for Raw {
    fn commit(&mut self, _: u64, records: &[Vec<u8>], _: Range<u64>) -> Result<()> {
        self.buffer.clear();
        for record in records {
            self.buffer.extend_from_slice(record);
        }
        self.file.write_all(&self.buffer)?;
        Ok(self.file.sync_data()?)
    }
}

/// The buffer as the node has it: one stream, whose receiver acknowledges what is old.
pub(super) struct Ours {
    streams: Streams,
    runtime: Handle,
}

impl Ours {
    pub(super) fn open(dir: &Path, runtime: Handle) -> Result<Self> {
        let config = BufferConfig {
            ballast_bytes: 0,
            max_bytes: Some(8 << 30),
            ..BufferConfig::default()
        };
        let streams = Streams::open(dir, config)?;
        let mut spec = StreamSpec::named(StreamName::new(STREAM)?);
        spec.quota = ByteSize(4 << 30);
        spec.keep = Span::from_ms(0);
        streams.configure(&[spec]);
        Ok(Self { streams, runtime })
    }
}

impl Store for Ours {
    fn commit(&mut self, _: u64, records: &[Vec<u8>], old: Range<u64>) -> Result<()> {
        let records = records
            .iter()
            .map(|record| NewRecord::new(Encoding::Json, record.clone()))
            .collect();
        self.runtime.block_on(async {
            let streams = &self.streams;
            let appended = streams.append(STREAM, records).await?;
            if !old.is_empty() {
                // The uplink does not wait for this either.
                let streams = streams.clone();
                tokio::spawn(async move {
                    streams.release(STREAM, appended.epoch, old.end - 1).await;
                });
            }
            Ok(())
        })
    }
}

impl Drop for Ours {
    fn drop(&mut self) {
        self.streams.close();
    }
}
