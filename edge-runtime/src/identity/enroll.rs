use std::path::PathBuf;
use std::time::Duration;

use fleet_api::ids::{Digest, NodeId};
use fleet_api::rest::{EnrollRequest, EnrollResponse, ErrorBody};
use fleet_api::token::JoinToken;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;

use super::{IdentityError, Place, client_config, https};
use crate::data_dir::DataDir;
use crate::disk::{write_durably, write_secret_durably};

/// Why a node could not join.
#[derive(Debug, thiserror::Error)]
pub enum EnrollError {
    /// It has joined before.
    #[error(
        "this data folder already belongs to node {node} of {url}: use another folder, or remove {path} to join anew"
    )]
    AlreadyEnrolled {
        /// The node it belongs to.
        node: NodeId,
        /// Its control plane.
        url: String,
        /// The folder to remove.
        path: PathBuf,
    },
    /// The control plane does not answer.
    #[error(
        "reach the control plane at {url}: is it running, and does the address lead to it from here?"
    )]
    Unreachable {
        /// Where it should be.
        url: String,
        /// What the client library says.
        source: reqwest::Error,
    },
    /// Somebody else answers at its address.
    #[error(
        "{url} shows CA {found}, but the token was made for {expected}: get a new token from the control plane that you mean"
    )]
    WrongCa {
        /// Who answered.
        url: String,
        /// The digest of the CA it shows.
        found: Digest,
        /// The digest in the token.
        expected: Digest,
    },
    /// The control plane refuses.
    #[error("{message}")]
    Refused {
        /// Its reason.
        message: String,
    },
    /// The answer makes no sense.
    #[error("understand the control plane's answer: {0}")]
    Answer(String),
    /// A key or request could not be made.
    #[error("make a key")]
    Key(#[from] rcgen::Error),
    /// The identity cannot be kept.
    #[error(transparent)]
    Identity(#[from] IdentityError),
}

/// Joins the control plane that `token` names, as `node`, and keeps the identity in `data`.
/// The key never leaves the node.
///
/// # Errors
/// [`EnrollError`]; nothing is written then.
pub async fn enroll(
    data: &DataDir,
    token: &JoinToken,
    node: NodeId,
) -> Result<NodeId, EnrollError> {
    let folder = data.identity();
    let place_file = folder.join("node.json");
    if let Ok(text) = std::fs::read(&place_file)
        && let Ok(place) = serde_json::from_slice::<Place>(&text)
    {
        return Err(EnrollError::AlreadyEnrolled {
            node: place.node,
            url: place.url,
            path: folder,
        });
    }
    let ca_pem = pinned_ca(token).await?;
    let ca = CertificateDer::from_pem_slice(ca_pem.as_bytes())
        .map_err(|e| EnrollError::Answer(e.to_string()))?;
    let key = rcgen::KeyPair::generate()?;
    let mut params = rcgen::CertificateParams::new(Vec::<String>::new())?;
    params.distinguished_name = rcgen::DistinguishedName::new();
    params
        .distinguished_name
        .push(rcgen::DnType::CommonName, node.as_str());
    let csr_pem = params.serialize_request(&key)?.pem()?;

    let tls = client_config(&ca)
        .map_err(IdentityError::from)?
        .with_no_client_auth();
    let unreachable = |source| EnrollError::Unreachable {
        url: token.url.clone(),
        source,
    };
    let answer = https(tls)
        .map_err(unreachable)?
        .post(format!("{}/api/v1/enroll", token.url))
        .bearer_auth(token.bearer())
        .json(&EnrollRequest { node, csr_pem })
        .send()
        .await
        .map_err(unreachable)?;
    let status = answer.status();
    let body = answer.bytes().await.map_err(unreachable)?;
    if !status.is_success() {
        let message = serde_json::from_slice::<ErrorBody>(&body).map_or_else(
            |_| format!("the control plane answered {status}"),
            |e| e.error.message,
        );
        return Err(EnrollError::Refused { message });
    }
    let joined: EnrollResponse =
        serde_json::from_slice(&body).map_err(|e| EnrollError::Answer(e.to_string()))?;

    let keep = |name: &str, secret: bool, bytes: &[u8]| {
        let path = folder.join(name);
        let written = if secret {
            write_secret_durably(&path, bytes)
        } else {
            write_durably(&path, bytes)
        };
        written.map_err(|source| IdentityError::Io { path, source })
    };
    keep("ca.pem", false, ca_pem.as_bytes())?;
    keep("node.key", true, key.serialize_pem().as_bytes())?;
    keep("node.pem", false, joined.certificate_pem.as_bytes())?;
    // Last, for its presence says that the node has joined.
    let place = Place {
        node: joined.node.clone(),
        url: token.url.clone(),
        mqtt_host: joined.mqtt_host,
        mqtt_port: joined.mqtt_port,
    };
    let place =
        serde_json::to_vec_pretty(&place).map_err(|e| EnrollError::Answer(e.to_string()))?;
    keep("node.json", false, &place)?;
    Ok(joined.node)
}

/// Asks for the CA and accepts it only if its digest is the token's.
async fn pinned_ca(token: &JoinToken) -> Result<String, EnrollError> {
    let unreachable = |source| EnrollError::Unreachable {
        url: token.url.clone(),
        source,
    };
    // Whoever answers, only a certificate with the token's digest is believed.
    let client = reqwest::Client::builder()
        .tls_danger_accept_invalid_certs(true)
        .no_proxy()
        .timeout(Duration::from_secs(10))
        .build()
        .map_err(unreachable)?;
    let answer = client
        .get(format!("{}/api/v1/ca", token.url))
        .send()
        .await
        .and_then(reqwest::Response::error_for_status)
        .map_err(unreachable)?;
    let pem = answer.text().await.map_err(unreachable)?;
    let der = CertificateDer::from_pem_slice(pem.as_bytes())
        .map_err(|e| EnrollError::Answer(e.to_string()))?;
    let found = Digest::of(&der);
    if found != token.ca {
        return Err(EnrollError::WrongCa {
            url: token.url.clone(),
            found,
            expected: token.ca.clone(),
        });
    }
    Ok(pem)
}
