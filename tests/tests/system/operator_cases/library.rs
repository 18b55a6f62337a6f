//! ONNX Runtime in this process, through `ort` and nothing of ours.

use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use ort::environment::Environment;
use ort::logging::LogLevel;
use ort::memory::Allocator;
use ort::session::builder::GraphOptimizationLevel;
use ort::session::{Session, SessionInputValue};
use ort::value::{DynTensor, DynTensorValueType, DynValue, TensorElementType, ValueType};

use super::wire::{DataType, Tensor, push_string};

pub(super) struct Library {
    environment: Environment,
}

impl Library {
    pub(super) fn open(path: &Path) -> Result<Library> {
        ensure!(
            std::env::var("ORT_DISABLE_TELEMETRY").is_ok_and(|value| value == "1"),
            "ORT_DISABLE_TELEMETRY=1 is not set: run the tests with cargo"
        );
        let environment = ort::init_from(path)?.with_telemetry(false).build()?;
        environment.set_log_level(LogLevel::Fatal);
        Ok(Library { environment })
    }

    /// With the optimisation and the number of threads that a node uses: both change the last bits of sums.
    pub(super) fn load(&self, model: &Path) -> ort::Result<Session> {
        Session::builder(&self.environment)?
            .with_optimization_level(GraphOptimizationLevel::All)?
            .with_intra_threads(1)?
            .with_inter_threads(1)?
            .commit_from_file(model)
    }
}

pub(super) fn run(session: &mut Session, inputs: &[Tensor]) -> Result<Vec<Tensor>> {
    let values = inputs
        .iter()
        .map(|input| Ok((input.name.clone().into(), value(input)?)))
        .collect::<Result<Vec<(std::borrow::Cow<'_, str>, SessionInputValue<'_>)>>>()?;
    let outputs = session.run(values)?;
    outputs
        .iter()
        .map(|(name, value)| tensor(name, &value))
        .collect()
}

fn value(input: &Tensor) -> Result<SessionInputValue<'static>> {
    if input.datatype == DataType::Bytes {
        let strings: Vec<String> = input
            .strings()
            .map(|text| Ok(String::from_utf8(text.to_vec())?))
            .collect::<Result<_>>()?;
        let shape = input.shape.as_slice();
        return Ok(ort::value::Tensor::from_string_array((shape, strings.as_slice()))?.into());
    }
    let element = element_type(input.datatype);
    let mut value = DynTensor::new(&Allocator::default(), element, input.shape.clone())?;
    let count: i64 = input.shape.iter().product();
    ensure!(usize::try_from(count)? * input.datatype.size() == input.data.len());
    if !input.data.is_empty() {
        let target = value.data_ptr_mut().cast::<u8>();
        #[expect(unsafe_code, reason = "a tensor of a type known only at run time")]
        // SAFETY: the library has allocated shape times element size, which is the data's length.
        unsafe {
            std::ptr::copy_nonoverlapping(input.data.as_ptr(), target, input.data.len());
        }
    }
    Ok(value.into())
}

fn tensor(name: &str, value: &DynValue) -> Result<Tensor> {
    let ValueType::Tensor { ty, shape, .. } = value.dtype() else {
        anyhow::bail!("output '{name}' is no tensor");
    };
    let datatype = DataType::ALL
        .into_iter()
        .find(|datatype| element_type(*datatype) == *ty)
        .context("an element type that has a form")?;
    let shape = shape.to_vec();
    let count: i64 = shape.iter().product();
    let mut data = Vec::new();
    if datatype == DataType::Bytes {
        let (_, strings) = value.try_extract_strings()?;
        strings
            .iter()
            .for_each(|text| push_string(&mut data, text.as_bytes()));
    } else if count > 0 {
        let length = usize::try_from(count)? * datatype.size();
        let tensor = value.view().downcast::<DynTensorValueType>()?;
        let source = tensor.data_ptr().cast::<u8>();
        #[expect(unsafe_code, reason = "a tensor of a type known only at run time")]
        // SAFETY: the library holds shape times element size bytes there for as long as `value` lives.
        data.extend_from_slice(unsafe { std::slice::from_raw_parts(source, length) });
    }
    Ok(Tensor {
        name: name.to_owned(),
        datatype,
        shape,
        data,
    })
}

fn element_type(datatype: DataType) -> TensorElementType {
    match datatype {
        DataType::Bool => TensorElementType::Bool,
        DataType::Uint8 => TensorElementType::Uint8,
        DataType::Uint16 => TensorElementType::Uint16,
        DataType::Uint32 => TensorElementType::Uint32,
        DataType::Uint64 => TensorElementType::Uint64,
        DataType::Int8 => TensorElementType::Int8,
        DataType::Int16 => TensorElementType::Int16,
        DataType::Int32 => TensorElementType::Int32,
        DataType::Int64 => TensorElementType::Int64,
        DataType::Fp16 => TensorElementType::Float16,
        DataType::Bf16 => TensorElementType::Bfloat16,
        DataType::Fp32 => TensorElementType::Float32,
        DataType::Fp64 => TensorElementType::Float64,
        DataType::Bytes => TensorElementType::String,
    }
}
