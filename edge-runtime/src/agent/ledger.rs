use std::path::PathBuf;

use fleet_api::artifact::PinnedArtifact;
use fleet_api::desired::Desired;
use fleet_api::reported::Outcome;
use serde::{Deserialize, Serialize};

use super::plan::LedgerView;
use crate::disk::write_durably;

/// What the node has decided, on disk before it acts.
#[derive(Debug)]
pub(crate) struct Ledger {
    path: PathBuf,
    state: State,
}

#[derive(Debug, Default, Clone, Serialize, Deserialize)]
struct State {
    v: u8,
    /// What serves.
    serving: Option<Desired>,
    /// What shall serve next.
    candidate: Option<Desired>,
    /// What served before; its artifacts are kept.
    previous: Option<Desired>,
    /// The newest generation that was begun.
    newest: u64,
    /// The newest epoch that was seen.
    epoch: u64,
    /// How the newest generation ended, if not well.
    failure: Option<Failure>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Failure {
    pub(crate) outcome: Outcome,
    pub(crate) reason: String,
    /// The generation, kept if the machine was at fault and a start may change that.
    again_at_start: Option<Desired>,
}

/// Why the ledger cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// It cannot be read or written.
    #[error("access the node's state at {path}")]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// It is damaged.
    #[error(
        "read the node's state at {path}: remove the file, and the node takes its state from the control plane anew"
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: serde_json::Error,
    },
}

impl Ledger {
    pub(crate) fn open(path: PathBuf) -> Result<Self, LedgerError> {
        let mut state: State = match std::fs::read(&path) {
            Ok(text) => serde_json::from_slice(&text).map_err(|source| LedgerError::Damaged {
                path: path.clone(),
                source,
            })?,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => State {
                v: 1,
                ..State::default()
            },
            Err(source) => return Err(LedgerError::Io { path, source }),
        };
        if let Some(failure) = &mut state.failure
            && let Some(again) = failure.again_at_start.take()
        {
            state.candidate = Some(again);
            state.failure = None;
        }
        Ok(Self { path, state })
    }

    pub(crate) fn serving(&self) -> Option<&Desired> {
        self.state.serving.as_ref()
    }

    pub(crate) fn candidate(&self) -> Option<&Desired> {
        self.state.candidate.as_ref()
    }

    pub(crate) fn failure(&self) -> Option<&Failure> {
        self.state.failure.as_ref()
    }

    pub(crate) fn newest(&self) -> u64 {
        self.state.newest
    }

    pub(crate) fn view(&self) -> LedgerView {
        LedgerView {
            newest: self.state.newest,
            epoch: self.state.epoch,
        }
    }

    /// What must stay on disk.
    pub(crate) fn referenced(&self) -> impl Iterator<Item = &PinnedArtifact> {
        [
            &self.state.serving,
            &self.state.candidate,
            &self.state.previous,
        ]
        .into_iter()
        .flatten()
        .flat_map(artifacts)
    }

    pub(crate) fn begin(&mut self, desired: Desired) -> Result<(), LedgerError> {
        self.change(|state| {
            // What served before may be begun again after a newer one has failed.
            state.newest = state.newest.max(desired.generation);
            state.epoch = state.epoch.max(desired.epoch);
            state.failure = None;
            state.candidate = Some(desired);
        })
    }

    pub(crate) fn commit(&mut self) -> Result<(), LedgerError> {
        self.change(|state| {
            if let Some(candidate) = state.candidate.take() {
                state.previous = state.serving.replace(candidate);
            }
            state.failure = None;
        })
    }

    /// Ends the candidate. Where the disk refuses this too, it holds until the next start:
    /// otherwise the node would take up a failed generation again and again.
    pub(crate) fn fail(
        &mut self,
        outcome: Outcome,
        reason: String,
        again_at_start: bool,
    ) -> Result<(), LedgerError> {
        let candidate = self.state.candidate.take();
        self.state.failure = Some(Failure {
            outcome,
            reason,
            again_at_start: candidate.filter(|_| again_at_start),
        });
        self.write(&self.state)
    }

    /// Changes the state on disk first, then in memory; a failure changes neither.
    fn change(&mut self, change: impl FnOnce(&mut State)) -> Result<(), LedgerError> {
        let mut next = self.state.clone();
        change(&mut next);
        self.write(&next)?;
        self.state = next;
        Ok(())
    }

    fn write(&self, state: &State) -> Result<(), LedgerError> {
        let text = serde_json::to_vec_pretty(state).expect("the state has only string keys");
        write_durably(&self.path, &text).map_err(|source| LedgerError::Io {
            path: self.path.clone(),
            source,
        })
    }
}

/// All artifacts of a desired state.
pub(crate) fn artifacts(desired: &Desired) -> impl Iterator<Item = &PinnedArtifact> {
    let handlers = desired.handlers.iter().map(|handler| &handler.artifact);
    handlers.chain(desired.models.iter().map(|model| &model.artifact))
}

#[cfg(test)]
mod tests {
    use fleet_api::ids::NodeId;

    use super::*;

    fn desired(generation: u64) -> Desired {
        Desired {
            v: 1,
            node: NodeId::new("n1").expect("valid"),
            generation,
            epoch: 1,
            handlers: Vec::new(),
            models: Vec::new(),
            streams: Vec::new(),
            sources: Vec::new(),
        }
    }

    #[test]
    fn takes_up_where_it_was_after_a_crash() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("state.json");
        let mut ledger = Ledger::open(path.clone()).expect("opens");
        ledger.begin(desired(3)).expect("written");
        let mut ledger = Ledger::open(path.clone()).expect("opens");
        assert_eq!(ledger.candidate().map(|d| d.generation), Some(3));
        ledger.commit().expect("written");
        ledger.begin(desired(4)).expect("written");
        ledger
            .fail(Outcome::FailedNoChange, "no".to_owned(), false)
            .expect("written");
        let ledger = Ledger::open(path).expect("opens");
        assert_eq!(ledger.serving().map(|d| d.generation), Some(3));
        assert!(ledger.candidate().is_none());
        assert_eq!(
            ledger.view(),
            LedgerView {
                newest: 4,
                epoch: 1
            }
        );
        assert_eq!(ledger.failure().map(|f| f.reason.as_str()), Some("no"));
    }

    #[test]
    fn fetching_the_old_generation_again_does_not_forget_that_a_newer_one_failed() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let mut ledger = Ledger::open(folder.path().join("state.json")).expect("opens");
        ledger.begin(desired(3)).expect("written");
        ledger.commit().expect("written");
        ledger.begin(desired(4)).expect("written");
        ledger
            .fail(Outcome::FailedNoChange, "no".to_owned(), false)
            .expect("written");
        ledger.begin(desired(3)).expect("written");
        assert_eq!(ledger.view().newest, 4);
    }

    #[test]
    fn a_failure_of_the_machine_is_tried_again_at_the_next_start() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("state.json");
        let mut ledger = Ledger::open(path.clone()).expect("opens");
        ledger.begin(desired(1)).expect("written");
        ledger
            .fail(Outcome::FailedNoChange, "no library".to_owned(), true)
            .expect("written");
        assert!(ledger.candidate().is_none());
        let ledger = Ledger::open(path).expect("opens");
        assert_eq!(ledger.candidate().map(|d| d.generation), Some(1));
    }

    #[test]
    fn what_the_disk_refuses_does_not_serve() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let gone = folder.path().join("gone");
        std::fs::create_dir(&gone).expect("created");
        let mut ledger = Ledger::open(gone.join("state.json")).expect("opens");
        ledger.begin(desired(1)).expect("written");
        std::fs::remove_dir_all(&gone).expect("removed");
        assert!(ledger.commit().is_err());
        assert!(ledger.serving().is_none());
        assert_eq!(ledger.candidate().map(|d| d.generation), Some(1));
        let reason = "disk".to_owned();
        assert!(ledger.fail(Outcome::FailedNoChange, reason, true).is_err());
        assert!(ledger.candidate().is_none(), "it would be tried for ever");
        assert!(ledger.begin(desired(2)).is_err());
        assert_eq!(ledger.view().newest, 1);
    }

    #[test]
    fn a_damaged_ledger_says_what_to_do() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("state.json");
        std::fs::write(&path, "{").expect("written");
        let error = Ledger::open(path).expect_err("refused").to_string();
        assert!(error.contains("remove the file"), "{error}");
    }
}
