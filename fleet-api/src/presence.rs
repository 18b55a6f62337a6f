use serde::{Deserialize, Serialize};

use crate::ids::NodeId;
use crate::labels::Labels;

/// A node's birth, and the will that tells of its death; retained on MQTT.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Presence {
    /// Version of this document's form, 1.
    pub v: u8,
    /// The node.
    pub node: NodeId,
    /// True in a birth, false in a death.
    pub online: bool,
    /// Number of the connection; a death counts only for the birth with the same number
    /// (Sparkplug B 3.0, bdSeq).
    pub bd_seq: u64,
    /// Drawn anew at each start of the runtime.
    pub boot_id: String,
    /// The runtime's version.
    pub version: String,
    /// What the node can do.
    pub capabilities: Capabilities,
    /// Labels that the node gave itself in its configuration.
    #[serde(default)]
    pub labels: Labels,
    /// Where the node's data plane listens, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub listen: Option<String>,
    /// When the connection was made, in milliseconds since the Unix epoch, by the node's clock.
    pub time_ms: u64,
}

/// What a node can do.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Capabilities {
    /// Processor architecture, such as `aarch64`.
    pub arch: String,
    /// Processors that the runtime may use.
    pub cores: u32,
    /// Worlds that handlers may have.
    pub worlds: Vec<String>,
    /// Whether ONNX Runtime is there.
    pub inference: bool,
}

impl Presence {
    /// Whether this message may replace `known`: a death only ends its own birth.
    pub fn supersedes(&self, known: Option<&Self>) -> bool {
        match known {
            None => true,
            Some(known) if self.online => {
                self.boot_id != known.boot_id || self.bd_seq >= known.bd_seq
            }
            Some(known) => self.boot_id == known.boot_id && self.bd_seq == known.bd_seq,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn presence(online: bool, bd_seq: u64, boot: &str) -> Presence {
        Presence {
            v: 1,
            node: NodeId::new("n1").expect("valid"),
            online,
            bd_seq,
            boot_id: boot.to_owned(),
            version: String::new(),
            capabilities: Capabilities::default(),
            labels: Labels::new(),
            listen: None,
            time_ms: 0,
        }
    }

    #[test]
    fn a_late_will_does_not_end_a_newer_birth() {
        let birth = presence(true, 4, "a");
        assert!(presence(false, 4, "a").supersedes(Some(&birth)));
        assert!(!presence(false, 3, "a").supersedes(Some(&birth)));
        assert!(!presence(false, 4, "b").supersedes(Some(&birth)));
        assert!(presence(true, 0, "b").supersedes(Some(&birth)));
        assert!(presence(true, 5, "a").supersedes(Some(&birth)));
        assert!(!presence(true, 3, "a").supersedes(Some(&birth)));
    }
}
