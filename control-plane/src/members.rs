//! Who belongs to the fleet: the nodes and the certificate that each of them holds now.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use fleet_api::ids::{Digest, NodeId};
use rustls::pki_types::CertificateDer;

/// The fleet's members, shared by everything that checks a certificate. A certificate counts only
/// while its node is a member and holds no newer one.
#[derive(Clone, Default)]
pub(crate) struct Members(Arc<RwLock<HashMap<NodeId, Digest>>>);

impl Members {
    /// Takes a node in, or gives it another certificate.
    pub(crate) fn admit(&self, node: NodeId, fingerprint: Digest) {
        let mut members = self.0.write().unwrap_or_else(PoisonError::into_inner);
        members.insert(node, fingerprint);
    }

    /// Takes a node out; its certificate counts no more.
    pub(crate) fn remove(&self, node: &NodeId) {
        let mut members = self.0.write().unwrap_or_else(PoisonError::into_inner);
        members.remove(node);
    }

    /// Whether `node` is a member.
    pub(crate) fn contains(&self, node: &NodeId) -> bool {
        let members = self.0.read().unwrap_or_else(PoisonError::into_inner);
        members.contains_key(node)
    }

    /// All members.
    pub(crate) fn all(&self) -> Vec<NodeId> {
        let members = self.0.read().unwrap_or_else(PoisonError::into_inner);
        members.keys().cloned().collect()
    }

    /// The member that holds the certificate a TLS client has shown and proved.
    pub(crate) fn holder(&self, shown: Option<&[CertificateDer<'_>]>) -> Option<NodeId> {
        let certificate = shown?.first()?;
        let node = common_name(certificate)?;
        let members = self.0.read().unwrap_or_else(PoisonError::into_inner);
        (*members.get(&node)? == fingerprint(certificate)).then_some(node)
    }
}

/// The digest under which a certificate is known.
pub(crate) fn fingerprint(certificate: &CertificateDer<'_>) -> Digest {
    Digest::of(certificate)
}

fn common_name(certificate: &CertificateDer<'_>) -> Option<NodeId> {
    let (_, parsed) = x509_parser::parse_x509_certificate(certificate).ok()?;
    let mut names = parsed.subject().iter_common_name();
    let name = names.next()?.as_str().ok()?;
    // A second name would leave open which of the two counts.
    names.next().is_none().then(|| NodeId::new(name).ok())?
}
