use serde::{Deserialize, Serialize};

/// Bytes before the position that are remembered, to know the file by.
const BEFORE_BYTES: usize = 64;

/// How far a file has been read, and which file that was.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Position {
    /// The file's device and inode: they stay when it is renamed.
    pub file: (u64, u64),
    /// Bytes that are records by now.
    pub offset: u64,
    /// What stands right before, in case that another file got the same inode
    /// or the file was written anew.
    pub before: Vec<u8>,
    /// The columns' names, of a CSV file.
    pub header: Option<Vec<String>>,
}

impl Position {
    /// The start of a file.
    pub(super) fn start_of(file: (u64, u64)) -> Self {
        Self {
            file,
            ..Self::default()
        }
    }

    /// The position behind `consumed` bytes that follow this one.
    pub(super) fn behind(&self, consumed: &[u8], header: Option<Vec<String>>) -> Self {
        let mut before = self.before.clone();
        before.extend_from_slice(consumed);
        let from = before.len().saturating_sub(BEFORE_BYTES);
        Self {
            file: self.file,
            offset: self.offset + consumed.len() as u64,
            before: before.split_off(from),
            header,
        }
    }

    pub(super) fn note(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("a position has only string keys")
    }

    /// None if the note cannot be read; then the file is read from its start.
    pub(super) fn from_note(note: &[u8]) -> Option<Self> {
        let position = serde_json::from_slice(note);
        position
            .inspect_err(|error| tracing::warn!(%error, "cannot read how far a file was read"))
            .ok()
    }
}
