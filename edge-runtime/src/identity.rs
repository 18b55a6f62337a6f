//! Who the node is: its certificate, its key, and the control plane it belongs to.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use fleet_api::ids::NodeId;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde::{Deserialize, Serialize};

mod enroll;

pub use enroll::{EnrollError, enroll};

/// A node's identity, as enrolment left it in the data folder.
#[derive(Debug, Clone)]
pub struct Identity {
    /// The node's id.
    pub node: NodeId,
    /// URL of the control plane.
    pub url: String,
    /// Host of the MQTT broker.
    pub mqtt_host: String,
    /// Port of the MQTT broker.
    pub mqtt_port: u16,
    /// TLS with the node's certificate, trusting the pinned CA alone.
    pub tls: Arc<rustls::ClientConfig>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Place {
    node: NodeId,
    url: String,
    mqtt_host: String,
    mqtt_port: u16,
}

/// Why there is no usable identity.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The node has never joined.
    #[error(
        "this node has not joined a control plane: run `edge-runtime enroll --data-dir {data_dir} --node ID --token TOKEN` first"
    )]
    NotEnrolled {
        /// The data folder.
        data_dir: PathBuf,
    },
    /// A file cannot be read or written.
    #[error("access {path}")]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// A file's content is damaged.
    #[error("{path} is damaged: {detail}; enrol the node again")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        detail: String,
    },
    /// Certificate and key cannot be used together.
    #[error("use the node's certificate")]
    Tls(#[from] rustls::Error),
}

impl Identity {
    /// Loads the identity from `folder`, the data folder's `identity/`.
    ///
    /// # Errors
    /// [`IdentityError`], which says how to join where the node has not.
    pub fn load(folder: &Path) -> Result<Self, IdentityError> {
        let place_file = folder.join("node.json");
        let text = match std::fs::read(&place_file) {
            Ok(text) => text,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                let data_dir = folder.parent().unwrap_or(folder).to_owned();
                return Err(IdentityError::NotEnrolled { data_dir });
            }
            Err(source) => {
                return Err(IdentityError::Io {
                    path: place_file,
                    source,
                });
            }
        };
        let place: Place = serde_json::from_slice(&text).map_err(|e| IdentityError::Damaged {
            path: place_file,
            detail: e.to_string(),
        })?;
        let damaged = |name: &str| {
            let path = folder.join(name);
            move |e: rustls::pki_types::pem::Error| IdentityError::Damaged {
                path,
                detail: e.to_string(),
            }
        };
        let ca = CertificateDer::from_pem_file(folder.join("ca.pem")).map_err(damaged("ca.pem"))?;
        let chain =
            CertificateDer::from_pem_file(folder.join("node.pem")).map_err(damaged("node.pem"))?;
        let key =
            PrivateKeyDer::from_pem_file(folder.join("node.key")).map_err(damaged("node.key"))?;
        let tls = client_config(&ca)?.with_client_auth_cert(vec![chain], key)?;
        Ok(Self {
            node: place.node,
            url: place.url,
            mqtt_host: place.mqtt_host,
            mqtt_port: place.mqtt_port,
            tls: Arc::new(tls),
        })
    }

    /// An HTTPS client that shows the node's certificate.
    ///
    /// # Errors
    /// What the client library says; it does not happen with a loaded identity.
    pub fn https(&self) -> Result<reqwest::Client, reqwest::Error> {
        https(rustls::ClientConfig::clone(&self.tls))
    }
}

fn https(tls: rustls::ClientConfig) -> Result<reqwest::Client, reqwest::Error> {
    reqwest::Client::builder()
        .tls_backend_preconfigured(tls)
        .https_only(true)
        .no_proxy()
        .connect_timeout(std::time::Duration::from_secs(5))
        .read_timeout(std::time::Duration::from_secs(20))
        .build()
}

fn client_config(
    ca: &CertificateDer<'_>,
) -> Result<
    rustls::ConfigBuilder<rustls::ClientConfig, rustls::client::WantsClientCert>,
    rustls::Error,
> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(ca.clone().into_owned())?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    Ok(rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots))
}
