//! ONNX models: what goes in, what comes out, and which operator set they need.

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

/// Describes a model, or refuses it.
pub(super) fn describe(bytes: &[u8]) -> Result<String, ModelRefusal> {
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
    let list = |values: Vec<String>| values.join(", ");
    let inputs = list(inputs.map(value).collect());
    let outputs = list(graph.output.iter().map(value).collect());
    let opset = opset.map_or(String::new(), |v| format!("; opset {v}"));
    Ok(format!("{inputs} -> {outputs}{opset}"))
}

fn value(info: &ValueInfoProto) -> String {
    let name = info.name.as_deref().unwrap_or("?");
    let Some(tensor) = info.r#type.as_ref().and_then(|t| t.tensor_type.as_ref()) else {
        return format!("{name}: not a tensor");
    };
    let kind = element(tensor.elem_type.unwrap_or(0));
    let Some(shape) = &tensor.shape else {
        return format!("{name}: {kind}");
    };
    let dims: Vec<_> = shape.dim.iter().map(dimension).collect();
    format!("{name}: {kind}[{}]", dims.join(","))
}

fn dimension(dim: &DimensionProto) -> String {
    match (&dim.dim_value, &dim.dim_param) {
        (Some(value), _) if *value >= 0 => value.to_string(),
        (_, Some(name)) if !name.is_empty() => name.clone(),
        _ => "?".to_owned(),
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
