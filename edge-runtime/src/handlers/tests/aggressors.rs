//! A handler that behaves, beside one that does its worst without a pause.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use tokio::net::TcpListener;

use super::fixture::hostile::{self, Guest};
use super::fixture::{calling, component_of};
use super::*;

const REQUESTS: usize = 300;
const ATTACKERS: usize = 4;
/// CPU time of an aggressor's call. A neighbour that had to wait for one would take this long.
const AGGRESSION: Span = Span::from_ms(2_000);

/// The time of each of many requests to the handler that behaves, in order.
async fn times(node: &Node) -> Vec<Duration> {
    let mut times = Vec::with_capacity(REQUESTS);
    for _ in 0..REQUESTS {
        let begun = Instant::now();
        let (status, body) = node.get().await;
        assert_eq!(status, StatusCode::OK, "{body}");
        times.push(begun.elapsed());
    }
    times.sort();
    times
}

fn p99(times: &[Duration]) -> Duration {
    times[times.len() * 99 / 100]
}

async fn beside(what: &str, aggressor: Guest) {
    let node = Node::new();
    let mut bad = node.spec(&component_of(aggressor));
    bad.name = Name::new("bad").unwrap();
    bad.route = Some("/bad".parse().unwrap());
    bad.limits.cpu = AGGRESSION;
    bad.limits.concurrency = ATTACKERS as u32;
    bad.allow.http.insert("all".to_owned());
    let bad = node.prepare(bad).await.unwrap();
    let good = node.prepare(node.spec(&component(fixture::HELLO))).await;
    node.handlers.switch(vec![bad, good.unwrap()]).unwrap();
    let alone = times(&node).await;
    let (stop, attacks) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(AtomicU64::new(0)),
    );
    let attackers: Vec<_> = (0..ATTACKERS)
        .map(|_| {
            let (handlers, stop) = (node.handlers.clone(), Arc::clone(&stop));
            let attacks = Arc::clone(&attacks);
            tokio::spawn(async move {
                while !stop.load(Relaxed) {
                    attacks.fetch_add(1, Relaxed);
                    let response = handlers.serve(request("/bad")).await;
                    let _ = response.into_body().collect().await;
                    // A client's network would give others a turn too.
                    tokio::task::yield_now().await;
                }
            })
        })
        .collect();
    eventually(|| attacks.load(Relaxed) >= ATTACKERS as u64).await;
    let attacked = times(&node).await;
    stop.store(true, Relaxed);
    attackers.iter().for_each(tokio::task::JoinHandle::abort);
    let [before, after] = [p99(&alone), p99(&attacked)];
    let ratio = after.as_secs_f64() / before.as_secs_f64();
    let attacks = attacks.load(Relaxed);
    eprintln!(
        "{what}: p50 {:?} -> {:?}, p99 {before:?} -> {after:?} ({ratio:.1} times), {attacks} attacks",
        alone[REQUESTS / 2],
        attacked[REQUESTS / 2]
    );
    assert!(after < AGGRESSION.duration() / 2, "{what}: {after:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn neighbours_do_not_wait_for_a_handler_that_computes_without_end() {
    beside("loop", (String::new(), fixture::SPIN.to_owned())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn neighbours_do_not_wait_for_a_handler_that_takes_memory() {
    beside("memory", (String::new(), fixture::HOG.to_owned())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn neighbours_do_not_wait_for_a_handler_that_faults() {
    beside("fault", (String::new(), fixture::TRAP.to_owned())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn neighbours_do_not_wait_for_a_handler_that_floods_the_log() {
    beside("log", hostile::log_flood()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn neighbours_do_not_wait_for_a_handler_that_opens_connections() {
    let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let authority = socket.local_addr().unwrap().to_string();
    let silent = tokio::spawn(async move {
        let mut held = Vec::new();
        while let Ok((stream, _)) = socket.accept().await {
            held.push(stream);
            held.drain(..held.len().saturating_sub(256));
        }
    });
    beside("connections", calling::flood(&authority, 1000)).await;
    silent.abort();
}
