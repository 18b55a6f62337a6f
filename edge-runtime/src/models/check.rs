//! Whether a request fits the model.

use super::InferRequest;
use super::error::ModelError;
use super::pool::LoadedModel;
use super::tensor::TensorInfo;

impl LoadedModel {
    /// Checks a request against what the model declares.
    pub(crate) fn check(&self, request: &InferRequest) -> Result<(), ModelError> {
        for (index, tensor) in request.inputs.iter().enumerate() {
            let name = &tensor.name;
            let Some(declared) = self.inputs.iter().find(|input| input.name == *name) else {
                return Err(self.mismatch(format!(
                    "has no input '{name}'; it takes {}",
                    list(&self.inputs)
                )));
            };
            if request.inputs[..index]
                .iter()
                .any(|earlier| earlier.name == *name)
            {
                return Err(ModelError::Mismatch(format!("input '{name}' comes twice")));
            }
            if tensor.datatype != declared.datatype {
                let (expected, got) = (declared.datatype, tensor.datatype);
                return Err(ModelError::Mismatch(format!(
                    "input '{name}' has datatype {got}, expected {expected}"
                )));
            }
            let fits = tensor.shape.len() == declared.shape.len()
                && tensor
                    .shape
                    .iter()
                    .zip(&declared.shape)
                    .all(|(got, expected)| got == expected || *expected < 0);
            if !fits {
                let (expected, got) = (&declared.shape, &tensor.shape);
                let free = if expected.contains(&-1) {
                    " (-1 is any size)"
                } else {
                    ""
                };
                let problem =
                    format!("input '{name}' has shape {got:?}, expected {expected:?}{free}");
                return Err(ModelError::Mismatch(problem));
            }
            tensor.check().map_err(|problem| ModelError::Tensor {
                input: name.clone(),
                problem,
            })?;
        }
        if let Some(missing) = self
            .inputs
            .iter()
            .find(|input| request.inputs.iter().all(|t| t.name != input.name))
        {
            let TensorInfo {
                name,
                datatype,
                shape,
            } = missing;
            return Err(ModelError::Mismatch(format!(
                "input '{name}' is missing, expected {datatype} of shape {shape:?}"
            )));
        }
        for (index, name) in request.outputs.iter().enumerate() {
            if self.outputs.iter().all(|output| output.name != *name) {
                return Err(self.mismatch(format!(
                    "has no output '{name}'; it gives {}",
                    list(&self.outputs)
                )));
            }
            if request.outputs[..index].contains(name) {
                return Err(ModelError::Mismatch(format!(
                    "output '{name}' is asked for twice"
                )));
            }
        }
        Ok(())
    }

    fn mismatch(&self, problem: String) -> ModelError {
        ModelError::Mismatch(format!("model '{}' {problem}", self.name))
    }
}

fn list(tensors: &[TensorInfo]) -> String {
    tensors
        .iter()
        .map(|tensor| format!("'{}'", tensor.name))
        .collect::<Vec<_>>()
        .join(", ")
}
