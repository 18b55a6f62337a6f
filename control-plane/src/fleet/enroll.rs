use fleet_api::ids::{Digest, NodeId};
use fleet_api::labels::Labels;
use fleet_api::rest::EnrollRequest;
use fleet_api::token::JoinToken;

use super::store::{StoreError, within};
use super::{FleetHandle, is_requests_fault};
use crate::authority::AuthorityError;
use crate::clock::now_ms;
use crate::members::fingerprint;
use crate::secret::random;

/// Why a node may not join.
#[derive(Debug, thiserror::Error)]
pub(crate) enum EnrollError {
    /// Nobody made this token.
    #[error("the join token is not known here: make a new one with `edgectl token create`")]
    UnknownToken,
    /// Its time is over.
    #[error("the join token has expired: make a new one with `edgectl token create`")]
    ExpiredToken,
    /// It has been used as often as it may.
    #[error("the join token has been used already: make a new one with `edgectl token create`")]
    UsedToken,
    /// The id is taken.
    #[error(
        "node {0} has joined already: give this one another id, or remove the old one first with `edgectl delete node {0}`"
    )]
    Taken(NodeId),
    /// The certificate request is not one.
    #[error("the certificate request is not valid: {0}")]
    Request(AuthorityError),
    /// No certificate can be made.
    #[error(transparent)]
    Authority(AuthorityError),
    /// The store does not answer.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// A node that has joined.
pub(crate) struct Enrolled {
    pub(crate) certificate_pem: String,
    pub(crate) ca_pem: String,
}

impl FleetHandle {
    /// Makes a join token's secret, of which only the digest is kept.
    pub(crate) async fn create_token(
        &self,
        labels: &Labels,
        expires_ms: u64,
        uses: u32,
    ) -> Result<Vec<u8>, StoreError> {
        let token = JoinToken {
            url: String::new(),
            ca: Digest::of(&[]),
            secret: random::<32>().to_vec(),
        };
        let digest = JoinToken::digest_of(&token.bearer());
        self.0
            .store
            .keep_token(&digest, labels, expires_ms, uses)
            .await?;
        Ok(token.secret)
    }

    /// Takes a node in. The token is used up only if this succeeds.
    pub(crate) async fn enroll(
        &self,
        bearer: &str,
        request: &EnrollRequest,
    ) -> Result<Enrolled, EnrollError> {
        let digest = JoinToken::digest_of(bearer);
        let node = &request.node;
        let certificate_pem = {
            let _turn = self.0.turn.lock().await;
            let mut change = self.0.store.change().await?;
            let token = within::token(&mut change, &digest)
                .await?
                .ok_or(EnrollError::UnknownToken)?;
            if token.used >= token.uses {
                return Err(EnrollError::UsedToken);
            }
            if token.expires_ms <= now_ms() {
                return Err(EnrollError::ExpiredToken);
            }
            if within::has_node(&mut change, node).await? {
                return Err(EnrollError::Taken(node.clone()));
            }
            let certificate = self
                .0
                .authority
                .node_certificate(node, &request.csr_pem, self.0.node_life)
                .map_err(|e| {
                    if is_requests_fault(&e) {
                        EnrollError::Request(e)
                    } else {
                        EnrollError::Authority(e)
                    }
                })?;
            let fingerprint = fingerprint(&certificate.der);
            within::add_node(&mut change, node, &token.labels, &fingerprint).await?;
            within::use_token(&mut change, &digest).await?;
            change.commit().await.map_err(StoreError::from)?;
            self.0.members.admit(node.clone(), fingerprint);
            tracing::info!(%node, "a node has joined");
            certificate.pem
        };
        // The node is in, whatever comes of the planning; the next change plans again.
        let _ = self.replan_all().await.inspect_err(|error| {
            tracing::error!(%node, %error, "could not plan for a node that has joined");
        });
        Ok(Enrolled {
            certificate_pem,
            ca_pem: self.0.authority.ca_pem().to_owned(),
        })
    }
}
