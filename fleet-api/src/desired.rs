use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::artifact::{PinnedArtifact, Reference};
use crate::deployment::{Ack, Allow, Isolation, Limits, OnFull, Route, default_keep};
use crate::ids::{Name, NodeId, StreamName};
use crate::model::ModelOptions;
use crate::replay::{self, Replays};
use crate::source::Source;
use crate::units::{ByteSize, Span};

/// The payload type of an [`Envelope`] around a [`Desired`].
pub const PAYLOAD_TYPE: &str = "application/vnd.edge.desired.v1+json";

/// Everything that one node shall run: whole, never a diff.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Desired {
    /// Version of this document's form, 1.
    pub v: u8,
    /// The node it is for.
    pub node: NodeId,
    /// Grows with every change; a node never goes back.
    pub generation: u64,
    /// Fences a deposed control plane.
    pub epoch: u64,
    /// Handlers, for HTTP and for streams.
    pub handlers: Vec<DesiredHandler>,
    /// Models.
    pub models: Vec<DesiredModel>,
    /// Streams.
    pub streams: Vec<StreamSpec>,
    /// Where the node gets records from by itself.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sources: Vec<Source>,
}

/// A handler on a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct DesiredHandler {
    /// The component.
    pub artifact: PinnedArtifact,
    /// The deployment that owns it.
    pub deployment: Name,
    /// Where it serves HTTP; none for a stream processor.
    pub route: Option<Route>,
    /// Bounds on what one request may use.
    pub limits: Limits,
    /// What it may reach.
    pub allow: Allow,
    /// What wasi:config answers.
    pub config: BTreeMap<String, String>,
    /// What wasi:config answers too: key and name of the node's secret.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub secrets: BTreeMap<String, Name>,
    /// Whether requests share instances.
    pub isolation: Isolation,
}

/// A model on a node.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct DesiredModel {
    /// The ONNX file.
    pub artifact: PinnedArtifact,
    /// The deployment that owns it.
    pub deployment: Name,
    /// Whether requests that name no version go to this one.
    #[serde(default)]
    pub default: bool,
    /// How it runs.
    #[serde(default)]
    pub options: ModelOptions,
}

/// A stream on a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct StreamSpec {
    /// The stream's name.
    pub name: StreamName,
    /// Most bytes it may hold.
    pub quota: ByteSize,
    /// What happens when it is full.
    pub on_full: OnFull,
    /// 0 to 9; a higher one is forwarded first.
    pub priority: u8,
    /// How long a record is kept at most.
    pub ttl: Option<Span>,
    /// How long a record stays readable once its receiver has it, while there is room.
    #[serde(default = "default_keep")]
    pub keep: Span,
    /// Who releases a record.
    pub ack: Ack,
    /// The handler that works on its batches.
    pub processor: Option<Reference>,
}

impl StreamSpec {
    /// A stream with the defaults of a deployment's `[[stream]]`.
    pub fn named(name: StreamName) -> Self {
        Self {
            name,
            quota: ByteSize(256 << 20),
            on_full: OnFull::default(),
            priority: 4,
            ttl: None,
            keep: default_keep(),
            ack: Ack::default(),
            processor: None,
        }
    }
}

/// A DSSE envelope (secure-systems-lab/dsse v1): a payload and who signed it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct Envelope {
    /// What the payload is, [`PAYLOAD_TYPE`].
    pub payload_type: String,
    /// The payload in base64.
    pub payload: String,
    /// Signatures over type and payload; none yet.
    pub signatures: Vec<Signature>,
}

/// One signature of an [`Envelope`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Signature {
    /// Which key signed.
    pub keyid: String,
    /// The signature in base64.
    pub sig: String,
}

/// Why an envelope cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum EnvelopeError {
    /// The payload is of a type that is not understood.
    #[error("payload type {0:?} is not {1:?}")]
    PayloadType(String, &'static str),
    /// The payload is not base64.
    #[error("the payload is not base64")]
    Base64(#[source] base64::DecodeError),
    /// The payload is not the document that its type names.
    #[error("the payload is not what its type says")]
    Json(#[source] serde_json::Error),
    /// The document has a form that this version does not know.
    #[error("a document of form {0} is newer than this runtime understands: update the runtime")]
    Version(u8),
}

impl Envelope {
    /// Wraps a desired state.
    pub fn wrap(desired: &Desired) -> Self {
        Self::seal(PAYLOAD_TYPE, desired)
    }

    /// Wraps the replays of a node.
    pub fn wrap_replays(replays: &Replays) -> Self {
        Self::seal(replay::PAYLOAD_TYPE, replays)
    }

    /// Opens the envelope.
    ///
    /// # Errors
    /// [`EnvelopeError`] if type, encoding, form or content are not as expected.
    pub fn open(&self) -> Result<Desired, EnvelopeError> {
        self.unseal(PAYLOAD_TYPE)
    }

    /// Opens an envelope around the replays of a node.
    ///
    /// # Errors
    /// [`EnvelopeError`] if type, encoding, form or content are not as expected.
    pub fn open_replays(&self) -> Result<Replays, EnvelopeError> {
        self.unseal(replay::PAYLOAD_TYPE)
    }

    fn seal<T: Serialize>(payload_type: &str, document: &T) -> Self {
        let payload = serde_json::to_vec(document).expect("the document has only string keys");
        Self {
            payload_type: payload_type.to_owned(),
            payload: STANDARD.encode(payload),
            signatures: Vec::new(),
        }
    }

    fn unseal<T: DeserializeOwned>(&self, expected: &'static str) -> Result<T, EnvelopeError> {
        if self.payload_type != expected {
            let found = self.payload_type.clone();
            return Err(EnvelopeError::PayloadType(found, expected));
        }
        let payload = STANDARD
            .decode(&self.payload)
            .map_err(EnvelopeError::Base64)?;
        #[derive(Deserialize)]
        struct Form {
            v: u8,
        }
        let form: Form = serde_json::from_slice(&payload).map_err(EnvelopeError::Json)?;
        if form.v != 1 {
            return Err(EnvelopeError::Version(form.v));
        }
        serde_json::from_slice(&payload).map_err(EnvelopeError::Json)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn empty() -> Desired {
        Desired {
            v: 1,
            node: NodeId::new("n1").expect("valid"),
            generation: 7,
            epoch: 1,
            handlers: Vec::new(),
            models: Vec::new(),
            streams: vec![StreamSpec::named(
                StreamName::new("vibration").expect("valid"),
            )],
            sources: Vec::new(),
        }
    }

    #[test]
    fn an_envelope_opens_to_what_was_wrapped() {
        let envelope = Envelope::wrap(&empty());
        assert_eq!(envelope.open().expect("opens"), empty());
    }

    #[test]
    fn refuses_foreign_and_newer_documents() {
        let mut foreign = Envelope::wrap(&empty());
        foreign.payload_type = "text/plain".to_owned();
        assert!(matches!(
            foreign.open(),
            Err(EnvelopeError::PayloadType(..))
        ));
        let newer = Envelope::wrap(&Desired { v: 2, ..empty() });
        assert!(matches!(newer.open(), Err(EnvelopeError::Version(2))));
    }
}
