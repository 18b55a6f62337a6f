//! wasi:nn over the models of this node: by name, and only those that the
//! deployment allows. A handler brings no models of its own.

#![expect(
    unreachable_pub,
    reason = "the generated bindings re-export the resources"
)]

use std::sync::Arc;

use bytes::Bytes;
use wasmtime::Result;
use wasmtime::component::{Linker, Resource};

use super::Host;
use super::bindings::wasi::nn::{errors, graph, inference, tensor};
use crate::handlers::state::GuestState;
use crate::models::{DataType, InferRequest, ModelError, Priority, Tensor as ModelTensor, Via};

/// A tensor, held by the host.
pub struct Tensor {
    datatype: DataType,
    shape: Vec<u32>,
    data: Bytes,
}

/// A model that the guest has taken by name.
pub struct Graph(Arc<Target>);

/// The same model, ready to run.
pub struct ExecutionContext(Arc<Target>);

struct Target {
    model: String,
    version: Option<String>,
}

/// An error with its details.
pub struct NnError {
    code: errors::ErrorCode,
    message: String,
}

type Outcome<T> = Result<std::result::Result<T, Resource<NnError>>>;

pub(super) fn add_to_linker(linker: &mut Linker<GuestState>) -> Result<()> {
    tensor::add_to_linker::<_, Host>(linker, |state| state)?;
    graph::add_to_linker::<_, Host>(linker, |state| state)?;
    inference::add_to_linker::<_, Host>(linker, |state| state)?;
    errors::add_to_linker::<_, Host>(linker, |state| state)
}

impl GuestState {
    fn refuse<T>(&mut self, code: errors::ErrorCode, message: String) -> Outcome<T> {
        Ok(Err(self.table().push(NnError { code, message })?))
    }
}

impl tensor::Host for GuestState {}

impl tensor::HostTensor for GuestState {
    fn new(
        &mut self,
        dimensions: tensor::TensorDimensions,
        ty: tensor::TensorType,
        data: tensor::TensorData,
    ) -> Result<Resource<Tensor>> {
        let tensor = Tensor {
            datatype: datatype(ty),
            shape: dimensions,
            data: data.into(),
        };
        Ok(self.table().push(tensor)?)
    }

    fn dimensions(&mut self, this: Resource<Tensor>) -> Result<tensor::TensorDimensions> {
        Ok(self.table().get(&this)?.shape.clone())
    }

    fn ty(&mut self, this: Resource<Tensor>) -> Result<tensor::TensorType> {
        let datatype = self.table().get(&this)?.datatype;
        tensor_type(datatype)
            .ok_or_else(|| wasmtime::format_err!("wasi:nn has no name for {datatype}"))
    }

    fn data(&mut self, this: Resource<Tensor>) -> Result<tensor::TensorData> {
        Ok(self.table().get(&this)?.data.to_vec())
    }

    fn drop(&mut self, this: Resource<Tensor>) -> Result<()> {
        self.table().delete(this)?;
        Ok(())
    }
}

impl graph::Host for GuestState {
    fn load(
        &mut self,
        _: Vec<graph::GraphBuilder>,
        _: graph::GraphEncoding,
        _: graph::ExecutionTarget,
    ) -> Outcome<Resource<Graph>> {
        self.refuse(
            errors::ErrorCode::Security,
            "a handler runs models that are deployed to the node: deploy it, and use load-by-name"
                .to_owned(),
        )
    }

    fn load_by_name(&mut self, name: String) -> Outcome<Resource<Graph>> {
        let (model, version) = match name.split_once(':') {
            Some((model, version)) => (model.to_owned(), Some(version.to_owned())),
            None => (name, None),
        };
        if !self.grant.allow.models.contains(model.as_str()) {
            let message = format!(
                "model {model:?} is not granted to this handler: name it in the deployment's allow.models"
            );
            return self.refuse(errors::ErrorCode::Security, message);
        }
        if let Err(error) = self.grant.models.info(&model, version.as_deref()) {
            return self.refuse(code(&error), error.to_string());
        }
        let graph = Graph(Arc::new(Target { model, version }));
        Ok(Ok(self.table().push(graph)?))
    }
}

impl graph::HostGraph for GuestState {
    fn init_execution_context(
        &mut self,
        this: Resource<Graph>,
    ) -> Outcome<Resource<ExecutionContext>> {
        let target = Arc::clone(&self.table().get(&this)?.0);
        Ok(Ok(self.table().push(ExecutionContext(target))?))
    }

    fn drop(&mut self, this: Resource<Graph>) -> Result<()> {
        self.table().delete(this)?;
        Ok(())
    }
}

impl inference::Host for GuestState {}

impl inference::HostGraphExecutionContext for GuestState {
    async fn compute(
        &mut self,
        this: Resource<ExecutionContext>,
        inputs: Vec<(String, Resource<Tensor>)>,
    ) -> Outcome<Vec<(String, Resource<Tensor>)>> {
        let target = Arc::clone(&self.table().get(&this)?.0);
        let mut tensors = Vec::with_capacity(inputs.len());
        for (name, tensor) in inputs {
            let tensor = self.table().get(&tensor)?;
            tensors.push(ModelTensor {
                name,
                datatype: tensor.datatype,
                shape: tensor.shape.iter().map(|d| i64::from(*d)).collect(),
                data: tensor.data.clone(),
            });
        }
        let request = InferRequest {
            inputs: tensors,
            outputs: Vec::new(),
            via: Via::Wasm,
            deadline: Some(self.call.deadline),
            priority: Priority::default(),
        };
        let models = self.grant.models.clone();
        match models
            .infer(&target.model, target.version.as_deref(), request)
            .await
        {
            Ok(response) => self.outputs(response.outputs),
            Err(error) => self.refuse(code(&error), error.to_string()),
        }
    }

    fn drop(&mut self, this: Resource<ExecutionContext>) -> Result<()> {
        self.table().delete(this)?;
        Ok(())
    }
}

impl GuestState {
    fn outputs(&mut self, outputs: Vec<ModelTensor>) -> Outcome<Vec<(String, Resource<Tensor>)>> {
        let mut named = Vec::with_capacity(outputs.len());
        for output in outputs {
            if tensor_type(output.datatype).is_none() {
                let message = format!(
                    "output {:?} has type {}, which wasi:nn cannot carry",
                    output.name, output.datatype
                );
                return self.refuse(errors::ErrorCode::UnsupportedOperation, message);
            }
            let shape = output.shape.iter().map(|d| u32::try_from(*d));
            let Ok(shape) = shape.collect() else {
                let message = format!("output {:?} is larger than wasi:nn can carry", output.name);
                return self.refuse(errors::ErrorCode::TooLarge, message);
            };
            let tensor = Tensor {
                datatype: output.datatype,
                shape,
                data: output.data,
            };
            named.push((output.name, self.table().push(tensor)?));
        }
        Ok(Ok(named))
    }
}

impl errors::Host for GuestState {}

impl errors::HostError for GuestState {
    fn code(&mut self, this: Resource<NnError>) -> Result<errors::ErrorCode> {
        Ok(self.table().get(&this)?.code)
    }

    fn data(&mut self, this: Resource<NnError>) -> Result<String> {
        Ok(self.table().get(&this)?.message.clone())
    }

    fn drop(&mut self, this: Resource<NnError>) -> Result<()> {
        self.table().delete(this)?;
        Ok(())
    }
}

fn datatype(ty: tensor::TensorType) -> DataType {
    match ty {
        tensor::TensorType::Fp16 => DataType::Fp16,
        tensor::TensorType::Fp32 => DataType::Fp32,
        tensor::TensorType::Fp64 => DataType::Fp64,
        tensor::TensorType::Bf16 => DataType::Bf16,
        tensor::TensorType::U8 => DataType::Uint8,
        tensor::TensorType::I32 => DataType::Int32,
        tensor::TensorType::I64 => DataType::Int64,
    }
}

fn tensor_type(datatype: DataType) -> Option<tensor::TensorType> {
    Some(match datatype {
        DataType::Fp16 => tensor::TensorType::Fp16,
        DataType::Fp32 => tensor::TensorType::Fp32,
        DataType::Fp64 => tensor::TensorType::Fp64,
        DataType::Bf16 => tensor::TensorType::Bf16,
        DataType::Uint8 | DataType::Bool => tensor::TensorType::U8,
        DataType::Int32 => tensor::TensorType::I32,
        DataType::Int64 => tensor::TensorType::I64,
        _ => return None,
    })
}

fn code(error: &ModelError) -> errors::ErrorCode {
    use errors::ErrorCode;
    match error {
        ModelError::UnknownModel { .. } | ModelError::UnknownVersion { .. } => ErrorCode::NotFound,
        ModelError::Deadline { .. } => ErrorCode::Timeout,
        error if error.is_client_fault() => ErrorCode::InvalidArgument,
        _ => ErrorCode::RuntimeError,
    }
}
