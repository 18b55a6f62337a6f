use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context as _, Result};
use fleet_tests::http;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// Clients that ask one address again and again, and keep every kind of answer apart.
#[derive(Debug)]
pub(crate) struct Load {
    seen: Arc<Mutex<Answers>>,
    stop: CancellationToken,
    clients: JoinSet<()>,
}

/// How often each greeting came, and what failed.
#[derive(Debug, Default, Clone)]
pub(crate) struct Answers {
    /// Requests by the greeting that answered them.
    pub(crate) greetings: BTreeMap<String, u64>,
    /// Requests without the answer that they should have.
    pub(crate) failed: Vec<String>,
}

impl Answers {
    /// All requests that were answered well.
    pub(crate) fn good(&self) -> u64 {
        self.greetings.values().sum()
    }

    fn note(&mut self, answer: Result<String>) {
        match answer {
            Ok(greeting) => *self.greetings.entry(greeting).or_default() += 1,
            Err(error) => self.failed.push(format!("{error:#}")),
        }
    }
}

impl Load {
    /// Starts `clients` clients on `url`, each with a request every 2 ms at most.
    pub(crate) fn start(url: &str, clients: usize) -> Result<Self> {
        let mut load = Self {
            seen: Arc::default(),
            stop: CancellationToken::new(),
            clients: JoinSet::new(),
        };
        for _ in 0..clients {
            let (http, url) = (http::plain()?, url.to_owned());
            let (seen, stop) = (load.seen.clone(), load.stop.clone());
            load.clients.spawn(async move {
                while !stop.is_cancelled() {
                    let answer = greeting(&http, &url).await;
                    seen.lock()
                        .expect("no client panics while it counts")
                        .note(answer);
                    tokio::time::sleep(Duration::from_millis(2)).await;
                }
            });
        }
        Ok(load)
    }

    /// What has been answered so far.
    pub(crate) fn so_far(&self) -> Answers {
        self.seen
            .lock()
            .expect("no client panics while it counts")
            .clone()
    }

    /// Stops and answers what came.
    pub(crate) async fn stop(mut self) -> Answers {
        self.stop.cancel();
        while self.clients.join_next().await.is_some() {}
        self.so_far()
    }
}

async fn greeting(http: &reqwest::Client, url: &str) -> Result<String> {
    let response = http.get(url).send().await?;
    let (status, body) = (response.status(), response.text().await?);
    anyhow::ensure!(status == 200, "{status}: {body}");
    let body: serde_json::Value = serde_json::from_str(&body)?;
    let greeting = body["greeting"].as_str();
    Ok(greeting.context("the answer has no greeting")?.to_owned())
}
