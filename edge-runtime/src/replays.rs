//! Replays: recorded ranges of a stream run through another version of its
//! processor, apart from production, and compared with the version that serves.
//!
//! ```text
//!  control ─ replays ─► task ─ one after the other ─► run: range ─► both versions ─► comparison
//!     ▲                  │ ledger: begun, ended                        (own instances, own values,
//!     └──── replayed ────┘                                              half of one core)
//! ```
//!
//! A replay changes nothing: what it puts out is compared and dropped. It is
//! written down before it begins, so that one that stops the node is begun a
//! few times and then reported as failed.

mod compare;
mod ledger;
mod run;

use std::path::PathBuf;

use fleet_api::desired::Envelope;
use fleet_api::ids::{Name, NodeId};
use fleet_api::replay::{
    MOST_REPLAYS, ReplayReport, ReplayResult, ReplaySpec, ReplayState, Replayed, Replays,
};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

pub use self::run::ReplayParts;

use self::ledger::Ledger;
use self::run::ReplayError;
use crate::causes::chain;

/// The way to the replays' task.
#[derive(Debug, Clone)]
pub struct ReplaysHandle {
    asked: mpsc::Sender<Envelope>,
    replayed: watch::Receiver<Replayed>,
}

impl ReplaysHandle {
    /// Hands in the replays that the node shall run; repeated ones do no harm.
    pub async fn offer(&self, envelope: Envelope) {
        // Without a receiver the node is stopping, and the document comes again after the start.
        let _ = self.asked.send(envelope).await;
    }

    /// What has come of them, always the latest.
    pub fn replayed(&self) -> watch::Receiver<Replayed> {
        self.replayed.clone()
    }
}

/// Owns the node's replays.
pub struct ReplaysTask {
    node: NodeId,
    parts: ReplayParts,
    ledger: Ledger,
    asked: mpsc::Receiver<Envelope>,
    replayed: watch::Sender<Replayed>,
    /// What shall run, in order.
    specs: Vec<ReplaySpec>,
    /// What runs.
    current: Option<(Name, CancellationToken)>,
}

type Ended = (Name, Result<ReplayResult, ReplayError>);

impl ReplaysTask {
    /// A task whose ledger lies at `path`.
    pub fn new(node: NodeId, path: PathBuf, parts: ReplayParts) -> (Self, ReplaysHandle) {
        let ledger = Ledger::open(path);
        let (sender, asked) = mpsc::channel(4);
        let (replayed, watched) = watch::channel(Replayed {
            v: 1,
            node: node.clone(),
            replays: ledger.reports().to_vec(),
        });
        let handle = ReplaysHandle {
            asked: sender,
            replayed: watched,
        };
        let task = Self {
            node,
            parts,
            ledger,
            asked,
            replayed,
            specs: Vec::new(),
            current: None,
        };
        (task, handle)
    }

    /// Runs until `stop`.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut running: JoinSet<Ended> = JoinSet::new();
        loop {
            if self.current.is_none() {
                self.begin_next(&mut running, &stop);
            }
            tokio::select! {
                () = stop.cancelled() => {
                    // What runs is not written down as ended: it is begun again at the next start.
                    running.shutdown().await;
                    return;
                }
                Some(envelope) = self.asked.recv() => self.consider(&envelope),
                Some(ended) = running.join_next() => {
                    let current = self.current.take();
                    match ended {
                        Ok((id, result)) => self.end(&id, result.map_err(|error| chain(&error))),
                        Err(error) => {
                            tracing::error!(%error, "a replay's task has failed");
                            if let Some((id, _)) = current {
                                self.end(&id, Err("the node failed while it ran".to_owned()));
                            }
                        }
                    }
                }
            }
        }
    }

    fn consider(&mut self, envelope: &Envelope) {
        let asked = match envelope.open_replays() {
            Ok(asked) => asked,
            Err(error) => {
                return tracing::warn!(error = chain(&error), "refuse a list of replays");
            }
        };
        let Replays {
            node,
            epoch,
            replays,
            ..
        } = asked;
        if node != self.node || epoch < self.ledger.epoch() {
            tracing::warn!(%node, epoch, "refuse a list of replays that is for another node, or old");
            return;
        }
        self.specs = replays;
        self.specs.truncate(MOST_REPLAYS);
        if let Some((id, cancel)) = &self.current
            && !self.specs.iter().any(|spec| spec.id == *id)
        {
            cancel.cancel();
        }
        let known = self.ledger.reports();
        let reports = self.specs.iter().map(|spec| {
            let report = known.iter().find(|report| report.id == spec.id);
            report.cloned().unwrap_or_else(|| ReplayReport {
                id: spec.id.clone(),
                state: ReplayState::Waiting,
                attempt: 0,
                reason: None,
                result: None,
            })
        });
        let reports = reports.collect();
        self.keep(epoch, reports);
    }

    /// Begins the first replay that has not ended, once that is written down.
    fn begin_next(&mut self, running: &mut JoinSet<Ended>, stop: &CancellationToken) {
        let reports = self.ledger.reports();
        let waits = |spec: &&ReplaySpec| {
            let report = reports.iter().find(|report| report.id == spec.id);
            report.is_some_and(|report| !report.state.is_final())
        };
        let Some(spec) = self.specs.iter().find(waits).cloned() else {
            return;
        };
        let begun = self.change(&spec.id, |report| {
            report.attempt += 1;
            report.state = ReplayState::Preparing;
        });
        if !begun {
            return;
        }
        tracing::info!(replay = %spec.id, stream = %spec.stream, "begin a replay");
        let cancel = stop.child_token();
        self.current = Some((spec.id.clone(), cancel.clone()));
        let (parts, replayed) = (self.parts.clone(), self.replayed.clone());
        running.spawn(async move {
            let id = spec.id.clone();
            let tell = |state, result| {
                replayed.send_modify(|replayed| {
                    if let Some(report) = replayed.replays.iter_mut().find(|r| r.id == id) {
                        (report.state, report.result) = (state, result);
                    }
                });
            };
            let result = run::run(&parts, &spec, &cancel, tell).await;
            (id, result)
        });
    }

    fn end(&mut self, id: &Name, result: Result<ReplayResult, String>) {
        match &result {
            Ok(result) => {
                tracing::info!(replay = %id, records = result.records, "a replay is done")
            }
            Err(reason) => tracing::warn!(replay = %id, reason, "a replay has failed"),
        }
        self.change(id, |report| match result {
            Ok(result) => {
                report.state = ReplayState::Done;
                report.result = Some(result);
            }
            Err(reason) => {
                report.state = ReplayState::Failed;
                report.reason = Some(reason);
                report.result = None;
            }
        });
    }

    /// Changes a report if it is still known; false if the disk refuses.
    fn change(&mut self, id: &Name, change: impl FnOnce(&mut ReplayReport)) -> bool {
        let mut reports = self.ledger.reports().to_vec();
        let Some(report) = reports.iter_mut().find(|report| report.id == *id) else {
            return true;
        };
        change(report);
        self.keep(self.ledger.epoch(), reports)
    }

    /// Writes the reports down and tells them.
    fn keep(&mut self, epoch: u64, reports: Vec<ReplayReport>) -> bool {
        let kept = self.ledger.keep(epoch, reports);
        if let Err(error) = &kept {
            tracing::error!(%error, "cannot write the replays down; none is begun");
            self.specs.clear();
        }
        let reports = self.ledger.reports().to_vec();
        self.replayed.send_if_modified(|replayed| {
            let differs = replayed.replays != reports;
            replayed.replays = reports;
            differs
        });
        kept.is_ok()
    }
}
