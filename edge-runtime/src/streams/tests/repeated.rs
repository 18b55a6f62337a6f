use ::http::Request;
use http_body_util::{BodyExt as _, Full};

use super::*;
use crate::models::Coding;

async fn post(
    streams: &Streams,
    headers: &[(&str, &str)],
    body: impl Into<Bytes>,
) -> (u16, serde_json::Value) {
    let mut request = Request::builder().method("POST").uri("/streams/a");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request = request.body(Full::new(body.into())).unwrap();
    let (head, body) = streams.handle(request).await.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    (head.status.as_u16(), serde_json::from_slice(&body).unwrap())
}

const NDJSON: (&str, &str) = ("content-type", "application/x-ndjson");

#[tokio::test]
async fn a_request_that_is_sent_again_stores_nothing_and_gets_the_same_answer() {
    let dir = tempfile::tempdir().unwrap();
    let streams = open_with(dir.path(), &[spec("a")]);
    let key = ("idempotency-key", "shift-1/17");
    let first = post(&streams, &[NDJSON, key], "1\n2\n").await;
    assert_eq!(first.0, 200);
    assert_eq!(post(&streams, &[NDJSON], "3\n").await.1["first_seq"], 3);
    assert_eq!(post(&streams, &[NDJSON, key], "1\n2\n").await, first);
    let (status, answer) = post(&streams, &[NDJSON, key], "1\n2\n3\n").await;
    assert_eq!(status, 422);
    assert_eq!(answer["error"]["code"], "idempotency-key-reused");

    // Many at a time, before the first of them is durable.
    let key = ("idempotency-key", "many");
    let headers = [NDJSON, key];
    let all = (0..20).map(|_| post(&streams, &headers, "4\n"));
    let answers = futures_util::future::join_all(all).await;
    assert!(
        answers.iter().all(|answer| *answer == answers[0]),
        "{answers:?}"
    );
    assert_eq!(answers[0].1["first_seq"], 4);
    assert_eq!(streams.held("a").unwrap(), 1..5);

    // A restart forgets nothing.
    streams.close();
    drop(streams);
    let streams = open_with(dir.path(), &[spec("a")]);
    let key = ("idempotency-key", "shift-1/17");
    assert_eq!(post(&streams, &[NDJSON, key], "1\n2\n").await, first);
    assert_eq!(streams.held("a").unwrap(), 1..5);
    streams.close();
}

#[tokio::test]
async fn the_newest_keys_of_a_stream_are_remembered() {
    let dir = tempfile::tempdir().unwrap();
    let streams = open_with(dir.path(), &[spec("a")]);
    let more = usize::try_from(super::super::marks::KEYS).unwrap() + 1;
    for batch in (0..more).collect::<Vec<_>>().chunks(128) {
        let all = batch.iter().map(async |n| {
            let key = format!("k{n}");
            post(&streams, &[NDJSON, ("idempotency-key", &key)], "1\n").await
        });
        futures_util::future::join_all(all).await;
    }
    streams.close();
    drop(streams);
    let streams = open_with(dir.path(), &[spec("a")]);
    let last = format!("k{}", more - 1);
    let (_, answer) = post(&streams, &[NDJSON, ("idempotency-key", &last)], "1\n").await;
    assert!(
        answer["last_seq"].as_u64().unwrap() <= more as u64,
        "{answer}"
    );
    let (_, answer) = post(&streams, &[NDJSON, ("idempotency-key", "k0")], "1\n").await;
    assert_eq!(answer["first_seq"], more as u64 + 1, "the oldest gave way");
    streams.close();
}

#[tokio::test]
async fn compressed_bodies_are_taken_up_to_the_bound() {
    let dir = tempfile::tempdir().unwrap();
    let streams = open_with(dir.path(), &[spec("a")]);
    let lines = "{\"value\": 21.5}\n".repeat(1_000);
    for (coding, name) in [(Coding::Gzip, "gzip"), (Coding::Deflate, "deflate")] {
        let body = coding.deflate(lines.as_bytes()).unwrap();
        let (status, answer) = post(&streams, &[NDJSON, ("content-encoding", name)], body).await;
        assert_eq!(status, 200, "{answer}");
    }
    assert_eq!(streams.held("a").unwrap(), 1..2_001);
    let bomb = Coding::Gzip.deflate(&vec![b'\n'; 20 << 20]).unwrap();
    let gzip = ("content-encoding", "gzip");
    assert_eq!(post(&streams, &[NDJSON, gzip], bomb).await.0, 413);
    assert_eq!(post(&streams, &[NDJSON, gzip], "plain").await.0, 400);
    let brotli = ("content-encoding", "br");
    assert_eq!(post(&streams, &[NDJSON, brotli], "1\n").await.0, 415);
    let no_key = ("idempotency-key", "");
    assert_eq!(post(&streams, &[NDJSON, no_key], "1\n").await.0, 400);
    streams.close();
}
