//! Ours: a node of a fleet with its models from a deployment, as on a gateway.

use std::fmt::Write as _;

use anyhow::Result;
use fleet_tests::Fleet;

use super::workload::{MODELS, TINY};

const NODE: &str = "gateway";
/// As many as the naive server has.
const SESSIONS: u32 = 2;
/// The tiny model a second time, with requests that wait put into one run.
pub(super) const BATCHED: &str = "mlp-batched";

/// A node and its control plane.
pub(super) struct Node {
    fleet: Fleet,
}

impl Node {
    /// Starts both and deploys all models.
    pub(super) async fn with_all_models() -> Result<Self> {
        let node = Self::start().await?;
        let mut deployment = String::new();
        for model in &MODELS {
            let name = model.name;
            node.push(name, "1", name).await?;
            entry(
                &mut deployment,
                name,
                "1",
                &format!("sessions = {SESSIONS}"),
            );
        }
        node.push(BATCHED, "1", TINY.name).await?;
        entry(&mut deployment, BATCHED, "1", "batch = { max = 16 }");
        node.deploy(&deployment).await?;
        Ok(node)
    }

    /// Starts both, with nothing to serve.
    pub(super) async fn start() -> Result<Self> {
        let mut fleet = Fleet::start().await?;
        fleet.add(NODE, &[]).await?;
        Ok(Self { fleet })
    }

    /// Pushes a model of `artifacts/models`.
    pub(super) async fn push(&self, name: &str, version: &str, file: &str) -> Result<()> {
        let reference = format!("{name}:{version}");
        self.fleet.push_model(&reference, file).await.map(drop)
    }

    /// Deploys models and waits until they serve.
    pub(super) async fn deploy(&self, models: &str) -> Result<()> {
        let head = "[deployment]\nname = \"inference\"\nselect = \"*\"\n";
        self.fleet.apply(&format!("{head}{models}")).await?;
        self.fleet.committed().await
    }

    /// The node's data plane.
    pub(super) fn url(&self) -> String {
        self.fleet.edges[NODE].url()
    }

    /// The node's process.
    pub(super) fn pid(&self) -> Option<u32> {
        self.fleet.edges[NODE].pid()
    }

    /// Ends both.
    pub(super) async fn finish(self) -> Result<()> {
        self.fleet.finish().await
    }
}

/// Adds a model to a deployment.
pub(super) fn entry(deployment: &mut String, name: &str, version: &str, options: &str) {
    let _ = writeln!(
        deployment,
        "[[model]]\nname = {name:?}\nversion = {version:?}\n{options}"
    );
}
