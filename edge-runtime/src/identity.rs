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
    folder: PathBuf,
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
        let tls = tls(folder, &folder.join("ca.pem"))?;
        Ok(Self {
            node: place.node,
            url: place.url,
            mqtt_host: place.mqtt_host,
            mqtt_port: place.mqtt_port,
            tls: Arc::new(tls),
            folder: folder.to_owned(),
        })
    }

    /// TLS with the node's certificate, trusting the CAs in the file `ca` alone.
    ///
    /// # Errors
    /// [`IdentityError`] if the file or the identity cannot be used.
    pub fn tls_trusting(&self, ca: &Path) -> Result<Arc<rustls::ClientConfig>, IdentityError> {
        tls(&self.folder, ca).map(Arc::new)
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

/// TLS with the certificate in `folder`, trusting the certificate in the file `ca`.
fn tls(folder: &Path, ca: &Path) -> Result<rustls::ClientConfig, IdentityError> {
    let damaged = |path: &Path| {
        let path = path.to_owned();
        move |e: rustls::pki_types::pem::Error| match e {
            rustls::pki_types::pem::Error::Io(source) => IdentityError::Io { path, source },
            e => IdentityError::Damaged {
                path,
                detail: e.to_string(),
            },
        }
    };
    let (node, key) = (folder.join("node.pem"), folder.join("node.key"));
    let ca = CertificateDer::from_pem_file(ca).map_err(damaged(ca))?;
    let chain = CertificateDer::from_pem_file(&node).map_err(damaged(&node))?;
    let key = PrivateKeyDer::from_pem_file(&key).map_err(damaged(&key))?;
    Ok(client_config(&ca)?.with_client_auth_cert(vec![chain], key)?)
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
