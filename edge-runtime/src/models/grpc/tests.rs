//! The service with a client of the same library, but without a network; real clients are in the system tests.

use std::collections::HashMap;
use std::convert::Infallible;
use std::path::Path;
use std::task::{Context, Poll};

use ::http::uri::PathAndQuery;
use futures_util::future::BoxFuture;
use tonic::Request as Call;
use tonic::client::{Grpc as Client, GrpcService};

use super::messages::*;
use super::*;
use crate::models::{ModelFiles, ModelSpec, ModelsConfig};

struct Local(Models);

impl GrpcService<Body> for Local {
    type ResponseBody = Body;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let models = self.0.clone();
        Box::pin(async move { Ok(models.handle_grpc(request).await) })
    }
}

async fn serving(files: &[&str]) -> Models {
    let models = Models::start(ModelsConfig::default());
    let mut prepared = Vec::new();
    for file in files {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/tiny");
        let spec = ModelSpec {
            name: file.replace('_', "-"),
            version: "1".to_owned(),
            path: folder.join(format!("{file}.onnx")),
            digest: None,
            files: ModelFiles::default(),
            options: fleet_api::model::ModelOptions::default(),
        };
        prepared.push(models.prepare(spec).await.unwrap());
    }
    models.switch(prepared);
    models
}

async fn call_with<R, A>(models: &Models, method: &str, request: Call<R>) -> Result<A, Status>
where
    R: Message + Default + 'static,
    A: Message + Default + 'static,
{
    let path = PathAndQuery::try_from(format!("{SERVICE}{method}")).unwrap();
    let mut client = Client::new(Local(models.clone()));
    let answer = client.unary(request, path, Protobuf::<A, R>::default());
    answer.await.map(tonic::Response::into_inner)
}

async fn call<R, A>(models: &Models, method: &str, request: R) -> Result<A, Status>
where
    R: Message + Default + 'static,
    A: Message + Default + 'static,
{
    call_with(models, method, Call::new(request)).await
}

async fn infer(models: &Models, request: ModelInferRequest) -> Result<ModelInferResponse, Status> {
    call(models, "ModelInfer", request).await
}

fn named(name: &str, version: &str) -> ModelRequest {
    ModelRequest {
        name: name.to_owned(),
        version: version.to_owned(),
    }
}

fn input(name: &str, datatype: &str, shape: &[i64]) -> InferInputTensor {
    InferInputTensor {
        name: name.to_owned(),
        datatype: datatype.to_owned(),
        shape: shape.to_vec(),
        ..InferInputTensor::default()
    }
}

fn request(model: &str, inputs: Vec<InferInputTensor>) -> ModelInferRequest {
    ModelInferRequest {
        model_name: model.to_owned(),
        inputs,
        ..ModelInferRequest::default()
    }
}

fn slow(steps: i64) -> ModelInferRequest {
    let mut request = request("slow", vec![input("times", "INT64", &[])]);
    request.raw_input_contents = vec![steps.to_le_bytes().to_vec().into()];
    request
}

#[tokio::test(flavor = "multi_thread")]
async fn raw_contents_come_back_raw_with_the_request_s_id() {
    let models = serving(&["pair"]).await;
    let mut request = request(
        "pair",
        vec![input("b", "FP32", &[]), input("a", "FP32", &[2, 2])],
    );
    request.id = "seven".to_owned();
    request.raw_input_contents = vec![
        2_f32.to_le_bytes().to_vec().into(),
        [1_f32, 2.0, 3.0, 4.0].map(f32::to_le_bytes).concat().into(),
    ];
    let named = |name: &str| InferRequestedOutputTensor {
        name: name.to_owned(),
        ..InferRequestedOutputTensor::default()
    };
    request.outputs = vec![named("product")];
    let answer = infer(&models, request).await.unwrap();
    assert_eq!((&*answer.id, &*answer.model_version), ("seven", "1"));
    assert_eq!(answer.outputs.len(), 1);
    assert_eq!(answer.outputs[0].shape, [2, 2]);
    let expected = [2_f32, 4.0, 6.0, 8.0].map(f32::to_le_bytes).concat();
    assert_eq!(answer.raw_output_contents, [expected]);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_type_is_taken_in_the_form_that_it_has() {
    let kinds = "bool uint8 uint16 uint32 uint64 int8 int16 int32 int64 fp32 fp64 bytes";
    let files: Vec<String> = kinds.split(' ').map(|k| format!("identity_{k}")).collect();
    let files: Vec<&str> = files.iter().map(String::as_str).collect();
    let models = serving(&files).await;
    for kind in kinds.split(' ') {
        let contents = InferTensorContents {
            bools: vec![true, false],
            ints: vec![1, 0],
            int64s: vec![1, 0],
            uints: vec![1, 0],
            uint64s: vec![1, 0],
            fp32s: vec![1.0, 0.0],
            fp64s: vec![1.0, 0.0],
            strings: vec!["ab".into(), "".into()],
        };
        let typed = InferInputTensor {
            contents: Some(contents),
            ..input("x", &kind.to_uppercase(), &[2])
        };
        let model = format!("identity-{kind}");
        let answer = infer(&models, request(&model, vec![typed])).await.unwrap();
        // What came out goes in again as it is.
        let mut again = request(&model, vec![input("x", &kind.to_uppercase(), &[2])]);
        again.raw_input_contents = answer.raw_output_contents.clone();
        let again = infer(&models, again).await.unwrap();
        assert_eq!(again.outputs, answer.outputs, "{kind}");
        assert_eq!(
            again.raw_output_contents, answer.raw_output_contents,
            "{kind}"
        );
        let first = match kind {
            "fp32" => 1_f32.to_le_bytes().to_vec(),
            "fp64" => 1_f64.to_le_bytes().to_vec(),
            "bytes" => b"\x02\0\0\0ab".to_vec(),
            _ => vec![1],
        };
        assert!(again.raw_output_contents[0].starts_with(&first), "{kind}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn faults_have_the_code_of_who_is_at_fault() {
    let models = serving(&["pair", "lookup", "slow"]).await;
    let a = || input("a", "FP32", &[2, 2]);
    let number = |n: f32| bytes::Bytes::copy_from_slice(&n.to_le_bytes());
    let raw = |inputs, raw_input_contents| ModelInferRequest {
        raw_input_contents,
        ..request("pair", inputs)
    };
    let shared = InferInputTensor {
        parameters: HashMap::from([("shared_memory_region".to_owned(), InferParameter::default())]),
        ..a()
    };
    let index = ModelInferRequest {
        raw_input_contents: vec![99_i64.to_le_bytes().to_vec().into()],
        ..request("lookup", vec![input("index", "INT64", &[1])])
    };
    let late = ModelInferRequest {
        parameters: HashMap::from([(
            "timeout".to_owned(),
            InferParameter {
                choice: Some(ParameterChoice::Int64(20_000)),
            },
        )]),
        ..slow(1_000_000_000)
    };
    let sequence = ModelInferRequest {
        parameters: HashMap::from([(
            "sequence_id".to_owned(),
            InferParameter {
                choice: Some(ParameterChoice::Int64(7)),
            },
        )]),
        ..request("pair", vec![])
    };
    let version = ModelInferRequest {
        model_version: "2".to_owned(),
        ..request("pair", vec![])
    };
    let cases = [
        (
            request("absent", vec![]),
            Code::NotFound,
            "'absent' is not deployed",
        ),
        (version, Code::NotFound, "no version '2'; deployed: 1"),
        (
            request("pair", vec![]),
            Code::InvalidArgument,
            "input 'a' is missing",
        ),
        (
            request("pair", vec![input("a", "fp32", &[])]),
            Code::InvalidArgument,
            "datatype 'fp32'",
        ),
        (
            request("pair", vec![a()]),
            Code::InvalidArgument,
            "0 elements in fp32_contents, expected 4",
        ),
        (
            raw(vec![a()], vec![number(1.0), number(2.0)]),
            Code::InvalidArgument,
            "raw_input_contents has 2 elements",
        ),
        (
            raw(vec![a()], vec![number(1.0)]),
            Code::InvalidArgument,
            "4 bytes of data, expected 16",
        ),
        (
            request("pair", vec![shared]),
            Code::InvalidArgument,
            "shared memory",
        ),
        (sequence, Code::InvalidArgument, "keep no state"),
        (index, Code::InvalidArgument, "cannot run on this input"),
        (
            late,
            Code::DeadlineExceeded,
            "before the request's deadline",
        ),
    ];
    for (request, code, message) in cases {
        let status = infer(&models, request).await.unwrap_err();
        assert_eq!(status.code(), code, "{status}");
        assert!(status.message().contains(message), "{status}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_client_s_timeout_stops_the_run() {
    let models = serving(&["slow"]).await;
    let mut request = Call::new(slow(1_000_000_000));
    request.set_timeout(Duration::from_millis(30));
    let started = Instant::now();
    let answer = call_with::<_, ModelInferResponse>(&models, "ModelInfer", request).await;
    assert_eq!(answer.unwrap_err().code(), Code::DeadlineExceeded);
    assert!(started.elapsed() < Duration::from_secs(10));
    // The session is free again.
    infer(&models, slow(1)).await.unwrap();
}

#[test]
fn timeouts_have_eight_digits_and_a_unit() {
    let parse = |text: &'static str| {
        let mut headers = HeaderMap::new();
        headers.insert("grpc-timeout", text.parse().unwrap());
        let from = Instant::now();
        deadline(&headers).map(|at| at.unwrap() - from)
    };
    assert!(parse("1H").unwrap() >= Duration::from_secs(3600));
    assert!(parse("99999999n").unwrap() < Duration::from_millis(200));
    for bad in ["", "m", "1", "123456789m", "-1m", "1x", "1é"] {
        assert_eq!(
            parse(bad).unwrap_err().code(),
            Code::InvalidArgument,
            "{bad}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_and_its_models_are_described_as_over_http() {
    let models = serving(&["pair", "mlp"]).await;
    let live: ServerLiveResponse = call(&models, "ServerLive", Empty {}).await.unwrap();
    let ready: ReadyResponse = call(&models, "ServerReady", Empty {}).await.unwrap();
    assert!(live.live && ready.ready);
    let server: ServerMetadataResponse = call(&models, "ServerMetadata", Empty {}).await.unwrap();
    assert!(server.extensions.contains(&"statistics".to_owned()));
    for (name, version, is_ready) in [
        ("pair", "", true),
        ("pair", "1", true),
        ("pair", "2", false),
        ("no such/model", "", false),
    ] {
        let ready: ReadyResponse = call(&models, "ModelReady", named(name, version))
            .await
            .unwrap();
        assert_eq!(ready.ready, is_ready, "{name} {version}");
    }
    let metadata: ModelMetadataResponse = call(&models, "ModelMetadata", named("mlp", ""))
        .await
        .unwrap();
    assert_eq!(metadata.inputs[0].shape, [-1, 64]);
    assert_eq!(metadata.outputs[0].datatype, "FP32");
    let config: ModelConfigResponse = call(&models, "ModelConfig", named("pair", "1"))
        .await
        .unwrap();
    let config = config.config.unwrap();
    assert_eq!(
        (config.input[0].data_type, config.instance_group[0].kind),
        (11, 2)
    );
    assert_eq!(config.output[0].dims, [2, 2]);
    let all: ModelStatisticsResponse = call(&models, "ModelStatistics", named("", ""))
        .await
        .unwrap();
    assert_eq!(all.model_stats.len(), 2);
    assert!(all.model_stats[0].inference_stats.is_some());
    let index: RepositoryIndexResponse = call(
        &models,
        "RepositoryIndex",
        RepositoryIndexRequest::default(),
    )
    .await
    .unwrap();
    assert_eq!(
        (&*index.models[0].name, &*index.models[1].state),
        ("mlp", "READY")
    );
    let unknown =
        call::<_, ModelMetadataResponse>(&models, "ModelMetadata", named("absent", "")).await;
    assert_eq!(unknown.unwrap_err().code(), Code::NotFound);
    let unnamed = call::<_, ModelMetadataResponse>(&models, "ModelMetadata", named("", "")).await;
    assert_eq!(unnamed.unwrap_err().message(), "the request names no model");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_served_says_so() {
    let models = serving(&[]).await;
    for (method, reason) in [
        ("RepositoryModelLoad", "by deployments"),
        ("RepositoryModelUnload", "by deployments"),
        ("SystemSharedMemoryStatus", "without shared memory"),
    ] {
        let status = call::<_, Empty>(&models, method, Empty {})
            .await
            .unwrap_err();
        assert_eq!(status.code(), Code::Unimplemented, "{status}");
        assert!(status.message().contains(reason), "{status}");
    }
    let plain = Request::post("/v2/models/pair/infer").body(NoBody::<Bytes>::new());
    let answer = models.handle_grpc(plain.unwrap()).await;
    assert_eq!(answer.status(), StatusCode::UNSUPPORTED_MEDIA_TYPE);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_goes_on_after_a_request_that_failed() {
    let models = serving(&["slow"]).await;
    let mut requests = vec![request("absent", vec![]), slow(2), slow(1)];
    for (index, request) in requests.iter_mut().enumerate() {
        request.id = index.to_string();
    }
    let path = PathAndQuery::from_static("/inference.GRPCInferenceService/ModelStreamInfer");
    let codec = Protobuf::<ModelStreamInferResponse, ModelInferRequest>::default();
    let mut client = Client::new(Local(models));
    let requests = Call::new(futures_util::stream::iter(requests));
    let answers = client.streaming(requests, path, codec).await.unwrap();
    let answers: Vec<_> = answers.into_inner().map(Result::unwrap).collect().await;
    let ids = answers.iter().map(|a| a.infer_response.as_ref().unwrap());
    assert_eq!(ids.map(|a| &*a.id).collect::<Vec<_>>(), ["0", "1", "2"]);
    assert!(answers[0].error_message.contains("not deployed"));
    assert_eq!(
        (&*answers[1].error_message, &*answers[2].error_message),
        ("", "")
    );
    let last = &answers[2].infer_response.as_ref().unwrap().parameters["triton_final_response"];
    assert_eq!(last.choice, Some(ParameterChoice::Bool(true)));
}
