//! ONNX Runtime through `ort`: the only file that knows either.
//!
//! The shared library is opened at run time, so that a node without it still serves its handlers. It is looked for in
//! this order: the configured path, `ORT_DYLIB_PATH`, `artifacts/lib/` of a checkout above the working directory, the
//! executable or the package under test, `lib/` beside the executable. From ONNX Runtime 1.29 on, the library reports
//! usage to its maker unless `ORT_DISABLE_TELEMETRY=1` is in the environment **before it is opened**. `main` sets it
//! first thing; where it is not set, the library is not opened.

use std::borrow::Cow;
use std::env;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use bytes::Bytes;
use ort::environment::Environment;
use ort::logging::LogLevel;
use ort::memory::Allocator;
use ort::session::builder::GraphOptimizationLevel;
use ort::session::{HasSelectedOutputs, OutputSelector, RunOptions, SessionInputValue};
use ort::value::{
    DynTensor, DynTensorValueType, DynValue, Outlet, TensorElementType, TensorRef, ValueType,
};

use super::backend::{Backend, Interrupt, LoadError, LoadedFile, Ran, RunError, Session, Source};
use super::tensor::{DataType, Tensor, TensorInfo, element_count, push_string};

#[cfg(target_endian = "big")]
compile_error!("tensors travel little-endian and are handed to the engine as they are");

const LIBRARY: &str = "libonnxruntime.so";
const INSTALL: &str = "run `cargo xtask setup`, or set ORT_DYLIB_PATH to a libonnxruntime.so of version 1.21 or newer";

/// The engine: one environment for the process, whoever opens it first.
pub(crate) struct Onnx {
    environment: Environment,
}

/// Why the engine is not there.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OpenError {
    /// The library would report usage to its maker.
    #[error(
        "ONNX Runtime's library is not opened, because it may report usage to its maker; start the process with ORT_DISABLE_TELEMETRY=1"
    )]
    Telemetry,
    /// No library in any of the places.
    #[error("ONNX Runtime's library was not found (looked for {looked_for}); {INSTALL}")]
    NotFound { looked_for: String },
    /// The library is there, but is none that can be used.
    #[error("ONNX Runtime's library {} cannot be used: {reason}; {INSTALL}", path.display())]
    Unusable { path: PathBuf, reason: String },
}

impl Onnx {
    /// Where the library lies, without opening it.
    pub(crate) fn locate(configured: Option<&Path>) -> Result<PathBuf, OpenError> {
        if env::var_os("ORT_DISABLE_TELEMETRY").is_none_or(|value| value != "1") {
            return Err(OpenError::Telemetry);
        }
        find(library_places(configured))
    }

    /// Opens the library, or joins the one that this process has opened before.
    pub(crate) fn open(configured: Option<&Path>) -> Result<Onnx, OpenError> {
        static OPENED: Mutex<Option<Environment>> = Mutex::new(None);
        let path = Self::locate(configured)?;
        let mut opened = OPENED.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(environment) = &*opened {
            return Ok(Onnx {
                environment: environment.clone(),
            });
        }
        let unusable = |reason: String| OpenError::Unusable {
            path: path.clone(),
            reason,
        };
        let environment = ort::init_from(&path)
            .map_err(|error| unusable(error.to_string()))?
            .with_name("edge-runtime")
            .with_telemetry(false)
            .with_logger(Arc::new(log))
            .build()
            .map_err(|error| unusable(error.to_string()))?;
        environment.set_log_level(LogLevel::Warning);
        tracing::info!(library = %path.display(), "ONNX Runtime is open");
        *opened = Some(environment.clone());
        Ok(Onnx { environment })
    }
}

fn library_places(configured: Option<&Path>) -> Vec<PathBuf> {
    if let Some(path) = configured {
        return vec![path.to_owned()];
    }
    if let Some(path) = env::var_os("ORT_DYLIB_PATH").filter(|path| !path.is_empty()) {
        return vec![path.into()];
    }
    let executable = env::current_exe().ok();
    let beside = executable
        .as_deref()
        .and_then(Path::parent)
        .map(|folder| folder.join("lib").join(LIBRARY));
    let package = env::var_os("CARGO_MANIFEST_DIR").map(PathBuf::from);
    let starts = [package, env::current_dir().ok(), executable];
    let checkouts = starts
        .iter()
        .flatten()
        .flat_map(|start| start.ancestors())
        .filter(|folder| {
            // Not just any folder called artifacts: the one of a checkout.
            folder.join("Cargo.lock").is_file()
        });
    let mut places: Vec<PathBuf> = checkouts
        .map(|folder| folder.join("artifacts/lib").join(LIBRARY))
        .collect();
    places.dedup();
    places.extend(beside);
    places
}

fn find(places: Vec<PathBuf>) -> Result<PathBuf, OpenError> {
    if let Some(found) = places.iter().find(|place| place.is_file()) {
        return Ok(found.clone());
    }
    let looked_for = places
        .iter()
        .map(|place| place.display().to_string())
        .collect::<Vec<_>>()
        .join(", ");
    Err(OpenError::NotFound { looked_for })
}

fn log(level: LogLevel, _category: &str, _id: &str, location: &str, message: &str) {
    match level {
        LogLevel::Verbose | LogLevel::Info => tracing::debug!(location, "ONNX Runtime: {message}"),
        // Optimiser notes and refused requests come as warnings and errors; requests are answered with the reason.
        LogLevel::Warning | LogLevel::Error => {
            tracing::debug!(location, "ONNX Runtime warns: {message}")
        }
        LogLevel::Fatal => tracing::error!(location, "ONNX Runtime failed: {message}"),
    }
}

impl Backend for Onnx {
    fn load(&self, source: Source<'_>, sessions: usize) -> Result<LoadedFile, LoadError> {
        let kept_once = |index| match source {
            Source::Pushed { path, .. } if index > 0 => Source::Pushed { path, keep: None },
            source => source,
        };
        let sessions = (0..sessions)
            .map(|index| self.session(kept_once(index)))
            .collect::<Result<Vec<_>, _>>()?;
        let Some(first) = sessions.first() else {
            return Err(LoadError("no session was asked for".into()));
        };
        let inputs = describe("input", first.inputs())?;
        let outputs = describe("output", first.outputs())?;
        let sessions = sessions
            .into_iter()
            .map(|session| Box::new(OnnxSession { session }) as _)
            .collect();
        Ok(LoadedFile {
            inputs,
            outputs,
            sessions,
        })
    }

    fn fingerprint(&self) -> String {
        format!("{}\n{}", ort::info(), processor())
    }
}

/// The processor's model and features as the system tells them; layouts and kernels are chosen by these.
fn processor() -> String {
    let told = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let first = told.split("\n\n").next().unwrap_or_default();
    let says = |line: &&str| {
        let keys = ["model name", "flags", "Features", "CPU part", "CPU variant"];
        keys.iter().any(|key| line.starts_with(key))
    };
    first.lines().filter(says).collect::<Vec<_>>().join("\n")
}

impl Onnx {
    fn session(&self, source: Source<'_>) -> Result<ort::session::Session, LoadError> {
        let build = || -> ort::Result<ort::session::Session> {
            // One thread per session and none that spins: sessions share the cores by permits.
            let builder = ort::session::Session::builder(&self.environment)?
                .with_intra_threads(1)?
                .with_inter_threads(1)?
                .with_intra_op_spinning(false)?
                .with_inter_op_spinning(false)?;
            match source {
                Source::Optimised(path) => builder
                    .with_optimization_level(GraphOptimizationLevel::Disable)?
                    .commit_from_file(path),
                Source::Pushed { path, keep } => {
                    let builder = builder.with_optimization_level(GraphOptimizationLevel::All)?;
                    let mut builder = match keep {
                        Some(keep) => builder.with_optimized_model_path(keep)?,
                        None => builder,
                    };
                    builder.commit_from_file(path)
                }
            }
        };
        build().map_err(|error| LoadError(tidy(error.message())))
    }
}

fn describe(kind: &str, outlets: &[Outlet]) -> Result<Vec<TensorInfo>, LoadError> {
    let one = |outlet: &Outlet| {
        let name = outlet.name().to_owned();
        let ValueType::Tensor { ty, shape, .. } = outlet.dtype() else {
            return Err(LoadError(format!(
                "{kind} '{name}' is a {}, only tensors can be served (for scikit-learn: convert with zipmap=False)",
                outlet.dtype()
            )));
        };
        let datatype = datatype(*ty).ok_or_else(|| {
            LoadError(format!(
                "{kind} '{name}' has element type {ty}, which has no served form"
            ))
        })?;
        Ok(TensorInfo {
            name,
            datatype,
            shape: shape.to_vec(),
        })
    };
    outlets.iter().map(one).collect()
}

fn datatype(element: TensorElementType) -> Option<DataType> {
    Some(match element {
        TensorElementType::Bool => DataType::Bool,
        TensorElementType::Uint8 => DataType::Uint8,
        TensorElementType::Uint16 => DataType::Uint16,
        TensorElementType::Uint32 => DataType::Uint32,
        TensorElementType::Uint64 => DataType::Uint64,
        TensorElementType::Int8 => DataType::Int8,
        TensorElementType::Int16 => DataType::Int16,
        TensorElementType::Int32 => DataType::Int32,
        TensorElementType::Int64 => DataType::Int64,
        TensorElementType::Float16 => DataType::Fp16,
        TensorElementType::Bfloat16 => DataType::Bf16,
        TensorElementType::Float32 => DataType::Fp32,
        TensorElementType::Float64 => DataType::Fp64,
        TensorElementType::String => DataType::Bytes,
        _ => return None,
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

struct OnnxSession {
    session: ort::session::Session,
}

/// Options of one run, shared with whoever may stop it.
struct SharedOptions(RunOptions<HasSelectedOutputs>);

#[expect(
    unsafe_code,
    reason = "ort holds back Sync only for preallocated outputs, of which there are none"
)]
// SAFETY: the options are not changed after they are shared; `terminate` may be called from any thread, and no output
// value lies in the selector that two threads could write to.
unsafe impl Sync for SharedOptions {}

impl Session for OnnxSession {
    fn run(
        &mut self,
        inputs: &[Tensor],
        wanted: &[&str],
        interrupt: Option<&Interrupt>,
    ) -> Result<Ran, RunError> {
        let started = Instant::now();
        let values = inputs
            .iter()
            .map(|tensor| Ok((Cow::Borrowed(tensor.name.as_str()), input_value(tensor)?)))
            .collect::<Result<Vec<_>, RunError>>()?;
        let ready = Instant::now();
        let options;
        let outputs = if wanted.is_empty() && interrupt.is_none() {
            self.session.run(values)
        } else {
            options = Arc::new(run_options(wanted).map_err(failed)?);
            if let Some(interrupt) = interrupt {
                let shared = Arc::clone(&options);
                let stop = move || {
                    // It fails only if the library lacks the call; the run then ends by itself.
                    let _ = shared.0.terminate();
                };
                if !interrupt.arm(stop) {
                    return Err(RunError::Stopped);
                }
            }
            let outputs = self.session.run_with_options(values, &options.0);
            if let Some(interrupt) = interrupt {
                interrupt.disarm();
                if outputs.is_err()
                    && let Some(cause) = interrupt.cause()
                {
                    return Err(cause);
                }
            }
            outputs
        };
        let outputs = outputs.map_err(failed)?;
        let ran = Instant::now();
        let outputs = outputs
            .iter()
            .map(|(name, value)| output_tensor(name, &value))
            .collect::<Result<Vec<_>, RunError>>()?;
        Ok(Ran {
            outputs,
            input: ready - started,
            infer: ran - ready,
            output: ran.elapsed(),
        })
    }
}

fn run_options(wanted: &[&str]) -> ort::Result<SharedOptions> {
    let selector = if wanted.is_empty() {
        OutputSelector::default()
    } else {
        wanted
            .iter()
            .fold(OutputSelector::no_default(), |selector, name| {
                selector.with(*name)
            })
    };
    Ok(SharedOptions(RunOptions::new()?.with_outputs(selector)))
}

fn failed(error: ort::Error) -> RunError {
    let message = tidy(error.message());
    // A kernel that refuses its operands says so with one of two codes; only the text tells that it was a kernel.
    let by_kernel = message.contains("while running");
    if error.code() == ort::ErrorCode::InvalidArgument || by_kernel {
        RunError::Refused(message)
    } else {
        RunError::Failed(message)
    }
}

/// ONNX Runtime's messages begin with places in its source and end in line feeds; people need neither.
fn tidy(message: &str) -> String {
    let text = message.rsplit_once(" : ").map_or(message, |(_, text)| {
        if text.trim().is_empty() {
            message
        } else {
            text
        }
    });
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn input_value(tensor: &Tensor) -> Result<SessionInputValue<'_>, RunError> {
    let borrowed = match tensor.datatype {
        DataType::Uint8 => view::<u8>(tensor),
        DataType::Uint16 => view::<u16>(tensor),
        DataType::Uint32 => view::<u32>(tensor),
        DataType::Uint64 => view::<u64>(tensor),
        DataType::Int8 => view::<i8>(tensor),
        DataType::Int16 => view::<i16>(tensor),
        DataType::Int32 => view::<i32>(tensor),
        DataType::Int64 => view::<i64>(tensor),
        DataType::Fp32 => view::<f32>(tensor),
        DataType::Fp64 => view::<f64>(tensor),
        DataType::Bytes => return string_value(tensor),
        DataType::Bool | DataType::Fp16 | DataType::Bf16 => None,
    };
    match borrowed {
        Some(value) => Ok(value),
        None => copied_value(tensor),
    }
}

/// Data at other addresses gives other last bits: kernels begin a sum apart up to the first address that their vector
/// instructions like. An answer shall not depend on how long the JSON before the data was.
const ALIGNMENT: usize = 16;

/// Lends the data to the engine without a copy, if it lies as the engine needs it.
fn view<T>(tensor: &Tensor) -> Option<SessionInputValue<'_>>
where
    T: ort::value::PrimitiveTensorElementType + std::fmt::Debug + Clone + 'static,
{
    #[expect(unsafe_code, reason = "reinterprets bytes as numbers")]
    // SAFETY: only called for integers and floats, of which every bit pattern is a value; `align_to` keeps alignment.
    let (before, elements, after) = unsafe { tensor.data.align_to::<T>() };
    let aligned = tensor.data.as_ptr().addr().is_multiple_of(ALIGNMENT);
    if !aligned || !before.is_empty() || !after.is_empty() || elements.is_empty() {
        return None;
    }
    TensorRef::from_array_view((tensor.shape.as_slice(), elements))
        .ok()
        .map(SessionInputValue::from)
}

fn copied_value(tensor: &Tensor) -> Result<SessionInputValue<'static>, RunError> {
    let mut value = DynTensor::new(
        &Allocator::default(),
        element_type(tensor.datatype),
        tensor.shape.clone(),
    )
    .map_err(failed)?;
    if !tensor.data.is_empty() {
        let target = value.data_ptr_mut().cast::<u8>();
        #[expect(
            unsafe_code,
            reason = "fills a tensor of a type known only at run time"
        )]
        // SAFETY: the caller has checked that the data's length is shape times element size, which is what the engine
        // has just allocated; the two do not overlap.
        unsafe {
            std::ptr::copy_nonoverlapping(tensor.data.as_ptr(), target, tensor.data.len());
        }
    }
    Ok(value.into())
}

fn string_value(tensor: &Tensor) -> Result<SessionInputValue<'static>, RunError> {
    let refuse = |index, rule| {
        RunError::Refused(format!("element {index} of input '{}' {rule}", tensor.name))
    };
    let mut strings = Vec::new();
    for (index, element) in tensor.strings().enumerate() {
        let text = std::str::from_utf8(element)
            .map_err(|_| refuse(index, "is not UTF-8, which ONNX strings are"))?;
        if text.contains('\0') {
            return Err(refuse(
                index,
                "holds a NUL character, which the engine cannot take",
            ));
        }
        strings.push(text.to_owned());
    }
    ort::value::Tensor::from_string_array((tensor.shape.as_slice(), strings.as_slice()))
        .map(SessionInputValue::from)
        .map_err(failed)
}

fn output_tensor(name: &str, value: &DynValue) -> Result<Tensor, RunError> {
    let unserved = || RunError::Failed(format!("output '{name}' is no tensor that can be served"));
    let ValueType::Tensor { ty, shape, .. } = value.dtype() else {
        return Err(unserved());
    };
    let datatype = datatype(*ty).ok_or_else(unserved)?;
    let shape = shape.to_vec();
    let Some(size) = datatype.size() else {
        let (_, strings) = value.try_extract_strings().map_err(failed)?;
        let mut data = Vec::new();
        strings
            .iter()
            .for_each(|text| push_string(&mut data, text.as_bytes()));
        return Ok(Tensor {
            name: name.to_owned(),
            datatype,
            shape,
            data: data.into(),
        });
    };
    let length = element_count(&shape).ok_or_else(unserved)? * size;
    let tensor = value
        .view()
        .downcast::<DynTensorValueType>()
        .map_err(failed)?;
    let data = if length == 0 {
        Bytes::new()
    } else {
        let source = tensor.data_ptr().cast::<u8>();
        #[expect(
            unsafe_code,
            reason = "reads a tensor of a type known only at run time"
        )]
        // SAFETY: the engine holds shape times element size bytes of CPU memory there for as long as `value` lives.
        Bytes::copy_from_slice(unsafe { std::slice::from_raw_parts(source, length) })
    };
    Ok(Tensor {
        name: name.to_owned(),
        datatype,
        shape,
        data,
    })
}
