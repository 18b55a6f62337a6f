//! Answers, as the client wants them.

use bytes::Bytes;

use super::super::error::ModelError;
use super::super::tensor::{Tensor, TensorInfo};
use super::super::{InferResponse, json};

/// How the client wants its answer.
#[derive(Debug, Default)]
pub(crate) struct AnswerForm {
    /// To be repeated in the answer.
    pub(super) id: Option<String>,
    /// Whether data goes behind the JSON, unless the output is named below.
    pub(super) binary: bool,
    pub(super) named: Vec<(String, OutputForm)>,
}

/// How the client wants one output.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct OutputForm {
    pub(super) binary: Option<bool>,
    /// So many of the best classes in place of all scores.
    pub(super) classes: Option<usize>,
}

impl AnswerForm {
    /// All outputs as binary data.
    pub(super) fn binary() -> AnswerForm {
        AnswerForm {
            binary: true,
            ..AnswerForm::default()
        }
    }

    fn of(&self, output: &str) -> OutputForm {
        let named = self.named.iter().find(|(name, _)| name == output);
        named.map(|(_, form)| *form).unwrap_or_default()
    }

    fn is_binary(&self, output: &str) -> bool {
        self.of(output).binary.unwrap_or(self.binary)
    }

    /// How many of its best classes the client wants in place of an output's scores.
    pub(crate) fn classes(&self, output: &str) -> Option<usize> {
        self.of(output).classes.filter(|count| *count > 0)
    }

    /// Asks for an output's best classes, unless the request has said how many.
    pub(crate) fn want_classes(&mut self, output: &str, count: usize) {
        match self.named.iter_mut().find(|(name, _)| name == output) {
            Some((_, form)) => form.classes = form.classes.or(Some(count)),
            None => self.named.push((
                output.to_owned(),
                OutputForm {
                    binary: None,
                    classes: Some(count),
                },
            )),
        }
    }

    /// Checks before the run that the answer can be written: `wanted` of the model's `outputs`, all if it is empty.
    pub(crate) fn check(
        &self,
        outputs: &[TensorInfo],
        wanted: &[String],
    ) -> Result<(), ModelError> {
        let is_wanted = |output: &&TensorInfo| wanted.is_empty() || wanted.contains(&output.name);
        let cannot = |output: &&TensorInfo| {
            let name = &output.name;
            !output.datatype.has_json_form()
                && !self.is_binary(name)
                && self.classes(name).is_none()
        };
        match outputs.iter().filter(is_wanted).find(cannot) {
            Some(output) => Err(no_json_form(&output.name, output.datatype)),
            None => Ok(()),
        }
    }
}

fn no_json_form(name: &str, datatype: impl std::fmt::Display) -> ModelError {
    ModelError::Mismatch(format!(
        "output '{name}' has datatype {datatype}, which JSON cannot carry; ask for it with parameters.binary_data"
    ))
}

/// An answer's body; `json_length` is set when binary data follows the JSON.
#[derive(Debug)]
pub(crate) struct Encoded {
    pub(crate) body: Bytes,
    pub(crate) json_length: Option<usize>,
}

/// Writes the answer as the client wants it.
pub(crate) fn encode(response: &InferResponse, form: &AnswerForm) -> Result<Encoded, ModelError> {
    let of_json = |output: &Tensor| !form.is_binary(&output.name);
    let room: usize = response
        .outputs
        .iter()
        .map(|output| output.data.len() * if of_json(output) { 4 } else { 1 } + 128)
        .sum();
    let mut out = Vec::with_capacity(256 + room);
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
        if of_json(output) {
            out.extend_from_slice(b",\"data\":");
            if !json::encode(&mut out, output) {
                return Err(no_json_form(&output.name, output.datatype));
            }
            out.push(b'}');
        } else {
            out.extend_from_slice(b",\"parameters\":{\"binary_data_size\":");
            json::value(&mut out, &output.data.len());
            out.extend_from_slice(b"}}");
            blobs.get_or_insert_default().push(&output.data);
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
