//! Requests and answers of ModelInfer: tensors out of messages and into them.

use std::time::{Duration, Instant};

use bytes::Bytes;

use super::messages::{
    InferInputTensor, InferOutputTensor, InferTensorContents, ModelInferRequest,
    ModelInferResponse, ParameterChoice, Parameters,
};
use crate::models::error::ModelError;
use crate::models::tensor::{DataType, Tensor, TensorError, element_count, push_string};
use crate::models::{InferRequest, InferResponse, Priority, Via};

/// What a message asks for.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) request: InferRequest,
    /// Outputs whose best classes are wanted in place of all scores, and how many of them.
    pub(super) classes: Vec<(String, usize)>,
}

/// Takes a message apart. The run ends at `deadline`, or before by the parameter `timeout`.
pub(super) fn request(
    message: ModelInferRequest,
    deadline: Option<Instant>,
) -> Result<Asked, ModelError> {
    let raw = message.raw_input_contents;
    let (given, expected) = (raw.len(), message.inputs.len());
    if given != 0 && given != expected {
        let problem = format!(
            "raw_input_contents has {given} elements, expected one for each of the {expected} inputs"
        );
        return Err(ModelError::Request(problem));
    }
    let mut raw = raw.into_iter();
    let inputs = message.inputs.into_iter();
    let inputs = inputs.map(|input| tensor(input, raw.next()));
    refuse_sequences(&message.parameters)?;
    let timeout = number(&message.parameters, "timeout")?.filter(|us| *us > 0);
    let timeout = timeout.and_then(|us| Instant::now().checked_add(Duration::from_micros(us)));
    let priority = number(&message.parameters, "priority")?.unwrap_or(0);
    let mut outputs = Vec::with_capacity(message.outputs.len());
    let mut classes = Vec::new();
    for output in message.outputs {
        let count = number(&output.parameters, "classification")?.unwrap_or(0);
        if count > 0 {
            let count = usize::try_from(count).unwrap_or(usize::MAX);
            classes.push((output.name.clone(), count));
        }
        refuse_shared_memory("output", &output.name, &output.parameters)?;
        outputs.push(output.name);
    }
    let request = InferRequest {
        inputs: inputs.collect::<Result<_, _>>()?,
        outputs,
        via: Via::Grpc,
        deadline: deadline.into_iter().chain(timeout).min(),
        priority: Priority::new(u32::try_from(priority).unwrap_or(u32::MAX)),
    };
    Ok(Asked { request, classes })
}

/// Puts an answer together.
pub(super) fn response(answer: InferResponse, id: String) -> ModelInferResponse {
    let mut response = ModelInferResponse {
        model_name: answer.model,
        model_version: answer.version,
        id,
        ..ModelInferResponse::default()
    };
    for output in answer.outputs {
        response.outputs.push(InferOutputTensor {
            name: output.name,
            datatype: output.datatype.name().to_owned(),
            shape: output.shape,
        });
        response.raw_output_contents.push(output.data);
    }
    response
}

fn tensor(input: InferInputTensor, raw: Option<Bytes>) -> Result<Tensor, ModelError> {
    let name = input.name;
    let datatype = DataType::from_name(&input.datatype).ok_or_else(|| {
        let known = DataType::ALL.map(DataType::name).join(", ");
        let got = &input.datatype;
        ModelError::Mismatch(format!(
            "input '{name}' has datatype '{got}', expected one of {known}"
        ))
    })?;
    refuse_shared_memory("input", &name, &input.parameters)?;
    let data = match (raw, input.contents) {
        (Some(_), Some(_)) => {
            return Err(ModelError::Request(format!(
                "input '{name}' has both contents and raw_input_contents, expected one"
            )));
        }
        (Some(raw), None) => raw,
        (None, contents) => {
            let count = element_count(&input.shape).ok_or_else(|| ModelError::Tensor {
                input: name.clone(),
                problem: TensorError::Shape(input.shape.clone()),
            })?;
            typed(datatype, count, &contents.unwrap_or_default())
                .map_err(|problem| ModelError::Mismatch(format!("input '{name}' {problem}")))?
        }
    };
    Ok(Tensor {
        name,
        datatype,
        shape: input.shape,
        data,
    })
}

/// What is wrong with typed contents; reads well after "input 'x'".
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
enum ContentsError {
    #[error("has datatype {0}, which contents cannot carry; send it in raw_input_contents")]
    NoForm(DataType),
    #[error("has {got} elements in {list}, expected {expected} for its shape")]
    Count {
        list: &'static str,
        got: usize,
        expected: usize,
    },
    #[error("has {got} as element {index}, which is not within {datatype}")]
    Range {
        index: usize,
        got: i64,
        datatype: DataType,
    },
}

fn typed(
    datatype: DataType,
    count: usize,
    contents: &InferTensorContents,
) -> Result<Bytes, ContentsError> {
    let (list, got) = match datatype {
        DataType::Bool => ("bool_contents", contents.bools.len()),
        DataType::Int8 | DataType::Int16 | DataType::Int32 => ("int_contents", contents.ints.len()),
        DataType::Int64 => ("int64_contents", contents.int64s.len()),
        DataType::Uint8 | DataType::Uint16 | DataType::Uint32 => {
            ("uint_contents", contents.uints.len())
        }
        DataType::Uint64 => ("uint64_contents", contents.uint64s.len()),
        DataType::Fp32 => ("fp32_contents", contents.fp32s.len()),
        DataType::Fp64 => ("fp64_contents", contents.fp64s.len()),
        DataType::Bytes => ("bytes_contents", contents.strings.len()),
        DataType::Fp16 | DataType::Bf16 => return Err(ContentsError::NoForm(datatype)),
    };
    if got != count {
        let expected = count;
        return Err(ContentsError::Count {
            list,
            got,
            expected,
        });
    }
    let mut data = Vec::with_capacity(count * datatype.size().unwrap_or(8));
    match datatype {
        DataType::Bool => data.extend(contents.bools.iter().map(|&b| u8::from(b))),
        DataType::Int32 => each(&mut data, &contents.ints, i32::to_le_bytes),
        DataType::Int64 => each(&mut data, &contents.int64s, i64::to_le_bytes),
        DataType::Uint32 => each(&mut data, &contents.uints, u32::to_le_bytes),
        DataType::Uint64 => each(&mut data, &contents.uint64s, u64::to_le_bytes),
        DataType::Fp32 => each(&mut data, &contents.fp32s, f32::to_le_bytes),
        DataType::Fp64 => each(&mut data, &contents.fp64s, f64::to_le_bytes),
        DataType::Bytes => contents
            .strings
            .iter()
            .for_each(|string| push_string(&mut data, string)),
        narrow => {
            // One of the two lists is empty, or is not looked at by the count above.
            let wide = match narrow {
                DataType::Int8 | DataType::Int16 => {
                    contents.ints.iter().map(|&n| n.into()).collect()
                }
                _ => contents
                    .uints
                    .iter()
                    .map(|&n| n.into())
                    .collect::<Vec<i64>>(),
            };
            for (index, got) in wide.into_iter().enumerate() {
                let bytes = narrowed(narrow, got);
                data.extend(bytes.ok_or(ContentsError::Range {
                    index,
                    got,
                    datatype,
                })?);
            }
        }
    }
    Ok(data.into())
}

fn each<T: Copy, const N: usize>(data: &mut Vec<u8>, numbers: &[T], form: fn(T) -> [u8; N]) {
    data.extend(numbers.iter().flat_map(|number| form(*number)));
}

fn narrowed(datatype: DataType, number: i64) -> Option<Vec<u8>> {
    Some(match datatype {
        DataType::Int8 => i8::try_from(number).ok()?.to_le_bytes().to_vec(),
        DataType::Int16 => i16::try_from(number).ok()?.to_le_bytes().to_vec(),
        DataType::Uint8 => vec![u8::try_from(number).ok()?],
        _ => u16::try_from(number).ok()?.to_le_bytes().to_vec(),
    })
}

fn number(parameters: &Parameters, name: &str) -> Result<Option<u64>, ModelError> {
    let choice = parameters
        .get(name)
        .and_then(|parameter| parameter.choice.as_ref());
    let number = match choice {
        None => return Ok(None),
        Some(ParameterChoice::Uint64(number)) => Some(*number),
        Some(ParameterChoice::Int64(number)) => u64::try_from(*number).ok(),
        Some(_) => None,
    };
    number
        .map(Some)
        .ok_or_else(|| ModelError::Request(format!("parameter '{name}' is no integer from 0 up")))
}

/// 0 and "" stand for none.
fn refuse_sequences(parameters: &Parameters) -> Result<(), ModelError> {
    let id = parameters.get("sequence_id");
    match id.and_then(|id| id.choice.as_ref()) {
        None | Some(ParameterChoice::Int64(0) | ParameterChoice::Uint64(0)) => Ok(()),
        Some(ParameterChoice::String(id)) if id.is_empty() => Ok(()),
        Some(_) => Err(ModelError::Request(
            "sequence_id is set, but models keep no state between requests here; send it as inputs"
                .into(),
        )),
    }
}

fn refuse_shared_memory(kind: &str, name: &str, parameters: &Parameters) -> Result<(), ModelError> {
    if parameters.contains_key("shared_memory_region") {
        let problem = format!(
            "{kind} '{name}' lies in shared memory, which this server does not share with its clients; send it in the message"
        );
        return Err(ModelError::Request(problem));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(ints: &[i32], uints: &[u32]) -> InferTensorContents {
        InferTensorContents {
            ints: ints.to_vec(),
            uints: uints.to_vec(),
            ..InferTensorContents::default()
        }
    }

    #[test]
    fn narrow_integers_are_taken_from_the_wider_list_and_checked() {
        let data = typed(DataType::Int8, 2, &numbers(&[-1, 127], &[])).unwrap();
        assert_eq!(*data, [255, 127]);
        let data = typed(DataType::Uint16, 1, &numbers(&[], &[258])).unwrap();
        assert_eq!(*data, [2, 1]);
        let error = typed(DataType::Uint8, 2, &numbers(&[], &[255, 256])).unwrap_err();
        assert_eq!(
            error.to_string(),
            "has 256 as element 1, which is not within UINT8"
        );
    }

    #[test]
    fn contents_in_the_wrong_list_are_missing_in_the_right_one() {
        let error = typed(DataType::Fp32, 2, &numbers(&[1, 2], &[])).unwrap_err();
        assert_eq!(
            error.to_string(),
            "has 0 elements in fp32_contents, expected 2 for its shape"
        );
        let error = typed(DataType::Fp16, 0, &numbers(&[], &[])).unwrap_err();
        assert_eq!(error, ContentsError::NoForm(DataType::Fp16));
    }

    #[test]
    fn the_earlier_of_both_deadlines_counts() {
        let soon = Instant::now();
        let timeout = InferParameter {
            choice: Some(ParameterChoice::Int64(3_600_000_000)),
        };
        let message = ModelInferRequest {
            parameters: Parameters::from([("timeout".to_owned(), timeout)]),
            ..ModelInferRequest::default()
        };
        let both = request(message.clone(), Some(soon)).unwrap();
        assert_eq!(both.request.deadline, Some(soon));
        let own = request(message, None).unwrap().request.deadline.unwrap();
        assert!(own > soon + Duration::from_secs(3000));
    }

    use super::super::messages::InferParameter;
}
