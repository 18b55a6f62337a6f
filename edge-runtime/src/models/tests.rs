//! With the real engine and the tiny models of models/tiny. They fail, and say what to do, where the engine is missing.

use std::path::Path;
use std::time::Duration;

use ::http::{Method, Request, Response, StatusCode};
use bytes::Bytes;
use fleet_api::model::ModelOptions;
use http_body_util::{BodyExt, Full};
use serde_json::{Value, json};

use super::tensor::push_string;
use super::*;

mod batching;
mod http;
mod memory;
mod pictures;
mod running;
mod shadow;
mod telemetry;

fn tiny(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../models/tiny/{name}.onnx"))
}

fn start(config: ModelsConfig) -> Models {
    let models = Models::start(config);
    if let Some(reason) = models.engine_error() {
        panic!("this test needs ONNX Runtime: {reason}");
    }
    models
}

fn spec(name: &str, version: &str, file: &str) -> ModelSpec {
    let (name, version) = (name.to_owned(), version.to_owned());
    ModelSpec {
        name,
        version,
        path: tiny(file),
        digest: None,
        files: ModelFiles::default(),
        options: ModelOptions::default(),
    }
}

/// Models under the names of their files, version 1.
async fn serving(config: ModelsConfig, files: &[&str]) -> Models {
    let models = start(config);
    let mut prepared = Vec::new();
    for file in files {
        let name = file.replace('_', "-");
        prepared.push(models.prepare(spec(&name, "1", file)).await.unwrap());
    }
    models.switch(prepared);
    models
}

fn tensor(name: &str, datatype: DataType, shape: &[i64], data: impl Into<Bytes>) -> Tensor {
    Tensor {
        name: name.into(),
        datatype,
        shape: shape.to_vec(),
        data: data.into(),
    }
}

fn f32s(name: &str, shape: &[i64], values: &[f32]) -> Tensor {
    let data: Vec<u8> = values
        .iter()
        .flat_map(|value| value.to_le_bytes())
        .collect();
    tensor(name, DataType::Fp32, shape, data)
}

fn request(inputs: Vec<Tensor>) -> InferRequest {
    InferRequest {
        inputs,
        outputs: Vec::new(),
        via: Via::Wasm,
        deadline: None,
        priority: Priority::default(),
    }
}

/// A request that takes about 0.1 ms for each of `steps`.
fn slow(steps: i64) -> InferRequest {
    request(vec![tensor(
        "times",
        DataType::Int64,
        &[],
        steps.to_le_bytes().to_vec(),
    )])
}

/// Far more than a test waits for.
const ENDLESS: i64 = 1_000_000_000;

/// What the formula in models/tiny/make.py gives for `x`.
fn mlp(x: &[f32]) -> Vec<f32> {
    let hidden = |j: usize| {
        let sum: f32 = (0..64)
            .map(|i| x[i] * (((i + j) % 5) as f32 - 2.0) / 8.0)
            .sum();
        sum.max(0.0)
    };
    (0..8)
        .map(|k| {
            (0..64)
                .map(|j| hidden(j) * (((j * k) % 3) as f32 - 1.0) / 4.0)
                .sum()
        })
        .collect()
}

async fn call(
    models: &Models,
    method: Method,
    path: &str,
    body: impl Into<Bytes>,
) -> Response<Full<Bytes>> {
    let request = Request::builder()
        .method(method)
        .uri(path)
        .body(Full::new(body.into()))
        .unwrap();
    models.handle(request).await
}

async fn body(answer: Response<Full<Bytes>>) -> Bytes {
    answer.into_body().collect().await.unwrap().to_bytes()
}

async fn as_json(answer: Response<Full<Bytes>>) -> (StatusCode, Value) {
    let status = answer.status();
    (status, serde_json::from_slice(&body(answer).await).unwrap())
}

async fn eventually(what: &str, condition: impl Fn() -> bool) {
    let waited = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    assert!(
        tokio::time::timeout(Duration::from_secs(20), waited)
            .await
            .is_ok(),
        "not within 20 s: {what}"
    );
}
