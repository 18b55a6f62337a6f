//! Tensor data as JSON: numbers, booleans or strings, nested like the shape or flat.
//!
//! JSON has no NaN and no infinities. In a request they are refused like any other word that is no number; in an answer
//! each is written as `null`. The binary extension carries all of them.

use bytes::Bytes;

use super::tensor::{DataType, Tensor, push_string};

/// What is wrong with a `data` member; reads well after "input 'x'".
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum DataError {
    /// A type that JSON cannot carry.
    #[error(
        "has datatype {0}, which JSON cannot carry; send it as binary (parameters.binary_data_size)"
    )]
    NoJsonForm(DataType),
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
    /// More or fewer elements than the shape says.
    #[error("has {got} elements, expected {expected} for its shape")]
    Count { expected: usize, got: usize },
}

/// A reader of one integer, for [`Elements::each`].
macro_rules! integer {
    ($kind:ty) => {
        |rest| {
            let word = token(rest);
            Some((word.parse::<$kind>().ok()?.to_le_bytes(), word.len()))
        }
    };
}

/// Reads `count` elements of `json`, which is a valid JSON value.
pub(crate) fn decode(datatype: DataType, count: usize, json: &str) -> Result<Bytes, DataError> {
    if !datatype.has_json_form() {
        return Err(DataError::NoJsonForm(datatype));
    }
    if !json.starts_with('[') {
        return Err(DataError::NoArray);
    }
    // A count that lies reserves no more than the text could hold.
    let room = count.min(json.len() / 2 + 1) * datatype.size().unwrap_or(8);
    let mut elements = Elements {
        json,
        at: 0,
        index: 0,
        data: Vec::with_capacity(room),
    };
    match datatype {
        DataType::Fp32 => elements.each("a number within FP32", |rest| {
            let (value, length) = float32(rest)?;
            Some((value.to_le_bytes(), length))
        }),
        DataType::Fp64 => elements.each("a number within FP64", |rest| {
            let (value, length) = float64(rest)?;
            Some((value.to_le_bytes(), length))
        }),
        DataType::Bool => elements.each("true or false", |rest| {
            let word = token(rest);
            let value = match word {
                "true" | "1" => 1,
                "false" | "0" => 0,
                _ => return None,
            };
            Some(([value], word.len()))
        }),
        DataType::Uint8 => elements.each("an integer from 0 to 255", integer!(u8)),
        DataType::Uint16 => elements.each("an integer from 0 to 65535", integer!(u16)),
        DataType::Uint32 => elements.each("an integer within UINT32", integer!(u32)),
        DataType::Uint64 => elements.each("an integer within UINT64", integer!(u64)),
        DataType::Int8 => elements.each("an integer from -128 to 127", integer!(i8)),
        DataType::Int16 => elements.each("an integer from -32768 to 32767", integer!(i16)),
        DataType::Int32 => elements.each("an integer within INT32", integer!(i32)),
        DataType::Int64 => elements.each("an integer within INT64", integer!(i64)),
        DataType::Bytes => elements.strings(),
        DataType::Fp16 | DataType::Bf16 => return Err(DataError::NoJsonForm(datatype)),
    }?;
    if elements.index != count {
        return Err(DataError::Count {
            expected: count,
            got: elements.index,
        });
    }
    Ok(elements.data.into())
}

struct Elements<'a> {
    json: &'a str,
    at: usize,
    index: usize,
    data: Vec<u8>,
}

impl<'a> Elements<'a> {
    /// The text from the next element on; brackets and commas only separate, as the whole is known to be valid.
    fn next(&mut self) -> Option<&'a str> {
        let bytes = self.json.as_bytes();
        while let Some(b'[' | b']' | b',' | b' ' | b'\n' | b'\r' | b'\t') = bytes.get(self.at) {
            self.at += 1;
        }
        (self.at < bytes.len()).then(|| &self.json[self.at..])
    }

    fn each<const N: usize>(
        &mut self,
        expected: &'static str,
        read: impl Fn(&str) -> Option<([u8; N], usize)>,
    ) -> Result<(), DataError> {
        while let Some(rest) = self.next() {
            let (bytes, length) = read(rest).ok_or_else(|| self.unexpected(rest, expected))?;
            self.data.extend_from_slice(&bytes);
            self.at += length;
            self.index += 1;
        }
        Ok(())
    }

    fn strings(&mut self) -> Result<(), DataError> {
        while let Some(rest) = self.next() {
            let length = string_length(rest).ok_or_else(|| self.unexpected(rest, "a string"))?;
            let quoted = &rest[..length];
            if quoted.contains('\\') {
                let text: String = serde_json::from_str(quoted)
                    .map_err(|_| self.unexpected(rest, "a string of valid Unicode"))?;
                push_string(&mut self.data, text.as_bytes());
            } else {
                push_string(&mut self.data, &quoted.as_bytes()[1..length - 1]);
            }
            self.at += length;
            self.index += 1;
        }
        Ok(())
    }

    fn unexpected(&self, rest: &str, expected: &'static str) -> DataError {
        let word = string_length(rest).map_or_else(|| token(rest), |length| &rest[..length]);
        let mut got: String = word.chars().take(40).collect();
        if got.len() < word.len() {
            got.push('…');
        }
        DataError::Element {
            index: self.index,
            got,
            expected,
        }
    }
}

/// The number or word at the start of `rest`.
fn token(rest: &str) -> &str {
    let ends = |byte: &u8| {
        matches!(
            byte,
            b',' | b']' | b' ' | b'\n' | b'\r' | b'\t' | b'}' | b':'
        )
    };
    &rest[..rest.as_bytes().iter().position(ends).unwrap_or(rest.len())]
}

/// The length of the string at the start of `rest`, quotes included.
fn string_length(rest: &str) -> Option<usize> {
    let bytes = rest.as_bytes();
    if bytes.first() != Some(&b'"') {
        return None;
    }
    let mut at = 1;
    loop {
        match bytes.get(at)? {
            b'"' => return Some(at + 1),
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
}

/// A decimal number: `mantissa` times ten to the `exponent`. Not `exact` if it has more digits than a u64 surely holds.
struct Decimal {
    negative: bool,
    mantissa: u64,
    exponent: i32,
    exact: bool,
    length: usize,
}

fn decimal(text: &str) -> Option<Decimal> {
    let bytes = text.as_bytes();
    let negative = bytes.first() == Some(&b'-');
    let mut at = usize::from(negative);
    let (mut mantissa, mut exponent, mut digits) = (0_u64, 0_i32, 0_u32);
    let start = at;
    while let Some(digit @ b'0'..=b'9') = bytes.get(at) {
        mantissa = mantissa
            .wrapping_mul(10)
            .wrapping_add(u64::from(digit - b'0'));
        digits += u32::from(mantissa != 0);
        at += 1;
    }
    if at == start {
        return None;
    }
    if bytes.get(at) == Some(&b'.') {
        at += 1;
        let point = at;
        while let Some(digit @ b'0'..=b'9') = bytes.get(at) {
            mantissa = mantissa
                .wrapping_mul(10)
                .wrapping_add(u64::from(digit - b'0'));
            digits += u32::from(mantissa != 0);
            at += 1;
        }
        exponent = -i32::try_from(at - point).ok()?;
    }
    let mut exact = digits <= 19;
    if let Some(b'e' | b'E') = bytes.get(at) {
        let length = token(text).len();
        match text[at + 1..length].parse::<i32>() {
            Ok(power) => exponent = exponent.saturating_add(power),
            Err(_) => exact = false,
        }
        at = length;
    }
    Some(Decimal {
        negative,
        mantissa,
        exponent,
        exact,
        length: at,
    })
}

/// Both factors are exact in a double, so their product or quotient is the double nearest to the number.
fn nearest_double(decimal: &Decimal) -> Option<f64> {
    const POWERS: [f64; 23] = [
        1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15, 1e16,
        1e17, 1e18, 1e19, 1e20, 1e21, 1e22,
    ];
    if !decimal.exact || decimal.mantissa > 1 << 53 {
        return None;
    }
    let power = POWERS.get(decimal.exponent.unsigned_abs() as usize)?;
    let mantissa = decimal.mantissa as f64;
    let value = if decimal.exponent < 0 {
        mantissa / power
    } else {
        mantissa * power
    };
    Some(if decimal.negative { -value } else { value })
}

fn float64(text: &str) -> Option<(f64, usize)> {
    let decimal = decimal(text)?;
    let value = match nearest_double(&decimal) {
        Some(value) => value,
        None => text[..decimal.length].parse().ok()?,
    };
    value.is_finite().then_some((value, decimal.length))
}

fn float32(text: &str) -> Option<(f32, usize)> {
    let decimal = decimal(text)?;
    let value = match nearest_double(&decimal).and_then(rounds_once) {
        Some(value) => value,
        None => text[..decimal.length].parse().ok()?,
    };
    value.is_finite().then_some((value, decimal.length))
}

/// Rounds a double, itself rounded from a decimal, to the float nearest to the decimal. None where the double lies
/// half-way between two floats or its float is subnormal: there the first rounding may have hidden the right side.
fn rounds_once(value: f64) -> Option<f32> {
    let half_way = value.to_bits() & 0x1fff_ffff == 0x1000_0000;
    let normal = value == 0.0 || value.abs() >= f64::from(f32::MIN_POSITIVE);
    (!half_way && normal).then_some(value as f32)
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
        DataType::Fp32 => array(out, chunks(tensor).map(f32::from_le_bytes)),
        DataType::Fp64 => array(out, chunks(tensor).map(f64::from_le_bytes)),
    }
    true
}

fn chunks<const N: usize>(tensor: &Tensor) -> impl Iterator<Item = [u8; N]> {
    tensor.data.as_chunks::<N>().0.iter().copied()
}

fn array<T: serde::Serialize>(out: &mut Vec<u8>, elements: impl Iterator<Item = T>) {
    out.push(b'[');
    for (index, element) in elements.enumerate() {
        if index > 0 {
            out.push(b',');
        }
        value(out, &element);
    }
    out.push(b']');
}

/// Appends one JSON value; a float that is not finite becomes `null`.
pub(crate) fn value(out: &mut Vec<u8>, value: &(impl serde::Serialize + ?Sized)) {
    serde_json::to_writer(out, value)
        .expect("numbers, strings and lists of them always have a JSON form");
}

#[cfg(test)]
mod tests;
