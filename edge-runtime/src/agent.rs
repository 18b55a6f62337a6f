//! The node transaction: from a desired state to what serves.
//!
//! ```text
//!  idle ─► fetching ─► verifying ─► preparing ─► switching ─► committed
//!             │            │            │
//!             └────────────┴────────────┴──► failed, nothing has changed
//! ```
//!
//! The ledger is written before each step that changes something, so that a
//! start after a crash at any place takes up the same generation again.

use std::path::PathBuf;
use std::time::Duration;

use fleet_api::desired::{Desired, Envelope};
use fleet_api::event;
use fleet_api::ids::NodeId;
use fleet_api::reported::{ArtifactState, Outcome, Phase, Reported};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

mod fetch;
mod layout;
mod ledger;
mod plan;
mod report;
mod store;
mod workload;

pub use fetch::{FetchError, Fetcher};
pub use ledger::LedgerError;
pub use store::{ArtifactStore, StoreError};
pub use workload::{PrepareError, Workload, WorkloadError};

use ledger::Ledger;
use plan::Decision;
use report::Report;
use workload::Running;

use crate::backoff::Backoff;
use crate::causes::chain;

/// Shortest and longest wait before a fetch is tried again.
const FETCH_WAIT: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));

/// The way to a running agent.
#[derive(Debug, Clone)]
pub struct AgentHandle {
    desired: mpsc::Sender<Envelope>,
    reported: watch::Receiver<Reported>,
}

impl AgentHandle {
    /// Hands in a desired state, from wherever it came; old and repeated ones do no harm.
    pub async fn offer(&self, envelope: Envelope) {
        // Without a receiver the node is stopping, and the state comes again after the start.
        let _ = self.desired.send(envelope).await;
    }

    /// What the node runs, always the latest.
    pub fn reported(&self) -> watch::Receiver<Reported> {
        self.reported.clone()
    }
}

/// Why an agent cannot start.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// The ledger cannot be used.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// The artifact store cannot be used.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Owns what serves and moves it to what is desired.
pub struct AgentTask {
    node: NodeId,
    ledger: Ledger,
    store: ArtifactStore,
    fetcher: Fetcher,
    workload: Workload,
    running: Running,
    report: Report,
    desired: mpsc::Receiver<Envelope>,
}

/// How an attempt at a candidate ended.
enum Attempt {
    Prepared(Running),
    Failed {
        reason: String,
        again_at_start: bool,
    },
    Superseded(Envelope),
    Stopped,
}

impl AgentTask {
    /// Opens the ledger at `state` and the store at `artifacts`.
    ///
    /// # Errors
    /// [`AgentError`] if one of them is damaged or not accessible.
    pub fn new(
        node: NodeId,
        state: PathBuf,
        artifacts: PathBuf,
        fetcher: Fetcher,
        workload: Workload,
    ) -> Result<(Self, AgentHandle), AgentError> {
        let ledger = Ledger::open(state)?;
        let store = ArtifactStore::open(artifacts)?;
        let report = Report::new(node.clone(), &ledger);
        let (sender, desired) = mpsc::channel(4);
        let handle = AgentHandle {
            desired: sender,
            reported: report.subscribe(),
        };
        let running = Running::default();
        Ok((
            Self {
                node,
                ledger,
                store,
                fetcher,
                workload,
                running,
                report,
                desired,
            },
            handle,
        ))
    }

    /// Where artifacts lie.
    pub(crate) fn store(&self) -> ArtifactStore {
        self.store.clone()
    }

    /// Brings back what served before the stop, from disk alone.
    pub async fn restore(&mut self) {
        let Some(serving) = self.ledger.serving().cloned() else {
            // Nothing is deployed yet, but a node can tell what happens to it from the start.
            self.workload.streams.configure(&[event::stream()]);
            return;
        };
        let (running, broken) = self
            .workload
            .restore(&serving, &self.store, &mut self.report)
            .await;
        self.workload.switch(&serving, &running);
        self.running = running;
        tracing::info!(
            generation = serving.generation,
            "serve again what served before"
        );
        if broken && self.ledger.candidate().is_none() {
            // The same generation once more, this time with the network's help.
            self.begin(serving);
        }
    }

    /// Runs until `stop`.
    pub async fn run(mut self, stop: CancellationToken) {
        loop {
            if let Some(candidate) = self.ledger.candidate().cloned() {
                match self.attempt(&candidate, &stop).await {
                    Attempt::Prepared(running) => self.commit(candidate, running),
                    Attempt::Failed {
                        reason,
                        again_at_start,
                    } => {
                        self.fail(reason, again_at_start);
                    }
                    Attempt::Superseded(envelope) => self.consider(&envelope),
                    Attempt::Stopped => return,
                }
                continue;
            }
            tokio::select! {
                () = stop.cancelled() => return,
                envelope = self.desired.recv() => match envelope {
                    Some(envelope) => self.consider(&envelope),
                    None => return,
                },
            }
        }
    }

    fn consider(&mut self, envelope: &Envelope) {
        let desired = match envelope.open() {
            Ok(desired) => desired,
            Err(error) => {
                tracing::warn!(error = chain(&error), "refuse a desired state");
                self.report.rejected(chain(&error));
                return;
            }
        };
        match plan::decide(&self.node, &self.ledger.view(), &desired) {
            Decision::Ignore => {}
            Decision::Reject(reason) => {
                tracing::warn!(reason, "refuse a desired state");
                self.report.rejected(reason);
            }
            Decision::Begin => {
                tracing::info!(generation = desired.generation, "begin a new generation");
                self.begin(desired);
            }
        }
    }

    /// Makes `desired` the candidate. What cannot be written down is not begun; the control
    /// plane offers it again.
    fn begin(&mut self, desired: Desired) {
        if let Err(error) = self.ledger.begin(desired) {
            tracing::error!(error = chain(&error), "cannot begin a generation");
            self.report.rejected(chain(&error));
        }
    }

    /// Works on `candidate` until it is prepared, has failed, or a newer one has come.
    async fn attempt(&mut self, candidate: &Desired, stop: &CancellationToken) -> Attempt {
        let view = self.ledger.view();
        let work = prepare(
            &self.fetcher,
            &self.store,
            &self.workload,
            &self.running,
            &mut self.report,
            candidate,
        );
        tokio::pin!(work);
        loop {
            tokio::select! {
                () = stop.cancelled() => return Attempt::Stopped,
                attempt = &mut work => return attempt,
                Some(envelope) = self.desired.recv() => {
                    let newer = envelope.open().is_ok_and(|desired| {
                        matches!(plan::decide(&self.node, &view, &desired), Decision::Begin)
                    });
                    if newer {
                        return Attempt::Superseded(envelope);
                    }
                }
            }
        }
    }

    fn commit(&mut self, candidate: Desired, running: Running) {
        self.report.phase(Phase::Switching);
        let generation = candidate.generation;
        // Recorded first: a crash between the two lines starts with the new generation.
        if let Err(error) = self.ledger.commit() {
            return self.fail(chain(&error), true);
        }
        self.workload.switch(&candidate, &running);
        self.running = running;
        self.report.committed(generation);
        tracing::info!(generation, "serve the new generation");
        if let Err(error) = self.store.retain(self.ledger.referenced()) {
            tracing::warn!(
                error = chain(&error),
                "cannot remove artifacts that nothing needs"
            );
        }
    }

    fn fail(&mut self, reason: String, again_at_start: bool) {
        tracing::error!(reason, "the new generation cannot serve, the old one stays");
        self.report
            .finished(Outcome::FailedNoChange, reason.clone());
        let outcome = Outcome::FailedNoChange;
        if let Err(error) = self.ledger.fail(outcome, reason, again_at_start) {
            tracing::error!(error = chain(&error), "cannot write the failure down");
        }
    }
}

/// Fetches, verifies and prepares; changes nothing that serves.
async fn prepare(
    fetcher: &Fetcher,
    store: &ArtifactStore,
    workload: &Workload,
    running: &Running,
    report: &mut Report,
    candidate: &Desired,
) -> Attempt {
    report.begin(candidate);
    let mut wait = Backoff::new(FETCH_WAIT.0, FETCH_WAIT.1);
    loop {
        report.phase(Phase::Fetching);
        match fetcher.fetch_all(store, candidate, report).await {
            Ok(()) => break,
            Err(error) if error.is_retryable() => {
                let delay = wait.next();
                tracing::warn!(
                    error = chain(&error),
                    delay_ms = delay.as_millis(),
                    "fetch again"
                );
                report.waiting(chain(&error));
                tokio::time::sleep(delay).await;
            }
            Err(error) => {
                return Attempt::Failed {
                    reason: chain(&error),
                    again_at_start: error.depends_on_the_machine(),
                };
            }
        }
    }
    report.phase(Phase::Preparing);
    match workload.prepare(candidate, running, store, report).await {
        Ok(running) => Attempt::Prepared(running),
        Err(error) => {
            report.artifact(
                &error.artifact,
                ArtifactState::Failed,
                Some(error.to_string()),
            );
            Attempt::Failed {
                reason: chain(&error),
                again_at_start: error.depends_on_the_machine(),
            }
        }
    }
}
