//! The JSON of a request, read in one pass: a tensor's data goes from text to bytes where it stands, if name, shape
//! and datatype stand before it, as in every client known; else in a second look.

use std::borrow::Cow;

use bytes::Bytes;
use serde_json::value::RawValue;

use super::super::error::ModelError;
use super::super::json::{self, DataError, Text};
use super::super::tensor::{DataType, Tensor};
use super::bad;
use super::parameters::{OfInput, OfOutput, OfRequest};

/// A request as it was sent.
#[derive(Default)]
pub(super) struct RequestBody {
    pub(super) id: Option<String>,
    pub(super) parameters: OfRequest,
    pub(super) inputs: Vec<Tensor>,
    pub(super) outputs: Vec<(String, OfOutput)>,
}

impl RequestBody {
    /// Reads `json`; data of binary inputs is split off `blobs`, in the order of the inputs.
    pub(super) fn read(json: &[u8], blobs: &mut Bytes) -> Result<RequestBody, ModelError> {
        let mut body = RequestBody::default();
        let mut once = Once::default();
        let mut text = Text::new(json);
        text.object(|text, member| {
            once.check(member, "the request")?;
            match member {
                "id" => body.id = id(text)?,
                "parameters" => body.parameters = OfRequest::read(text)?,
                "inputs" => text.list(|text, index| {
                    body.inputs
                        .push(InputBody::read(text, index)?.tensor(blobs)?);
                    Ok::<_, ModelError>(())
                })?,
                "outputs" if text.peek() != Some(b'n') => text.list(|text, index| {
                    body.outputs.push(output(text, index)?);
                    Ok::<_, ModelError>(())
                })?,
                _ => text.ignore()?,
            }
            Ok::<_, ModelError>(())
        })?;
        text.end()?;
        if !once.has("inputs") {
            return Err(bad("it has no inputs"));
        }
        Ok(body)
    }
}

/// The members of an object that were seen, of those that may come only once.
#[derive(Default)]
struct Once(Vec<&'static str>);

impl Once {
    fn check(&mut self, member: &str, of: &str) -> Result<(), ModelError> {
        const KNOWN: [&str; 8] = [
            "id",
            "parameters",
            "inputs",
            "outputs",
            "name",
            "shape",
            "datatype",
            "data",
        ];
        let Some(known) = KNOWN.into_iter().find(|known| *known == member) else {
            return Ok(());
        };
        if self.has(known) {
            return Err(bad(format!("member '{known}' of {of} comes twice")));
        }
        self.0.push(known);
        Ok(())
    }

    fn has(&self, member: &str) -> bool {
        self.0.contains(&member)
    }
}

fn id(text: &mut Text<'_>) -> Result<Option<String>, ModelError> {
    let given: &RawValue = text.value()?;
    serde_json::from_str(given.get()).map_err(|_| {
        bad(format!(
            "its id is {}, expected a string",
            shown(given.get())
        ))
    })
}

/// An input as it was sent.
#[derive(Default)]
struct InputBody<'a> {
    name: Option<Cow<'a, str>>,
    shape: Given<'a, Vec<i64>>,
    datatype: Given<'a, DataType>,
    parameters: OfInput,
    data: Data<'a>,
    /// How messages call it.
    label: String,
}

/// A member as it came, and what it means if it means anything: a message waits for the input's name.
struct Given<'a, T> {
    text: Option<&'a RawValue>,
    value: Option<T>,
}

impl<T> Default for Given<'_, T> {
    fn default() -> Self {
        Given {
            text: None,
            value: None,
        }
    }
}

impl<'a, T> Given<'a, T> {
    fn read(text: &mut Text<'a>, parse: impl Fn(&str) -> Option<T>) -> Result<Self, ModelError> {
        let given: &RawValue = text.value()?;
        Ok(Given {
            text: Some(given),
            value: parse(given.get()),
        })
    }

    fn take(&mut self, label: &str, member: &str, expected: &str) -> Result<T, ModelError> {
        let problem = match (self.value.take(), self.text) {
            (Some(value), _) => return Ok(value),
            (None, Some(text)) => {
                let got = shown(text.get());
                format!("{label} has {member} {got}, expected {expected}")
            }
            (None, None) => format!("{label} has no {member}"),
        };
        Err(ModelError::Request(problem))
    }
}

#[derive(Default)]
enum Data<'a> {
    #[default]
    Elsewhere,
    Read(Bytes),
    Unread(&'a [u8]),
}

impl<'a> InputBody<'a> {
    fn read(text: &mut Text<'a>, index: usize) -> Result<InputBody<'a>, ModelError> {
        let mut input = InputBody {
            label: format!("inputs[{index}]"),
            ..InputBody::default()
        };
        let mut once = Once::default();
        if text.peek() != Some(b'{') {
            return Err(bad(text.error(format!("{} is no object", input.label))));
        }
        text.object(|text, member| {
            once.check(member, &input.label)?;
            match member {
                "name" => {
                    let name: Cow<'a, str> = member_string(text, "name", &input.label)?;
                    input.label = format!("input '{name}'");
                    input.name = Some(name);
                }
                "shape" => {
                    input.shape = Given::read(text, |json| serde_json::from_str(json).ok())?;
                }
                "datatype" => {
                    input.datatype = Given::read(text, |json| {
                        let name: Cow<'_, str> = serde_json::from_str(json).ok()?;
                        DataType::from_name(&name)
                    })?;
                }
                "parameters" => input.parameters = OfInput::read(text, &input.label)?,
                "data" => input.take_data(text)?,
                _ => text.ignore()?,
            }
            Ok::<_, ModelError>(())
        })?;
        Ok(input)
    }

    fn take_data(&mut self, text: &mut Text<'a>) -> Result<(), ModelError> {
        self.data = match (&self.name, &self.shape.value, self.datatype.value) {
            (Some(_), Some(shape), Some(datatype)) if text.peek() == Some(b'[') => {
                let (data, length) = json::decode(datatype, shape, text.rest())
                    .map_err(|problem| self.wrong_data(problem))?;
                text.skip(length);
                Data::Read(data)
            }
            _ => Data::Unread(text.unread()?),
        };
        Ok(())
    }

    fn wrong_data(&self, problem: DataError) -> ModelError {
        ModelError::Mismatch(format!("{} {problem}", self.label))
    }

    fn tensor(mut self, blobs: &mut Bytes) -> Result<Tensor, ModelError> {
        let label = &self.label;
        let missing = || ModelError::Request(format!("{label} has no name"));
        let name = self.name.take().ok_or_else(missing)?;
        let known = DataType::ALL.map(DataType::name).join(", ");
        let datatype = self
            .datatype
            .take(label, "datatype", &format!("one of {known}"))?;
        let shape = self.shape.take(label, "shape", "a list of whole numbers")?;
        let has_data = !matches!(self.data, Data::Elsewhere);
        let data = match (
            std::mem::take(&mut self.data),
            self.parameters.binary_data_size,
        ) {
            (Data::Read(data), None) => data,
            (Data::Unread(json), None) => {
                let (data, length) =
                    json::decode(datatype, &shape, json).map_err(|p| self.wrong_data(p))?;
                if length != json.len() {
                    return Err(self.wrong_data(DataError::NoArray));
                }
                data
            }
            (_, Some(_)) if has_data => {
                return Err(ModelError::Request(format!(
                    "{label} has both data and binary_data_size, expected one"
                )));
            }
            (_, Some(size)) if size <= blobs.len() => blobs.split_to(size),
            (_, Some(size)) => {
                let rest = blobs.len();
                return Err(ModelError::Request(format!(
                    "{label} has binary_data_size {size}, but only {rest} bytes are left behind the JSON; \
                     is Inference-Header-Content-Length set?"
                )));
            }
            (Data::Elsewhere, None) => {
                return Err(ModelError::Request(format!(
                    "{label} has no data, nor parameters.binary_data_size"
                )));
            }
        };
        Ok(Tensor {
            name: name.into_owned(),
            datatype,
            shape,
            data,
        })
    }
}

fn output(text: &mut Text<'_>, index: usize) -> Result<(String, OfOutput), ModelError> {
    let mut label = format!("outputs[{index}]");
    let (mut name, mut parameters, mut once) = (None, OfOutput::default(), Once::default());
    if text.peek() != Some(b'{') {
        return Err(bad(text.error(format!("{label} is no object"))));
    }
    text.object(|text, member| {
        once.check(member, &label)?;
        match member {
            "name" => {
                let given = member_string(text, "name", &label)?.into_owned();
                label = format!("output '{given}'");
                name = Some(given);
            }
            "parameters" => parameters = OfOutput::read(text, &label)?,
            _ => text.ignore()?,
        }
        Ok::<_, ModelError>(())
    })?;
    let name = name.ok_or_else(|| ModelError::Request(format!("{label} has no name")))?;
    Ok((name, parameters))
}

fn member_string<'a>(
    text: &mut Text<'a>,
    member: &str,
    of: &str,
) -> Result<Cow<'a, str>, ModelError> {
    let given: &'a RawValue = text.value()?;
    serde_json::from_str(given.get()).map_err(|_| {
        let got = shown(given.get());
        ModelError::Request(format!("{of} has {member} {got}, expected a string"))
    })
}

/// A JSON value for people, cut if it is long.
fn shown(json: &str) -> String {
    let mut shown: String = json.chars().take(60).collect();
    if shown.len() < json.len() {
        shown.push('…');
    }
    shown
}
