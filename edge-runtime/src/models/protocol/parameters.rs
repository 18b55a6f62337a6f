//! Parameters of requests, inputs and outputs. Those that mean something here are checked; others are passed over, as
//! the protocol leaves them to whoever knows them.

use std::fmt;

use serde_json::Value;

use super::super::Priority;
use super::super::error::ModelError;
use super::super::json::Text;
use super::bad;

/// Parameters of a request.
#[derive(Default)]
pub(super) struct OfRequest {
    pub(super) timeout_us: u64,
    pub(super) priority: Priority,
    pub(super) binary_data_output: bool,
}

/// Parameters of an input.
#[derive(Default)]
pub(super) struct OfInput {
    pub(super) binary_data_size: Option<usize>,
}

/// Parameters of an output.
#[derive(Default)]
pub(super) struct OfOutput {
    pub(super) binary_data: Option<bool>,
    pub(super) classification: Option<usize>,
}

impl OfRequest {
    pub(super) fn read(text: &mut Text<'_>) -> Result<OfRequest, ModelError> {
        let mut read = OfRequest::default();
        each(text, "the request", |name, given| {
            match name {
                "timeout" => read.timeout_us = given.number("a number of microseconds")?,
                "priority" => {
                    let number = given.number("a number, 1 for the most urgent")?;
                    read.priority = Priority::new(u32::try_from(number).unwrap_or(u32::MAX));
                }
                "binary_data_output" => read.binary_data_output = given.flag()?,
                "sequence_id" | "sequence_start" | "sequence_end" => given.no_sequence()?,
                _ => (),
            }
            Ok(())
        })?;
        Ok(read)
    }
}

impl OfInput {
    pub(super) fn read(text: &mut Text<'_>, input: &str) -> Result<OfInput, ModelError> {
        let mut read = OfInput::default();
        each(text, input, |name, given| {
            match name {
                "binary_data_size" => {
                    read.binary_data_size = Some(given.size("a number of bytes")?)
                }
                "shared_memory_region" => return Err(given.no_shared_memory()),
                _ => (),
            }
            Ok(())
        })?;
        Ok(read)
    }
}

impl OfOutput {
    pub(super) fn read(text: &mut Text<'_>, output: &str) -> Result<OfOutput, ModelError> {
        let mut read = OfOutput::default();
        each(text, output, |name, given| {
            match name {
                "binary_data" => read.binary_data = Some(given.flag()?),
                "classification" => {
                    read.classification = Some(given.size("a number of classes")?);
                }
                "shared_memory_region" => return Err(given.no_shared_memory()),
                _ => (),
            }
            Ok(())
        })?;
        Ok(read)
    }
}

/// A parameter as it came.
struct Given<'a> {
    of: &'a str,
    name: &'a str,
    value: Value,
}

const KNOWN: [&str; 9] = [
    "timeout",
    "priority",
    "binary_data_output",
    "sequence_id",
    "sequence_start",
    "sequence_end",
    "binary_data_size",
    "binary_data",
    "classification",
];

fn each(
    text: &mut Text<'_>,
    of: &str,
    mut take: impl FnMut(&str, Given<'_>) -> Result<(), ModelError>,
) -> Result<(), ModelError> {
    if text.peek() == Some(b'n') {
        return text.value::<()>().map_err(bad);
    }
    if text.peek() != Some(b'{') {
        return Err(bad(text.error(format!("parameters of {of} are no object"))));
    }
    let mut seen = Vec::new();
    text.object(|text, name| {
        if !KNOWN.contains(&name) && name != "shared_memory_region" {
            return text.ignore().map_err(bad);
        }
        if seen.iter().any(|earlier| earlier == name) {
            let problem = format!("parameter '{name}' of {of} comes twice");
            return Err(ModelError::Request(problem));
        }
        seen.push(name.to_owned());
        let value = text.value().map_err(bad)?;
        take(name, Given { of, name, value })
    })
}

impl Given<'_> {
    fn number(&self, expected: &str) -> Result<u64, ModelError> {
        self.value.as_u64().ok_or_else(|| self.wrong(expected))
    }

    fn size(&self, expected: &str) -> Result<usize, ModelError> {
        let number = self.number(expected)?;
        usize::try_from(number).map_err(|_| self.wrong(expected))
    }

    fn flag(&self) -> Result<bool, ModelError> {
        self.value
            .as_bool()
            .ok_or_else(|| self.wrong("true or false"))
    }

    /// No sequence at all is fine: some clients say so in each request.
    fn no_sequence(&self) -> Result<(), ModelError> {
        let none = match &self.value {
            Value::Null | Value::Bool(false) => true,
            Value::Number(number) => number.as_u64() == Some(0),
            Value::String(id) => id.is_empty(),
            _ => false,
        };
        if none {
            return Ok(());
        }
        Err(ModelError::Request(format!(
            "parameter '{}' asks for a sequence, but models here keep no state between requests",
            self.name
        )))
    }

    fn no_shared_memory(&self) -> ModelError {
        ModelError::Request(format!(
            "parameter '{}' of {} asks for shared memory, which is not served; send the data in the body",
            self.name, self.of
        ))
    }

    fn wrong(&self, expected: impl fmt::Display) -> ModelError {
        let mut got: String = self.value.to_string();
        if got.chars().count() > 40 {
            got = got.chars().take(40).chain(['…']).collect();
        }
        ModelError::Request(format!(
            "parameter '{}' of {} is {got}, expected {expected}",
            self.name, self.of
        ))
    }
}
