//! The least that lies between a client and ONNX Runtime: what inference servers are compared with.
//!
//! `naive-server serve ADDR NAME=FILE.onnx...` answers requests of the Open Inference Protocol as long as nothing is
//! wrong with them: models of one float input and output, JSON or binary both ways. No queue, no deadline, no figures.
//! `naive-server time FILE.onnx DIMENSION...` prints the median of a run without any server, in microseconds.

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use anyhow::{Context as _, Result, bail};
use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use ort::environment::Environment;
use ort::session::Session;
use ort::session::builder::GraphOptimizationLevel;
use ort::value::TensorRef;
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

const SESSIONS: usize = 2;
const RUNS: usize = 20_000;
const JSON_LENGTH: &str = "inference-header-content-length";

#[tokio::main]
async fn main() -> Result<()> {
    let args: Vec<_> = std::env::args().skip(1).collect();
    let args: Vec<_> = args.iter().map(String::as_str).collect();
    let library = std::env::var("ORT_DYLIB_PATH").context("ORT_DYLIB_PATH")?;
    let engine = ort::init_from(library)?.with_telemetry(false).build()?;
    match args[..] {
        ["serve", address, ref models @ ..] => serve(&engine, address, models).await,
        ["time", file, ref shape @ ..] => time(&engine, file, shape),
        _ => bail!("usage: naive-server serve ADDR NAME=FILE... | time FILE DIMENSION..."),
    }
}

struct Model {
    name: String,
    output: String,
    free: Semaphore,
    sessions: Mutex<Vec<Session>>,
}

#[derive(Deserialize)]
struct Call {
    inputs: [Input; 1],
}

#[derive(Deserialize)]
struct Input {
    shape: Vec<i64>,
    #[serde(default)]
    data: Vec<f32>,
}

#[derive(Serialize)]
struct Answer<'a> {
    model_name: &'a str,
    model_version: &'static str,
    outputs: [Output<'a>; 1],
}

#[derive(Serialize)]
struct Output<'a> {
    name: &'a str,
    shape: &'a [i64],
    datatype: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    parameters: Option<Size>,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<&'a [f32]>,
}

#[derive(Serialize)]
struct Size {
    binary_data_size: usize,
}

async fn serve(engine: &Environment, address: &str, models: &[&str]) -> Result<()> {
    let load = |model: &&str| {
        let (name, file) = model.split_once('=').context("a model is NAME=FILE")?;
        Ok((name.to_owned(), Model::load(engine, name, file)?))
    };
    let models: Arc<HashMap<_, _>> = Arc::new(models.iter().map(load).collect::<Result<_>>()?);
    let socket = TcpListener::bind(address).await?;
    loop {
        let (stream, _) = socket.accept().await?;
        stream.set_nodelay(true)?;
        let models = Arc::clone(&models);
        let service = service_fn(move |request| {
            let models = Arc::clone(&models);
            async move { Ok::<_, Infallible>(answer(&models, request).await) }
        });
        tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
    }
}

async fn answer(
    models: &HashMap<String, Model>,
    request: Request<Incoming>,
) -> Response<Full<Bytes>> {
    if request.method() == Method::GET {
        return Response::new(Full::default());
    }
    infer(models, request).await.unwrap_or_else(|error| {
        let mut answer = Response::new(Full::from(format!("{error:#}")));
        *answer.status_mut() = StatusCode::BAD_REQUEST;
        answer
    })
}

async fn infer(
    models: &HashMap<String, Model>,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>> {
    let (head, body) = request.into_parts();
    let path = head.uri.path();
    let name = path
        .strip_prefix("/v2/models/")
        .and_then(|p| p.strip_suffix("/infer"));
    let model = name
        .and_then(|name| models.get(name))
        .context("no such model")?;
    let json_length = match head.headers.get(JSON_LENGTH) {
        Some(length) => Some(length.to_str()?.parse::<usize>()?),
        None => None,
    };
    let body = body.collect().await?.to_bytes();
    let json = body
        .get(..json_length.unwrap_or(body.len()))
        .context("a shorter body")?;
    let Call {
        inputs: [mut input],
    } = serde_json::from_slice(json)?;
    if json_length.is_some() {
        let values = body[json.len()..].as_chunks().0.iter();
        input.data = values.map(|bytes| f32::from_le_bytes(*bytes)).collect();
    }
    let _permit = model.free.acquire().await?;
    let sessions = || {
        model
            .sessions
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    };
    let mut session = sessions().pop().context("a permit is a session")?;
    let answer =
        tokio::task::block_in_place(|| model.run(&mut session, &input, json_length.is_some()));
    sessions().push(session);
    answer
}

impl Model {
    fn load(engine: &Environment, name: &str, file: &str) -> Result<Self> {
        let sessions = (0..SESSIONS).map(|_| session(engine, file));
        let sessions = sessions.collect::<Result<Vec<_>>>()?;
        Ok(Self {
            name: name.to_owned(),
            output: sessions[0].outputs()[0].name().to_owned(),
            free: Semaphore::new(SESSIONS),
            sessions: Mutex::new(sessions),
        })
    }

    fn run(
        &self,
        session: &mut Session,
        input: &Input,
        binary: bool,
    ) -> Result<Response<Full<Bytes>>> {
        let tensor = TensorRef::from_array_view((&input.shape[..], &input.data[..]))?;
        let outputs = session.run(ort::inputs![tensor])?;
        let (shape, values) = outputs[0].try_extract_tensor::<f32>()?;
        let answer = Answer {
            model_name: &self.name,
            model_version: "1",
            outputs: [Output {
                name: &self.output,
                shape,
                datatype: "FP32",
                parameters: binary.then_some(Size {
                    binary_data_size: size_of_val(values),
                }),
                data: (!binary).then_some(values),
            }],
        };
        let mut body = serde_json::to_vec(&answer)?;
        let mut response = Response::builder();
        if binary {
            response = response.header(JSON_LENGTH, body.len());
            body.extend(values.iter().flat_map(|value| value.to_le_bytes()));
        } else {
            response = response.header(CONTENT_TYPE, "application/json");
        }
        Ok(response.body(Full::from(body))?)
    }
}

fn session(engine: &Environment, file: &str) -> Result<Session> {
    let session = || -> ort::Result<Session> {
        Session::builder(engine)?
            .with_optimization_level(GraphOptimizationLevel::All)?
            .with_intra_threads(1)?
            .with_inter_threads(1)?
            .with_intra_op_spinning(false)?
            .commit_from_file(file)
    };
    session().with_context(|| format!("load {file}"))
}

fn time(engine: &Environment, file: &str, shape: &[&str]) -> Result<()> {
    let shape = shape
        .iter()
        .map(|n| Ok(n.parse()?))
        .collect::<Result<Vec<i64>>>()?;
    let data = vec![0.5_f32; usize::try_from(shape.iter().product::<i64>())?];
    let mut session = session(engine, file)?;
    let mut times = Vec::with_capacity(RUNS);
    for _ in 0..RUNS {
        let begun = Instant::now();
        let input = TensorRef::from_array_view((&shape[..], &data[..]))?;
        session.run(ort::inputs![input])?;
        times.push(begun.elapsed());
    }
    times.sort();
    println!("{}", times[RUNS / 2].as_secs_f64() * 1e6);
    Ok(())
}
