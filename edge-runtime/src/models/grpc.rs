//! The Open Inference Protocol v2 over gRPC, with Triton's extensions to it. The methods are listed in
//! [`Models::handle_grpc`].
//!
//! Inference takes the way of every request, through the model's queue. What describes the server and its models is
//! said once, by the resources of HTTP, and put into messages here.

mod codec;
mod inference;
mod messages;
#[cfg(test)]
mod tests;

use std::error::Error;
use std::time::{Duration, Instant};

use ::http::header::CONTENT_TYPE;
use ::http::{HeaderMap, Method, Request, Response, StatusCode};
use bytes::Bytes;
use futures_util::future::{MapOk, Ready, TryFutureExt as _, ready};
use futures_util::stream::{BoxStream, StreamExt as _};
use http_body_util::{BodyExt as _, Empty as NoBody};
use prost::Message;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tonic::body::Body;
use tonic::codec::CompressionEncoding;
use tonic::server::{Grpc, StreamingService, UnaryService};
use tonic::{Code, Status, Streaming};

use super::error::ModelError;
use super::stats::FailureReason;
use super::{InferResponse, Models, Via, classes};
use codec::Protobuf;
use inference::Asked;
use messages::{
    Empty, InferParameter, ModelConfigResponse, ModelIndex, ModelInferRequest, ModelInferResponse,
    ModelMetadataResponse, ModelRequest, ModelStatisticsResponse, ModelStreamInferResponse,
    ParameterChoice, ReadyResponse, RepositoryIndexRequest, RepositoryIndexResponse,
    ServerLiveResponse, ServerMetadataResponse,
};

const SERVICE: &str = "/inference.GRPCInferenceService/";

impl Models {
    /// Answers every gRPC request.
    pub async fn handle_grpc<B>(&self, request: Request<B>) -> Response<Body>
    where
        B: http_body::Body<Data = Bytes> + Send + 'static,
        B::Error: Into<Box<dyn Error + Send + Sync>> + Send,
    {
        let form = request.headers().get(CONTENT_TYPE);
        if !form.is_some_and(|form| form.as_bytes().starts_with(b"application/grpc")) {
            let mut answer =
                Response::new(Body::new(http_body_util::Full::new(Bytes::from_static(
                    b"this address serves gRPC only, with content type application/grpc\n",
                ))));
            *answer.status_mut() = StatusCode::UNSUPPORTED_MEDIA_TYPE;
            return answer;
        }
        let method = request
            .uri()
            .path()
            .strip_prefix(SERVICE)
            .map(str::to_owned);
        let deadline = match deadline(request.headers()) {
            Ok(deadline) => deadline,
            Err(status) => return status.into_http(),
        };
        match method.as_deref() {
            Some("ServerLive") => {
                let live = |_: Empty| async { Ok(ServerLiveResponse { live: true }) };
                self.unary(request, live).await
            }
            Some("ServerReady") => {
                let ready = |_: Empty| self.ready("/v2/health/ready");
                self.unary(request, ready).await
            }
            Some("ServerMetadata") => {
                let metadata = |_: Empty| async move {
                    self.described::<ServerMetadataResponse>(Method::GET, "/v2")
                        .await
                };
                self.unary(request, metadata).await
            }
            Some("ModelReady") => {
                let ready =
                    |model: ModelRequest| async move { self.ready(&path(&model, "/ready")?).await };
                self.unary(request, ready).await
            }
            Some("ModelMetadata") => {
                let metadata = |model: ModelRequest| async move {
                    self.described::<ModelMetadataResponse>(Method::GET, &path(&model, "")?)
                        .await
                };
                self.unary(request, metadata).await
            }
            Some("ModelConfig") => {
                let config = |model: ModelRequest| async move {
                    let config = self.described(Method::GET, &path(&model, "/config")?).await;
                    Ok(ModelConfigResponse {
                        config: Some(config?),
                    })
                };
                self.unary(request, config).await
            }
            Some("ModelStatistics") => {
                let statistics = |model: ModelRequest| async move {
                    let path = match model.name.as_str() {
                        "" => "/v2/models/stats".to_owned(),
                        _ => path(&model, "/stats")?,
                    };
                    self.described::<ModelStatisticsResponse>(Method::GET, &path)
                        .await
                };
                self.unary(request, statistics).await
            }
            Some("RepositoryIndex") => {
                let index = |wanted: RepositoryIndexRequest| async move {
                    let path = "/v2/repository/index";
                    let mut models: Vec<ModelIndex> = self.described(Method::POST, path).await?;
                    models.retain(|model| !wanted.ready || model.state == "READY");
                    Ok(RepositoryIndexResponse { models })
                };
                self.unary(request, index).await
            }
            Some("ModelInfer") => {
                let infer = |message| self.infer_grpc(message, deadline);
                self.unary(request, infer).await
            }
            Some("ModelStreamInfer") => self.stream(request, deadline).await,
            Some("RepositoryModelLoad" | "RepositoryModelUnload") => Status::unimplemented(
                "models are loaded and unloaded by deployments, not by clients of the node",
            )
            .into_http(),
            _ => Status::unimplemented(format!(
                "{} is not served; the service is inference.GRPCInferenceService, without shared memory, tracing and logging",
                request.uri().path()
            ))
            .into_http(),
        }
    }

    async fn infer_grpc(
        &self,
        message: ModelInferRequest,
        deadline: Option<Instant>,
    ) -> Result<ModelInferResponse, Status> {
        let (name, version) = (&message.model_name, &message.model_version);
        let version = Some(version.as_str()).filter(|version| !version.is_empty());
        // Kept, so that request and labels meet the same version when models are switched in between.
        let model = self.find(name, version).map_err(status)?;
        let id = message.id.clone();
        let Asked { request, classes } = inference::request(message, deadline)
            .inspect_err(|_| {
                model.stats.came(Via::Grpc);
                model.stats.failed(FailureReason::Other, Duration::ZERO);
            })
            .map_err(status)?;
        let mut outputs = model.infer(request).await.map_err(status)?;
        for (output, count) in classes {
            for scores in outputs.iter_mut().filter(|scores| scores.name == output) {
                *scores = classes::best(scores, count, &model.description).map_err(status)?;
            }
        }
        let answer = InferResponse {
            model: model.name.to_string(),
            version: model.version.to_string(),
            outputs,
        };
        Ok(inference::response(answer, id))
    }

    async fn ready(&self, path: &str) -> Result<ReadyResponse, Status> {
        match self.described::<Value>(Method::GET, path).await {
            Ok(_) => Ok(ReadyResponse { ready: true }),
            Err(status) if matches!(status.code(), Code::NotFound | Code::Unavailable) => {
                Ok(ReadyResponse { ready: false })
            }
            Err(status) => Err(status),
        }
    }

    /// What HTTP says at `path`.
    async fn described<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
    ) -> Result<T, Status> {
        let internal = |error: &dyn Error| Status::internal(format!("{path}: {error}"));
        let request = Request::builder().method(method).uri(path);
        let request = request.body(NoBody::<Bytes>::new());
        let answer = self
            .handle(request.map_err(|error| internal(&error))?)
            .await;
        let code = match answer.status() {
            StatusCode::OK => Code::Ok,
            StatusCode::NOT_FOUND => Code::NotFound,
            StatusCode::SERVICE_UNAVAILABLE => Code::Unavailable,
            status if status.is_client_error() => Code::InvalidArgument,
            _ => Code::Internal,
        };
        let body = answer.into_body().collect().await;
        let body = body.map_err(|error| internal(&error))?.to_bytes();
        if code == Code::Ok {
            return serde_json::from_slice(&body).map_err(|error| internal(&error));
        }
        let body: Value = serde_json::from_slice(&body).unwrap_or_default();
        Err(Status::new(
            code,
            body["error"].as_str().unwrap_or_default(),
        ))
    }

    async fn unary<B, R, A, F>(
        &self,
        request: Request<B>,
        answer: impl FnMut(R) -> F,
    ) -> Response<Body>
    where
        B: http_body::Body<Data = Bytes> + Send + 'static,
        B::Error: Into<Box<dyn Error + Send + Sync>> + Send,
        R: Message + Default + 'static,
        A: Message + 'static,
        F: Future<Output = Result<A, Status>>,
    {
        let mut grpc = self.grpc(request.headers());
        grpc.unary(Unary(answer), request).await
    }

    async fn stream<B>(&self, request: Request<B>, deadline: Option<Instant>) -> Response<Body>
    where
        B: http_body::Body<Data = Bytes> + Send + 'static,
        B::Error: Into<Box<dyn Error + Send + Sync>> + Send,
    {
        let mut grpc = self.grpc(request.headers());
        let models = self.clone();
        grpc.streaming(InferEach { models, deadline }, request)
            .await
    }

    /// With the limit of bodies, and answers compressed only for who compresses: some clients offer to take what costs
    /// them and the node more than a gateway's network.
    fn grpc<R, A>(&self, headers: &HeaderMap) -> Grpc<Protobuf<R, A>>
    where
        R: Message + Default + 'static,
        A: Message + 'static,
    {
        let grpc = Grpc::new(Protobuf::default())
            .max_decoding_message_size(self.shared.config.max_body_bytes)
            .accept_compressed(CompressionEncoding::Gzip)
            .accept_compressed(CompressionEncoding::Deflate);
        if headers.contains_key("grpc-encoding") {
            grpc.send_compressed(CompressionEncoding::Gzip)
                .send_compressed(CompressionEncoding::Deflate)
        } else {
            grpc
        }
    }
}

/// A method that takes one message and gives one.
struct Unary<M>(M);

impl<M, F, R, A> UnaryService<R> for Unary<M>
where
    M: FnMut(R) -> F,
    F: Future<Output = Result<A, Status>>,
{
    type Response = A;
    type Future = MapOk<F, fn(A) -> tonic::Response<A>>;

    fn call(&mut self, request: tonic::Request<R>) -> Self::Future {
        (self.0)(request.into_inner()).map_ok(tonic::Response::new)
    }
}

/// ModelStreamInfer: requests of one stream run one after the other. A failed one is told of in its answer, and the
/// stream goes on.
struct InferEach {
    models: Models,
    deadline: Option<Instant>,
}

impl StreamingService<ModelInferRequest> for InferEach {
    type Response = ModelStreamInferResponse;
    type ResponseStream = BoxStream<'static, Result<ModelStreamInferResponse, Status>>;
    type Future = Ready<Result<tonic::Response<Self::ResponseStream>, Status>>;

    fn call(&mut self, requests: tonic::Request<Streaming<ModelInferRequest>>) -> Self::Future {
        let (models, deadline) = (self.models.clone(), self.deadline);
        let answers = requests.into_inner().then(move |message| {
            let models = models.clone();
            async move { Ok(models.infer_one(message?, deadline).await) }
        });
        ready(Ok(tonic::Response::new(answers.boxed())))
    }
}

impl Models {
    async fn infer_one(
        &self,
        message: ModelInferRequest,
        deadline: Option<Instant>,
    ) -> ModelStreamInferResponse {
        let mut response = ModelInferResponse {
            model_name: message.model_name.clone(),
            model_version: message.model_version.clone(),
            id: message.id.clone(),
            ..ModelInferResponse::default()
        };
        let mut error_message = String::new();
        match self.infer_grpc(message, deadline).await {
            Ok(answer) => response = answer,
            Err(status) => status.message().clone_into(&mut error_message),
        }
        // Clients that are ready for several answers to a request wait for this.
        let last = InferParameter {
            choice: Some(ParameterChoice::Bool(true)),
        };
        let name = "triton_final_response".to_owned();
        response.parameters.insert(name, last);
        ModelStreamInferResponse {
            error_message,
            infer_response: Some(response),
        }
    }
}

/// Where HTTP has what is asked for.
fn path(model: &ModelRequest, what: &str) -> Result<String, Status> {
    if model.name.is_empty() {
        return Err(Status::invalid_argument("the request names no model"));
    }
    let mut path = format!("/v2/models/{}", escaped(&model.name));
    if !model.version.is_empty() {
        path += "/versions/";
        path += &escaped(&model.version);
    }
    Ok(path + what)
}

/// A segment of a path.
fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || byte == b'-' {
            escaped.push(byte.into());
        } else {
            escaped += &format!("%{byte:02X}");
        }
    }
    escaped
}

/// When the client gives up, by its header `grpc-timeout`: up to eight digits and a unit.
fn deadline(headers: &HeaderMap) -> Result<Option<Instant>, Status> {
    let Some(value) = headers.get("grpc-timeout") else {
        return Ok(None);
    };
    let parsed = value.to_str().ok().and_then(|text| {
        let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
        if digits.len() > 8 {
            return None;
        }
        let number = digits.parse().ok()?;
        Some(match unit {
            "H" => Duration::from_secs(3600 * number),
            "M" => Duration::from_secs(60 * number),
            "S" => Duration::from_secs(number),
            "m" => Duration::from_millis(number),
            "u" => Duration::from_micros(number),
            "n" => Duration::from_nanos(number),
            _ => return None,
        })
    });
    let bad =
        || Status::invalid_argument(format!("grpc-timeout is {value:?}, expected as in 500m"));
    Ok(Instant::now().checked_add(parsed.ok_or_else(bad)?))
}

/// The one place where errors become codes.
fn status(error: ModelError) -> Status {
    let code = match &error {
        ModelError::UnknownModel { .. } | ModelError::UnknownVersion { .. } => Code::NotFound,
        ModelError::Deadline { .. } => Code::DeadlineExceeded,
        error if error.is_client_fault() => Code::InvalidArgument,
        error if error.is_retryable() => Code::Unavailable,
        _ => Code::Internal,
    };
    Status::new(code, error.to_string())
}
