//! Tensor data as JSON: numbers, booleans or strings, nested like the shape or flat.
//!
//! JSON has no NaN and no infinities. Both ways they are the strings `"NaN"`, `"Infinity"` and `"-Infinity"`, as in the
//! JSON form of protocol buffers; a request may also have them as bare words, which some clients write.

use bytes::Bytes;

use super::tensor::{DataType, Tensor, element_count, push_string};

mod number;
mod text;

pub(crate) use text::{Text, TextError};

use number::{float32, float64, integer};

/// What is wrong with a `data` member; reads well after "input 'x'".
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum DataError {
    /// A type that JSON cannot carry.
    #[error(
        "has datatype {0}, which JSON cannot carry; send it as binary (parameters.binary_data_size)"
    )]
    NoJsonForm(DataType),
    /// A shape that no tensor has.
    #[error("has shape {0:?}, which is not a size that can be served")]
    Shape(Vec<i64>),
    /// Something else than an array.
    #[error("has data that is no array")]
    NoArray,
    /// An element of another kind, or out of range.
    #[error("has {got} as element {index}, expected {expected}")]
    Element {
        index: usize,
        got: String,
        expected: &'static str,
    },
    /// Neither a comma nor a bracket behind an element.
    #[error("has {got} behind its first {elements} elements, expected ',' or ']'")]
    Separator { elements: usize, got: String },
    /// The text ends before the data does.
    #[error("has data that does not end")]
    Unfinished,
    /// More or fewer elements than the shape says.
    #[error("has {got} elements, expected {expected} for its shape")]
    Count { expected: usize, got: usize },
    /// Brackets as deep as no form of the shape.
    #[error(
        "has data in {got} levels of brackets, expected 1 (flat) or {} for shape {shape:?}",
        shape.len()
    )]
    Depth { got: usize, shape: Vec<i64> },
    /// A nested list that is longer or shorter than its dimension.
    #[error(
        "has {got} elements along dimension {dimension} before element {before}, expected {expected} for shape {shape:?}"
    )]
    Ragged {
        dimension: usize,
        before: usize,
        got: usize,
        expected: i64,
        shape: Vec<i64>,
    },
}

const FP32: &str = r#"a number within FP32, "NaN", "Infinity" or "-Infinity""#;
const FP64: &str = r#"a number within FP64, "NaN", "Infinity" or "-Infinity""#;

/// Reads the elements for `shape` from the start of `json`, and gives their length in the text too.
pub(crate) fn decode(
    datatype: DataType,
    shape: &[i64],
    json: &[u8],
) -> Result<(Bytes, usize), DataError> {
    macro_rules! whole {
        ($kind:ty) => {
            |text, data| {
                let (value, length) = integer::<$kind>(text)?;
                data.extend_from_slice(&value.to_le_bytes());
                Some(length)
            }
        };
    }
    let list = List::new(datatype, shape, json)?;
    match datatype {
        DataType::Fp32 => list.read(FP32, |text, data| {
            let (value, length) = float32(text).or_else(|| {
                let (value, length) = not_finite(text)?;
                Some((value as f32, length))
            })?;
            data.extend_from_slice(&value.to_le_bytes());
            Some(length)
        }),
        DataType::Fp64 => list.read(FP64, |text, data| {
            let (value, length) = float64(text).or_else(|| not_finite(text))?;
            data.extend_from_slice(&value.to_le_bytes());
            Some(length)
        }),
        DataType::Bool => list.read("true or false", |text, data| {
            let word = token(text);
            data.push(match word {
                b"true" | b"1" => 1,
                b"false" | b"0" => 0,
                _ => return None,
            });
            Some(word.len())
        }),
        DataType::Bytes => list.read("a string of valid Unicode", |text, data| {
            let (string, length) = text::string(text)?;
            push_string(data, string.as_bytes());
            Some(length)
        }),
        DataType::Uint8 => list.read("an integer from 0 to 255", whole!(u8)),
        DataType::Uint16 => list.read("an integer from 0 to 65535", whole!(u16)),
        DataType::Uint32 => list.read("an integer within UINT32", whole!(u32)),
        DataType::Uint64 => list.read("an integer within UINT64", whole!(u64)),
        DataType::Int8 => list.read("an integer from -128 to 127", whole!(i8)),
        DataType::Int16 => list.read("an integer from -32768 to 32767", whole!(i16)),
        DataType::Int32 => list.read("an integer within INT32", whole!(i32)),
        DataType::Int64 => list.read("an integer within INT64", whole!(i64)),
        DataType::Fp16 | DataType::Bf16 => Err(DataError::NoJsonForm(datatype)),
    }
}

/// Data on its way from text to bytes.
struct List<'a> {
    json: &'a [u8],
    shape: &'a [i64],
    /// Elements that the shape asks for.
    count: usize,
    at: usize,
    /// Elements read.
    index: usize,
    data: Vec<u8>,
}

impl<'a> List<'a> {
    fn new(datatype: DataType, shape: &'a [i64], json: &'a [u8]) -> Result<List<'a>, DataError> {
        if !datatype.has_json_form() {
            return Err(DataError::NoJsonForm(datatype));
        }
        let count = element_count(shape).ok_or_else(|| DataError::Shape(shape.to_vec()))?;
        // A count that lies reserves no more than the text could hold.
        let room = count.min(json.len() / 2 + 1) * datatype.size().unwrap_or(8);
        Ok(List {
            json,
            shape,
            count,
            at: 0,
            index: 0,
            data: Vec::with_capacity(room),
        })
    }

    /// `read` appends the element at the start of a text and gives its length in it.
    fn read(
        mut self,
        expected: &'static str,
        read: impl Fn(&[u8], &mut Vec<u8>) -> Option<usize>,
    ) -> Result<(Bytes, usize), DataError> {
        let mut depth = 0;
        while self.peek() == Some(b'[') {
            self.at += 1;
            depth += 1;
        }
        match depth {
            0 if self.shape.is_empty() => self.element(expected, &read)?,
            0 => return Err(DataError::NoArray),
            _ if self.count == 0 => self.nothing(depth)?,
            1 => self.row(expected, &read)?,
            _ if depth == self.shape.len() => self.rows(expected, &read)?,
            got => {
                let shape = self.shape.to_vec();
                return Err(DataError::Depth { got, shape });
            }
        }
        if self.index != self.count {
            return Err(DataError::Count {
                expected: self.count,
                got: self.index,
            });
        }
        Ok((self.data.into(), self.at))
    }

    /// The elements up to the bracket that ends them.
    #[inline]
    fn row(
        &mut self,
        expected: &'static str,
        read: &impl Fn(&[u8], &mut Vec<u8>) -> Option<usize>,
    ) -> Result<(), DataError> {
        if self.peek() == Some(b']') {
            self.at += 1;
            return Ok(());
        }
        loop {
            self.at += text::space(&self.json[self.at..]);
            self.element(expected, read)?;
            if self.json.get(self.at) == Some(&b',') {
                self.at += 1;
            } else if self.closes()? {
                return Ok(());
            }
        }
    }

    #[inline]
    fn element(
        &mut self,
        expected: &'static str,
        read: &impl Fn(&[u8], &mut Vec<u8>) -> Option<usize>,
    ) -> Result<(), DataError> {
        let rest = &self.json[self.at..];
        let length = read(rest, &mut self.data).filter(|length| {
            let next = rest.get(*length);
            next.is_none_or(|next| ends(*next))
        });
        let Some(length) = length else {
            return Err(self.unexpected(rest, expected));
        };
        self.at += length;
        self.index += 1;
        if self.index > self.count {
            // Only counted, for the message.
            self.data.clear();
        }
        Ok(())
    }

    /// Elements nested like the shape, which has no dimension of size 0; the first brackets are read.
    fn rows(
        &mut self,
        expected: &'static str,
        read: &impl Fn(&[u8], &mut Vec<u8>) -> Option<usize>,
    ) -> Result<(), DataError> {
        let innermost = self.shape.len() - 1;
        let mut lengths = vec![0; innermost];
        loop {
            let before = self.index;
            self.row(expected, read)?;
            self.expect_length(innermost, self.index - before)?;
            let mut dimension = innermost;
            // Up through the lists that end here, and down again into the next.
            loop {
                if dimension == 0 {
                    return Ok(());
                }
                lengths[dimension - 1] += 1;
                if !self.closes()? {
                    break;
                }
                dimension -= 1;
                let length = std::mem::take(&mut lengths[dimension]);
                self.expect_length(dimension, length)?;
            }
            for _ in dimension..=innermost {
                if self.peek() != Some(b'[') {
                    let rest = &self.json[self.at..];
                    return Err(self.unexpected(rest, "a list like those before it"));
                }
                self.at += 1;
            }
        }
    }

    fn expect_length(&self, dimension: usize, got: usize) -> Result<(), DataError> {
        let expected = self.shape[dimension];
        if usize::try_from(expected) == Ok(got) {
            return Ok(());
        }
        Err(DataError::Ragged {
            dimension,
            before: self.index,
            got,
            expected,
            shape: self.shape.to_vec(),
        })
    }

    /// Lists without any element, of which `depth` are open.
    fn nothing(&mut self, mut depth: usize) -> Result<(), DataError> {
        let mut opened = true;
        while depth > 0 {
            match self.peek() {
                Some(b'[') if opened => depth += 1,
                Some(b']') => depth -= 1,
                Some(_) if opened => {
                    let rest = &self.json[self.at..];
                    return Err(self.unexpected(rest, "nothing, as the shape has no element"));
                }
                _ => {
                    self.closes()?;
                    if self.peek() != Some(b'[') {
                        let rest = &self.json[self.at..];
                        return Err(self.unexpected(rest, "another empty list"));
                    }
                    depth += 1;
                }
            }
            opened = self.json[self.at] == b'[';
            self.at += 1;
        }
        Ok(())
    }

    /// Takes a bracket that ends a list, or a comma.
    fn closes(&mut self) -> Result<bool, DataError> {
        match self.peek() {
            Some(b']') => {
                self.at += 1;
                Ok(true)
            }
            Some(b',') => {
                self.at += 1;
                Ok(false)
            }
            None => Err(DataError::Unfinished),
            Some(_) => Err(DataError::Separator {
                elements: self.index,
                got: shown(&self.json[self.at..]),
            }),
        }
    }

    fn peek(&mut self) -> Option<u8> {
        self.at += text::space(&self.json[self.at..]);
        self.json.get(self.at).copied()
    }

    #[cold]
    fn unexpected(&self, rest: &[u8], expected: &'static str) -> DataError {
        if rest.is_empty() {
            return DataError::Unfinished;
        }
        DataError::Element {
            index: self.index,
            got: shown(rest),
            expected,
        }
    }
}

/// The word at the start of `rest`, for people.
fn shown(rest: &[u8]) -> String {
    let length = text::string_length(rest).unwrap_or_else(|| token(rest).len().max(1));
    let word = String::from_utf8_lossy(&rest[..length.min(rest.len())]);
    let mut shown: String = word.chars().take(40).collect();
    if shown.len() < word.len() {
        shown.push('…');
    }
    shown
}

/// The number or word at the start of `rest`.
fn token(rest: &[u8]) -> &[u8] {
    let end = rest
        .iter()
        .position(|byte| ends(*byte) || matches!(byte, b'}' | b':'));
    &rest[..end.unwrap_or(rest.len())]
}

/// Whether `byte` may stand behind an element.
#[inline]
fn ends(byte: u8) -> bool {
    matches!(byte, b',' | b']' | b' ' | b'\n' | b'\r' | b'\t' | b'}')
}

#[cold]
fn not_finite(rest: &[u8]) -> Option<(f64, usize)> {
    let word = token(rest);
    let value = match word {
        b"NaN" | b"\"NaN\"" => f64::NAN,
        b"Infinity" | b"\"Infinity\"" => f64::INFINITY,
        b"-Infinity" | b"\"-Infinity\"" => f64::NEG_INFINITY,
        _ => return None,
    };
    Some((value, word.len()))
}

/// Appends the elements as one flat JSON array. False, with nothing written, for a type that JSON cannot carry.
pub(crate) fn encode(out: &mut Vec<u8>, tensor: &Tensor) -> bool {
    match tensor.datatype {
        DataType::Fp16 | DataType::Bf16 => return false,
        DataType::Bool => array(out, tensor.data.iter().map(|byte| *byte != 0)),
        DataType::Bytes => array(out, tensor.strings().map(String::from_utf8_lossy)),
        DataType::Uint8 => array(out, tensor.data.iter()),
        DataType::Int8 => array(out, tensor.data.iter().map(|byte| byte.cast_signed())),
        DataType::Uint16 => array(out, chunks(tensor).map(u16::from_le_bytes)),
        DataType::Uint32 => array(out, chunks(tensor).map(u32::from_le_bytes)),
        DataType::Uint64 => array(out, chunks(tensor).map(u64::from_le_bytes)),
        DataType::Int16 => array(out, chunks(tensor).map(i16::from_le_bytes)),
        DataType::Int32 => array(out, chunks(tensor).map(i32::from_le_bytes)),
        DataType::Int64 => array(out, chunks(tensor).map(i64::from_le_bytes)),
        DataType::Fp32 => list(out, chunks(tensor).map(f32::from_le_bytes), |out, float| {
            float_value(out, float, float.into());
        }),
        DataType::Fp64 => list(out, chunks(tensor).map(f64::from_le_bytes), |out, float| {
            float_value(out, float, float);
        }),
    }
    true
}

fn chunks<const N: usize>(tensor: &Tensor) -> impl Iterator<Item = [u8; N]> {
    tensor.data.as_chunks::<N>().0.iter().copied()
}

fn array<T: serde::Serialize>(out: &mut Vec<u8>, elements: impl Iterator<Item = T>) {
    list(out, elements, |out, element| value(out, &element));
}

fn list<T>(out: &mut Vec<u8>, elements: impl Iterator<Item = T>, write: impl Fn(&mut Vec<u8>, T)) {
    out.push(b'[');
    for (index, element) in elements.enumerate() {
        if index > 0 {
            out.push(b',');
        }
        write(out, element);
    }
    out.push(b']');
}

fn float_value(out: &mut Vec<u8>, float: impl serde::Serialize, wide: f64) {
    if wide.is_finite() {
        value(out, &float);
    } else if wide.is_nan() {
        value(out, "NaN");
    } else {
        value(out, if wide > 0.0 { "Infinity" } else { "-Infinity" });
    }
}

/// Appends one JSON value.
pub(crate) fn value(out: &mut Vec<u8>, value: &(impl serde::Serialize + ?Sized)) {
    serde_json::to_writer(out, value)
        .expect("numbers, strings and lists of them always have a JSON form");
}

#[cfg(test)]
mod tests;
