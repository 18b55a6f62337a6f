//! Columns for the fields of records. Pure.
//!
//! A record that is a JSON or CBOR object gives each of its scalar fields a column; a field of an
//! object within it is named `outer.inner`. A column's type is the narrowest that holds all of
//! the file's values: whole numbers, then numbers, then text. Truth values stay among themselves:
//! where they meet numbers or text, the field has no column in that file. What has no column is
//! still in the record's own value.

use std::collections::{BTreeSet, HashMap};

use ciborium::Value as Cbor;
use fleet_api::frame::{Encoding, Record};
use serde_json::Value as Json;

/// Names that the fixed columns and the folders have.
const TAKEN: [&str; 10] = [
    "node",
    "stream",
    "day",
    "epoch",
    "sequence",
    "time_ms",
    "clock_set",
    "encoding",
    "value",
    "bytes",
];
/// Objects within objects that are looked into.
const MAX_DEPTH: usize = 4;
/// A longer name has no column.
const MAX_NAME_BYTES: usize = 128;
/// Names of fractional fields that are remembered of a stream.
const MAX_REMEMBERED: usize = 4096;

/// A field's value.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Scalar {
    Bool(bool),
    Int(i64),
    Double(f64),
    Text(String),
}

/// What a column holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Type {
    Bool,
    Int,
    Double,
    Text,
}

/// A column of a file. Rows without a cell have no value there.
#[derive(Debug, PartialEq)]
pub(crate) struct Column {
    pub(crate) name: String,
    pub(crate) of: Type,
    /// Rows, ascending, with their values.
    pub(crate) cells: Vec<(usize, Scalar)>,
}

/// What a stream's earlier files say about the types of later ones.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Shape {
    /// Fields that once had a fraction: whole numbers are written as doubles from then on, so
    /// that a stream's files seldom differ in their types.
    fractional: BTreeSet<String>,
}

impl Shape {
    /// Notes a column of doubles.
    pub(crate) fn note_fractional(&mut self, name: &str) {
        if self.fractional.len() < MAX_REMEMBERED {
            self.fractional.insert(name.to_owned());
        }
    }

    /// Gives records their columns, at most `max`, in the order in which the fields appear.
    pub(crate) fn columns(&mut self, records: &[Record], max: usize) -> Vec<Column> {
        let mut fields = Fields {
            max,
            ..Fields::default()
        };
        for (row, record) in records.iter().enumerate() {
            fields.row = row;
            match record.encoding {
                Encoding::Json => {
                    if let Ok(Json::Object(object)) = serde_json::from_slice(&record.value) {
                        fields.json(&object, 0);
                    }
                }
                Encoding::Cbor => {
                    if let Ok(Cbor::Map(map)) = ciborium::from_reader(&record.value[..]) {
                        fields.cbor(&map, 0);
                    }
                }
                Encoding::Bytes => {}
            }
            fields.path.clear();
        }
        let columns = fields.fields.into_iter();
        columns.filter_map(|field| self.column(field)).collect()
    }

    fn column(&mut self, field: Field) -> Option<Column> {
        let name = column_name(&field.path);
        let of = match field.of? {
            Type::Int if self.fractional.contains(&name) => Type::Double,
            of => of,
        };
        if of == Type::Double {
            self.note_fractional(&name);
        }
        Some(Column {
            name,
            of,
            cells: field.cells,
        })
    }
}

impl Scalar {
    fn of(&self) -> Type {
        match self {
            Self::Bool(_) => Type::Bool,
            Self::Int(_) => Type::Int,
            Self::Double(_) => Type::Double,
            Self::Text(_) => Type::Text,
        }
    }

    #[expect(clippy::cast_precision_loss, reason = "the record's value stays exact")]
    pub(crate) fn as_double(&self) -> f64 {
        match self {
            Self::Int(number) => *number as f64,
            Self::Double(number) => *number,
            Self::Bool(_) | Self::Text(_) => f64::NAN,
        }
    }

    pub(crate) fn into_text(self) -> String {
        match self {
            Self::Text(text) => text,
            Self::Int(number) => number.to_string(),
            Self::Double(number) => Json::from(number).to_string(),
            Self::Bool(is) => is.to_string(),
        }
    }
}

impl Type {
    /// The type that holds both, if there is one.
    fn and(self, other: Self) -> Option<Self> {
        match (self, other) {
            _ if self == other => Some(self),
            (Self::Bool, _) | (_, Self::Bool) => None,
            (Self::Text, _) | (_, Self::Text) => Some(Self::Text),
            _ => Some(Self::Double),
        }
    }
}

/// Fields while the records are looked through.
#[derive(Default)]
struct Fields {
    max: usize,
    row: usize,
    /// The field that is looked at.
    path: String,
    by_path: HashMap<String, usize>,
    fields: Vec<Field>,
}

struct Field {
    path: String,
    /// `None` once values have met that no type holds.
    of: Option<Type>,
    cells: Vec<(usize, Scalar)>,
}

impl Fields {
    fn json(&mut self, object: &serde_json::Map<String, Json>, depth: usize) {
        for (key, value) in object {
            self.within(key, |fields| match value {
                Json::Bool(is) => fields.add(Scalar::Bool(*is)),
                Json::Number(number) => fields.add(match number.as_i64() {
                    Some(whole) => Scalar::Int(whole),
                    None => Scalar::Double(number.as_f64().unwrap_or(f64::NAN)),
                }),
                Json::String(text) => fields.add(Scalar::Text(text.clone())),
                Json::Object(inner) if depth + 1 < MAX_DEPTH => fields.json(inner, depth + 1),
                Json::Null | Json::Array(_) | Json::Object(_) => {}
            });
        }
    }

    fn cbor(&mut self, map: &[(Cbor, Cbor)], depth: usize) {
        for (key, value) in map {
            let Cbor::Text(key) = key else { continue };
            let mut value = value;
            while let Cbor::Tag(_, inner) = value {
                value = inner;
            }
            self.within(key, |fields| match value {
                Cbor::Bool(is) => fields.add(Scalar::Bool(*is)),
                Cbor::Integer(number) => fields.add(whole(i128::from(*number))),
                Cbor::Float(number) => fields.add(Scalar::Double(*number)),
                Cbor::Text(text) => fields.add(Scalar::Text(text.clone())),
                Cbor::Map(inner) if depth + 1 < MAX_DEPTH => fields.cbor(inner, depth + 1),
                _ => {}
            });
        }
    }

    fn within(&mut self, key: &str, look: impl FnOnce(&mut Self)) {
        let before = self.path.len();
        if before > 0 {
            self.path.push('.');
        }
        self.path.push_str(key);
        if !key.is_empty() && self.path.len() <= MAX_NAME_BYTES {
            look(self);
        }
        self.path.truncate(before);
    }

    fn add(&mut self, scalar: Scalar) {
        let at = match self.by_path.get(&self.path) {
            Some(at) => *at,
            None if self.fields.len() == self.max => return,
            None => {
                self.by_path.insert(self.path.clone(), self.fields.len());
                self.fields.push(Field {
                    path: self.path.clone(),
                    of: Some(scalar.of()),
                    cells: Vec::new(),
                });
                self.fields.len() - 1
            }
        };
        let field = &mut self.fields[at];
        field.of = field.of.and_then(|of| of.and(scalar.of()));
        match field.cells.last_mut() {
            // A name that comes twice in one record: the later one counts.
            Some((row, last)) if *row == self.row => *last = scalar,
            _ => field.cells.push((self.row, scalar)),
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "the record's value stays exact")]
fn whole(number: i128) -> Scalar {
    i64::try_from(number).map_or(Scalar::Double(number as f64), Scalar::Int)
}

/// A field's column: its path, with an underscore before it where a fixed column has that name.
fn column_name(path: &str) -> String {
    let bare = path.trim_start_matches('_');
    if TAKEN.iter().any(|taken| taken.eq_ignore_ascii_case(bare)) {
        format!("_{path}")
    } else {
        path.to_owned()
    }
}

#[cfg(test)]
mod tests;
