//! What the ONNX project publishes: the part of its schema (onnx.proto3) that its cases use.

use std::path::Path;

use anyhow::{Context as _, Result};
use prost::Message;

use super::wire::{DataType, Tensor};

#[derive(Clone, PartialEq, Message)]
struct ModelProto {
    #[prost(message, optional, tag = "7")]
    graph: Option<GraphProto>,
}

#[derive(Clone, PartialEq, Message)]
struct GraphProto {
    #[prost(message, repeated, tag = "11")]
    input: Vec<ValueInfoProto>,
    #[prost(message, repeated, tag = "12")]
    output: Vec<ValueInfoProto>,
}

#[derive(Clone, PartialEq, Message)]
struct ValueInfoProto {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(message, optional, tag = "2")]
    r#type: Option<TypeProto>,
}

/// A sequence, map or optional value has another member.
#[derive(Clone, PartialEq, Message)]
struct TypeProto {
    #[prost(message, optional, tag = "1")]
    tensor_type: Option<TensorTypeProto>,
}

#[derive(Clone, PartialEq, Message)]
struct TensorTypeProto {
    #[prost(int32, tag = "1")]
    elem_type: i32,
}

/// A tensor's data lies in `raw_data`, or as numbers of the next larger kind.
#[derive(Clone, PartialEq, Message)]
struct TensorProto {
    #[prost(int64, repeated, tag = "1")]
    dims: Vec<i64>,
    #[prost(int32, tag = "2")]
    data_type: i32,
    #[prost(float, repeated, tag = "4")]
    float_data: Vec<f32>,
    #[prost(int32, repeated, tag = "5")]
    int32_data: Vec<i32>,
    #[prost(bytes = "vec", repeated, tag = "6")]
    string_data: Vec<Vec<u8>>,
    #[prost(int64, repeated, tag = "7")]
    int64_data: Vec<i64>,
    #[prost(bytes = "vec", tag = "9")]
    raw_data: Vec<u8>,
    #[prost(double, repeated, tag = "10")]
    double_data: Vec<f64>,
    #[prost(uint64, repeated, tag = "11")]
    uint64_data: Vec<u64>,
}

/// A case's tensors under the names of the model's inputs and outputs.
pub(super) struct Case {
    pub(super) inputs: Vec<Tensor>,
    pub(super) outputs: Vec<Tensor>,
}

/// What a case is about.
pub(super) enum Kind {
    Tensors(Case),
    NoTensors,
    TypeWithoutForm,
}

impl Case {
    /// Reads the case that lies beside `model`.
    pub(super) fn read(model: &Path) -> Result<Kind> {
        let data = model.with_file_name("test_data_set_0");
        let graph = ModelProto::decode(&*std::fs::read(model)?)?;
        let graph = graph.graph.context("the model has a graph")?;
        let mut case = Case {
            inputs: Vec::new(),
            outputs: Vec::new(),
        };
        let inputs = ("input", &graph.input, &mut case.inputs);
        let outputs = ("output", &graph.output, &mut case.outputs);
        for (kind, declared, tensors) in [inputs, outputs] {
            for (index, value) in declared.iter().enumerate() {
                let Some(tensor) = value.r#type.as_ref().and_then(|t| t.tensor_type.as_ref())
                else {
                    return Ok(Kind::NoTensors);
                };
                let Some(datatype) = datatype(tensor.elem_type) else {
                    return Ok(Kind::TypeWithoutForm);
                };
                let file = data.join(format!("{kind}_{index}.pb"));
                // Inputs that the model has its own values for need not be given.
                if let Ok(bytes) = std::fs::read(&file) {
                    let published = TensorProto::decode(&*bytes)?;
                    tensors.push(published.named(&value.name, datatype));
                }
            }
        }
        Ok(Kind::Tensors(case))
    }
}

impl TensorProto {
    fn named(self, name: &str, datatype: DataType) -> Tensor {
        let data = if self.raw_data.is_empty() {
            let ints = self.int32_data.iter();
            match datatype {
                DataType::Bytes => {
                    let mut data = Vec::new();
                    self.string_data
                        .iter()
                        .for_each(|text| super::wire::push_string(&mut data, text));
                    data
                }
                DataType::Fp32 => bytes(&self.float_data, f32::to_le_bytes),
                DataType::Fp64 => bytes(&self.double_data, f64::to_le_bytes),
                DataType::Int64 => bytes(&self.int64_data, i64::to_le_bytes),
                DataType::Uint64 => bytes(&self.uint64_data, u64::to_le_bytes),
                DataType::Uint32 => self
                    .uint64_data
                    .iter()
                    .flat_map(|number| number.to_le_bytes().into_iter().take(4))
                    .collect(),
                narrow => ints
                    .flat_map(|number| number.to_le_bytes().into_iter().take(narrow.size()))
                    .collect(),
            }
        } else {
            self.raw_data
        };
        Tensor {
            name: name.to_owned(),
            datatype,
            shape: self.dims,
            data,
        }
    }
}

fn bytes<T: Copy, const N: usize>(numbers: &[T], form: impl Fn(T) -> [u8; N]) -> Vec<u8> {
    numbers.iter().flat_map(|number| form(*number)).collect()
}

/// The schema's numbers for element types.
fn datatype(number: i32) -> Option<DataType> {
    Some(match number {
        1 => DataType::Fp32,
        2 => DataType::Uint8,
        3 => DataType::Int8,
        4 => DataType::Uint16,
        5 => DataType::Int16,
        6 => DataType::Int32,
        7 => DataType::Int64,
        8 => DataType::Bytes,
        9 => DataType::Bool,
        10 => DataType::Fp16,
        11 => DataType::Fp64,
        12 => DataType::Uint32,
        13 => DataType::Uint64,
        16 => DataType::Bf16,
        _ => return None,
    })
}

/// Whether the library gave what the case says: the same shapes, and numbers within a thousandth.
pub(super) fn within_tolerance(given: &[Tensor], said: &[Tensor]) -> bool {
    given.len() == said.len()
        && given.iter().zip(said).all(|(given, said)| {
            let close = |(a, b): (f64, f64)| {
                a == b || (a.is_nan() && b.is_nan()) || (a - b).abs() <= 1e-5 + 1e-3 * b.abs()
            };
            let same_form = given.shape == said.shape && given.datatype == said.datatype;
            same_form
                && match (given.floats(), said.floats()) {
                    (Some(given), Some(said)) => given.into_iter().zip(said).all(close),
                    _ => given.data == said.data,
                }
        })
}
