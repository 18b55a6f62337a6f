//! What a node has promised about its data folder, and the records that prove it.

use std::collections::BTreeMap;

use anyhow::Result;
use serde::{Deserialize, Serialize};

use crate::dice::Dice;

/// The stream whose records a processor works on, and the one it writes to: one record for
/// each of its input, so that sequences are alike.
pub const PROCESSED: [&str; 2] = ["raw", "made"];
/// The processor's name.
pub const PROCESSOR: &str = "pass";
/// The handler whose values are kept.
pub const KEEPER: &str = "keeper";

/// One acknowledgement.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Ack {
    /// Records of a stream up to and with this sequence are stored.
    Stored {
        /// The stream.
        stream: String,
        /// Epoch of the buffer.
        epoch: u64,
        /// The last sequence.
        last: u64,
    },
    /// Records up to this one may be freed from now on. Noted before it is asked for.
    Freed {
        /// The stream.
        stream: String,
        /// The last sequence.
        last: u64,
    },
    /// The processor has finished its input up to this sequence.
    Processed {
        /// The last sequence.
        last: u64,
    },
    /// A value is kept; values of a key only grow.
    Kept {
        /// The key.
        key: String,
        /// The value.
        value: u64,
    },
}

impl Ack {
    /// As text for the log.
    ///
    /// # Errors
    /// Never.
    pub fn text(&self) -> Result<String> {
        Ok(serde_json::to_string(self)?)
    }
}

/// All that was acknowledged so far.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Promised {
    /// Epoch of the buffer, once something is stored in it.
    pub epoch: Option<u64>,
    /// Last acknowledged sequence per stream.
    pub stored: BTreeMap<String, u64>,
    /// Last sequence that may be gone per stream.
    pub freed: BTreeMap<String, u64>,
    /// The processor's cursor.
    pub processed: u64,
    /// Values by key.
    pub kept: BTreeMap<String, u64>,
}

impl Promised {
    /// Adds an acknowledgement.
    ///
    /// # Errors
    /// If the text is none.
    pub fn add(&mut self, text: &str) -> Result<()> {
        let more = |map: &mut BTreeMap<String, u64>, key: String, value: u64| {
            let known = map.entry(key).or_default();
            *known = value.max(*known);
        };
        match serde_json::from_str(text)? {
            Ack::Stored {
                stream,
                epoch,
                last,
            } => {
                self.epoch = Some(epoch);
                more(&mut self.stored, stream, last);
            }
            Ack::Freed { stream, last } => more(&mut self.freed, stream, last),
            Ack::Processed { last } => self.processed = self.processed.max(last),
            Ack::Kept { key, value } => more(&mut self.kept, key, value),
        }
        Ok(())
    }

    /// Records that were acknowledged.
    pub fn records(&self) -> u64 {
        self.stored.values().sum()
    }
}

/// The record that has this sequence in this stream: JSON of a size that differs from record
/// to record, now and then larger than a frame.
pub fn record(stream: &str, seq: u64) -> String {
    let name = stream.bytes().fold(7, |sum, b| sum * 31 + u64::from(b));
    let mut dice = Dice::new(seq ^ (name << 40));
    let letters = match dice.below(200) {
        0 => 7_000 + dice.below(30_000),
        1..=9 => 1_000 + dice.below(4_000),
        _ => dice.below(300),
    };
    let mut fill = String::new();
    while (fill.len() as u64) < letters {
        fill.push_str(&format!("{:016x}", dice.any()));
    }
    format!("{{\"stream\":\"{stream}\",\"seq\":{seq},\"fill\":\"{fill}\"}}")
}

/// What an examination of a data folder has found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    /// Why the folder cannot be used, if so.
    pub unopenable: Option<String>,
    /// Whether it was opened and failed only later, so that the next start may set it aside.
    pub failed_late: bool,
    /// Acknowledged records, values or steps that are not there, each kind with a sentence.
    pub lost: Vec<String>,
    /// What is there and should not: changed, doubled, out of order.
    pub wrong: Vec<String>,
    /// Records that were read.
    pub records: u64,
    /// Sequences that gap records name.
    pub gaps: u64,
    /// Whether a damaged buffer was set aside.
    pub new_epoch: bool,
}

impl Verdict {
    /// Whether nothing is lost or wrong.
    pub fn is_good(&self) -> bool {
        self.unopenable.is_none() && self.lost.is_empty() && self.wrong.is_empty()
    }
}
