//! ONNX models: what goes in, what comes out, and which operator set they need.

use std::fmt;

use prost::Message;

/// Why a model cannot run.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ModelRefusal {
    #[error("this is not an ONNX model, or it is damaged: {0}")]
    Damaged(String),
    #[error(
        "the model is built on operator set {found} of {domain}, and the runtime's ONNX Runtime {RUNTIME} knows up to {known}: export it again with opset_version={known} or lower"
    )]
    Opset {
        domain: &'static str,
        found: i64,
        known: i64,
    },
    #[error(
        "the model is in ONNX format version {found}, and the runtime's ONNX Runtime {RUNTIME} knows up to {KNOWN_IR}: save it with an older onnx package"
    )]
    Format { found: i64 },
}

// What ONNX Runtime 1.32.0 loads, found out by giving it one-operator models with rising numbers;
// above these it answers "current official support ... is till opset 28" and its like.
const RUNTIME: &str = "1.32";
const KNOWN_IR: i64 = 14;
const KNOWN_OPSET: i64 = 28;
const KNOWN_ML_OPSET: i64 = 5;

// The part of the public ONNX schema that is looked at (onnx.proto3); weights are skipped.
#[derive(Clone, PartialEq, Message)]
struct ModelProto {
    #[prost(int64, optional, tag = "1")]
    ir_version: Option<i64>,
    #[prost(string, optional, tag = "2")]
    producer_name: Option<String>,
    #[prost(message, optional, tag = "7")]
    graph: Option<GraphProto>,
    #[prost(message, repeated, tag = "8")]
    opset_import: Vec<OperatorSetIdProto>,
}

#[derive(Clone, PartialEq, Message)]
struct OperatorSetIdProto {
    #[prost(string, optional, tag = "1")]
    domain: Option<String>,
    #[prost(int64, optional, tag = "2")]
    version: Option<i64>,
}

#[derive(Clone, PartialEq, Message)]
struct GraphProto {
    #[prost(message, repeated, tag = "1")]
    node: Vec<NodeProto>,
    #[prost(string, optional, tag = "2")]
    name: Option<String>,
    #[prost(message, repeated, tag = "5")]
    initializer: Vec<TensorProto>,
    #[prost(message, repeated, tag = "11")]
    input: Vec<ValueInfoProto>,
    #[prost(message, repeated, tag = "12")]
    output: Vec<ValueInfoProto>,
}

#[derive(Clone, PartialEq, Message)]
struct NodeProto {
    #[prost(string, optional, tag = "4")]
    op_type: Option<String>,
}

#[derive(Clone, PartialEq, Message)]
struct TensorProto {
    #[prost(string, optional, tag = "8")]
    name: Option<String>,
}

#[derive(Clone, PartialEq, Message)]
struct ValueInfoProto {
    #[prost(string, optional, tag = "1")]
    name: Option<String>,
    #[prost(message, optional, tag = "2")]
    r#type: Option<TypeProto>,
}

#[derive(Clone, PartialEq, Message)]
struct TypeProto {
    #[prost(message, optional, tag = "1")]
    tensor_type: Option<TensorTypeProto>,
}

#[derive(Clone, PartialEq, Message)]
struct TensorTypeProto {
    #[prost(int32, optional, tag = "1")]
    elem_type: Option<i32>,
    #[prost(message, optional, tag = "2")]
    shape: Option<TensorShapeProto>,
}

#[derive(Clone, PartialEq, Message)]
struct TensorShapeProto {
    #[prost(message, repeated, tag = "1")]
    dim: Vec<DimensionProto>,
}

#[derive(Clone, PartialEq, Message)]
struct DimensionProto {
    #[prost(int64, optional, tag = "1")]
    dim_value: Option<i64>,
    #[prost(string, optional, tag = "2")]
    dim_param: Option<String>,
}

/// What goes into a model and what comes out of it.
#[derive(Debug)]
pub(super) struct Outline {
    /// Without weights.
    pub(super) inputs: Vec<ValueOutline>,
    pub(super) outputs: Vec<ValueOutline>,
    opset: Option<i64>,
}

/// An input or an output.
#[derive(Debug)]
pub(super) struct ValueOutline {
    pub(super) name: String,
    /// None if it is a sequence, a map or the like.
    pub(super) tensor: Option<TensorOutline>,
}

#[derive(Debug)]
pub(super) struct TensorOutline {
    /// A number of TensorProto.DataType.
    pub(super) element: i32,
    /// None if the model leaves the number of dimensions open.
    pub(super) shape: Option<Vec<Dimension>>,
}

#[derive(Debug)]
pub(super) enum Dimension {
    Fixed(i64),
    /// With its name, if it has one.
    Free(Option<String>),
}

/// Reads a model, or refuses it.
pub(super) fn read(bytes: &[u8]) -> Result<Outline, ModelRefusal> {
    let damaged = |why: &str| ModelRefusal::Damaged(why.to_owned());
    let model = ModelProto::decode(bytes).map_err(|e| ModelRefusal::Damaged(e.to_string()))?;
    let format = model.ir_version.unwrap_or(0);
    if format < 1 {
        return Err(damaged("it has no format version"));
    }
    if format > KNOWN_IR {
        return Err(ModelRefusal::Format { found: format });
    }
    let graph = model.graph.ok_or_else(|| damaged("it has no graph"))?;
    if graph.node.is_empty() || graph.output.is_empty() {
        return Err(damaged("its graph has no operators or no outputs"));
    }
    let mut opset = None;
    for import in &model.opset_import {
        let found = import.version.unwrap_or(0);
        let (domain, known) = match import.domain.as_deref().unwrap_or_default() {
            "" | "ai.onnx" => {
                opset = Some(found);
                ("ai.onnx", KNOWN_OPSET)
            }
            "ai.onnx.ml" => ("ai.onnx.ml", KNOWN_ML_OPSET),
            _ => continue,
        };
        if found > known {
            return Err(ModelRefusal::Opset {
                domain,
                found,
                known,
            });
        }
    }
    if model.opset_import.is_empty() {
        return Err(damaged("it names no operator set"));
    }
    // Old exporters list the weights among the inputs.
    let weights: std::collections::HashSet<_> = graph
        .initializer
        .iter()
        .filter_map(|t| t.name.as_deref())
        .collect();
    let inputs = graph
        .input
        .iter()
        .filter(|i| !i.name.as_deref().is_some_and(|n| weights.contains(n)));
    Ok(Outline {
        inputs: inputs.map(ValueOutline::of).collect(),
        outputs: graph.output.iter().map(ValueOutline::of).collect(),
        opset,
    })
}

#[cfg(test)]
impl Outline {
    pub(super) fn of(inputs: Vec<ValueOutline>, outputs: Vec<ValueOutline>) -> Self {
        Self {
            inputs,
            outputs,
            opset: None,
        }
    }
}

impl ValueOutline {
    fn of(info: &ValueInfoProto) -> Self {
        let tensor = info.r#type.as_ref().and_then(|t| t.tensor_type.as_ref());
        Self {
            name: info.name.clone().unwrap_or_default(),
            tensor: tensor.map(|tensor| TensorOutline {
                element: tensor.elem_type.unwrap_or(0),
                shape: tensor
                    .shape
                    .as_ref()
                    .map(|shape| shape.dim.iter().map(Dimension::of).collect()),
            }),
        }
    }
}

impl Dimension {
    fn of(dim: &DimensionProto) -> Self {
        match (dim.dim_value, &dim.dim_param) {
            (Some(value), _) if value >= 0 => Self::Fixed(value),
            (_, name) => Self::Free(name.clone().filter(|name| !name.is_empty())),
        }
    }
}

impl TensorOutline {
    /// Such as `[batch,3,?]`; empty if the number of dimensions is open.
    pub(super) fn shape_in_words(&self) -> String {
        let Some(shape) = &self.shape else {
            return String::new();
        };
        let dims: Vec<_> = shape
            .iter()
            .map(|dim| match dim {
                Dimension::Fixed(size) => size.to_string(),
                Dimension::Free(Some(name)) => name.clone(),
                Dimension::Free(None) => "?".to_owned(),
            })
            .collect();
        format!("[{}]", dims.join(","))
    }
}

impl fmt::Display for ValueOutline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = if self.name.is_empty() {
            "?"
        } else {
            &self.name
        };
        match &self.tensor {
            None => write!(f, "{name}: not a tensor"),
            Some(tensor) => {
                let kind = element(tensor.element);
                write!(f, "{name}: {kind}{}", tensor.shape_in_words())
            }
        }
    }
}

impl fmt::Display for Outline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |values: &[ValueOutline]| {
            let values: Vec<_> = values.iter().map(ValueOutline::to_string).collect();
            values.join(", ")
        };
        write!(f, "{} -> {}", list(&self.inputs), list(&self.outputs))?;
        match self.opset {
            Some(version) => write!(f, "; opset {version}"),
            None => Ok(()),
        }
    }
}

/// Names of TensorProto.DataType.
fn element(kind: i32) -> &'static str {
    match kind {
        1 => "f32",
        2 => "u8",
        3 => "i8",
        4 => "u16",
        5 => "i16",
        6 => "i32",
        7 => "i64",
        8 => "string",
        9 => "bool",
        10 => "f16",
        11 => "f64",
        12 => "u32",
        13 => "u64",
        16 => "bf16",
        _ => "?",
    }
}

#[cfg(test)]
mod tests;
