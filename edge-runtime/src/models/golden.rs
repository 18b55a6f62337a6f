//! Golden cases: inputs and the outputs that a model has to give for them, within a stated tolerance. They come with the
//! model and are run before it becomes ready.
//!
//! ```json
//! {"tolerance": 1e-4, "cases": [{
//!   "inputs":  [{"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [0.5, 1.5]}],
//!   "outputs": [{"name": "y", "datatype": "FP32", "shape": [1], "data": [2.0], "tolerance": 0.01}]
//! }]}
//! ```
//!
//! Tensors are as in a request; `base64` stands instead of `data` for the bytes of the binary form.

use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::compare::compare;
use super::json;
use super::tensor::{DataType, Tensor, element_count};

const TOLERANCE: f64 = 1e-4;

#[derive(Deserialize)]
#[serde(deny_unknown_fields, expecting = "an object with tolerance and cases")]
struct File {
    #[serde(default = "usual_tolerance")]
    tolerance: f64,
    cases: Vec<CaseBody>,
}

fn usual_tolerance() -> f64 {
    TOLERANCE
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, expecting = "an object with inputs and outputs")]
struct CaseBody {
    inputs: Vec<TensorBody>,
    outputs: Vec<TensorBody>,
}

#[derive(Deserialize)]
#[serde(
    deny_unknown_fields,
    expecting = "a tensor with name, datatype, shape and data or base64"
)]
struct TensorBody {
    name: String,
    datatype: String,
    shape: Vec<i64>,
    data: Option<Box<RawValue>>,
    base64: Option<String>,
    tolerance: Option<f64>,
}

/// One case.
#[derive(Debug)]
pub(crate) struct Case {
    pub(crate) inputs: Vec<Tensor>,
    outputs: Vec<(Tensor, f64)>,
}

/// Why golden cases do not count as passed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum GoldenError {
    /// The file is not there.
    #[error("{path} cannot be read: {reason}")]
    Read { path: String, reason: String },
    /// The file is no golden file.
    #[error("{path} is no file of golden cases: {reason}")]
    Form { path: String, reason: String },
    /// The model gives something else.
    #[error("golden case {case}: {problem}")]
    Differs { case: usize, problem: String },
}

/// Reads the cases of a file; at least one.
pub(crate) fn read(path: &Path) -> Result<Vec<Case>, GoldenError> {
    let shown = || path.display().to_string();
    let text = std::fs::read(path).map_err(|error| GoldenError::Read {
        path: shown(),
        reason: error.to_string(),
    })?;
    let form = |reason: String| GoldenError::Form {
        path: shown(),
        reason,
    };
    let file: File = serde_json::from_slice(&text).map_err(|error| form(error.to_string()))?;
    if file.cases.is_empty() {
        return Err(form("it has no cases".into()));
    }
    let case = |(index, body): (usize, CaseBody)| -> Result<Case, String> {
        let at = |problem: String| format!("case {}: {problem}", index + 1);
        if body.outputs.is_empty() {
            return Err(at("it expects no outputs".into()));
        }
        let inputs = body.inputs.into_iter().map(|input| tensor("input", input));
        let outputs = body.outputs.into_iter().map(|output| {
            let tolerance = output.tolerance.unwrap_or(file.tolerance);
            if tolerance.is_nan() || tolerance < 0.0 {
                return Err(format!(
                    "the tolerance of output '{}' is {tolerance}",
                    output.name
                ));
            }
            tensor("output", output).map(|tensor| (tensor, tolerance))
        });
        Ok(Case {
            inputs: inputs.collect::<Result<_, _>>().map_err(at)?,
            outputs: outputs.collect::<Result<_, _>>().map_err(at)?,
        })
    };
    let cases = file.cases.into_iter().enumerate().map(case);
    cases.collect::<Result<_, _>>().map_err(form)
}

fn tensor(kind: &str, body: TensorBody) -> Result<Tensor, String> {
    let name = body.name;
    let problem = |problem: String| format!("{kind} '{name}' {problem}");
    let datatype = DataType::from_name(&body.datatype)
        .ok_or_else(|| problem(format!("has datatype '{}', which is none", body.datatype)))?;
    let data = match (body.data, body.base64) {
        (Some(data), None) => {
            element_count(&body.shape)
                .ok_or_else(|| problem(format!("has shape {:?}", body.shape)))?;
            let read = json::decode(datatype, &body.shape, data.get().as_bytes());
            read.map_err(|error| problem(error.to_string()))?.0
        }
        (None, Some(text)) => STANDARD
            .decode(text)
            .map_err(|error| problem(format!("has bad base64: {error}")))?
            .into(),
        _ => return Err(problem("needs either data or base64".into())),
    };
    let tensor = Tensor {
        datatype,
        shape: body.shape,
        data,
        name: name.clone(),
    };
    tensor.check().map_err(|error| problem(error.to_string()))?;
    Ok(tensor)
}

impl Case {
    /// The names of the outputs that are compared.
    pub(crate) fn wanted(&self) -> Vec<&str> {
        self.outputs
            .iter()
            .map(|(output, _)| output.name.as_str())
            .collect()
    }

    /// Compares what the model gave, in the order of [`Case::wanted`].
    pub(crate) fn judge(&self, got: &[Tensor]) -> Result<(), String> {
        for ((expected, tolerance), got) in self.outputs.iter().zip(got) {
            let name = &expected.name;
            let Some(difference) = compare(expected, got, *tolerance) else {
                return Err(format!(
                    "output '{name}' is {} of shape {:?}, expected {} of shape {:?}",
                    got.datatype, got.shape, expected.datatype, expected.shape
                ));
            };
            if !difference.within {
                return Err(format!(
                    "output '{name}' differs by up to {} (element {}), more than the tolerance of {tolerance}",
                    difference.max_abs, difference.worst
                ));
            }
        }
        Ok(())
    }
}
