use std::sync::{Arc, Mutex};

use anyhow::{Context as _, Result};
use axum::Router;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::routing::post;
use fleet_tests::{Checkout, Fleet, Serve, http};
use serde_json::{Value, json};

const TRACE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

/// What another system was sent.
type Sent = Arc<Mutex<Vec<(HeaderMap, String)>>>;

/// A handler keeps records, reads them back, and calls another system with a secret; the
/// request's id and trace go along, and nothing of it works without its grant.
#[tokio::test(flavor = "multi_thread")]
async fn a_handler_reaches_what_it_was_granted_and_nothing_else() -> Result<()> {
    let (target, sent) = other_system().await?;
    let dir = tempfile::tempdir()?;
    let secret = dir.path().join("token");
    std::fs::write(&secret, "s3cret\n")?;
    let secret = format!("token={}", secret.display());
    let config = format!("target={target}/in");
    let module = Checkout::module("relay")?.display().to_string();
    let args = [
        "--config", &config, "--secret", &secret, "--stream", "reports",
    ];
    let allow = ["--allow-http", &target, &module];
    let serve = Serve::start(&[&args[..], &allow[..]].concat()).await?;
    let report = |url: &str| -> Result<_> {
        let request = http::plain()?.post(format!("{url}/reports"));
        let request = request
            .header("traceparent", TRACE)
            .header("x-request-id", "r-7");
        Ok(request.json(&json!({ "part": 7 })))
    };
    let answer: Value = report(&serve.url)?.send().await?.json().await?;
    assert_eq!(answer, json!({ "sequence": 1, "handed_on": 200 }));
    let (headers, body) = sent.lock().unwrap().pop().context("nothing was sent")?;
    assert_eq!(body, r#"{"part":7}"#);
    for (name, value) in [
        ("authorization", "Bearer s3cret"),
        ("traceparent", TRACE),
        ("x-request-id", "r-7"),
    ] {
        assert_eq!(headers.get(name).context(name)?, value);
    }
    let kept = format!("{}/reports", serve.url);
    let kept: Value = http::plain()?.get(kept).send().await?.json().await?;
    assert_eq!(
        kept,
        json!({ "next": 2, "records": [{ "sequence": 1, "value": { "part": 7 } }] })
    );

    let denied = Serve::start(&["--config", &config, "--stream", "reports", &module]).await?;
    let answer: Value = report(&denied.url)?.send().await?.json().await?;
    let reason = answer["handed_on"].as_str().context("a reason")?;
    assert!(reason.contains("allow.http"), "{reason}");
    assert!(sent.lock().unwrap().is_empty());

    let no_streams = Serve::start(&["--config", &config, &module]).await?;
    let answer = report(&no_streams.url)?.send().await?;
    assert_eq!(answer.status(), 403);
    assert!(answer.text().await?.contains("allow.streams"));
    Ok(())
}

/// A deployment names a secret; its value lies on the node alone.
#[tokio::test(flavor = "multi_thread")]
async fn a_handler_does_not_start_without_its_secrets() -> Result<()> {
    let (target, sent) = other_system().await?;
    let mut fleet = Fleet::start().await?;
    fleet.add("n1", &[]).await?;
    fleet.push_handler("relay:1", "relay").await?;
    let deployment = |route: &str| {
        format!(
            "[deployment]\nname = \"reports\"\nselect = \"*\"\n\
             [[handler]]\nname = \"relay\"\nversion = \"1\"\nroute = \"{route}\"\n\
             allow = {{ streams = [\"reports\"], http = [\"{target}\"] }}\n\
             config = {{ target = \"{target}/in\" }}\nsecrets = {{ token = \"plc-token\" }}\n\
             [[stream]]\nname = \"reports\"\n"
        )
    };
    fleet.apply(&deployment("/a/*")).await?;
    let node = fleet.reaches("n1", "failed").await?;
    let reason = node.reason.context("a reason")?;
    assert!(
        reason.contains("secret \"token\"") && reason.contains("secrets/plc-token"),
        "{reason}"
    );

    let edge = fleet.edge("n1")?;
    let folder = edge.data_dir().join("secrets");
    std::fs::create_dir_all(&folder)?;
    std::fs::write(folder.join("plc-token"), "first")?;
    fleet.apply(&deployment("/b/*")).await?;
    fleet.committed().await?;
    let edge = fleet.edge("n1")?;
    for token in ["first", "second"] {
        std::fs::write(folder.join("plc-token"), token)?;
        let body = br#"{"part":1}"#.to_vec();
        let (status, answer) = edge.post("/b/reports", "application/json", body).await?;
        assert_eq!(status, 200, "{answer}");
        let (headers, _) = sent.lock().unwrap().pop().context("nothing was sent")?;
        assert_eq!(headers["authorization"], format!("Bearer {token}"));
    }
    fleet.finish().await
}

/// Answers 200 to everything, and keeps what came.
async fn other_system() -> Result<(String, Sent)> {
    let sent = Sent::default();
    let keep = |State(sent): State<Sent>, headers: HeaderMap, body: String| async move {
        sent.lock().unwrap().push((headers, body));
    };
    let router = Router::new()
        .route("/in", post(keep))
        .with_state(Arc::clone(&sent));
    let socket = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("http://{}", socket.local_addr()?);
    tokio::spawn(async move { axum::serve(socket, router).await });
    Ok((url, sent))
}
