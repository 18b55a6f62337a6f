use std::pin::Pin;

use ::http::{Request, Response, StatusCode};
use fleet_api::frame::{Frame, Header};
use http_body::Body as _;
use http_body_util::{BodyExt as _, Empty};

use super::*;

async fn answer(streams: &Streams, path: &str, headers: &[(&str, &str)]) -> Response<StreamsBody> {
    let mut request = Request::get(path);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let body = Empty::<Bytes>::new();
    streams.handle(request.body(body).unwrap()).await
}

async fn bytes(streams: &Streams, path: &str, headers: &[(&str, &str)]) -> (StatusCode, Bytes) {
    let (head, body) = answer(streams, path, headers).await.into_parts();
    (head.status, body.collect().await.unwrap().to_bytes())
}

async fn lines(streams: &Streams, path: &str) -> Vec<serde_json::Value> {
    let (status, body) = bytes(streams, path, &[]).await;
    assert_eq!(status, 200, "{body:?}");
    let text = String::from_utf8(body.to_vec()).unwrap();
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

async fn seqs(streams: &Streams, path: &str) -> Vec<u64> {
    let rows = lines(streams, path).await;
    rows.iter()
        .map(|row| row["seq"].as_u64().unwrap())
        .collect()
}

/// Records 1 to `count`, a second apart from 1,000,000 ms on, some of them per frame.
async fn timed(streams: &Streams, count: u64) {
    for first in (1..=count).step_by(7) {
        let records = (first..=count.min(first + 6)).map(|n| NewRecord {
            time_ms: Some(1_000_000 + n * 1_000),
            ..NewRecord::new(Encoding::Json, format!("{{\"n\":{n}}}"))
        });
        streams.append("a", records.collect()).await.unwrap();
    }
}

#[tokio::test]
async fn gives_the_records_between_two_sequences_or_times() {
    let dir = tempfile::tempdir().unwrap();
    let streams = open_with(dir.path(), &[spec("a")]);
    assert_eq!(seqs(&streams, "/streams/a?since=0&until=9").await, [0; 0]);
    timed(&streams, 100).await;
    for (query, expected) in [
        ("from=3&to=5", 3..=5),
        ("to=2", 1..=2),
        ("from=99", 99..=100),
        ("from=99&to=300", 99..=100),
        ("since=1020000&until=1022000", 20..=22),
        ("since=1019500&until=1022500", 20..=22),
        ("until=1002000", 1..=2),
        ("since=1099000", 99..=100),
        ("since=0", 1..=100),
        ("from=21&since=1020000&until=1022000", 21..=22),
        (
            "since=1970-01-01T00:16:50Z&until=1970-01-01T00:16:51%2B00:00",
            10..=11,
        ),
        ("since=1020000&limit=2", 20..=21),
    ] {
        let expected: Vec<_> = expected.collect();
        let found = seqs(&streams, &format!("/streams/a?{query}")).await;
        assert_eq!(found, expected, "{query}");
    }
    for query in [
        "since=2000000",
        "until=1000",
        "from=101",
        "from=200&to=300",
        "limit=0",
    ] {
        let found = seqs(&streams, &format!("/streams/a?{query}")).await;
        assert_eq!(found, [0; 0], "{query}");
    }
}

#[tokio::test]
async fn an_answer_without_an_end_has_a_thousand_rows_and_one_with_an_end_has_all() {
    let dir = tempfile::tempdir().unwrap();
    let streams = open_with(dir.path(), &[spec("a")]);
    timed(&streams, 2_500).await;
    assert_eq!(seqs(&streams, "/streams/a").await.len(), 1_000);
    assert_eq!(seqs(&streams, "/streams/a?to=2400").await.len(), 2_400);
    assert_eq!(seqs(&streams, "/streams/a?limit=2000").await.len(), 2_000);
}

#[tokio::test]
async fn gaps_are_listed_in_their_place_when_they_are_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let streams = open_with(dir.path(), &[limited("a", 20_000, OnFull::DropOldest)]);
    for n in 1..=30 {
        streams.append("a", batch(n..=n, 2_000)).await.unwrap();
    }
    let rows = lines(&streams, "/streams/a?gaps=true").await;
    let gap = &rows[0]["gap"];
    assert_eq!(
        (gap["first"].as_u64(), gap["reason"].as_str()),
        (Some(1), Some("quota"))
    );
    let last = gap["last"].as_u64().unwrap();
    assert_eq!(gap["lost"], last);
    assert_eq!(rows[1]["seq"], last + 1);
    assert_eq!(rows.last().unwrap()["seq"], 30);
    assert_eq!(seqs(&streams, "/streams/a").await[0], last + 1);
    // Times are found beyond a gap as well.
    assert_eq!(seqs(&streams, "/streams/a?since=0").await[0], last + 1);

    streams.release("a", streams.epoch(), 28).await;
    let rows = lines(&streams, "/streams/a?from=2&gaps=true").await;
    let gap = &rows[0]["gap"];
    assert_eq!(
        (gap["first"].as_u64(), gap["reason"].as_str()),
        (Some(2), Some("released"))
    );
    assert_eq!(rows[1]["seq"], gap["last"].as_u64().unwrap() + 1);
}

#[tokio::test]
async fn records_come_as_cbor_or_as_whole_frames_too() {
    let dir = tempfile::tempdir().unwrap();
    let streams = open_with(dir.path(), &[spec("a")]);
    timed(&streams, 20).await;
    let cbor = [("accept", "application/cbor-seq")];
    let (_, body) = bytes(&streams, "/streams/a?from=3&to=4", &cbor).await;
    let mut rest = &body[..];
    let mut found = Vec::new();
    while !rest.is_empty() {
        let row: serde_json::Value = ciborium::from_reader(&mut rest).unwrap();
        found.push(row["value"]["n"].as_u64().unwrap());
    }
    assert_eq!(found, [3, 4]);

    let frames = [("accept", "application/vnd.edge.frames")];
    let (_, mut body) = bytes(&streams, "/streams/a?from=8&to=9", &frames).await;
    let header = Header::peek(&body).unwrap();
    let frame = Frame::decode("a", &body.split_to(header.frame_bytes)).unwrap();
    assert_eq!(
        (frame.first, frame.last()),
        (8, 14),
        "the frame that has them, whole"
    );
    assert!(body.is_empty());

    let (status, body) = bytes(&streams, "/streams/a", &[("accept", "image/png")]).await;
    assert_eq!(status, 406);
    assert!(body.starts_with(b"{\"error\":{\"code\":\"not-acceptable\""));
    let html = answer(&streams, "/streams/a", &[("accept", "text/html")]).await;
    assert_eq!(html.headers()["content-type"], "text/html; charset=utf-8");
    assert!(html.headers().contains_key("content-security-policy"));
}

#[tokio::test]
async fn a_head_tells_what_is_held() {
    let dir = tempfile::tempdir().unwrap();
    let streams = open_with(dir.path(), &[spec("a")]);
    timed(&streams, 20).await;
    let request = Request::head("/streams/a")
        .body(Empty::<Bytes>::new())
        .unwrap();
    let answer = streams.handle(request).await;
    assert_eq!(answer.status(), 200);
    assert_eq!(answer.headers()["edge-first-seq"], "1");
    assert_eq!(answer.headers()["edge-next-seq"], "21");
    assert_eq!(answer.headers()["edge-epoch"], streams.epoch().to_string());
    assert!(answer.into_body().is_end_stream());
    let request = Request::head("/streams/none")
        .body(Empty::<Bytes>::new())
        .unwrap();
    assert_eq!(streams.handle(request).await.status(), 404);
}

/// The next events up to one that contains `part`.
async fn until(body: &mut StreamsBody, part: &str) -> String {
    let mut text = String::new();
    while !text.contains(part) {
        let wait = std::time::Duration::from_secs(10);
        let frame = tokio::time::timeout(wait, body.frame()).await;
        let frame = frame.unwrap_or_else(|_| panic!("no {part} in {text}"));
        let Some(frame) = frame else {
            panic!("ended without {part}: {text}");
        };
        text.push_str(std::str::from_utf8(frame.unwrap().data_ref().unwrap()).unwrap());
    }
    text
}

#[tokio::test]
async fn a_live_client_comes_back_to_where_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let streams = open_with(dir.path(), &[limited("a", 20_000, OnFull::DropOldest)]);
    let epoch = streams.epoch();
    timed(&streams, 3).await;
    let mut new_only = answer(&streams, "/streams/a/live", &[]).await.into_body();
    let mut all = answer(&streams, "/streams/a/live?from=1", &[])
        .await
        .into_body();
    let text = until(&mut all, "\"n\":3").await;
    assert!(text.starts_with("retry: "), "{text}");
    assert!(
        text.contains(&format!("id: {epoch}.2\ndata: {{\"seq\":2,")),
        "{text}"
    );
    drop(all);

    timed(&streams, 1).await;
    let text = until(&mut new_only, "\"seq\":4").await;
    assert!(!text.contains("\"seq\":3"), "{text}");
    let last = [("last-event-id", &*format!("{epoch}.2"))];
    let mut resumed = answer(&streams, "/streams/a/live", &last).await.into_body();
    let text = until(&mut resumed, "\"seq\":4").await;
    assert!(
        text.contains("\"seq\":3") && !text.contains("\"seq\":2"),
        "{text}"
    );

    // What was evicted while it was away is named.
    for n in 1..=30 {
        streams.append("a", batch(n..=n, 2_000)).await.unwrap();
    }
    let mut resumed = answer(&streams, "/streams/a/live", &last).await.into_body();
    let text = until(&mut resumed, "\"seq\":34").await;
    assert!(
        text.contains("event: gap\ndata: {\"gap\":{\"first\":1,"),
        "{text}"
    );

    let foreign = [("last-event-id", "1.900")];
    let mut renewed = answer(&streams, "/streams/a/live", &foreign)
        .await
        .into_body();
    let text = until(&mut renewed, "\"seq\":34").await;
    assert!(text.contains("event: epoch\ndata: "), "{text}");
}

#[tokio::test]
async fn a_live_client_that_takes_nothing_is_let_go_with_a_reason() {
    let dir = tempfile::tempdir().unwrap();
    let streams = open_with(dir.path(), &[spec("a")]);
    for n in 0..100 {
        streams
            .append("a", batch(n * 10 + 1..=n * 10 + 10, 1_000))
            .await
            .unwrap();
    }
    let mut body = answer(&streams, "/streams/a/live?from=1", &[])
        .await
        .into_body();
    // The end is there once the client's place is free again.
    let freed = async {
        while streams.inner.live.clients() > 0 {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(10), freed)
        .await
        .unwrap();
    let text = until(&mut body, "event: end").await;
    assert!(
        text.ends_with("come back with Last-Event-ID\",\"reason\":\"slow\"}\n\n"),
        "{text}"
    );
    assert!(
        text.len() < 1 << 20,
        "{} bytes were held for it",
        text.len()
    );
    assert!(Pin::new(&mut body).frame().await.is_none());
}

#[tokio::test]
async fn live_clients_are_bounded_and_hear_when_the_node_stops() {
    let dir = tempfile::tempdir().unwrap();
    let streams = open_with(dir.path(), &[spec("a")]);
    let mut clients = Vec::new();
    loop {
        let next = answer(&streams, "/streams/a/live", &[]).await;
        if next.status() != 200 {
            assert_eq!(next.status(), 503);
            break;
        }
        clients.push(next.into_body());
    }
    assert_eq!(clients.len(), 64);
    streams.end_live();
    for mut client in clients {
        let text = until(&mut client, "event: end").await;
        assert!(text.contains("stopping"), "{text}");
        assert!(client.frame().await.is_none());
    }
}
