//! Writes the archive's files.

use std::sync::Arc;

use fleet_api::ids::{NodeId, StreamName};
use object_store::{ObjectMeta, ObjectStore, ObjectStoreExt as _, PutPayload};
use parquet::errors::ParquetError;
use parquet::file::metadata::ParquetMetaDataReader;
use serde_json::json;

use super::fields::Shape;
use super::intake::{Content, Piece};
use super::names::{FileName, Kind, Span};
use super::table::{self, Table};

/// More than the footer of nearly every file.
const FOOTER_BYTES: u64 = 64 << 10;

/// Why a file is not written or read.
#[derive(Debug, thiserror::Error)]
pub(super) enum FileError {
    #[error("reach the object store: {0}")]
    Store(#[from] object_store::Error),
    #[error("encode or decode records: {0}")]
    Table(#[from] ParquetError),
    #[error("encode or decode records: the thread for it has stopped")]
    Stopped,
}

/// Writes a piece; when this returns it is durable, and `shape` has learnt from it. Gives its name
/// and length.
pub(super) async fn write(
    objects: &Arc<dyn ObjectStore>,
    (node, stream): (&NodeId, &StreamName),
    piece: &Piece,
    shape: &mut Shape,
    max_columns: usize,
) -> Result<(FileName, u64), FileError> {
    let Span { epoch, first, last } = piece.span;
    let (kind, bytes) = match &piece.content {
        Content::Records(records) => {
            let table = Table {
                node: node.clone(),
                stream: stream.clone(),
                epoch,
                first,
                records: records.clone(),
            };
            let (bytes, learnt) = encode(table, shape.clone(), max_columns).await?;
            *shape = learnt;
            (Kind::Records, bytes)
        }
        Content::Gap(gap) => {
            let gap = json!({
                "v": 1, "node": node, "stream": stream, "epoch": epoch, "first": first,
                "last": last, "lost": gap.lost, "reason": gap.reason,
                "after_ms": gap.after_ms, "noted_ms": gap.noted_ms,
            });
            (Kind::Gap, gap.to_string().into_bytes())
        }
        Content::Turn { to, noted_ms } => {
            let turn = json!({
                "v": 1, "node": node, "stream": stream, "epoch": epoch, "next": first,
                "to": to, "noted_ms": noted_ms,
            });
            (Kind::Turn { to: *to }, turn.to_string().into_bytes())
        }
    };
    let name = FileName {
        node: node.clone(),
        stream: stream.clone(),
        day: piece.day,
        span: piece.span,
        kind,
    };
    let length = bytes.len() as u64;
    objects.put(&name.path(), PutPayload::from(bytes)).await?;
    Ok((name, length))
}

/// Encodes on a thread that may block.
pub(super) async fn encode(
    table: Table,
    mut shape: Shape,
    max_columns: usize,
) -> Result<(Vec<u8>, Shape), FileError> {
    let encoded = tokio::task::spawn_blocking(move || {
        let bytes = table.encode(&mut shape, max_columns)?;
        Ok::<_, ParquetError>((bytes, shape))
    });
    Ok(encoded.await.map_err(|_| FileError::Stopped)??)
}

/// Reads the shape of a stream from a file of it; an unknown one if that cannot be had.
pub(super) async fn shape_of(objects: &Arc<dyn ObjectStore>, file: &ObjectMeta) -> Shape {
    let mut shape = Shape::default();
    let start = file.size.saturating_sub(FOOTER_BYTES);
    if let Ok(end) = objects.get_range(&file.location, start..file.size).await {
        let mut reader = ParquetMetaDataReader::new();
        if reader.try_parse_sized(&end, file.size).is_ok()
            && let Ok(footer) = reader.finish()
        {
            table::learn(&footer, &mut shape);
        }
    }
    shape
}
