use std::path::Path;

use fleet_api::deployment::OnFull;
use fleet_api::desired::StreamSpec;
use fleet_api::ids::StreamName;
use fleet_api::source::SourcesFile;
use fleet_api::units::ByteSize;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::*;
use crate::streams::BufferConfig;

mod file;
mod modbus;
mod mqtt;

const LIMIT: Duration = Duration::from_secs(20);

/// Sources at work on a stream named `press`.
struct Plant {
    streams: Streams,
    sources: Sources,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

fn spec() -> StreamSpec {
    StreamSpec::named(StreamName::new("press").unwrap())
}

impl Plant {
    async fn start(folder: &Path, spec: StreamSpec, toml: &str) -> Self {
        let buffer = folder.join("buffer");
        let open = move || Streams::open(&buffer, BufferConfig::default());
        let streams = tokio::task::spawn_blocking(open).await.unwrap().unwrap();
        streams.configure(&[spec]);
        let sources = Sources::new();
        sources.configure(&SourcesFile::from_toml(toml, "test").unwrap().sources);
        let stop = CancellationToken::new();
        let config = SourcesConfig {
            node: "n1".to_owned(),
            secrets: SourceSecrets::Folder(folder.to_owned()),
            keys: folder.join("opcua"),
        };
        let task = tokio::spawn(run(sources.clone(), config, streams.clone(), stop.clone()));
        Self {
            streams,
            sources,
            stop,
            task,
        }
    }

    /// Waits until the only source is as wanted.
    async fn health(&self, wanted: impl Fn(&SourceHealth) -> bool) -> SourceHealth {
        let look = async {
            loop {
                let health = self.sources.health().into_iter().next();
                if let Some(health) = health.filter(|health| wanted(health)) {
                    return health;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let seen = timeout(LIMIT, look).await;
        seen.unwrap_or_else(|_| panic!("{:?}", self.sources.health()))
    }

    /// The values of all records, waiting until there are `count`.
    async fn values(&self, count: usize) -> Vec<serde_json::Value> {
        let look = async {
            loop {
                let rows = self.streams.read("press", 1, 100_000).await.unwrap();
                if rows.len() >= count {
                    return rows;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let rows = timeout(LIMIT, look).await;
        let rows = rows.unwrap_or_else(|_| panic!("{:?}", self.sources.health()));
        let value = |row: &crate::streams::Row| serde_json::from_slice(&row.record.value).unwrap();
        rows.iter().map(value).collect()
    }

    async fn end(self) {
        self.stop.cancel();
        timeout(LIMIT, self.task).await.unwrap().unwrap();
        tokio::task::spawn_blocking(move || self.streams.close())
            .await
            .unwrap();
    }
}
