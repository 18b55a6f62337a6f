//! Tensors over HTTP, written for these tests alone so that a mistake of the node's own code is not made twice.

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

const JSON_LENGTH: &str = "inference-header-content-length";

/// The protocol's element types.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum DataType {
    Bool,
    Uint8,
    Uint16,
    Uint32,
    Uint64,
    Int8,
    Int16,
    Int32,
    Int64,
    Fp16,
    Bf16,
    Fp32,
    Fp64,
    Bytes,
}

impl DataType {
    pub(super) const ALL: [DataType; 14] = [
        DataType::Bool,
        DataType::Uint8,
        DataType::Uint16,
        DataType::Uint32,
        DataType::Uint64,
        DataType::Int8,
        DataType::Int16,
        DataType::Int32,
        DataType::Int64,
        DataType::Fp16,
        DataType::Bf16,
        DataType::Fp32,
        DataType::Fp64,
        DataType::Bytes,
    ];

    /// Bytes of an element; 0 for strings.
    pub(super) fn size(self) -> usize {
        match self {
            DataType::Bytes => 0,
            DataType::Bool | DataType::Uint8 | DataType::Int8 => 1,
            DataType::Uint16 | DataType::Int16 | DataType::Fp16 | DataType::Bf16 => 2,
            DataType::Uint32 | DataType::Int32 | DataType::Fp32 => 4,
            DataType::Uint64 | DataType::Int64 | DataType::Fp64 => 8,
        }
    }

    /// As the protocol calls it.
    fn name(self) -> String {
        format!("{self:?}").to_uppercase()
    }
}

/// A named tensor; numbers little-endian, strings each behind their length.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Tensor {
    pub(super) name: String,
    pub(super) datatype: DataType,
    pub(super) shape: Vec<i64>,
    pub(super) data: Vec<u8>,
}

/// How data travels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    Binary,
    Json,
}

impl Tensor {
    pub(super) fn has_json_form(&self) -> bool {
        !matches!(self.datatype, DataType::Fp16 | DataType::Bf16)
    }

    /// Floats of any width.
    pub(super) fn floats(&self) -> Option<Vec<f64>> {
        let elements = |size| self.data.chunks_exact(size);
        Some(match self.datatype {
            DataType::Fp32 => elements(4)
                .map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]).into())
                .collect(),
            DataType::Fp64 => elements(8)
                .map(|b| f64::from_le_bytes(b.try_into().unwrap()))
                .collect(),
            DataType::Bf16 => elements(2)
                .map(|b| f32::from_le_bytes([0, 0, b[0], b[1]]).into())
                .collect(),
            DataType::Fp16 => elements(2)
                .map(|b| half(u16::from_le_bytes([b[0], b[1]])))
                .collect(),
            _ => return None,
        })
    }

    pub(super) fn strings(&self) -> impl Iterator<Item = &[u8]> {
        let mut rest = self.data.as_slice();
        std::iter::from_fn(move || {
            let (length, behind) = rest.split_first_chunk::<4>()?;
            let (text, behind) = behind.split_at(u32::from_le_bytes(*length) as usize);
            rest = behind;
            Some(text)
        })
    }

    fn json(&self) -> Value {
        let each = |b: &[u8]| -> Value {
            let mut wide = [0; 8];
            wide[..b.len()].copy_from_slice(b);
            let unsigned = u64::from_le_bytes(wide);
            // Shifted up and down again, so that the sign comes along.
            let empty = 64 - 8 * b.len() as u32;
            let signed = ((unsigned << empty) as i64) >> empty;
            match self.datatype {
                DataType::Bool => json!(unsigned == 1),
                DataType::Fp32 => float(f32::from_bits(unsigned as u32), f32::is_finite),
                DataType::Fp64 => float(f64::from_bits(unsigned), f64::is_finite),
                DataType::Int8 | DataType::Int16 | DataType::Int32 | DataType::Int64 => {
                    json!(signed)
                }
                _ => json!(unsigned),
            }
        };
        match self.datatype {
            DataType::Bytes => self
                .strings()
                .map(|s| json!(String::from_utf8_lossy(s)))
                .collect(),
            numbers => self.data.chunks_exact(numbers.size()).map(each).collect(),
        }
    }
}

/// JSON has no NaN and no infinities: they are strings.
fn float<T: Copy + Into<f64> + serde::Serialize>(value: T, is_finite: fn(T) -> bool) -> Value {
    let wide: f64 = value.into();
    match is_finite(value) {
        true => json!(value),
        false if wide.is_nan() => json!("NaN"),
        false if wide > 0.0 => json!("Infinity"),
        false => json!("-Infinity"),
    }
}

fn half(bits: u16) -> f64 {
    let (exponent, fraction) = (i32::from(bits >> 10 & 0x1f), f64::from(bits & 0x3ff));
    let magnitude = match exponent {
        0 => fraction * 2_f64.powi(-24),
        31 if fraction == 0.0 => f64::INFINITY,
        31 => f64::NAN,
        _ => (1.0 + fraction / 1024.0) * 2_f64.powi(exponent - 15),
    };
    if bits >> 15 == 1 {
        -magnitude
    } else {
        magnitude
    }
}

pub(super) fn push_string(data: &mut Vec<u8>, text: &[u8]) {
    data.extend_from_slice(&(text.len() as u32).to_le_bytes());
    data.extend_from_slice(text);
}

#[derive(Deserialize)]
struct Answer<'a> {
    #[serde(borrow)]
    outputs: Vec<AnsweredOutput<'a>>,
}

#[derive(Deserialize)]
struct AnsweredOutput<'a> {
    name: String,
    datatype: String,
    shape: Vec<i64>,
    #[serde(default)]
    parameters: AnsweredParameters,
    #[serde(borrow)]
    data: Option<Vec<&'a RawValue>>,
}

#[derive(Default, Deserialize)]
struct AnsweredParameters {
    binary_data_size: Option<usize>,
}

/// Sends inputs and takes all outputs, which are asked for by name.
pub(super) async fn infer(
    client: &reqwest::Client,
    url: &str,
    inputs: &[Tensor],
    wanted: &[Tensor],
    form: Form,
) -> Result<Vec<Tensor>> {
    let mut blobs = Vec::new();
    let mut described = Vec::new();
    for input in inputs {
        let mut one =
            json!({"name": input.name, "datatype": input.datatype.name(), "shape": input.shape});
        match form {
            Form::Json => one["data"] = input.json(),
            Form::Binary => {
                one["parameters"] = json!({"binary_data_size": input.data.len()});
                blobs.extend_from_slice(&input.data);
            }
        }
        described.push(one);
    }
    let outputs: Vec<Value> = wanted
        .iter()
        .map(|output| json!({"name": output.name, "parameters": {"binary_data": form == Form::Binary}}))
        .collect();
    let mut body = json!({"inputs": described, "outputs": outputs})
        .to_string()
        .into_bytes();
    let length = body.len();
    body.append(&mut blobs);
    let mut request = client.post(url).body(body);
    if form == Form::Binary {
        request = request.header(JSON_LENGTH, length);
    }
    let answer = request.send().await?;
    let (status, headers) = (answer.status(), answer.headers().clone());
    let body = answer.bytes().await?;
    ensure!(
        status.is_success(),
        "{status} {}",
        String::from_utf8_lossy(&body)
    );
    let length = match headers.get(JSON_LENGTH) {
        Some(length) => length.to_str()?.parse()?,
        None => body.len(),
    };
    answered(&body, length)
}

fn answered(body: &Bytes, length: usize) -> Result<Vec<Tensor>> {
    let answer: Answer<'_> = serde_json::from_slice(&body[..length])?;
    let mut blobs = body.slice(length..);
    let mut outputs = Vec::new();
    for output in answer.outputs {
        let datatype = DataType::ALL
            .into_iter()
            .find(|d| d.name() == output.datatype);
        let datatype = datatype.context("a datatype of the protocol")?;
        let data = match (output.data, output.parameters.binary_data_size) {
            (None, Some(size)) => blobs.split_to(size).to_vec(),
            (Some(elements), None) => {
                let mut data = Vec::new();
                for (index, element) in elements.iter().enumerate() {
                    element_bytes(datatype, element.get(), &mut data)
                        .with_context(|| format!("element {index} is {element}"))?;
                }
                data
            }
            _ => anyhow::bail!("output '{}' has data in no or in both forms", output.name),
        };
        outputs.push(Tensor {
            name: output.name,
            datatype,
            shape: output.shape,
            data,
        });
    }
    ensure!(blobs.is_empty(), "{} bytes follow the outputs", blobs.len());
    Ok(outputs)
}

fn element_bytes(datatype: DataType, json: &str, data: &mut Vec<u8>) -> Result<()> {
    let number = json.trim_matches('"');
    match datatype {
        DataType::Bytes => push_string(data, serde_json::from_str::<String>(json)?.as_bytes()),
        DataType::Bool => data.push(serde_json::from_str::<bool>(json)?.into()),
        DataType::Fp32 => data.extend(number.parse::<f32>()?.to_le_bytes()),
        DataType::Fp64 => data.extend(number.parse::<f64>()?.to_le_bytes()),
        DataType::Uint64 => data.extend(json.parse::<u64>()?.to_le_bytes()),
        integer => data.extend(
            json.parse::<i64>()?
                .to_le_bytes()
                .iter()
                .take(integer.size()),
        ),
    }
    Ok(())
}

/// What differs, to the bit; in JSON one NaN is like another.
pub(super) fn difference(given: &[Tensor], wanted: &[Tensor], form: Form) -> Option<String> {
    if given.len() != wanted.len() {
        return Some(format!(
            "{} outputs, expected {}",
            given.len(),
            wanted.len()
        ));
    }
    for (given, wanted) in given.iter().zip(wanted) {
        let mut given = given.clone();
        if form == Form::Json
            && let (Some(numbers), Some(expected)) = (given.floats(), wanted.floats())
        {
            let size = wanted.datatype.size();
            let pairs = numbers.iter().zip(&expected).enumerate();
            for (index, _) in pairs.filter(|(_, (a, b))| a.is_nan() && b.is_nan()) {
                let at = index * size..(index + 1) * size;
                given.data[at.clone()].copy_from_slice(&wanted.data[at]);
            }
        }
        if given != *wanted {
            return Some(format!("{given:?}, expected {wanted:?}"));
        }
    }
    None
}
