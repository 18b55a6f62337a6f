//! Records as a Parquet file, and back.

use std::sync::Arc;

use bytes::Bytes;
use fleet_api::frame::{Encoding, Record};
use fleet_api::ids::{NodeId, StreamName};
use parquet::basic::Type as Physical;
use parquet::basic::{Compression, Encoding as PageEncoding, LogicalType, Repetition, TimeUnit};
use parquet::column::reader::get_typed_column_reader;
use parquet::data_type::{BoolType, ByteArray, ByteArrayType, DataType, DoubleType, Int64Type};
use parquet::errors::ParquetError;
use parquet::file::metadata::ParquetMetaData;
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use parquet::file::reader::{FileReader as _, RowGroupReader, SerializedFileReader};
use parquet::file::writer::{SerializedFileWriter, SerializedRowGroupWriter};
use parquet::schema::types::{ColumnPath, Type as Node, TypePtr};

use super::fields::{Column, Scalar, Shape, Type};
use super::names::clock_is_set;

/// Rows that have their statistics together.
const GROUP_ROWS: usize = 128 * 1024;
/// The last moment that readers can show: the end of the year 9999.
const LAST_MS: u64 = 253_402_300_799_999;

type Group<'a> = SerializedRowGroupWriter<'a, Vec<u8>>;

/// Records of one stream of one node, with contiguous sequences.
#[derive(Debug, Clone)]
pub(super) struct Table {
    pub(super) node: NodeId,
    pub(super) stream: StreamName,
    pub(super) epoch: u64,
    pub(super) first: u64,
    pub(super) records: Vec<Record>,
}

impl Table {
    /// Encodes the records; `shape` learns from them. At most `max_columns` fields get columns.
    pub(super) fn encode(
        &self,
        shape: &mut Shape,
        max_columns: usize,
    ) -> Result<Vec<u8>, ParquetError> {
        let columns = shape.columns(&self.records, max_columns);
        let schema = schema(&columns)?;
        let mut writer = SerializedFileWriter::new(Vec::new(), schema, Arc::new(properties()))?;
        let mut start = 0;
        for records in self.records.chunks(GROUP_ROWS) {
            let mut group = writer.next_row_group()?;
            self.fixed_columns(&mut group, start, records)?;
            for column in &columns {
                let from = column.cells.partition_point(|(row, _)| *row < start);
                let to = column
                    .cells
                    .partition_point(|(row, _)| *row < start + records.len());
                field_column(
                    &mut group,
                    column.of,
                    start,
                    records.len(),
                    &column.cells[from..to],
                )?;
            }
            group.close()?;
            start += records.len();
        }
        writer.into_inner()
    }

    fn fixed_columns(
        &self,
        group: &mut Group<'_>,
        start: usize,
        records: &[Record],
    ) -> Result<(), ParquetError> {
        let rows = records.len();
        let first = self.first + start as u64;
        let numbers = |each: fn(&Record) -> u64| records.iter().map(each).map(number).collect();
        let times: Vec<i64> = numbers(|r| r.time_ms.min(LAST_MS));
        let set: Vec<_> = records.iter().map(|r| clock_is_set(r.time_ms)).collect();
        let encodings: Vec<_> = records.iter().map(|r| r.encoding.as_str().into()).collect();
        required::<ByteArrayType>(group, &vec![self.node.as_str().into(); rows])?;
        required::<ByteArrayType>(group, &vec![self.stream.as_str().into(); rows])?;
        required::<Int64Type>(group, &vec![number(self.epoch); rows])?;
        let sequences: Vec<_> = (first..).take(rows).map(number).collect();
        required::<Int64Type>(group, &sequences)?;
        required::<Int64Type>(group, &times)?;
        required::<BoolType>(group, &set)?;
        required::<ByteArrayType>(group, &encodings)?;
        let is_text: Vec<_> = records.iter().map(is_text).collect();
        for wanted in [true, false] {
            let levels: Vec<i16> = is_text.iter().map(|is| (*is == wanted).into()).collect();
            let values = records
                .iter()
                .zip(&is_text)
                .filter(|(_, is)| **is == wanted);
            let values: Vec<ByteArray> = values.map(|(r, _)| r.value.clone().into()).collect();
            optional::<ByteArrayType>(group, &values, &levels)?;
        }
        Ok(())
    }
}

/// Reads the records of a file with their sequences; `shape` learns from its columns.
pub(super) fn decode(file: Bytes, shape: &mut Shape) -> Result<Vec<(u64, Record)>, ParquetError> {
    let reader = SerializedFileReader::new(file)?;
    learn(reader.metadata(), shape);
    let mut all = Vec::new();
    for at in 0..reader.num_row_groups() {
        let group = reader.get_row_group(at)?;
        let sequences = read::<Int64Type>(&*group, "sequence")?;
        let times = read::<Int64Type>(&*group, "time_ms")?;
        let encodings = read::<ByteArrayType>(&*group, "encoding")?;
        let texts = read::<ByteArrayType>(&*group, "value")?;
        let bytes = read::<ByteArrayType>(&*group, "bytes")?;
        let rows = sequences.into_iter().zip(times).zip(encodings);
        for (((sequence, time), encoding), (text, bytes)) in rows.zip(texts.into_iter().zip(bytes))
        {
            let (Some(sequence), Some(time), Some(encoding), Some(value)) =
                (sequence, time, encoding, text.or(bytes))
            else {
                return Err(ParquetError::General("a fixed column has no value".into()));
            };
            let record = Record {
                time_ms: u64::try_from(time).unwrap_or(0),
                encoding: named(encoding.data())?,
                value: Bytes::copy_from_slice(value.data()),
            };
            all.push((u64::try_from(sequence).unwrap_or(0), record));
        }
    }
    Ok(all)
}

/// What a file's footer says about its stream's shape.
pub(super) fn learn(footer: &ParquetMetaData, shape: &mut Shape) {
    let schema = footer.file_metadata().schema();
    for field in schema.get_fields() {
        if field.is_primitive() && field.get_physical_type() == Physical::DOUBLE {
            shape.note_fractional(field.name());
        }
    }
}

/// Whether a record's value goes into the column of texts.
fn is_text(record: &Record) -> bool {
    record.encoding == Encoding::Json && std::str::from_utf8(&record.value).is_ok()
}

fn named(encoding: &[u8]) -> Result<Encoding, ParquetError> {
    [Encoding::Json, Encoding::Cbor, Encoding::Bytes]
        .into_iter()
        .find(|known| known.as_str().as_bytes() == encoding)
        .ok_or_else(|| ParquetError::General("a record has an encoding that is not known".into()))
}

fn schema(columns: &[Column]) -> Result<TypePtr, ParquetError> {
    let (must, may) = (Repetition::REQUIRED, Repetition::OPTIONAL);
    let text = || Some(LogicalType::String);
    let time = Some(LogicalType::timestamp(true, TimeUnit::MILLIS));
    let mut fields = vec![
        leaf("node", Physical::BYTE_ARRAY, text(), must)?,
        leaf("stream", Physical::BYTE_ARRAY, text(), must)?,
        leaf("epoch", Physical::INT64, None, must)?,
        leaf("sequence", Physical::INT64, None, must)?,
        leaf("time_ms", Physical::INT64, time, must)?,
        leaf("clock_set", Physical::BOOLEAN, None, must)?,
        leaf("encoding", Physical::BYTE_ARRAY, text(), must)?,
        leaf("value", Physical::BYTE_ARRAY, text(), may)?,
        leaf("bytes", Physical::BYTE_ARRAY, None, may)?,
    ];
    for column in columns {
        let (physical, logical) = match column.of {
            Type::Bool => (Physical::BOOLEAN, None),
            Type::Int => (Physical::INT64, None),
            Type::Double => (Physical::DOUBLE, None),
            Type::Text => (Physical::BYTE_ARRAY, text()),
        };
        fields.push(leaf(&column.name, physical, logical, may)?);
    }
    let schema = Node::group_type_builder("record").with_fields(fields);
    Ok(Arc::new(schema.build()?))
}

fn leaf(
    name: &str,
    physical: Physical,
    logical: Option<LogicalType>,
    repetition: Repetition,
) -> Result<TypePtr, ParquetError> {
    let leaf = Node::primitive_type_builder(name, physical)
        .with_logical_type(logical)
        .with_repetition(repetition);
    Ok(Arc::new(leaf.build()?))
}

fn properties() -> WriterProperties {
    let mut properties = WriterProperties::builder()
        .set_compression(Compression::SNAPPY)
        .set_statistics_enabled(EnabledStatistics::Chunk);
    for name in ["sequence", "time_ms"] {
        properties = properties
            .set_column_dictionary_enabled(ColumnPath::from(name), false)
            .set_column_encoding(ColumnPath::from(name), PageEncoding::DELTA_BINARY_PACKED);
    }
    for name in ["value", "bytes"] {
        properties = properties
            .set_column_dictionary_enabled(ColumnPath::from(name), false)
            .set_column_statistics_enabled(ColumnPath::from(name), EnabledStatistics::None);
    }
    properties.build()
}

fn field_column(
    group: &mut Group<'_>,
    of: Type,
    start: usize,
    rows: usize,
    cells: &[(usize, Scalar)],
) -> Result<(), ParquetError> {
    let mut levels = vec![0; rows];
    for (row, _) in cells {
        levels[row - start] = 1;
    }
    let values = cells.iter().map(|(_, scalar)| scalar);
    match of {
        Type::Bool => {
            let values: Vec<_> = values.map(|v| *v == Scalar::Bool(true)).collect();
            optional::<BoolType>(group, &values, &levels)
        }
        Type::Int => {
            let whole = |scalar: &Scalar| match scalar {
                Scalar::Int(number) => *number,
                _ => 0,
            };
            optional::<Int64Type>(group, &values.map(whole).collect::<Vec<_>>(), &levels)
        }
        Type::Double => {
            let values: Vec<_> = values.map(Scalar::as_double).collect();
            optional::<DoubleType>(group, &values, &levels)
        }
        Type::Text => {
            let texts = values.map(|v| v.clone().into_text().into_bytes().into());
            optional::<ByteArrayType>(group, &texts.collect::<Vec<_>>(), &levels)
        }
    }
}

/// Parquet's integers are signed; no figure here comes near their end.
fn number(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

fn required<T: DataType>(group: &mut Group<'_>, values: &[T::T]) -> Result<(), ParquetError> {
    let mut column = group.next_column()?.expect("the schema has this column");
    column.typed::<T>().write_batch(values, None, None)?;
    column.close()
}

fn optional<T: DataType>(
    group: &mut Group<'_>,
    values: &[T::T],
    levels: &[i16],
) -> Result<(), ParquetError> {
    let mut column = group.next_column()?.expect("the schema has this column");
    column
        .typed::<T>()
        .write_batch(values, Some(levels), None)?;
    column.close()
}

fn read<T: DataType>(
    group: &dyn RowGroupReader,
    name: &str,
) -> Result<Vec<Option<T::T>>, ParquetError> {
    let columns = group.metadata().columns();
    let at = columns
        .iter()
        .position(|c| c.column_path().parts() == [name])
        .ok_or_else(|| ParquetError::General(format!("there is no column {name}")))?;
    let rows = usize::try_from(group.metadata().num_rows()).unwrap_or(0);
    let optional = columns[at].column_descr().max_def_level() > 0;
    let (mut levels, mut values) = (Vec::new(), Vec::new());
    let mut reader = get_typed_column_reader::<T>(group.get_column_reader(at)?);
    reader.read_records(rows, Some(&mut levels), None, &mut values)?;
    let mut values = values.into_iter();
    Ok(if optional {
        levels
            .iter()
            .map(|l| (*l > 0).then(|| values.next()).flatten())
            .collect()
    } else {
        values.map(Some).collect()
    })
}

#[cfg(test)]
mod tests;
