//! Guests that other people's tools build and that know nothing of this runtime answer as the
//! standard says. Where `artifacts/tools/bin/wasmtime` is there, `wasmtime serve` is asked the
//! same and has to answer the same.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use fleet_tests::{Checkout, Process, Serve, http, serve::printed};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use reqwest::{Client, Method};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

const LARGE: usize = 1 << 20;
const LINES: usize = 16;
const AT_ONCE: usize = 8;
const TOGETHER: usize = 48;
const OUTBOUND: usize = 625;
const START: Duration = Duration::from_secs(180);
/// `serve` by itself logs errors only.
const LOUD: [&str; 2] = ["--log", "warn"];
/// What the node's log says of a guest that trapped or ran into a limit.
const FAULT: &str = "a handler was stopped";

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_on_wstd_answers_and_calls_out_without_a_failure() -> Result<()> {
    let serve = answers_alike("wstd", &["--allow-http", "all"]).await?;
    let client = http::plain()?;
    let greeting = format!("{0}/relay?{0}/", serve.url);
    let echo = format!("{0}/relay?{0}/echo", serve.url);
    let body = vec![b'x'; 10_000];
    let relayed: Vec<_> = stream::iter(0..OUTBOUND)
        .map(|number| {
            let with_body = number % 5 == 0;
            let asked = if with_body {
                ask(&client, Method::POST, &echo, Some(body.clone()))
            } else {
                ask(&client, Method::GET, &greeting, None)
            };
            async move { anyhow::Ok((with_body, asked.await?)) }
        })
        .buffer_unordered(AT_ONCE)
        .try_collect()
        .await?;
    let failed: Vec<_> = relayed
        .iter()
        .filter(|(with_body, answer)| {
            let wanted: &[u8] = if *with_body {
                &body
            } else {
                b"hello from wstd\n"
            };
            answer.status != 200 || answer.body != wanted
        })
        .collect();
    ensure!(
        failed.is_empty(),
        "{} of {OUTBOUND} failed: {failed:?}",
        failed.len()
    );
    without_fault(&serve)?;
    shared(serve, "wstd").await.map(drop)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_of_wasi_0_3_answers_and_sends_trailers() -> Result<()> {
    let serve = answers_alike("wasip3", &[]).await?;
    let reference = Reference::start("wasip3").await?;
    for url in [Some(&serve.url), reference.as_ref().map(|r| &r.url)] {
        let Some(url) = url else { continue };
        let text = with_trailers(url).await?;
        ensure!(
            text.ends_with("line 16\n\r\n0\r\nx-lines: 16\r\n\r\n"),
            "{url} {text:?}"
        );
    }
    shared(serve, "wasip3").await.map(drop)
}

/// An instance of the fetch event's engine answers once (StarlingMonkey, issue 247). Who keeps
/// instances warm all the same loses one request, not every one.
#[tokio::test(flavor = "multi_thread")]
async fn a_guest_in_javascript_answers_many_at_once_although_an_instance_answers_once() -> Result<()>
{
    let serve = answers_alike("js", &[]).await?;
    let file = component("js")?;
    let serve = serve
        .restart(&[&LOUD[..], &["--reuse", &file]].concat())
        .await?;
    let client = http::plain()?;
    let first = exchanges("js").swap_remove(0);
    first.holds(&client, &serve.url).await?;
    let second = ask(&client, Method::GET, &serve.url, None).await?;
    ensure!(second.status == 502, "{second:?}");
    for exchange in exchanges("js") {
        exchange.holds(&client, &serve.url).await?;
    }
    many(&client, &serve.url, "js").await?;
    let output = serve.process.output();
    let told = output.matches("from now on each request gets a new one");
    ensure!(told.count() == 1, "{output}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_in_python_answers_many_at_once() -> Result<()> {
    let serve = answers_alike("python", &[]).await?;
    shared(serve, "python").await.map(drop)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_in_c_answers_many_at_once() -> Result<()> {
    let serve = answers_alike("c", &[]).await?;
    shared(serve, "c").await.map(drop)
}

/// What matters of an answer.
#[derive(PartialEq, Eq)]
struct Answer {
    status: u16,
    kind: Option<String>,
    body: Vec<u8>,
}

impl Answer {
    fn text(status: u16, body: &str) -> Self {
        let kind = Some("text/plain".to_owned());
        let body = body.into();
        Self { status, kind, body }
    }
}

impl std::fmt::Debug for Answer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let start = String::from_utf8_lossy(&self.body[..self.body.len().min(200)]);
        let (status, kind, length) = (self.status, &self.kind, self.body.len());
        write!(f, "{status} {kind:?} {length} bytes {start:?}")
    }
}

/// A request and what it is answered.
struct Exchange {
    method: Method,
    path: &'static str,
    body: Option<Vec<u8>>,
    answer: Answer,
}

fn exchanges(name: &str) -> Vec<Exchange> {
    let get = |path, answer| Exchange {
        method: Method::GET,
        path,
        body: None,
        answer,
    };
    let large: Vec<u8> = (0..LARGE).map(|at| (at % 251) as u8).collect();
    let lines: String = (1..=LINES).map(|n| format!("line {n}\n")).collect();
    vec![
        get("/", Answer::text(200, &format!("hello from {name}\n"))),
        get("/stream", Answer::text(200, &lines)),
        get("/missing", Answer::text(404, "no such path\n")),
        Exchange {
            method: Method::HEAD,
            ..get("/", Answer::text(200, ""))
        },
        echo(large),
        echo(Vec::new()),
    ]
}

fn echo(body: Vec<u8>) -> Exchange {
    Exchange {
        method: Method::POST,
        path: "/echo",
        answer: Answer {
            status: 200,
            kind: Some("application/x-measured".to_owned()),
            body: body.clone(),
        },
        body: Some(body),
    }
}

/// Serves the guest, each request in an instance of its own, and asks it one after the other.
async fn answers_alike(name: &str, args: &[&str]) -> Result<Serve> {
    let file = component(name)?;
    let serve = Serve::start(&[&LOUD, args, &[&file]].concat()).await?;
    let reference = Reference::start(name).await?;
    let client = http::plain()?;
    for exchange in exchanges(name) {
        exchange.holds(&client, &serve.url).await?;
        if let Some(reference) = &reference {
            exchange.holds(&client, &reference.url).await?;
        }
    }
    many(&client, &serve.url, name).await?;
    without_fault(&serve)?;
    Ok(serve)
}

/// Serves it again with instances that are used for one request after the other.
async fn shared(serve: Serve, name: &str) -> Result<Serve> {
    let file = component(name)?;
    let serve = serve
        .restart(&[&LOUD[..], &["--reuse", &file]].concat())
        .await?;
    let client = http::plain()?;
    for exchange in exchanges(name) {
        exchange.holds(&client, &serve.url).await?;
    }
    many(&client, &serve.url, name).await?;
    without_fault(&serve)?;
    Ok(serve)
}

async fn many(client: &Client, url: &str, name: &str) -> Result<()> {
    stream::iter(0..TOGETHER)
        .map(|number| async move {
            let exchange = match number % 3 {
                0 => exchanges(name).swap_remove(0),
                1 => exchanges(name).swap_remove(1),
                _ => echo(vec![b'0' + (number % 10) as u8; 1000 * number]),
            };
            exchange.holds(client, url).await
        })
        .buffer_unordered(AT_ONCE)
        .try_collect()
        .await
}

impl Exchange {
    async fn holds(&self, client: &Client, url: &str) -> Result<()> {
        let url = format!("{url}{}", self.path);
        let answer = ask(client, self.method.clone(), &url, self.body.clone()).await?;
        ensure!(
            answer == self.answer,
            "{} {url}\nanswered {answer:?}\ninstead  {:?}",
            self.method,
            self.answer
        );
        Ok(())
    }
}

async fn ask(client: &Client, method: Method, url: &str, body: Option<Vec<u8>>) -> Result<Answer> {
    let mut request = client.request(method, url);
    if let Some(body) = body {
        request = request
            .header("content-type", "application/x-measured")
            .body(body);
    }
    let answer = request.send().await?;
    let kind = answer.headers().get("content-type");
    let kind = kind.map(|kind| kind.to_str().map(str::to_owned));
    Ok(Answer {
        status: answer.status().as_u16(),
        kind: kind.transpose()?,
        body: answer.bytes().await?.into(),
    })
}

/// The answer to `GET /trailers` as it comes over the wire.
async fn with_trailers(url: &str) -> Result<String> {
    let address = url.strip_prefix("http://").context("a plain address")?;
    let mut connection = TcpStream::connect(address).await?;
    let request = format!(
        "GET /trailers HTTP/1.1\r\nhost: {address}\r\nte: trailers\r\nconnection: close\r\n\r\n"
    );
    connection.write_all(request.as_bytes()).await?;
    let mut text = String::new();
    connection.read_to_string(&mut text).await?;
    Ok(text)
}

fn component(name: &str) -> Result<String> {
    let file = Checkout::module(&format!("foreign-{name}"))?;
    Ok(file.display().to_string())
}

fn without_fault(serve: &Serve) -> Result<()> {
    let output = serve.process.output();
    ensure!(!output.contains(FAULT), "{output}");
    Ok(())
}

/// `wasmtime serve` with the same guest.
struct Reference {
    url: String,
    _process: Process,
    _dir: TempDir,
}

impl Reference {
    /// None where there is no wasmtime.
    async fn start(name: &str) -> Result<Option<Self>> {
        let Ok(program) = Checkout::artifact("tools/bin/wasmtime") else {
            return Ok(None);
        };
        let dir = tempfile::tempdir()?;
        let log = dir.path().join("log");
        let file = component(name)?;
        let args = ["serve", "--addr", "127.0.0.1:0", "-Scli", &file];
        let mut process = Process::start("wasmtime", Path::new(&program), args, &[], &log)?;
        let url = printed(&mut process, "Serving HTTP on ", START).await?;
        Ok(Some(Self {
            url: url.trim_end_matches('/').to_owned(),
            _process: process,
            _dir: dir,
        }))
    }
}
