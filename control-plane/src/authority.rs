//! The fleet's certificate authority. Its key never leaves the data folder.

use std::path::{Path, PathBuf};

use fleet_api::ids::NodeId;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName,
    DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, PublicKeyData,
    SerialNumber,
};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

use crate::data_dir::DataDir;
use crate::secret::{random, write_durably};

/// Why the authority cannot work.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// A file of the authority cannot be read or written.
    #[error("keep the CA's file {}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// A file of the authority is damaged.
    #[error("read the CA's file {}: it is damaged", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
    },
    /// A certificate request is not one.
    #[error("read the certificate request: {0}")]
    Request(#[source] rcgen::Error),
    /// A certificate cannot be made.
    #[error("make a certificate: {0}")]
    Make(#[source] rcgen::Error),
}

/// The certificate authority.
pub(crate) struct Authority {
    ca_pem: String,
    ca: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    /// Reads the authority, or makes it at the first start.
    pub(crate) fn open(data: &DataDir) -> Result<Self, AuthorityError> {
        let (certificate, key) = (data.ca().join("ca.pem"), data.ca().join("ca.key"));
        if !certificate.exists() {
            let (pem, key_pem) = make_ca().map_err(AuthorityError::Make)?;
            write(&key, key_pem.as_bytes(), 0o600)?;
            write(&data.ca().join("director.key"), &make_director()?, 0o600)?;
            write(&certificate, pem.as_bytes(), 0o644)?;
        }
        let damaged = |path: &Path| AuthorityError::Damaged {
            path: path.to_owned(),
        };
        let ca_pem = read(&certificate)?;
        let key_pair = KeyPair::from_pem(&read(&key)?).map_err(|_| damaged(&key))?;
        let ca =
            CertificateDer::from_pem_slice(ca_pem.as_bytes()).map_err(|_| damaged(&certificate))?;
        let issuer = Issuer::from_ca_cert_der(&ca, key_pair).map_err(|_| damaged(&certificate))?;
        Ok(Self { ca_pem, ca, issuer })
    }

    /// The CA's certificate in PEM.
    pub(crate) fn ca_pem(&self) -> &str {
        &self.ca_pem
    }

    /// The CA's certificate in DER.
    pub(crate) fn ca(&self) -> &CertificateDer<'static> {
        &self.ca
    }

    /// A certificate and key for this process under `names`; made anew at each start, so that
    /// a new name needs no care.
    pub(crate) fn server_certificate(
        &self,
        names: Vec<String>,
    ) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), AuthorityError> {
        self.own_certificate(names, ExtendedKeyUsagePurpose::ServerAuth)
    }

    /// A certificate and key by which this process shows another that it is the control plane.
    pub(crate) fn client_certificate(
        &self,
    ) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), AuthorityError> {
        self.own_certificate(Vec::new(), ExtendedKeyUsagePurpose::ClientAuth)
    }

    fn own_certificate(
        &self,
        names: Vec<String>,
        purpose: ExtendedKeyUsagePurpose,
    ) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), AuthorityError> {
        let key = KeyPair::generate().map_err(AuthorityError::Make)?;
        let mut params = CertificateParams::new(names).map_err(AuthorityError::Make)?;
        common(
            &mut params,
            "control-plane",
            SignedDuration::from_hours(24 * 730),
        );
        params.extended_key_usages = vec![purpose];
        let certificate = params
            .signed_by(&key, &self.issuer)
            .map_err(AuthorityError::Make)?;
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
        Ok((vec![certificate.der().clone(), self.ca.clone()], key))
    }

    /// A certificate for `node`: of the request only the public key is taken, after its
    /// signature has proved that the sender holds the private key.
    pub(crate) fn node_certificate(
        &self,
        node: &NodeId,
        request_pem: &str,
        life: SignedDuration,
    ) -> Result<NodeCertificate, AuthorityError> {
        let request = CertificateSigningRequestParams::from_pem(request_pem)
            .map_err(AuthorityError::Request)?;
        let mut params = CertificateParams::default();
        common(&mut params, node.as_str(), life);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let certificate = params
            .signed_by(&request.public_key, &self.issuer)
            .map_err(AuthorityError::Make)?;
        tracing::debug!(%node, key_bytes = request.public_key.der_bytes().len(), "issued a certificate");
        Ok(NodeCertificate {
            pem: certificate.pem(),
            der: certificate.der().clone(),
        })
    }
}

/// A certificate as a node gets it.
pub(crate) struct NodeCertificate {
    pub(crate) pem: String,
    pub(crate) der: CertificateDer<'static>,
}

fn make_ca() -> Result<(String, String), rcgen::Error> {
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::default();
    common(
        &mut params,
        "edge fleet CA",
        SignedDuration::from_hours(24 * 3650),
    );
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let certificate = params.self_signed(&key)?;
    Ok((certificate.pem(), key.serialize_pem()))
}

/// The key by which desired states will be signed; made now so that nodes which join today can
/// pin it later.
fn make_director() -> Result<Vec<u8>, AuthorityError> {
    let key = KeyPair::generate_for(&rcgen::PKCS_ED25519).map_err(AuthorityError::Make)?;
    Ok(key.serialize_pem().into_bytes())
}

fn common(params: &mut CertificateParams, name: &str, life: SignedDuration) {
    let now = Timestamp::now();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.use_authority_key_identifier_extension = true;
    params.serial_number = Some(SerialNumber::from_slice(&positive(random::<16>())));
    let moment = |at: Timestamp| {
        let at = at.to_zoned(TimeZone::UTC).datetime();
        let day = rcgen::date_time_ymd(
            at.year().into(),
            at.month().unsigned_abs(),
            at.day().unsigned_abs(),
        );
        let seconds = 3600 * at.hour().unsigned_abs() as u64
            + 60 * at.minute().unsigned_abs() as u64
            + at.second().unsigned_abs() as u64;
        day + std::time::Duration::from_secs(seconds)
    };
    // A gateway's clock may be a day behind.
    params.not_before = moment(now - SignedDuration::from_hours(24));
    params.not_after = moment(now + life);
}

/// RFC 5280 wants serial numbers positive.
fn positive(mut serial: [u8; 16]) -> [u8; 16] {
    serial[0] = (serial[0] & 0x7f) | 0x40;
    serial
}

fn write(path: &Path, bytes: &[u8], mode: u32) -> Result<(), AuthorityError> {
    write_durably(path, bytes, mode).map_err(|source| AuthorityError::File {
        path: path.to_owned(),
        source,
    })
}

fn read(path: &Path) -> Result<String, AuthorityError> {
    std::fs::read_to_string(path).map_err(|source| AuthorityError::File {
        path: path.to_owned(),
        source,
    })
}
