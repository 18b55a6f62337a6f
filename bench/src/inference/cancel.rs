//! Runs that nobody waits for: how soon they end, and that nothing goes on behind them.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use fleet_tests::Checkout;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

use super::workload::{Body, Form, JSON_LENGTH};
use crate::program::Served;
use crate::report::Report;

const REPEATS: usize = 30;
/// Into a run when it is ended.
const AFTER: Duration = Duration::from_millis(20);
/// A run that is ended would go on for at least that long.
const LONG: Duration = Duration::from_millis(50);
const ABANDONED: usize = 10;
/// What `/proc` counts processor time in.
const TICK_MS: u64 = 10;

/// A model with a request that takes long and one that does not.
struct Subject {
    name: &'static str,
    title: &'static str,
    /// A request that takes longer the larger the number is.
    ask: fn(usize, &Value) -> Body,
    /// A request that takes as little as possible.
    short: usize,
    /// Where the search for one that takes long begins.
    long: usize,
}

const SUBJECTS: [Subject; 2] = [
    Subject {
        name: "slow",
        title: "loop of products",
        ask: |times, parameters| {
            let input =
                json!({ "name": "times", "shape": [], "datatype": "INT64", "data": [times] });
            Body::json(json!({ "inputs": [input], "parameters": parameters }).to_string())
        },
        short: 0,
        long: 250,
    },
    Subject {
        name: "text-detect",
        title: "detector",
        ask: |side, parameters| Body::with(&[1, 3, side, side], Form::Binary, parameters),
        short: 32,
        long: 320,
    },
];

/// Ends runs by their deadline and by their client's going. Each model has one
/// session, so that another request is answered once the run has ended.
pub(super) async fn measure(report: &mut Report) -> Result<()> {
    let slow = Checkout::root().join("models/tiny/slow.onnx");
    let slow = format!("slow={}", slow.display());
    let detect = format!("text-detect={}", Checkout::model("text-detect")?.display());
    let args = ["--model", &slow, "--model", &detect];
    let served = Served::edge_runtime(&args, "/v2/models/slow/ready").await?;
    for subject in &SUBJECTS {
        let path = format!("{}/v2/models/{}/infer", served.url, subject.name);
        let (long, took) = subject.long_enough(&path).await?;
        let title = format!(
            "{}, run of {:.0} ms",
            subject.title,
            took.as_secs_f64() * 1e3
        );
        deadline(subject, long, &path, &title, report).await?;
        going(subject, long, &path, &title, report).await?;
    }
    abandoned(&served, report).await
}

/// From a run's deadline to its client's answer.
async fn deadline(
    subject: &Subject,
    long: usize,
    url: &str,
    title: &str,
    report: &mut Report,
) -> Result<()> {
    let timeout = u64::try_from(AFTER.as_micros())?;
    let body = (subject.ask)(long, &json!({ "timeout": timeout }));
    let mut client = Client::connect(url).await?;
    let (mut late, mut outlived) = (Vec::new(), 0);
    for _ in 0..REPEATS {
        let begun = Instant::now();
        let status = client.ask(&body).await?;
        let took = begun.elapsed();
        outlived += u32::from(status == StatusCode::OK);
        late.push((took.as_secs_f64() - AFTER.as_secs_f64()) * 1e3);
    }
    report.add(&format!("{title}: answer after its deadline"), "ms", late);
    let what = format!("{title}: runs of {REPEATS} that outlived their deadline");
    report.add(&what, "", vec![outlived.into()]);
    Ok(())
}

/// From a client's going to the answer of another client that came at once,
/// beside that answer when nothing ran before.
async fn going(
    subject: &Subject,
    long: usize,
    url: &str,
    title: &str,
    report: &mut Report,
) -> Result<()> {
    let long = (subject.ask)(long, &json!({}));
    let short = (subject.ask)(subject.short, &json!({}));
    let mut next = Client::connect(url).await?;
    let [mut after, mut idle] = [const { Vec::new() }; 2];
    for _ in 0..REPEATS {
        let begun = Instant::now();
        ensure!(
            next.ask(&short).await? == StatusCode::OK,
            "a short run failed"
        );
        idle.push(begun.elapsed().as_secs_f64() * 1e3);
        let leaving = Client::connect(url).await?.begin(&long);
        tokio::time::sleep(AFTER).await;
        ensure!(
            !leaving.is_finished(),
            "the run ended before its client went"
        );
        let begun = Instant::now();
        leaving.abort();
        ensure!(
            next.ask(&short).await? == StatusCode::OK,
            "a short run failed"
        );
        after.push(begun.elapsed().as_secs_f64() * 1e3);
    }
    report.add(&format!("{title}: next answer, nothing before"), "ms", idle);
    report.add(
        &format!("{title}: next answer after its client's going"),
        "ms",
        after,
    );
    Ok(())
}

/// Processor time in the second after clients with long requests have gone.
async fn abandoned(served: &Served, report: &mut Report) -> Result<()> {
    let slow = &SUBJECTS[0];
    let url = format!("{}/v2/models/{}/infer", served.url, slow.name);
    let (times, took) = slow.long_enough(&url).await?;
    // Each would take more than a second.
    let times = times * (1 + 1000 / usize::try_from(took.as_millis())?);
    let body = (slow.ask)(times, &json!({}));
    let mut leaving = Vec::new();
    for _ in 0..ABANDONED {
        leaving.push(Client::connect(&url).await?.begin(&body));
    }
    let busy = processor_ms(served.id())?;
    tokio::time::sleep(LONG).await;
    let busy = processor_ms(served.id())? - busy;
    ensure!(busy > 0, "nothing ran");
    for client in leaving {
        ensure!(!client.is_finished(), "a run ended before its client went");
        client.abort();
    }
    // What is promised for the end of a run.
    tokio::time::sleep(Duration::from_millis(5)).await;
    let before = processor_ms(served.id())?;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let after = processor_ms(served.id())? - before;
    let what = format!("processor time in the second after {ABANDONED} abandoned requests");
    report.add(&what, "ms", vec![after as f64]);
    Ok(())
}

impl Subject {
    /// A request that takes longer than [`LONG`], and how long it takes.
    async fn long_enough(&self, url: &str) -> Result<(usize, Duration)> {
        let mut client = Client::connect(url).await?;
        let mut number = self.long;
        loop {
            let body = (self.ask)(number, &json!({}));
            let mut took = Duration::MAX;
            // The shortest of some: others may have kept the machine busy.
            for _ in 0..3 {
                let begun = Instant::now();
                ensure!(
                    client.ask(&body).await? == StatusCode::OK,
                    "a long run failed"
                );
                took = took.min(begun.elapsed());
            }
            if took >= LONG {
                return Ok((number, took));
            }
            // A multiple of 32, as the detector wants it.
            number = (number * 5 / 4).next_multiple_of(32);
        }
    }
}

/// One connection.
struct Client {
    url: String,
    sender: SendRequest<Full<Bytes>>,
    connection: JoinHandle<hyper::Result<()>>,
}

impl Client {
    async fn connect(url: &str) -> Result<Self> {
        let rest = url.strip_prefix("http://").context("an http address")?;
        let address = rest.split('/').next().unwrap_or_default();
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        Ok(Self {
            url: url.to_owned(),
            sender,
            connection: tokio::spawn(connection),
        })
    }

    /// Posts a body; the status of the answer once all of it is there.
    async fn ask(&mut self, body: &Body) -> Result<StatusCode> {
        let path = self.url.splitn(4, '/').nth(3).unwrap_or_default();
        let mut request = Request::builder()
            .method(Method::POST)
            .uri(format!("/{path}"))
            .header("host", "localhost")
            .header("content-type", body.content_type());
        if let Some(length) = body.json_length {
            request = request.header(JSON_LENGTH, length);
        }
        self.sender.ready().await?;
        let request = request.body(Full::new(body.content.clone()))?;
        let answer = self.sender.send_request(request).await?;
        let status = answer.status();
        answer.into_body().collect().await?;
        Ok(status)
    }

    /// Posts a body in a task of its own, with which the client goes.
    fn begin(mut self, body: &Body) -> JoinHandle<Result<StatusCode>> {
        let body = body.clone();
        tokio::spawn(async move { self.ask(&body).await })
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        // Closes the socket.
        self.connection.abort();
    }
}

/// Processor time of a process so far.
fn processor_ms(pid: u32) -> Result<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The name, in brackets, may hold blanks.
    let (_, rest) = stat.rsplit_once(')').context("stat")?;
    let fields: Vec<_> = rest.split_whitespace().collect();
    let ticks = |at: usize| -> Result<u64> { Ok(fields.get(at).context("a field")?.parse()?) };
    Ok((ticks(11)? + ticks(12)?) * TICK_MS)
}
