//! Bodies of the Open Inference Protocol v2 over HTTP: JSON, with any tensor's data either in it or, by the binary
//! tensor extension, behind it.

use std::fmt;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::error::ModelError;
use super::json::TextError;
use super::tensor::{DataType, Tensor, TensorInfo, element_count};
use super::{InferRequest, Priority, Via};

mod answer;
mod body;
mod parameters;

pub(crate) use answer::{AnswerForm, encode};

use answer::OutputForm;
use body::RequestBody;

/// A request's body, taken apart.
#[derive(Debug)]
pub(crate) struct Decoded {
    pub(crate) request: InferRequest,
    pub(crate) answer: AnswerForm,
}

impl Decoded {
    /// A request that has nothing but its inputs.
    pub(crate) fn inputs(inputs: Vec<Tensor>) -> Decoded {
        Decoded {
            request: InferRequest {
                inputs,
                outputs: Vec::new(),
                via: Via::Http,
                deadline: None,
                priority: Priority::default(),
            },
            answer: AnswerForm::default(),
        }
    }
}

/// Takes a body apart. `json_length` is the `Inference-Header-Content-Length`, if there is one: what follows the JSON
/// is binary, and a length of 0 says that the whole body is the data of the only input, one of `inputs`. A timeout in
/// the body counts from `came`.
pub(crate) fn decode(
    body: &Bytes,
    json_length: Option<usize>,
    inputs: &[TensorInfo],
    came: Instant,
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
    let mut blobs = body.slice(length..);
    let read = RequestBody::read(&body[..length], &mut blobs)?;
    if !blobs.is_empty() {
        let problem = format!(
            "{} bytes follow the last binary input; binary_data_size of an input is wrong",
            blobs.len()
        );
        return Err(ModelError::Request(problem));
    }
    let timeout = Some(read.parameters.timeout_us).filter(|us| *us > 0);
    let form = |parameters: &parameters::OfOutput| OutputForm {
        binary: parameters.binary_data,
        classes: parameters.classification,
    };
    let named = read.outputs.iter();
    let named = named.map(|(name, parameters)| (name.clone(), form(parameters)));
    Ok(Decoded {
        answer: AnswerForm {
            id: read.id.filter(|id| !id.is_empty()),
            binary: read.parameters.binary_data_output,
            named: named.collect(),
        },
        request: InferRequest {
            inputs: read.inputs,
            outputs: read.outputs.into_iter().map(|(name, _)| name).collect(),
            via: Via::Http,
            deadline: timeout.and_then(|us| came.checked_add(Duration::from_micros(us))),
            priority: read.parameters.priority,
        },
    })
}

/// The tensors of an inference request as it comes over HTTP; `json_length` is its `Inference-Header-Content-Length`.
/// What the server does with a body before it knows the model, for measurements.
///
/// # Errors
/// [`ModelError`] with what the client would be told.
pub fn read_request(body: &Bytes, json_length: Option<usize>) -> Result<Vec<Tensor>, ModelError> {
    let decoded = decode(body, json_length, &[], Instant::now())?;
    Ok(decoded.request.inputs)
}

/// The request is no inference request.
fn bad(problem: impl fmt::Display) -> ModelError {
    ModelError::Request(format!(
        "the request body is not a valid inference request: {problem}"
    ))
}

impl From<TextError> for ModelError {
    fn from(error: TextError) -> ModelError {
        bad(error)
    }
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
    let mut decoded = Decoded::inputs(vec![tensor]);
    decoded.answer = AnswerForm::binary();
    Ok(decoded)
}

#[cfg(test)]
mod tests;
