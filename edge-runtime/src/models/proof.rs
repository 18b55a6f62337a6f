//! What a model has to show before it becomes ready: it runs, it gives its golden outputs, and, if its requests are to be
//! batched, it keeps rows apart.

use std::time::Duration;

use super::InferRequest;
use super::backend::{LoadedFile, RunError, Session};
use super::batch::{self, Unbatchable};
use super::golden::{Case, GoldenError};
use super::tensor::{DataType, Tensor, TensorInfo, element_count, push_string};
use super::{Priority, Via};

/// Why a loaded model does not become ready.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Unproven {
    /// The engine fails on zeros although the model fixes all its shapes.
    #[error("failed its warm-up run: {0}")]
    WarmUp(String),
    /// It does not give its golden outputs.
    #[error("failed its self-test: {0}")]
    Golden(#[from] GoldenError),
    /// Its requests cannot be batched.
    #[error("cannot batch requests: {0}; remove batch from its deployment")]
    Batch(#[from] Unbatchable),
    /// Nothing shows whether its requests can be batched.
    #[error(
        "cannot show that it keeps rows apart: it runs neither on zeros nor has it golden cases; add some, or remove \
         batch from its deployment"
    )]
    BatchUnknown,
}

/// Runs every session, so that the first request finds it warm, and the cases on the first of them. Gives the time of a
/// run on zeros, where the model takes them.
///
/// # Errors
/// [`Unproven`], which reads well after the model's name.
pub(crate) fn prove(
    file: &mut LoadedFile,
    cases: &[Case],
    batched: bool,
) -> Result<Option<Duration>, Unproven> {
    let pace = warm_up(file)?;
    let Some(session) = file.sessions.first_mut() else {
        return Ok(pace);
    };
    for (index, case) in cases.iter().enumerate() {
        let differs = |problem: String| GoldenError::Differs {
            case: index + 1,
            problem,
        };
        let ran = session.run(&case.inputs, &case.wanted(), None);
        let ran = ran.map_err(|error| differs(error.to_string()))?;
        case.judge(&ran.outputs).map_err(differs)?;
    }
    if batched {
        batch::declared(&file.inputs, &file.outputs)?;
        let zeros: Vec<Tensor> = file.inputs.iter().map(zeros).collect();
        let examples = cases.iter().map(|case| &case.inputs);
        let keeps = std::iter::once(&zeros)
            .chain(examples)
            .map(|inputs| keeps_rows(session.as_mut(), inputs))
            .find(|outcome| !matches!(outcome, Err(Unproven::BatchUnknown)));
        keeps.unwrap_or(Err(Unproven::BatchUnknown))?;
    }
    Ok(pace)
}

/// Runs every session on zeros, a free dimension taken as 1.
fn warm_up(file: &mut LoadedFile) -> Result<Option<Duration>, Unproven> {
    let free = |input: &TensorInfo| input.shape.iter().any(|dim| *dim < 0);
    let zeros: Vec<Tensor> = file.inputs.iter().map(zeros).collect();
    let mut pace = None;
    for session in &mut file.sessions {
        // The second run shows the pace; the first also plans memory.
        let ran = session
            .run(&zeros, &[], None)
            .and_then(|_| session.run(&zeros, &[], None));
        match ran {
            Ok(ran) => pace = Some(ran.infer),
            // With free dimensions, 1 may be a size that it cannot take; and an operator may refuse zeros, as a scale,
            // an axis or a depth. Neither says anything about the model: its golden inputs do.
            Err(error) if matches!(error, RunError::Refused(_)) || file.inputs.iter().any(free) => {
                tracing::debug!(%error, "no warm-up on zeros");
                return Ok(None);
            }
            Err(error) => return Err(Unproven::WarmUp(error.to_string())),
        }
    }
    Ok(pace)
}

/// Runs the inputs' rows once, twice and three times over. Two and three, because a dimension of another meaning may
/// happen to be as long as one of them.
fn keeps_rows(session: &mut dyn Session, inputs: &[Tensor]) -> Result<(), Unproven> {
    let request = InferRequest {
        inputs: inputs.to_vec(),
        outputs: Vec::new(),
        via: Via::Wasm,
        deadline: None,
        priority: Priority::default(),
    };
    let Some(rows) = batch::rows(&request) else {
        return Err(Unproven::BatchUnknown);
    };
    for times in 1..=3 {
        let joined = batch::join(&vec![&request; times]);
        match session.run(&joined, &[], None) {
            Ok(ran) => batch::split(&ran.outputs, &vec![rows; times]).map(drop)?,
            Err(_) => {
                return Err(Unproven::BatchUnknown);
            }
        }
    }
    Ok(())
}

fn zeros(input: &TensorInfo) -> Tensor {
    let shape: Vec<i64> = input
        .shape
        .iter()
        .map(|dim| if *dim < 0 { 1 } else { *dim })
        .collect();
    let count = element_count(&shape).unwrap_or(0);
    let data = if input.datatype == DataType::Bytes {
        let mut data = Vec::new();
        (0..count).for_each(|_| push_string(&mut data, b""));
        data
    } else {
        vec![0; count * input.datatype.size().unwrap_or(0)]
    };
    Tensor {
        name: input.name.clone(),
        datatype: input.datatype,
        shape,
        data: data.into(),
    }
}
