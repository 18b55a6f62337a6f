//! A request to a model and its answer, whichever way it came.

use std::time::Instant;

use super::tensor::{Tensor, TensorInfo};

/// Which way a request came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Via {
    /// From a client, over HTTP.
    Http,
    /// From a client, over gRPC.
    Grpc,
    /// From a handler, through wasi:nn.
    Wasm,
}

/// A request to a model.
#[derive(Debug, Clone)]
pub struct InferRequest {
    /// One tensor for each input of the model, in any order.
    pub inputs: Vec<Tensor>,
    /// The outputs wanted, in this order; all if empty.
    pub outputs: Vec<String>,
    /// Which way it came.
    pub via: Via,
    /// When the result is of no use any more: the request leaves the queue, or its run is stopped. None: the model's
    /// own timeout counts from now.
    pub deadline: Option<Instant>,
    /// Its place among those that wait.
    pub priority: Priority,
}

/// A request's place among those that wait for the same model: a lower number runs first, equal ones in the order in
/// which they came. 0 stands for the default.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Priority(u32);

impl Priority {
    /// The protocol's `priority` parameter: 1 is the most urgent, 0 the default.
    pub fn new(number: u32) -> Priority {
        if number == 0 {
            Priority::default()
        } else {
            Priority(number)
        }
    }
}

impl Default for Priority {
    fn default() -> Self {
        Priority(100)
    }
}

/// A model's answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InferResponse {
    /// The model.
    pub model: String,
    /// The version that ran.
    pub version: String,
    /// The outputs asked for, or all in the model's order.
    pub outputs: Vec<Tensor>,
}

/// What a model takes and gives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelInfo {
    /// Its name.
    pub name: String,
    /// The version described.
    pub version: String,
    /// All versions that serve.
    pub versions: Vec<String>,
    /// Its inputs.
    pub inputs: Vec<TensorInfo>,
    /// Its outputs.
    pub outputs: Vec<TensorInfo>,
}
