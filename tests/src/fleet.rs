use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use fleet_api::rest::NodeSummary;
use tempfile::TempDir;

use crate::api::Api;
use crate::checkout::Checkout;
use crate::control_plane::ControlPlane;
use crate::edge::Edge;
use crate::edgectl::Edgectl;
use crate::process::tail;
use crate::wait::until;

/// How long a deployment may take to reach its nodes.
const COMMIT: Duration = Duration::from_secs(60);

static LOGS_LEFT_ALONE: AtomicBool = AtomicBool::new(false);

/// From now on a fleet that is dropped shows no logs: somebody wanted it to end.
pub fn leave_logs_alone() {
    LOGS_LEFT_ALONE.store(true, Ordering::Relaxed);
}

/// A control plane, its nodes and its operator. Unless it is finished, the end of every log is
/// shown when it is dropped.
#[derive(Debug)]
pub struct Fleet {
    /// The control plane.
    pub control: ControlPlane,
    /// The nodes by id.
    pub edges: BTreeMap<String, Edge>,
    /// The operator's command line, logged in.
    pub edgectl: Edgectl,
    finished: bool,
    dir: TempDir,
}

impl Fleet {
    /// Starts a control plane in a new folder and logs the operator in.
    ///
    /// # Errors
    /// If a step fails.
    pub async fn start() -> Result<Self> {
        Self::start_with("").await
    }

    /// As [`Fleet::start`], with a configuration of the control plane in TOML.
    ///
    /// # Errors
    /// If a step fails.
    pub async fn start_with(config: &str) -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("fleet-").tempdir()?;
        let control = ControlPlane::start_with(dir.path(), config).await?;
        let edgectl = Edgectl::new(&dir.path().join("edgectl.toml"));
        let fleet = Self {
            control,
            edges: BTreeMap::new(),
            edgectl,
            finished: false,
            dir,
        };
        let folder = fleet.control.data_dir().display().to_string();
        fleet.edgectl.ok(["login", "--data-dir", &folder]).await?;
        Ok(fleet)
    }

    /// The folder of everything.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The REST API, as the administrator.
    ///
    /// # Errors
    /// If CA or token cannot be read.
    pub fn api(&self) -> Result<Api> {
        self.control.api()
    }

    /// Makes a join token.
    ///
    /// # Errors
    /// If the control plane refuses.
    pub async fn token(&self, args: &[&str]) -> Result<String> {
        let all = ["token", "create"].iter().chain(args);
        Ok(self.edgectl.ok(all).await?.trim().to_owned())
    }

    /// Joins a node with labels; it does not run yet.
    ///
    /// # Errors
    /// If a step fails.
    pub async fn join(&mut self, id: &str, labels: &[&str]) -> Result<&mut Edge> {
        let labels: Vec<_> = labels.iter().flat_map(|l| ["--label", l]).collect();
        let token = self.token(&labels).await?;
        let edge = Edge::new(id, self.dir.path())?;
        edge.enroll(&token).await?;
        self.edges.insert(id.to_owned(), edge);
        self.edge(id)
    }

    /// Joins a node and starts it.
    ///
    /// # Errors
    /// If a step fails.
    pub async fn add(&mut self, id: &str, labels: &[&str]) -> Result<&mut Edge> {
        self.join(id, labels).await?.start().await?;
        self.edge(id)
    }

    /// A node.
    ///
    /// # Errors
    /// If there is none of that id.
    pub fn edge(&mut self, id: &str) -> Result<&mut Edge> {
        self.edges
            .get_mut(id)
            .with_context(|| format!("there is no node {id}"))
    }

    /// Pushes a component that set-up built.
    ///
    /// # Errors
    /// If the push fails.
    pub async fn push_handler(&self, reference: &str, module: &str) -> Result<String> {
        let file = Checkout::module(module)?.display().to_string();
        self.edgectl.ok(["push", "handler", reference, &file]).await
    }

    /// Pushes a model that set-up fetched or trained.
    ///
    /// # Errors
    /// If the push fails.
    pub async fn push_model(&self, reference: &str, model: &str) -> Result<String> {
        let file = Checkout::model(model)?.display().to_string();
        self.edgectl.ok(["push", "model", reference, &file]).await
    }

    /// Writes a deployment file.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn file(&self, name: &str, content: impl AsRef<[u8]>) -> Result<String> {
        let path = self.dir.path().join(name);
        std::fs::write(&path, content)?;
        Ok(path.display().to_string())
    }

    /// Applies a deployment.
    ///
    /// # Errors
    /// If it is refused.
    pub async fn apply(&self, toml: &str) -> Result<String> {
        let file = self.file("deployment.toml", toml)?;
        self.edgectl.ok(["apply", "-f", &file]).await
    }

    /// Waits until every node runs what it shall.
    ///
    /// # Errors
    /// If one does not within a minute.
    pub async fn committed(&self) -> Result<()> {
        let api = self.api()?;
        until("all nodes committed", COMMIT, async || {
            let nodes = api.nodes().await.map_err(|e| format!("{e:#}"))?;
            let late: Vec<_> = nodes
                .iter()
                .filter(|n| n.state != "ok" || n.serving_generation != n.desired_generation)
                .map(state)
                .collect();
            if late.is_empty() && nodes.len() == self.edges.len() {
                Ok(())
            } else {
                Err(late.join("; "))
            }
        })
        .await
    }

    /// Waits until a node has the given state; answers its line.
    ///
    /// # Errors
    /// If it has not within a minute.
    pub async fn reaches(&self, id: &str, wanted: &str) -> Result<NodeSummary> {
        let api = self.api()?;
        until(&format!("node {id} {wanted}"), COMMIT, async || {
            let node = api.node(id).await.map_err(|e| format!("{e:#}"))?;
            if node.summary.state == wanted {
                Ok(node.summary)
            } else {
                Err(state(&node.summary))
            }
        })
        .await
    }

    /// Stops everything with SIGTERM and wants every process to end well.
    ///
    /// # Errors
    /// If one does not.
    pub async fn finish(mut self) -> Result<()> {
        for edge in self.edges.values_mut().filter(|e| e.runs()) {
            edge.stop().await?;
        }
        if self.control.runs() {
            self.control.stop().await?;
        }
        self.finished = true;
        Ok(())
    }
}

fn state(node: &NodeSummary) -> String {
    let reason = node
        .reason
        .as_deref()
        .map(|r| format!(" ({r})"))
        .unwrap_or_default();
    format!(
        "{} is {}{reason}, generation {} of {}",
        node.id, node.state, node.serving_generation, node.desired_generation
    )
}

impl Drop for Fleet {
    fn drop(&mut self) {
        if self.finished || LOGS_LEFT_ALONE.load(Ordering::Relaxed) {
            return;
        }
        eprintln!("{}", tail("control plane", self.control.log()));
        for edge in self.edges.values() {
            eprintln!("{}", tail(edge.id(), &edge.log()));
        }
    }
}
