use std::path::PathBuf;

use fleet_api::replay::{ReplayReport, ReplayState};
use serde::{Deserialize, Serialize};

use crate::disk::write_durably;

/// Times that a replay is begun before it counts as what stops the node.
const ATTEMPTS: u32 = 3;

/// What the node knows of its replays, on disk before it acts.
#[derive(Debug)]
pub(super) struct Ledger {
    path: PathBuf,
    state: State,
}

#[derive(Debug, Default, Clone, Serialize, Deserialize)]
struct State {
    v: u8,
    /// The newest epoch of the control plane that was seen.
    epoch: u64,
    replays: Vec<ReplayReport>,
}

impl Ledger {
    /// Opens it; one that cannot be read is begun anew, because a replay changes nothing.
    pub(super) fn open(path: PathBuf) -> Self {
        let read = std::fs::read(&path).ok();
        let state = read.and_then(|text| match serde_json::from_slice(&text) {
            Ok(state) => Some(state),
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "forget replays that cannot be read");
                None
            }
        });
        let mut state: State = state.unwrap_or_default();
        state.v = 1;
        for report in &mut state.replays {
            if report.state.is_final() {
                continue;
            }
            report.result = None;
            report.state = ReplayState::Waiting;
            if report.attempt >= ATTEMPTS {
                report.state = ReplayState::Failed;
                report.reason = Some(format!(
                    "the node stopped {ATTEMPTS} times while it ran: it is not begun again"
                ));
            }
        }
        Self { path, state }
    }

    pub(super) fn epoch(&self) -> u64 {
        self.state.epoch
    }

    pub(super) fn reports(&self) -> &[ReplayReport] {
        &self.state.replays
    }

    /// Replaces what is known, on disk first.
    pub(super) fn keep(&mut self, epoch: u64, reports: Vec<ReplayReport>) -> std::io::Result<()> {
        let state = State {
            v: 1,
            epoch,
            replays: reports,
        };
        let text = serde_json::to_vec(&state).expect("a report has only string keys");
        write_durably(&self.path, &text)?;
        self.state = state;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replay_that_stops_the_node_again_and_again_has_failed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("replays.json");
        let mut report = ReplayReport {
            id: "r1".parse().unwrap(),
            state: ReplayState::Running,
            attempt: 2,
            reason: None,
            result: None,
        };
        let mut ledger = Ledger::open(path.clone());
        ledger.keep(4, vec![report.clone()]).unwrap();
        let mut ledger = Ledger::open(path.clone());
        assert_eq!(ledger.epoch(), 4);
        assert_eq!(ledger.reports()[0].state, ReplayState::Waiting);
        report.attempt = 3;
        ledger.keep(4, vec![report.clone()]).unwrap();
        let again = Ledger::open(path.clone());
        assert_eq!(again.reports()[0].state, ReplayState::Failed);
        report.state = ReplayState::Done;
        ledger.keep(4, vec![report]).unwrap();
        assert_eq!(
            Ledger::open(path.clone()).reports()[0].state,
            ReplayState::Done
        );
        std::fs::write(&path, "{").unwrap();
        assert!(Ledger::open(path).reports().is_empty());
    }
}
