//! More clients than a model can serve: what those that are taken in wait, and what the others are told.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use fleet_tests::http;
use tokio::task::JoinSet;

use super::node::{Node, entry};
use super::workload::{Body, Form, JSON_LENGTH, MODELS};
use crate::report::Report;

const SESSIONS: usize = 2;
const QUEUE: usize = 4;
/// As many as find a place, and many more.
const CALM: usize = SESSIONS + QUEUE;
const CROWD: usize = 48;
const LENGTH: Duration = Duration::from_secs(5);
/// A client that was turned away asks again after that; a kind one would wait longer.
const PAUSE: Duration = Duration::from_millis(20);

/// What a load saw: times of the answers in milliseconds, and how many were turned away.
#[derive(Default)]
struct Load {
    times: Vec<f64>,
    refused: usize,
}

impl Load {
    fn quantile(&mut self, q: f64) -> f64 {
        self.times.sort_by(f64::total_cmp);
        self.times[((self.times.len() - 1) as f64 * q) as usize]
    }
}

/// The classifier with a queue of four: six clients, for whom there is room, and then forty-eight.
pub(super) async fn measure(report: &mut Report) -> Result<()> {
    let model = &MODELS[1];
    let node = Node::start().await?;
    node.push(model.name, "1", model.name).await?;
    let mut deployment = String::new();
    let options = format!("sessions = {SESSIONS}\nqueue = {QUEUE}");
    entry(&mut deployment, model.name, "1", &options);
    node.deploy(&deployment).await?;
    let url = format!("{}/v2/models/{}/infer", node.url(), model.name);
    let body = Body::new(model.shape, Form::Binary);
    let mut calm = load(&url, &body, CALM).await?;
    let mut crowd = load(&url, &body, CROWD).await?;
    ensure!(
        calm.refused == 0,
        "{} of the calm were refused",
        calm.refused
    );
    ensure!(crowd.refused > 0, "there was no overload");
    let what = |clients: usize, of: &str| format!("queue of {QUEUE}, {clients} clients: {of}");
    for (clients, load) in [(CALM, &mut calm), (CROWD, &mut crowd)] {
        let rate = load.times.len() as f64 / LENGTH.as_secs_f64();
        report.add(&what(clients, "answers"), "1/s", vec![rate]);
        report.add(
            &what(clients, "p50 of answers"),
            "ms",
            vec![load.quantile(0.5)],
        );
        report.add(
            &what(clients, "p99 of answers"),
            "ms",
            vec![load.quantile(0.99)],
        );
    }
    report.add(&what(CROWD, "turned away"), "", vec![crowd.refused as f64]);
    let ratio = crowd.quantile(0.99) / calm.quantile(0.99);
    report.add("p99 of answers under overload to without", "x", vec![ratio]);
    node.finish().await
}

async fn load(url: &str, body: &Body, clients: usize) -> Result<Load> {
    let until = Instant::now() + LENGTH;
    let mut all = JoinSet::new();
    for _ in 0..clients {
        all.spawn(client(url.to_owned(), body.clone(), until));
    }
    let mut sum = Load::default();
    while let Some(one) = all.join_next().await {
        let one = one??;
        sum.times.extend(one.times);
        sum.refused += one.refused;
    }
    ensure!(!sum.times.is_empty(), "nothing was answered");
    Ok(sum)
}

/// One request after the other on a connection of its own.
async fn client(url: String, body: Body, until: Instant) -> Result<Load> {
    let http = http::plain()?;
    let length = body.json_length.context("a binary body")?.to_string();
    let mut seen = Load::default();
    while Instant::now() < until {
        let begun = Instant::now();
        let request = http.post(&url).header(JSON_LENGTH, &length);
        let answer = request.body(body.content.clone()).send().await?;
        let (status, retry) = (
            answer.status(),
            answer.headers().contains_key("retry-after"),
        );
        let text = answer.bytes().await?;
        match status.as_u16() {
            200 => seen.times.push(begun.elapsed().as_secs_f64() * 1e3),
            503 => {
                ensure!(retry, "503 does not say when to ask again");
                seen.refused += 1;
                tokio::time::sleep(PAUSE).await;
            }
            _ => anyhow::bail!("{status}: {}", String::from_utf8_lossy(&text)),
        }
    }
    Ok(seen)
}
