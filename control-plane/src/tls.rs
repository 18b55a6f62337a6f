use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};

use crate::authority::{Authority, AuthorityError};

/// Why TLS cannot be offered.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// No certificate.
    #[error(transparent)]
    Authority(#[from] AuthorityError),
    /// The TLS library refuses what it is given.
    #[error("set TLS up: {0}")]
    Rustls(#[from] rustls::Error),
    /// A file of the configuration cannot be used.
    #[error("use {}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: rustls::pki_types::pem::Error,
    },
    /// The client verifier refuses what it is given.
    #[error("set the check of client certificates up: {0}")]
    Verifier(#[from] rustls::server::VerifierBuilderError),
}

/// TLS for both listeners, under one certificate.
pub(crate) struct Tls {
    /// HTTPS: a client certificate is checked if one is shown.
    pub(crate) https: Arc<ServerConfig>,
    /// MQTT: without a client certificate of the fleet's CA there is no connection.
    pub(crate) mqtt: Arc<ServerConfig>,
}

/// TLS as a client of a broker that is not ours: with the certificates and key in the given
/// files, else a certificate of our own CA, for a broker whose certificate comes from the CA in
/// the given file, else from our own.
pub(crate) fn of_client(
    authority: &Authority,
    ca: Option<&Path>,
    identity: Option<(&Path, &Path)>,
) -> Result<Arc<ClientConfig>, TlsError> {
    let file = |path: &Path| {
        let path = path.to_owned();
        move |source| TlsError::File { path, source }
    };
    let mut roots = RootCertStore::empty();
    match ca {
        Some(ca) => {
            for certificate in CertificateDer::pem_file_iter(ca).map_err(file(ca))? {
                roots.add(certificate.map_err(file(ca))?)?;
            }
        }
        None => roots.add(authority.ca().clone())?,
    }
    let (chain, key) = match identity {
        Some((chain, key)) => (
            CertificateDer::pem_file_iter(chain)
                .and_then(Iterator::collect)
                .map_err(file(chain))?,
            PrivateKeyDer::from_pem_file(key).map_err(file(key))?,
        ),
        None => authority.client_certificate()?,
    };
    let provider = Arc::new(ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_client_auth_cert(chain, key)?;
    Ok(Arc::new(config))
}

impl Tls {
    /// TLS for a process that is reached by `host`.
    pub(crate) fn new(authority: &Authority, host: &str) -> Result<Self, TlsError> {
        let mut names: Vec<String> = ["127.0.0.1", "::1", "localhost"].map(String::from).into();
        let hostname = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        for name in [host, hostname.trim()] {
            if !name.is_empty() && !names.iter().any(|known| known == name) {
                names.push(name.to_owned());
            }
        }
        let (chain, key) = authority.server_certificate(names)?;
        let mut roots = RootCertStore::empty();
        roots.add(authority.ca().clone())?;
        let roots = Arc::new(roots);
        let provider = Arc::new(ring::default_provider());
        let verifier = || {
            WebPkiClientVerifier::builder_with_provider(Arc::clone(&roots), Arc::clone(&provider))
        };
        let config =
            |verifier, chain: Vec<CertificateDer<'static>>, key: PrivateKeyDer<'static>| {
                ServerConfig::builder_with_provider(Arc::clone(&provider))
                    .with_safe_default_protocol_versions()?
                    .with_client_cert_verifier(verifier)
                    .with_single_cert(chain, key)
            };
        let mut https = config(
            verifier().allow_unauthenticated().build()?,
            chain.clone(),
            key.clone_key(),
        )?;
        https.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let mqtt = config(verifier().build()?, chain, key)?;
        Ok(Self {
            https: Arc::new(https),
            mqtt: Arc::new(mqtt),
        })
    }
}
