use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use reqwest::Client;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;

/// A client for plain HTTP on loopback.
///
/// # Errors
/// If the client cannot be built.
pub fn plain() -> Result<Client> {
    provider();
    Ok(Client::builder()
        .no_proxy()
        .timeout(Duration::from_secs(30))
        .build()?)
}

/// A client that trusts only the CA in `file`.
///
/// # Errors
/// If the CA cannot be read.
pub fn pinned(file: &Path) -> Result<Client> {
    let tls = rustls::ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots(file)?)
        .with_no_client_auth();
    let builder = Client::builder().tls_backend_preconfigured(tls).no_proxy();
    Ok(builder.timeout(Duration::from_secs(30)).build()?)
}

/// The CA certificates in a PEM file.
///
/// # Errors
/// If the file cannot be read or holds something else.
pub fn roots(file: &Path) -> Result<rustls::RootCertStore> {
    let pem = std::fs::read(file).with_context(|| format!("{} cannot be read", file.display()))?;
    let mut roots = rustls::RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&pem) {
        roots.add(certificate?)?;
    }
    Ok(roots)
}

/// The cryptography that all clients use, also made the process's default.
pub fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    // Whoever was first has installed the same.
    let _ = rustls::crypto::ring::default_provider().install_default();
    Arc::new(rustls::crypto::ring::default_provider())
}
