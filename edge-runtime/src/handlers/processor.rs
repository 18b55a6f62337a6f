//! Stream processors: a batch of records in, records out.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use fleet_api::frame::Encoding;

use super::HandlerError;
use super::call::Call;
use super::handler::Handler;
use super::metered::{Failed, Metered};
use super::request::log_fault;
use super::stats::Ending;
use super::world::Guest;
use crate::keyvalue::Batch;

pub(super) mod bindings {
    wasmtime::component::bindgen!({
        path: "../wit",
        world: "edge:runtime/processor",
        exports: { default: async },
        require_store_data_send: true,
    });
}

use bindings::edge::runtime::records as wit;

/// A record as a processor sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProcessRecord {
    /// Position in the stream.
    pub sequence: u64,
    /// When it was accepted, in milliseconds since the Unix epoch.
    pub time_ms: u64,
    /// Encoding of the value.
    pub encoding: Encoding,
    /// The value.
    pub value: Bytes,
}

/// A record that a processor adds to a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProcessOutput {
    /// The stream.
    pub stream: String,
    /// Encoding of the value.
    pub encoding: Encoding,
    /// The value.
    pub value: Bytes,
}

/// What a processor made of a batch; nothing of it is durable yet.
#[derive(Debug)]
pub struct Processed {
    /// The records that it adds to streams.
    pub outputs: Vec<ProcessOutput>,
    /// What it has changed of its values, if it may keep any.
    pub values: Option<Batch>,
}

/// Runs one batch through `handler`.
pub(super) async fn process(
    handler: &Arc<Handler>,
    stream: &str,
    batch: Vec<ProcessRecord>,
) -> Result<Processed, HandlerError> {
    let spec = &handler.spec;
    let values = handler.batch_of_values().await?;
    let started = Instant::now();
    let turn = handler.turn().await.map_err(|_| HandlerError::Busy {
        name: spec.name.clone(),
        limit: spec.limits.concurrency,
    })?;
    let first = batch.first().map_or(0, |record| record.sequence);
    let id = format!("{stream}/{first}");
    let stage = values.as_ref().map(Batch::stage);
    let call = Arc::new(Call::new(id, &spec.limits, started).staged(stage));
    let work = {
        let (handler, call, stream) = (Arc::clone(handler), Arc::clone(&call), stream.to_owned());
        async move {
            let _turn = turn;
            run(&handler, &call, &stream, batch).await
        }
    };
    handler.stats.begin();
    let result = Metered::new(&handler.long_work, Arc::clone(&call), work).await;
    let failed = |reason: String| HandlerError::Call {
        name: spec.name.clone(),
        version: spec.version.clone(),
        reason,
    };
    let result = match result {
        Ok(Ok(outputs)) => check_streams(handler, outputs).map_err(failed),
        Ok(Err(refusal)) => Err(failed(refusal)),
        Err(fault) => {
            log_fault(handler, &call, &fault);
            Err(failed(format!("{:#}", fault.error)))
        }
    };
    let status = if result.is_ok() { 200 } else { 500 };
    let ending = Ending::Status(status);
    handler
        .stats
        .end(ending, started.elapsed(), call.cpu.used());
    result.map(|outputs| Processed { outputs, values })
}

async fn run(
    handler: &Handler,
    call: &Arc<Call>,
    stream: &str,
    batch: Vec<ProcessRecord>,
) -> Result<Result<Vec<wit::Output>, String>, Failed> {
    let mut instance = handler.instance(call).await?;
    let Guest::Processor(processor) = &instance.guest else {
        return Err(wasmtime::format_err!("the handler is no stream processor").into());
    };
    let batch: Vec<wit::Record> = batch.into_iter().map(Into::into).collect();
    let result = processor
        .edge_runtime_process()
        .call_process(&mut instance.store, stream, &batch)
        .await;
    match result {
        Ok(outputs) => {
            handler.give_back(instance);
            Ok(outputs)
        }
        Err(error) => {
            let memory = &instance.store.data().memory;
            handler.stats.memory(memory.used());
            Err(Failed {
                memory_denied: memory.denied(),
                ..error.into()
            })
        }
    }
}

/// Outputs go only to streams that the handler was granted.
fn check_streams(
    handler: &Handler,
    outputs: Vec<wit::Output>,
) -> Result<Vec<ProcessOutput>, String> {
    let granted = &handler.spec.allow.streams;
    let checked = outputs.into_iter().map(|output| {
        if granted.contains(output.stream.as_str()) {
            Ok(output.into())
        } else {
            Err(format!(
                "it adds to stream {:?}, which it was not granted: name it in the deployment's allow.streams",
                output.stream
            ))
        }
    });
    checked.collect()
}

impl From<ProcessRecord> for wit::Record {
    fn from(record: ProcessRecord) -> Self {
        Self {
            sequence: record.sequence,
            time_ms: record.time_ms,
            encoding: to_wit(record.encoding),
            value: record.value.to_vec(),
        }
    }
}

impl From<wit::Output> for ProcessOutput {
    fn from(output: wit::Output) -> Self {
        Self {
            stream: output.stream,
            encoding: from_wit(output.encoding),
            value: output.value.into(),
        }
    }
}

pub(super) fn to_wit(encoding: Encoding) -> wit::Encoding {
    match encoding {
        Encoding::Json => wit::Encoding::Json,
        Encoding::Cbor => wit::Encoding::Cbor,
        Encoding::Bytes => wit::Encoding::Bytes,
    }
}

pub(super) fn from_wit(encoding: wit::Encoding) -> Encoding {
    match encoding {
        wit::Encoding::Json => Encoding::Json,
        wit::Encoding::Cbor => Encoding::Cbor,
        wit::Encoding::Bytes => Encoding::Bytes,
    }
}
