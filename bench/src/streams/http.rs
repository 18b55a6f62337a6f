//! Ingest over HTTP by a client that costs little: bytes that were written once, and answers of which the status and
//! the length are read.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use bytes::BytesMut;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use super::StreamsArgs;
use crate::program::{Served, hello};
use crate::quiet;
use crate::report::{Report, median};

const CONNECTIONS: u32 = 64;
/// Requests per second of the paced measurement.
const PACE: u32 = 5_000;

pub(super) async fn measure(rounds: usize, args: &StreamsArgs, report: &mut Report) -> Result<()> {
    let length = Duration::from_secs_f64(args.seconds);
    let mut rates = Vec::new();
    for _ in 0..rounds {
        rates.push(round(100, length, None).await?.requests_per_s * 100.0);
    }
    let what = format!("durable ingest over HTTP, {CONNECTIONS} connections, NDJSON of 100");
    report.add(&what, "records/s", rates);

    let (mut reached, mut slow, mut usual) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..rounds {
        let seen = round(1, length, Some(PACE)).await?;
        reached.push(seen.requests_per_s);
        usual.push(seen.p50_ms);
        slow.push(seen.p99_ms);
    }
    let what = format!("durable ingest over HTTP, one record a request, {PACE} requests/s wanted");
    report.add(&format!("{what}: reached"), "requests/s", reached);
    report.add(&format!("{what}: p50"), "ms", usual);
    report.add(&format!("{what}: p99"), "ms", slow);
    Ok(())
}

struct Seen {
    requests_per_s: f64,
    p50_ms: f64,
    p99_ms: f64,
}

/// Loads a new server: as fast as answers come, or at `pace` requests per second over all connections, each late
/// request counted from when it was due.
async fn round(records: usize, length: Duration, pace: Option<u32>) -> Result<Seen> {
    let args = ["--stream", "records", &hello()?];
    let served = Served::edge_runtime(&args, "/streams/records?limit=1").await?;
    quiet::machine().await;
    let address = served
        .url
        .strip_prefix("http://")
        .context("a URL")?
        .to_owned();
    let request = Arc::new(request(&address, records));
    let mut clients = JoinSet::new();
    let begun = Instant::now();
    for index in 0..CONNECTIONS {
        let client = Client {
            stream: TcpStream::connect(&address).await?,
            request: Arc::clone(&request),
            answer: BytesMut::new(),
        };
        let pauses = pace.map(|pace| {
            let pause = Duration::from_secs(1) * CONNECTIONS / pace;
            (begun + pause * index / CONNECTIONS, pause)
        });
        clients.spawn(client.run(begun + length, pauses));
    }
    let mut waits = Vec::new();
    while let Some(client) = clients.join_next().await {
        waits.extend(client??);
    }
    let took = begun.elapsed().as_secs_f64();
    waits.sort_by(f64::total_cmp);
    ensure!(!waits.is_empty(), "no request was answered");
    Ok(Seen {
        requests_per_s: waits.len() as f64 / took,
        p50_ms: median(&waits),
        p99_ms: waits[waits.len() * 99 / 100],
    })
}

/// A POST of records as a device's firmware would write it.
fn request(host: &str, records: usize) -> Vec<u8> {
    let body: String = (0..records)
        .map(|n| {
            let value = f64::from(n as u32) * 0.37 - 11.5;
            format!(
                "{{\"sensor\":\"spindle-4\",\"n\":{n},\"x\":{value:.4},\"y\":{:.4},\"z\":{:.4}}}\n",
                value * 0.5,
                9.81 - value
            )
        })
        .collect();
    format!(
        "POST /streams/records HTTP/1.1\r\nhost: {host}\r\ncontent-type: application/x-ndjson\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}

struct Client {
    stream: TcpStream,
    request: Arc<Vec<u8>>,
    answer: BytesMut,
}

impl Client {
    /// Posts until `end`; how long each answer took, in milliseconds.
    async fn run(mut self, end: Instant, pauses: Option<(Instant, Duration)>) -> Result<Vec<f64>> {
        self.stream.set_nodelay(true)?;
        let mut waits = Vec::new();
        let mut due = pauses.map(|(first, _)| first);
        loop {
            let from = match due {
                Some(due) => {
                    tokio::time::sleep_until(due.into()).await;
                    due
                }
                None => Instant::now(),
            };
            if Instant::now() >= end {
                return Ok(waits);
            }
            self.stream.write_all(&self.request).await?;
            self.read_answer().await?;
            waits.push(from.elapsed().as_secs_f64() * 1e3);
            due = due.zip(pauses).map(|(due, (_, pause))| due + pause);
        }
    }

    async fn read_answer(&mut self) -> Result<()> {
        self.answer.clear();
        let whole = loop {
            let read = self.stream.read_buf(&mut self.answer).await?;
            ensure!(read > 0, "the server closed a connection");
            let Some(head) = self.answer.windows(4).position(|four| four == b"\r\n\r\n") else {
                continue;
            };
            let text = std::str::from_utf8(&self.answer[..head])?;
            ensure!(text.starts_with("HTTP/1.1 200"), "{text}");
            let length = text
                .lines()
                .filter_map(|line| line.split_once(':'))
                .find(|(name, _)| name.eq_ignore_ascii_case("content-length"))
                .context("a length")?;
            break head + 4 + length.1.trim().parse::<usize>()?;
        };
        while self.answer.len() < whole {
            let read = self.stream.read_buf(&mut self.answer).await?;
            ensure!(read > 0, "the server closed a connection");
        }
        Ok(())
    }
}
