//! Small values that other parts keep in the buffer, to change them in one
//! commit with records and cursors.

use std::collections::BTreeMap;

use tokio::sync::oneshot;

use super::writer::{Command, Queued};
use super::{AppendError, Streams};
use crate::buffer::{BufferError, Note};

/// Notes to write or, with none, to remove, by their keys.
pub(crate) type Notes = BTreeMap<Vec<u8>, Option<Vec<u8>>>;

impl Streams {
    /// All notes whose key begins with `prefix`, in order of their keys. Blocks.
    ///
    /// # Errors
    /// [`BufferError`] if the store cannot be read.
    pub(crate) fn notes(&self, prefix: &[u8]) -> Result<Vec<Note>, BufferError> {
        self.inner.shared.store.notes(prefix)
    }

    /// Changes notes; the answer comes once they are durable.
    pub(crate) fn write_notes(
        &self,
        notes: Notes,
        queued: Queued,
    ) -> oneshot::Receiver<Result<(), AppendError>> {
        let (reply, answer) = oneshot::channel();
        self.send(Command::Notes {
            notes,
            reply,
            queued: Some(queued),
        });
        answer
    }

    /// Changes notes and waits until they are durable. Blocks; for starts only.
    ///
    /// # Errors
    /// [`BufferError`] if the store has failed.
    pub(crate) fn write_notes_now(&self, notes: Notes) -> Result<(), BufferError> {
        let (reply, answer) = oneshot::channel();
        self.send(Command::Notes {
            notes,
            reply,
            queued: None,
        });
        match answer.blocking_recv() {
            Ok(Ok(())) => Ok(()),
            Ok(Err(AppendError::Buffer(error))) => Err(error),
            Ok(Err(error)) => Err(BufferError::Failed(error.to_string())),
            Err(_) => Err(BufferError::Failed("its writer has ended".to_owned())),
        }
    }
}

/// Bytes of all keys and values.
pub(super) fn bytes(notes: &Notes) -> usize {
    notes
        .iter()
        .map(|(key, value)| key.len() + value.as_ref().map_or(0, Vec::len))
        .sum()
}
