//! The archive's files: `archive/stream=S/node=N/day=YYYY-MM-DD/EPOCH-FIRST-LAST.parquet`, and
//! `.gap.json` where there are no records.

use std::sync::Arc;

use fleet_api::frame::{Encoding, Record};
use fleet_api::ids::{NodeId, StreamName};
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt as _, PutPayload};
use parquet::basic::Compression;
use parquet::data_type::{ByteArray, ByteArrayType, Int64Type};
use parquet::errors::ParquetError;
use parquet::file::properties::WriterProperties;
use parquet::file::writer::{SerializedFileWriter, SerializedRowGroupWriter};
use parquet::schema::parser::parse_message_type;
use serde_json::json;

use super::intake::{Content, Piece};

/// Why a file is not written.
#[derive(Debug, thiserror::Error)]
pub(super) enum FileError {
    #[error("write the file: {0}")]
    Put(#[from] object_store::Error),
    #[error("encode the records: {0}")]
    Encode(#[from] ParquetError),
    #[error("encode the records: the encoder has stopped")]
    Stopped,
}

/// What a file's name says.
#[derive(Debug, PartialEq)]
pub(super) struct Found {
    pub(super) node: NodeId,
    pub(super) stream: StreamName,
    pub(super) epoch: u64,
    pub(super) last: u64,
}

pub(super) fn root() -> Path {
    Path::from("archive")
}

/// Writes a piece; when this returns it is on disk.
pub(super) async fn write(
    objects: &Arc<dyn ObjectStore>,
    node: &NodeId,
    stream: &StreamName,
    piece: &Piece,
) -> Result<(), FileError> {
    let day = jiff::Timestamp::now().strftime("%Y-%m-%d");
    let Piece {
        epoch, first, last, ..
    } = piece;
    let (ending, bytes) = match &piece.content {
        Content::Records(records) => {
            let (node, stream) = (node.clone(), stream.clone());
            let (epoch, first, records) = (*epoch, *first, records.clone());
            let encode = move || encode(&node, &stream, epoch, first, &records);
            let bytes = tokio::task::spawn_blocking(encode)
                .await
                .map_err(|_| FileError::Stopped)??;
            ("parquet", bytes)
        }
        Content::Gap { reason, lost } => {
            let gap = json!({
                "v": 1, "node": node, "stream": stream, "epoch": epoch,
                "first": first, "last": last, "lost": lost, "reason": reason,
            });
            ("gap.json", gap.to_string().into_bytes())
        }
    };
    let path = format!(
        "{}/stream={stream}/node={node}/day={day}/{epoch}-{first}-{last}.{ending}",
        root()
    );
    objects
        .put(&Path::from(path), PutPayload::from(bytes))
        .await?;
    Ok(())
}

/// Reads a file's name; `None` if it is no file of the archive.
pub(super) fn parse(path: &Path) -> Option<Found> {
    let parts: Vec<_> = path.as_ref().split('/').collect();
    let ["archive", stream, node, _day, name] = parts[..] else {
        return None;
    };
    let span = name
        .strip_suffix(".parquet")
        .or_else(|| name.strip_suffix(".gap.json"))?;
    let mut numbers = span.split('-').map(str::parse::<u64>);
    let (epoch, _first, last) = (
        numbers.next()?.ok()?,
        numbers.next()?.ok()?,
        numbers.next()?.ok()?,
    );
    numbers.next().is_none().then_some(())?;
    Some(Found {
        node: NodeId::new(node.strip_prefix("node=")?).ok()?,
        stream: StreamName::new(stream.strip_prefix("stream=")?).ok()?,
        epoch,
        last,
    })
}

fn encode(
    node: &NodeId,
    stream: &StreamName,
    epoch: u64,
    first: u64,
    records: &[Record],
) -> Result<Vec<u8>, ParquetError> {
    let json = records
        .first()
        .is_some_and(|r| r.encoding == Encoding::Json);
    let schema = Arc::new(parse_message_type(&format!(
        "message record {{
            required binary node (STRING);
            required binary stream (STRING);
            required int64 epoch;
            required int64 sequence;
            required int64 time_ms;
            required binary encoding (STRING);
            required binary value{};
        }}",
        if json { " (STRING)" } else { "" }
    ))?);
    let properties = WriterProperties::builder()
        .set_compression(Compression::SNAPPY)
        .build();
    let mut writer = SerializedFileWriter::new(Vec::new(), schema, Arc::new(properties))?;
    let mut group = writer.next_row_group()?;
    let rows = records.len();
    texts(&mut group, vec![node.as_str().into(); rows])?;
    texts(&mut group, vec![stream.as_str().into(); rows])?;
    numbers(&mut group, vec![number(epoch); rows])?;
    numbers(&mut group, (first..).take(rows).map(number).collect())?;
    numbers(
        &mut group,
        records.iter().map(|r| number(r.time_ms)).collect(),
    )?;
    texts(
        &mut group,
        records.iter().map(|r| r.encoding.as_str().into()).collect(),
    )?;
    texts(
        &mut group,
        records.iter().map(|r| r.value.clone().into()).collect(),
    )?;
    group.close()?;
    writer.into_inner()
}

/// Parquet's integers are signed; no figure here comes near their end.
fn number(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

fn numbers(
    group: &mut SerializedRowGroupWriter<'_, Vec<u8>>,
    values: Vec<i64>,
) -> Result<(), ParquetError> {
    let mut column = group.next_column()?.expect("the schema has this column");
    column
        .typed::<Int64Type>()
        .write_batch(&values, None, None)?;
    column.close()
}

fn texts(
    group: &mut SerializedRowGroupWriter<'_, Vec<u8>>,
    values: Vec<ByteArray>,
) -> Result<(), ParquetError> {
    let mut column = group.next_column()?.expect("the schema has this column");
    column
        .typed::<ByteArrayType>()
        .write_batch(&values, None, None)?;
    column.close()
}
