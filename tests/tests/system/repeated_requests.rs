use anyhow::{Context as _, Result, ensure};
use fleet_tests::{Serve, http};
use reqwest::StatusCode;
use serde_json::Value;
use tokio::task::JoinSet;

const ARGS: [&str; 2] = ["--stream", "press"];
const DEVICES: u64 = 24;
const REQUESTS: u64 = 40;

/// Posts two records under a key of their own.
async fn post(url: &str, n: u64) -> Result<Value> {
    let answer = http::plain()?
        .post(format!("{url}/streams/press"))
        .header("content-type", "application/json")
        .header("idempotency-key", format!("request-{n}"))
        .body(format!(
            "[{{\"n\":{n},\"part\":0}},{{\"n\":{n},\"part\":1}}]"
        ))
        .send()
        .await?;
    ensure!(answer.status() == StatusCode::OK, "{}", answer.status());
    Ok(answer.json().await?)
}

/// Whatever moment the kill meets, each request is there once after it was repeated.
#[tokio::test(flavor = "multi_thread")]
async fn a_repeated_request_is_stored_once_through_kill_9() -> Result<()> {
    let mut serve = Serve::start(&ARGS).await?;
    let mut devices = JoinSet::new();
    let (tell, mut heard) = tokio::sync::mpsc::channel(1_024);
    for device in 0..DEVICES {
        let (url, tell) = (serve.url.clone(), tell.clone());
        devices.spawn(async move {
            let mut answers = Vec::new();
            for request in 0..REQUESTS {
                let n = device * REQUESTS + request;
                match post(&url, n).await {
                    Ok(answer) => {
                        answers.push((n, answer));
                        // The test may have heard enough.
                        let _ = tell.try_send(());
                    }
                    Err(_) => break,
                }
            }
            answers
        });
    }
    for _ in 0..DEVICES * REQUESTS / 4 {
        heard.recv().await.context("an answer")?;
    }
    serve.process.kill()?;
    let answered: Vec<_> = devices.join_all().await.into_iter().flatten().collect();
    ensure!(
        (answered.len() as u64) < DEVICES * REQUESTS,
        "the kill came when all was over"
    );
    let serve = serve.start_again(&ARGS).await?;
    let mut again = Vec::new();
    for n in 0..DEVICES * REQUESTS {
        again.push(post(&serve.url, n).await?);
    }
    for (n, answer) in answered {
        assert_eq!(again[usize::try_from(n)?], answer, "request {n}");
    }
    let mut there: Vec<_> = crate::mqtt_devices::values(&serve)
        .await?
        .iter()
        .map(|value| Some((value["n"].as_u64()?, value["part"].as_u64()?)))
        .collect::<Option<_>>()
        .context("numbers")?;
    there.sort_unstable();
    let wanted: Vec<_> = (0..DEVICES * REQUESTS)
        .flat_map(|n| [(n, 0), (n, 1)])
        .collect();
    assert_eq!(there, wanted);
    Ok(())
}
