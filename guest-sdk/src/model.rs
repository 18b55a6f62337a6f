//! Models that are deployed on the node.

use std::fmt;

pub use crate::capabilities::wasi::nn::tensor::TensorType;
use crate::capabilities::wasi::nn::{
    errors::{Error, ErrorCode},
    graph::{self, Graph},
    tensor::Tensor as HostTensor,
};

/// A model of the node.
pub struct Model {
    graph: Graph,
}

impl Model {
    /// Takes the model `name` (the version that serves now) or `name:version`.
    pub fn by_name(name: &str) -> Result<Self, ModelError> {
        match graph::load_by_name(name) {
            Ok(graph) => Ok(Self { graph }),
            Err(error) => Err(ModelError::from_host(name, &error)),
        }
    }

    /// Runs the model once. The outputs come with their names, in the model's
    /// order.
    pub fn run(&self, inputs: Vec<(String, Tensor)>) -> Result<Vec<(String, Tensor)>, ModelError> {
        let context = self
            .graph
            .init_execution_context()
            .map_err(|error| ModelError::from_host("the model", &error))?;
        let inputs = inputs
            .into_iter()
            .map(|(name, tensor)| {
                (
                    name,
                    HostTensor::new(&tensor.shape, tensor.ty, &tensor.data),
                )
            })
            .collect();
        let outputs = context
            .compute(inputs)
            .map_err(|error| ModelError::from_host("the model", &error))?;
        Ok(outputs
            .into_iter()
            .map(|(name, tensor)| {
                let tensor = Tensor {
                    shape: tensor.dimensions(),
                    ty: tensor.ty(),
                    data: tensor.data(),
                };
                (name, tensor)
            })
            .collect())
    }
}

/// A tensor in the guest's memory: row-major, little-endian.
#[derive(Debug, Clone)]
pub struct Tensor {
    shape: Vec<u32>,
    ty: TensorType,
    data: Vec<u8>,
}

impl Tensor {
    /// A tensor of 32-bit floats; `values` has as many entries as `shape` asks for.
    #[must_use]
    pub fn f32(shape: Vec<u32>, values: &[f32]) -> Self {
        debug_assert_eq!(
            shape.iter().map(|&n| n as usize).product::<usize>(),
            values.len()
        );
        let data = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        Self {
            shape,
            ty: TensorType::Fp32,
            data,
        }
    }

    /// A tensor of any type that wasi:nn has; `data` is its elements, little-endian and row-major.
    #[must_use]
    pub fn new(ty: TensorType, shape: Vec<u32>, data: Vec<u8>) -> Self {
        Self { shape, ty, data }
    }

    /// Type of its elements.
    #[must_use]
    pub fn ty(&self) -> TensorType {
        self.ty
    }

    /// Its elements, little-endian and row-major.
    #[must_use]
    pub fn data(&self) -> &[u8] {
        &self.data
    }

    /// Size of each dimension.
    #[must_use]
    pub fn shape(&self) -> &[u32] {
        &self.shape
    }

    /// The elements as 32-bit floats, if that is what they are.
    #[must_use]
    pub fn to_f32(&self) -> Option<Vec<f32>> {
        (self.ty == TensorType::Fp32).then(|| {
            self.data
                .chunks_exact(4)
                .map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]))
                .collect()
        })
    }
}

/// Why a model could not be taken or run.
#[derive(Debug, Clone)]
pub struct ModelError {
    /// What kind of failure.
    pub kind: ModelErrorKind,
    message: String,
}

/// Kinds of failure that a handler answers differently.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ModelErrorKind {
    /// The node has no such model, or the handler may not use it.
    Unavailable,
    /// The node is busy, or the deadline passed; trying again may help.
    Busy,
    /// The inputs do not fit the model.
    BadInput,
    /// Anything else.
    Failed,
}

impl ModelError {
    fn from_host(subject: &str, error: &Error) -> Self {
        let code = error.code();
        let kind = match code {
            ErrorCode::NotFound | ErrorCode::Security => ModelErrorKind::Unavailable,
            ErrorCode::Timeout => ModelErrorKind::Busy,
            ErrorCode::InvalidArgument | ErrorCode::InvalidEncoding | ErrorCode::TooLarge => {
                ModelErrorKind::BadInput
            }
            _ => ModelErrorKind::Failed,
        };
        let detail = error.data();
        let message = if detail.is_empty() {
            format!("{subject}: {code:?}")
        } else {
            format!("{subject}: {detail}")
        };
        Self { kind, message }
    }
}

impl fmt::Display for ModelError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for ModelError {}
