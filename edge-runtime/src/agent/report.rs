use fleet_api::artifact::PinnedArtifact;
use fleet_api::desired::Desired;
use fleet_api::ids::NodeId;
use fleet_api::reported::{ArtifactReport, ArtifactState, Outcome, Phase, Reported};
use tokio::sync::watch;

use super::ledger::{Ledger, artifacts};
use crate::clock::unix_ms;

/// What the node tells of itself, kept up to date while it works.
#[derive(Debug)]
pub(crate) struct Report {
    latest: watch::Sender<Reported>,
}

impl Report {
    pub(crate) fn new(node: NodeId, ledger: &Ledger) -> Self {
        let serving = ledger.serving();
        let failure = ledger.failure();
        let reported = Reported {
            v: 1,
            node,
            generation: ledger.newest(),
            serving_generation: serving.map_or(0, |desired| desired.generation),
            phase: match serving {
                Some(_) if failure.is_none() => Phase::Committed,
                _ => Phase::Idle,
            },
            result: match failure {
                Some(failure) => Some(failure.outcome),
                None => serving.map(|_| Outcome::Succeeded),
            },
            reason: failure.map(|failure| failure.reason.clone()),
            artifacts: serving.map(pending).unwrap_or_default(),
            time_ms: unix_ms(),
        };
        Self {
            latest: watch::Sender::new(reported),
        }
    }

    pub(crate) fn subscribe(&self) -> watch::Receiver<Reported> {
        self.latest.subscribe()
    }

    pub(crate) fn begin(&mut self, candidate: &Desired) {
        self.change(|reported| {
            reported.generation = candidate.generation;
            reported.phase = Phase::Fetching;
            reported.result = None;
            reported.reason = None;
            reported.artifacts = pending(candidate);
        });
    }

    pub(crate) fn phase(&mut self, phase: Phase) {
        self.change(|reported| reported.phase = phase);
    }

    /// The attempt waits for something outside, and goes on by itself.
    pub(crate) fn waiting(&mut self, reason: String) {
        self.change(|reported| reported.reason = Some(reason));
    }

    pub(crate) fn artifact(
        &mut self,
        artifact: &PinnedArtifact,
        state: ArtifactState,
        reason: Option<String>,
    ) {
        self.change(|reported| {
            for report in &mut reported.artifacts {
                if report.artifact == *artifact {
                    report.state = state;
                    report.reason.clone_from(&reason);
                }
            }
        });
    }

    pub(crate) fn committed(&mut self, generation: u64) {
        self.change(|reported| {
            reported.serving_generation = generation;
            reported.phase = Phase::Committed;
            reported.result = Some(Outcome::Succeeded);
            reported.reason = None;
            for report in &mut reported.artifacts {
                report.state = ArtifactState::Serving;
                report.reason = None;
            }
        });
    }

    pub(crate) fn finished(&mut self, outcome: Outcome, reason: String) {
        self.change(|reported| {
            reported.phase = Phase::Idle;
            reported.result = Some(outcome);
            reported.reason = Some(reason);
        });
    }

    pub(crate) fn rejected(&mut self, reason: String) {
        self.change(|reported| {
            reported.result = Some(Outcome::Rejected);
            reported.reason = Some(reason);
        });
    }

    fn change(&mut self, change: impl FnOnce(&mut Reported)) {
        self.latest.send_if_modified(|reported| {
            let before = reported.clone();
            change(reported);
            if *reported == before {
                return false;
            }
            reported.time_ms = unix_ms();
            true
        });
    }
}

fn pending(desired: &Desired) -> Vec<ArtifactReport> {
    artifacts(desired)
        .map(|artifact| ArtifactReport {
            artifact: artifact.clone(),
            state: ArtifactState::Pending,
            reason: None,
        })
        .collect()
}
