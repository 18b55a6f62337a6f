//! Bodies of the Open Inference Protocol v2 over HTTP: JSON, with any tensor's data either in it or, by the binary
//! tensor extension, behind it.

use std::borrow::Cow;
use std::time::{Duration, Instant};

use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::error::ModelError;
use super::json;
use super::tensor::{DataType, Tensor, TensorError, TensorInfo, element_count};
use super::{InferRequest, InferResponse, Priority, Via};

#[derive(Deserialize)]
#[serde(expecting = "an object with id, parameters, inputs and outputs")]
struct RequestBody<'a> {
    #[serde(default, borrow)]
    id: Option<Cow<'a, str>>,
    #[serde(default)]
    parameters: RequestParameters,
    #[serde(borrow)]
    inputs: Vec<InputBody<'a>>,
    #[serde(default, borrow)]
    outputs: Vec<OutputBody<'a>>,
}

#[derive(Default, Deserialize)]
#[serde(default, expecting = "an object of parameters")]
struct RequestParameters {
    /// Microseconds.
    timeout: Option<u64>,
    binary_data_output: bool,
}

#[derive(Deserialize)]
#[serde(expecting = "an object with name, shape, datatype and data")]
struct InputBody<'a> {
    #[serde(borrow)]
    name: Cow<'a, str>,
    shape: Vec<i64>,
    #[serde(borrow)]
    datatype: Cow<'a, str>,
    #[serde(default)]
    parameters: InputParameters,
    #[serde(borrow)]
    data: Option<&'a RawValue>,
}

#[derive(Default, Deserialize)]
#[serde(default, expecting = "an object of parameters")]
struct InputParameters {
    binary_data_size: Option<usize>,
}

#[derive(Deserialize)]
#[serde(expecting = "an object with name and parameters")]
struct OutputBody<'a> {
    #[serde(borrow)]
    name: Cow<'a, str>,
    #[serde(default)]
    parameters: OutputParameters,
}

#[derive(Default, Deserialize)]
#[serde(default, expecting = "an object of parameters")]
struct OutputParameters {
    binary_data: Option<bool>,
}

/// A request's body, taken apart.
#[derive(Debug)]
pub(crate) struct Decoded {
    pub(crate) request: InferRequest,
    pub(crate) answer: AnswerForm,
}

/// How the client wants its answer.
#[derive(Debug, Default)]
pub(crate) struct AnswerForm {
    /// To be repeated in the answer.
    id: Option<String>,
    /// Whether data goes behind the JSON, unless the output is named below.
    binary: bool,
    named: Vec<(String, bool)>,
}

/// Takes a body apart. `json_length` is the `Inference-Header-Content-Length`, if there is one: what follows the JSON
/// is binary, and a length of 0 says that the whole body is the data of the only input, one of `inputs`.
pub(crate) fn decode(
    body: &Bytes,
    json_length: Option<usize>,
    inputs: &[TensorInfo],
) -> Result<Decoded, ModelError> {
    let length = json_length.unwrap_or(body.len());
    if length > body.len() {
        let problem = format!(
            "Inference-Header-Content-Length is {length}, but the body has only {} bytes",
            body.len()
        );
        return Err(ModelError::Request(problem));
    }
    if json_length == Some(0) {
        return raw(body, inputs);
    }
    let bad = |error| {
        ModelError::Request(format!(
            "the request body is not a valid inference request: {error}"
        ))
    };
    let parsed: RequestBody<'_> = serde_json::from_slice(&body[..length]).map_err(bad)?;
    let mut blobs = body.slice(length..);
    let inputs = parsed
        .inputs
        .into_iter()
        .map(|input| tensor(input, &mut blobs))
        .collect::<Result<_, _>>()?;
    if !blobs.is_empty() {
        let problem = format!(
            "{} bytes follow the last binary input; binary_data_size of an input is wrong",
            blobs.len()
        );
        return Err(ModelError::Request(problem));
    }
    let timeout = parsed
        .parameters
        .timeout
        .filter(|us| *us > 0)
        .map(Duration::from_micros);
    let named = parsed.outputs.iter();
    let named = named
        .filter_map(|output| Some((output.name.to_string(), output.parameters.binary_data?)))
        .collect();
    Ok(Decoded {
        request: InferRequest {
            inputs,
            outputs: parsed
                .outputs
                .iter()
                .map(|output| output.name.to_string())
                .collect(),
            via: Via::Http,
            deadline: timeout.and_then(|timeout| Instant::now().checked_add(timeout)),
            priority: Priority::default(),
        },
        answer: AnswerForm {
            id: parsed.id.filter(|id| !id.is_empty()).map(Cow::into_owned),
            binary: parsed.parameters.binary_data_output,
            named,
        },
    })
}

fn tensor(input: InputBody<'_>, blobs: &mut Bytes) -> Result<Tensor, ModelError> {
    let name = input.name;
    let datatype = DataType::from_name(&input.datatype).ok_or_else(|| {
        let known = DataType::ALL.map(DataType::name).join(", ");
        ModelError::Mismatch(format!(
            "input '{name}' has datatype '{}', expected one of {known}",
            input.datatype
        ))
    })?;
    let data = match (input.data, input.parameters.binary_data_size) {
        (Some(data), None) => {
            let problem = || TensorError::Shape(input.shape.clone());
            let count = element_count(&input.shape).ok_or_else(|| ModelError::Tensor {
                input: name.to_string(),
                problem: problem(),
            })?;
            json::decode(datatype, count, data.get())
                .map_err(|problem| ModelError::Mismatch(format!("input '{name}' {problem}")))?
        }
        (None, Some(size)) if size <= blobs.len() => blobs.split_to(size),
        (None, Some(size)) => {
            let rest = blobs.len();
            return Err(ModelError::Request(format!(
                "input '{name}' has binary_data_size {size}, but only {rest} bytes are left behind the JSON; \
                 is Inference-Header-Content-Length set?"
            )));
        }
        (Some(_), Some(_)) => {
            return Err(ModelError::Request(format!(
                "input '{name}' has both data and binary_data_size, expected one"
            )));
        }
        (None, None) => {
            return Err(ModelError::Request(format!(
                "input '{name}' has no data, nor parameters.binary_data_size"
            )));
        }
    };
    Ok(Tensor {
        name: name.into_owned(),
        datatype,
        shape: input.shape,
        data,
    })
}

/// A body that is nothing but the data of the only input. One free dimension takes what there is, the others are 1.
fn raw(body: &Bytes, inputs: &[TensorInfo]) -> Result<Decoded, ModelError> {
    let [input] = inputs else {
        let problem = format!(
            "a raw binary body serves models with one input, this one has {}",
            inputs.len()
        );
        return Err(ModelError::Request(problem));
    };
    let TensorInfo {
        name,
        datatype,
        shape,
    } = input;
    let mut shape = shape.clone();
    let refuse = |problem: &str| ModelError::Request(format!("input '{name}' {problem}"));
    // The first dimension, if free, is the batch; a raw body holds one.
    let free: Vec<usize> = (0..shape.len()).filter(|at| shape[*at] < 0).collect();
    let data = if *datatype == DataType::Bytes {
        let mut data = Vec::with_capacity(body.len() + 4);
        super::tensor::push_string(&mut data, body);
        Bytes::from(data)
    } else {
        body.clone()
    };
    let elements = datatype.size().map_or(1, |size| data.len() / size);
    free.iter().for_each(|at| shape[*at] = 1);
    if let Some(last) = free.last() {
        let others =
            element_count(&shape).ok_or_else(|| refuse("has a shape too large to serve"))?;
        if free.iter().filter(|at| **at > 0).count() > 1 {
            return Err(refuse(
                "has several free dimensions, which a raw binary body cannot tell; send JSON with a shape",
            ));
        }
        shape[*last] = i64::try_from(elements / others.max(1)).unwrap_or(i64::MAX);
    }
    let tensor = Tensor {
        name: name.clone(),
        datatype: *datatype,
        shape,
        data,
    };
    Ok(Decoded {
        request: InferRequest {
            inputs: vec![tensor],
            outputs: Vec::new(),
            via: Via::Http,
            deadline: None,
            priority: Priority::default(),
        },
        answer: AnswerForm {
            id: None,
            binary: true,
            named: Vec::new(),
        },
    })
}

/// An answer's body; `json_length` is set when binary data follows the JSON.
#[derive(Debug)]
pub(crate) struct Encoded {
    pub(crate) body: Bytes,
    pub(crate) json_length: Option<usize>,
}

/// Writes the answer as the client wants it.
pub(crate) fn encode(response: &InferResponse, form: &AnswerForm) -> Result<Encoded, ModelError> {
    let is_binary = |name: &str| {
        form.named
            .iter()
            .find(|(named, _)| named == name)
            .map_or(form.binary, |(_, binary)| *binary)
    };
    let size: usize = response
        .outputs
        .iter()
        .map(|output| output.data.len())
        .sum();
    let mut out = Vec::with_capacity(256 + size * 3);
    out.extend_from_slice(b"{\"model_name\":");
    json::value(&mut out, &response.model);
    out.extend_from_slice(b",\"model_version\":");
    json::value(&mut out, &response.version);
    if let Some(id) = &form.id {
        out.extend_from_slice(b",\"id\":");
        json::value(&mut out, id);
    }
    out.extend_from_slice(b",\"outputs\":[");
    let mut blobs: Option<Vec<&Bytes>> = None;
    for (index, output) in response.outputs.iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        out.extend_from_slice(b"{\"name\":");
        json::value(&mut out, &output.name);
        out.extend_from_slice(b",\"datatype\":");
        json::value(&mut out, output.datatype.name());
        out.extend_from_slice(b",\"shape\":");
        json::value(&mut out, &output.shape);
        if is_binary(&output.name) {
            out.extend_from_slice(b",\"parameters\":{\"binary_data_size\":");
            json::value(&mut out, &output.data.len());
            out.extend_from_slice(b"}}");
            blobs.get_or_insert_default().push(&output.data);
        } else {
            out.extend_from_slice(b",\"data\":");
            if !json::encode(&mut out, output) {
                return Err(ModelError::Mismatch(format!(
                    "output '{}' has datatype {}, which JSON cannot carry; ask for it with parameters.binary_data",
                    output.name, output.datatype
                )));
            }
            out.push(b'}');
        }
    }
    out.extend_from_slice(b"]}");
    let json_length = blobs.as_ref().map(|_| out.len());
    blobs
        .into_iter()
        .flatten()
        .for_each(|blob| out.extend_from_slice(blob));
    Ok(Encoded {
        body: out.into(),
        json_length,
    })
}

#[cfg(test)]
mod tests;
