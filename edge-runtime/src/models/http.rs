//! The Open Inference Protocol v2 over HTTP. The paths are listed in [`Models::route`].

use std::error::Error;
use std::sync::atomic::Ordering::Relaxed;

use ::http::header::{ALLOW, CONTENT_TYPE, RETRY_AFTER};
use ::http::{HeaderValue, Method, Request, Response, StatusCode};
use bytes::Bytes;
use http_body::Body;
use http_body_util::Full;
use serde_json::{Value, json};

use super::error::ModelError;
use super::pool::LoadedModel;
use super::stats::{BatchFigures, Stage};
use super::tensor::{DataType, TensorInfo};
use super::{ModelInfo, Models};

mod infer;

/// More than any request for the index has.
const INDEX_BYTES: usize = 64 << 10;

/// ONNX models under the name that the protocol's list of platforms gives them.
const PLATFORM: &str = "onnx_onnxv1";

type Answer = Response<Full<Bytes>>;

impl Models {
    /// Answers every path under `/v2`.
    pub async fn handle<B>(&self, request: Request<B>) -> Answer
    where
        B: Body<Data = Bytes>,
        B::Error: Into<Box<dyn Error + Send + Sync>>,
    {
        let path = request.uri().path().to_owned();
        let segments: Option<Vec<String>> = path.strip_prefix("/v2").map(|rest| {
            // "" before the first slash; a trailing slash leaves an empty segment, which matches nothing.
            rest.split('/').skip(1).map(percent_decoded).collect()
        });
        let segments = segments.unwrap_or_default();
        let segments: Vec<&str> = segments.iter().map(String::as_str).collect();
        match self.route(&segments, request).await {
            Ok(answer) => answer,
            Err(refusal) => refusal.answer(),
        }
    }

    async fn route<B>(&self, path: &[&str], request: Request<B>) -> Result<Answer, Refusal>
    where
        B: Body<Data = Bytes>,
        B::Error: Into<Box<dyn Error + Send + Sync>>,
    {
        let method = request.method().clone();
        let get = || expect_method(&method, &[Method::GET, Method::HEAD]);
        let post = || expect_method(&method, &[Method::POST]);
        match path {
            [] => get().map(|()| server()),
            ["health", "live"] => get().map(|()| ok(&json!({"live": true}))),
            ["health", "ready"] => get().map(|()| self.server_ready()),
            ["models", "stats"] => get().map(|()| self.all_stats()),
            ["repository", "index"] | ["repository", _, "index"] => {
                post()?;
                self.index(request).await
            }
            ["repository", "models", _, "load" | "unload"]
            | ["repository", _, "models", _, "load" | "unload"] => {
                post().and_then(|()| Err(Refusal::by_deployment()))
            }
            ["models", name, rest @ ..] => {
                let (version, rest) = match rest {
                    ["versions", version, rest @ ..] => (Some(*version), rest),
                    rest => (None, rest),
                };
                match rest {
                    [] => get().and_then(|()| self.metadata(name, version)),
                    ["ready"] => get().and_then(|()| self.model_ready(name, version)),
                    ["config"] => get().and_then(|()| self.model_config(name, version)),
                    ["stats"] => get().and_then(|()| self.model_stats(name, version)),
                    ["infer"] => {
                        post()?;
                        self.infer_http(name, version, request).await
                    }
                    _ => Err(Refusal::no_path()),
                }
            }
            _ => Err(Refusal::no_path()),
        }
    }

    fn server_ready(&self) -> Answer {
        match self.engine_error() {
            None => ok(&json!({"ready": true})),
            Some(reason) => answer(
                StatusCode::SERVICE_UNAVAILABLE,
                &json!({"ready": false, "error": reason}),
            ),
        }
    }

    fn metadata(&self, name: &str, version: Option<&str>) -> Result<Answer, Refusal> {
        let described = self.find(name, version)?.description.parameters();
        let ModelInfo {
            name,
            versions,
            inputs,
            outputs,
            ..
        } = self.info(name, version)?;
        let tensors = |infos: &[TensorInfo]| -> Vec<Value> {
            let one = |t: &TensorInfo| json!({"name": t.name, "datatype": t.datatype.name(), "shape": t.shape});
            infos.iter().map(one).collect()
        };
        let (inputs, outputs) = (tensors(&inputs), tensors(&outputs));
        let mut body = json!({"name": name, "versions": versions, "platform": PLATFORM, "inputs": inputs, "outputs": outputs});
        if !described.is_empty() {
            body["parameters"] = Value::Object(described);
        }
        Ok(ok(&body))
    }

    fn model_ready(&self, name: &str, version: Option<&str>) -> Result<Answer, Refusal> {
        let model = self.find(name, version)?;
        Ok(ok(&json!({"name": model.name.as_str(), "ready": true})))
    }

    fn model_config(&self, name: &str, version: Option<&str>) -> Result<Answer, Refusal> {
        let model = self.find(name, version)?;
        let batch = model.options.batch.as_ref().filter(|batch| batch.max > 1);
        // The batch dimension is part of dims only where requests are not batched.
        let skipped = usize::from(batch.is_some());
        let tensors = |infos: &[TensorInfo]| -> Vec<Value> {
            let one = |t: &TensorInfo| json!({"name": t.name, "data_type": config_type(t.datatype), "dims": t.shape.get(skipped..)});
            infos.iter().map(one).collect()
        };
        let mut config = json!({
            "name": model.name.as_str(),
            "platform": PLATFORM,
            "backend": "onnxruntime",
            "version_policy": {"specific": {"versions": self.info(name, version)?.versions}},
            "max_batch_size": batch.map_or(0, |batch| batch.max),
            "input": tensors(&model.inputs),
            "output": tensors(&model.outputs),
            "instance_group": [{"kind": "KIND_CPU", "count": model.session_count}],
        });
        if let Some(batch) = batch {
            let window_us = batch.window.duration().as_micros();
            let delay = u64::try_from(window_us).unwrap_or(u64::MAX);
            config["dynamic_batching"] = json!({"max_queue_delay_microseconds": delay});
        }
        Ok(ok(&config))
    }

    fn model_stats(&self, name: &str, version: Option<&str>) -> Result<Answer, Refusal> {
        let model = self.find(name, version)?;
        Ok(ok(&json!({"model_stats": [stats(&model)]})))
    }

    fn all_stats(&self) -> Answer {
        let all: Vec<Value> = self.all().iter().map(|model| stats(model)).collect();
        ok(&json!({"model_stats": all}))
    }

    /// Every version that serves. The body, which may be empty, can ask for those that are ready, which is all of them.
    async fn index<B>(&self, request: Request<B>) -> Result<Answer, Refusal>
    where
        B: Body<Data = Bytes>,
        B::Error: Into<Box<dyn Error + Send + Sync>>,
    {
        let (head, body) = request.into_parts();
        let body = infer::read(body, &head.headers, INDEX_BYTES).await?;
        if !body.trim_ascii().is_empty() {
            serde_json::from_slice::<IndexBody>(&body).map_err(|error| {
                ModelError::Request(format!(
                    "the request body is no index request, such as {{\"ready\":true}}: {error}"
                ))
            })?;
        }
        let one = |model: &std::sync::Arc<LoadedModel>| json!({"name": model.name.as_str(), "version": model.version.as_str(), "state": "READY", "reason": ""});
        Ok(ok(&Value::Array(self.all().iter().map(one).collect())))
    }
}

/// What a client may ask of the index.
#[derive(serde::Deserialize)]
#[serde(expecting = "an object with ready")]
struct IndexBody {
    #[expect(dead_code, reason = "only its type is looked at")]
    ready: Option<bool>,
}

fn server() -> Answer {
    ok(&json!({
        "name": "edge-runtime",
        "version": env!("CARGO_PKG_VERSION"),
        "extensions": [
            "binary_tensor_data", "classification", "model_configuration", "model_repository", "schedule_policy", "statistics",
        ],
    }))
}

fn stats(model: &LoadedModel) -> Value {
    let s = &model.stats;
    let part = |count: u64, ns: u64| json!({"count": count, "ns": ns});
    let requests = s.ran_requests.load(Relaxed);
    let stage = |stage| part(requests, s.stage_ns(stage));
    let batch = |(rows, figures): (usize, BatchFigures)| {
        let part = |ns| part(figures.runs, ns);
        json!({
            "batch_size": rows,
            "compute_input": part(figures.input_ns),
            "compute_infer": part(figures.infer_ns),
            "compute_output": part(figures.output_ns),
        })
    };
    json!({
        "name": model.name.as_str(),
        "version": model.version.as_str(),
        "last_inference": s.last_ms(),
        "inference_count": s.rows.load(Relaxed),
        "execution_count": s.runs.load(Relaxed),
        "inference_stats": {
            "success": part(s.success.load(Relaxed), s.success_ns.load(Relaxed)),
            "fail": part(s.all_failures(), s.failure_ns.load(Relaxed)),
            "queue": stage(Stage::Queue),
            "compute_input": stage(Stage::Input),
            "compute_infer": stage(Stage::Compute),
            "compute_output": stage(Stage::Output),
            "cache_hit": part(0, 0),
            "cache_miss": part(0, 0),
        },
        "response_stats": {},
        "batch_stats": s.batches().into_iter().map(batch).collect::<Vec<_>>(),
        "memory_usage": [{"type": "CPU", "id": 0, "byte_size": model.residence.held_bytes()}],
    })
}

fn config_type(datatype: DataType) -> String {
    match datatype {
        DataType::Bytes => "TYPE_STRING".into(),
        other => format!("TYPE_{other}"),
    }
}

/// An answer that is no result.
struct Refusal {
    status: StatusCode,
    message: String,
    allow: Option<HeaderValue>,
    /// When it makes sense to ask again, for 503.
    retry_after_s: u64,
}

impl Refusal {
    fn new(status: StatusCode, message: impl Into<String>) -> Refusal {
        Refusal {
            status,
            message: message.into(),
            retry_after_s: 1,
            allow: None,
        }
    }

    fn no_path() -> Refusal {
        Refusal::new(
            StatusCode::NOT_FOUND,
            "no such path; models are at /v2/models/<name>[/versions/<version>]",
        )
    }

    fn by_deployment() -> Refusal {
        let problem = "models are loaded and unloaded by deployments, not by clients of the node";
        Refusal::new(StatusCode::FORBIDDEN, problem)
    }

    fn answer(self) -> Answer {
        let mut answer = answer(self.status, &json!({"error": self.message}));
        if self.status == StatusCode::SERVICE_UNAVAILABLE {
            let seconds = HeaderValue::from(self.retry_after_s);
            answer.headers_mut().insert(RETRY_AFTER, seconds);
        }
        if let Some(allow) = self.allow {
            answer.headers_mut().insert(ALLOW, allow);
        }
        answer
    }
}

/// The one place where errors become statuses.
impl From<ModelError> for Refusal {
    fn from(error: ModelError) -> Refusal {
        let status = match &error {
            ModelError::UnknownModel { .. } | ModelError::UnknownVersion { .. } => {
                StatusCode::NOT_FOUND
            }
            ModelError::Request(_)
            | ModelError::Tensor { .. }
            | ModelError::Mismatch(_)
            | ModelError::Id(_) => StatusCode::BAD_REQUEST,
            ModelError::Refused { .. } => StatusCode::UNPROCESSABLE_ENTITY,
            ModelError::EngineUnavailable { .. }
            | ModelError::QueueFull { .. }
            | ModelError::TooBusy { .. }
            | ModelError::NotLoaded { .. } => StatusCode::SERVICE_UNAVAILABLE,
            ModelError::Deadline { .. } => StatusCode::GATEWAY_TIMEOUT,
            ModelError::Failed { .. }
            | ModelError::Load { .. }
            | ModelError::Unproven { .. }
            | ModelError::Memory { .. } => StatusCode::INTERNAL_SERVER_ERROR,
        };
        let mut refusal = Refusal::new(status, error.to_string());
        refusal.retry_after_s = error.wait_ms().div_ceil(1000).max(1);
        refusal
    }
}

fn expect_method(method: &Method, allowed: &[Method]) -> Result<(), Refusal> {
    if allowed.contains(method) {
        return Ok(());
    }
    let names = allowed
        .iter()
        .map(Method::as_str)
        .collect::<Vec<_>>()
        .join(", ");
    let mut refusal = Refusal::new(
        StatusCode::METHOD_NOT_ALLOWED,
        format!("{method} is not allowed here, use {names}"),
    );
    refusal.allow = HeaderValue::from_str(&names).ok();
    Err(refusal)
}

fn ok(body: &Value) -> Answer {
    answer(StatusCode::OK, body)
}

fn answer(status: StatusCode, body: &Value) -> Answer {
    let mut answer = Response::new(Full::new(Bytes::from(body.to_string())));
    *answer.status_mut() = status;
    answer
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    answer
}

/// Undoes percent-encoding; what is no valid escape, or would be no UTF-8, stays as it is.
fn percent_decoded(segment: &str) -> String {
    let mut bytes = Vec::with_capacity(segment.len());
    let mut rest = segment.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let digit = |at: usize| {
            after
                .get(at)
                .and_then(|byte| char::from(*byte).to_digit(16))
        };
        match (first, digit(0), digit(1)) {
            (b'%', Some(high), Some(low)) => {
                bytes.push(u8::try_from(high * 16 + low).unwrap_or(b'%'));
                rest = &after[2..];
            }
            _ => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    String::from_utf8(bytes).unwrap_or_else(|_| segment.to_owned())
}
