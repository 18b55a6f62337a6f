use ::http::{Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};

use super::*;

async fn ask(
    streams: &Streams,
    method: &str,
    path: &str,
    content_type: &str,
    body: impl Into<Bytes>,
) -> (StatusCode, String, Response<()>) {
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header("content-type", content_type)
        .body(Full::new(body.into()))
        .unwrap();
    let (head, body) = streams.handle(request).await.into_parts();
    let text = body.collect().await.unwrap().to_bytes();
    let text = String::from_utf8(text.to_vec()).unwrap();
    (head.status, text, Response::from_parts(head, ()))
}

#[tokio::test]
async fn takes_and_gives_records_over_http() {
    let dir = tempfile::tempdir().unwrap();
    let streams = open_with(dir.path(), &[spec("a")]);
    let json = "application/json";
    let (status, text, _) = ask(&streams, "POST", "/streams/a", json, "{\"t\": 1.50}").await;
    let epoch = streams.epoch();
    assert_eq!(status, 200);
    assert_eq!(
        text,
        format!("{{\"epoch\":{epoch},\"first_seq\":1,\"last_seq\":1}}")
    );
    let (_, text, _) = ask(&streams, "POST", "/streams/a", json, "[1,2,3]").await;
    assert_eq!(
        text,
        format!("{{\"epoch\":{epoch},\"first_seq\":2,\"last_seq\":4}}")
    );
    ask(
        &streams,
        "POST",
        "/streams/a",
        "application/octet-stream",
        "\u{1}",
    )
    .await;

    let (status, text, head) = ask(&streams, "GET", "/streams/a?from=1&limit=2", "", "").await;
    assert_eq!(status, 200);
    assert_eq!(head.headers()["content-type"], "application/x-ndjson");
    let rows: Vec<serde_json::Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(rows.len(), 2);
    assert_eq!(rows[0]["seq"], 1);
    assert_eq!(rows[0]["value"]["t"], 1.5);
    assert!(rows[0]["time"].as_u64().unwrap() > 1_600_000_000_000);
    let (_, text, _) = ask(&streams, "GET", "/streams/a?from=5", "", "").await;
    assert!(
        text.contains(r#""encoding":"bytes","value":"AQ==""#),
        "{text}"
    );
    let (status, text, _) = ask(&streams, "GET", "/streams/a?from=6", "", "").await;
    assert_eq!((status.as_u16(), text.as_str()), (200, ""));
}

#[tokio::test]
async fn refuses_with_a_code_and_a_sentence() {
    let dir = tempfile::tempdir().unwrap();
    let specs = [spec("a"), limited("full", 400, OnFull::Reject)];
    let streams = open_with(dir.path(), &specs);
    let json = "application/json";
    ask(
        &streams,
        "POST",
        "/streams/full",
        json,
        format!("\"{}\"", "x".repeat(300)),
    )
    .await;
    let large = format!("\"{}\"", "x".repeat(MAX_VALUE_BYTES));
    let huge = vec![b' '; 9 << 20];
    let cases: Vec<(&str, &str, &str, Bytes, u16, &str)> = vec![
        (
            "POST",
            "/streams/nope",
            json,
            "1".into(),
            404,
            "unknown-stream",
        ),
        (
            "GET",
            "/streams/nope",
            json,
            "".into(),
            404,
            "unknown-stream",
        ),
        (
            "GET",
            "/streams/nope/live",
            json,
            "".into(),
            404,
            "unknown-stream",
        ),
        ("POST", "/streams/a", json, "{".into(), 400, "bad-body"),
        ("POST", "/streams/a", json, "[]".into(), 400, "no-records"),
        (
            "POST",
            "/streams/a",
            "text/plain",
            "x".into(),
            415,
            "unknown-content-type",
        ),
        (
            "POST",
            "/streams/a",
            json,
            large.into(),
            413,
            "record-too-large",
        ),
        (
            "POST",
            "/streams/a",
            json,
            huge.into(),
            413,
            "body-too-large",
        ),
        (
            "POST",
            "/streams/full",
            json,
            format!("\"{}\"", "y".repeat(100)).into(),
            507,
            "stream-full",
        ),
        (
            "DELETE",
            "/streams/a",
            json,
            "".into(),
            405,
            "method-not-allowed",
        ),
        (
            "GET",
            "/streams/a?from=x",
            json,
            "".into(),
            400,
            "bad-query",
        ),
        ("GET", "/streams/a/b/c", json, "".into(), 404, "not-found"),
    ];
    for (method, path, content_type, body, status, code) in cases {
        let (got, text, head) = ask(&streams, method, path, content_type, body).await;
        let error: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(
            (got.as_u16(), error["error"]["code"].as_str()),
            (status, Some(code)),
            "{method} {path}: {text}"
        );
        assert_eq!(
            head.headers().contains_key("retry-after"),
            status >= 500,
            "{text}"
        );
    }
    assert_eq!(health(&streams, "a").depth, 0);
}

#[tokio::test]
async fn a_live_client_sees_new_records_in_order() {
    let dir = tempfile::tempdir().unwrap();
    let streams = open_with(dir.path(), &[spec("a")]);
    streams.append("a", batch(1..=2, 8)).await.unwrap();
    let live = |path: &'static str| {
        let request = Request::get(path).body(Full::<Bytes>::default()).unwrap();
        streams.handle(request)
    };
    let mut new = live("/streams/a/live").await.into_body();
    let mut all = live("/streams/a/live?from=1").await.into_body();
    streams.append("a", batch(3..=4, 8)).await.unwrap();
    async fn ids(body: &mut StreamsBody, count: usize) -> Vec<String> {
        let mut text = String::new();
        while text.matches("\ndata: ").count() < count {
            let frame = tokio::time::timeout(Duration::from_secs(10), body.frame());
            let data = frame.await.unwrap().unwrap().unwrap().into_data().unwrap();
            text.push_str(std::str::from_utf8(&data).unwrap());
        }
        let ids = text.lines().filter_map(|line| line.strip_prefix("id: "));
        ids.map(|id| id.split_once('.').unwrap().1.to_owned())
            .collect()
    }
    assert_eq!(ids(&mut new, 2).await, ["3", "4"]);
    assert_eq!(ids(&mut all, 4).await, ["1", "2", "3", "4"]);
}
