//! TLS of the data plane: a certificate and its key from files.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde::{Deserialize, Serialize};

/// Where the certificate and its key lie, both in PEM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, clap::Args)]
pub struct TlsFiles {
    /// Certificate of the data plane in PEM, the server's own first; HTTPS if it is given.
    #[arg(
        long = "tls-cert",
        value_name = "FILE",
        requires = "key",
        required = false
    )]
    pub cert: PathBuf,
    /// Private key of the certificate in PEM.
    #[arg(
        long = "tls-key",
        value_name = "FILE",
        requires = "cert",
        required = false
    )]
    pub key: PathBuf,
}

/// Why HTTPS cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read.
    #[error("read {path} for HTTPS")]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// A file holds something else.
    #[error("use {path} for HTTPS: it has no {wanted} in PEM")]
    NotPem {
        /// The file.
        path: PathBuf,
        /// What it should hold.
        wanted: &'static str,
    },
    /// Certificate and key do not fit together, or are of no known kind.
    #[error("use certificate {cert} with key {key} for HTTPS: {reason}")]
    Unusable {
        /// The certificate's file.
        cert: PathBuf,
        /// The key's file.
        key: PathBuf,
        /// What is wrong.
        reason: rustls::Error,
    },
}

impl TlsFiles {
    /// The server's side of TLS, for HTTP/2 and HTTP/1.1.
    ///
    /// # Errors
    /// [`TlsError`] with the file that is at fault.
    pub fn load(&self) -> Result<Arc<ServerConfig>, TlsError> {
        let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&read(&self.cert)?).collect();
        let chain = chain.ok().filter(|chain| !chain.is_empty());
        let chain = chain.ok_or_else(|| TlsError::NotPem {
            path: self.cert.clone(),
            wanted: "certificate",
        })?;
        let key = PrivateKeyDer::from_pem_slice(&read(&self.key)?);
        let key = key.map_err(|_| TlsError::NotPem {
            path: self.key.clone(),
            wanted: "private key",
        })?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .and_then(|config| config.with_no_client_auth().with_single_cert(chain, key));
        let mut config = config.map_err(|reason| TlsError::Unusable {
            cert: self.cert.clone(),
            key: self.key.clone(),
            reason,
        })?;
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(Arc::new(config))
    }
}

fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    fs::read(path).map_err(|source| TlsError::Read {
        path: path.to_owned(),
        source,
    })
}
