//! Digests for requests to S3, by the ring that TLS uses too.

use object_store::client::{
    CryptoProvider, DigestAlgorithm, DigestContext, HmacContext, Signer, SigningAlgorithm,
};
use object_store::{Error, Result};
use ring::{digest, hmac};

/// What S3's signatures need.
#[derive(Debug)]
pub(super) struct Signing;

struct Digest {
    context: digest::Context,
    value: Option<digest::Digest>,
}

struct Hmac {
    context: hmac::Context,
    value: Option<hmac::Tag>,
}

impl CryptoProvider for Signing {
    fn digest(&self, algorithm: DigestAlgorithm) -> Result<Box<dyn DigestContext>> {
        match algorithm {
            DigestAlgorithm::Sha256 => Ok(Box::new(Digest {
                context: digest::Context::new(&digest::SHA256),
                value: None,
            })),
            _ => Err(unknown("digest")),
        }
    }

    fn hmac(&self, algorithm: DigestAlgorithm, secret: &[u8]) -> Result<Box<dyn HmacContext>> {
        match algorithm {
            DigestAlgorithm::Sha256 => Ok(Box::new(Hmac {
                context: hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, secret)),
                value: None,
            })),
            _ => Err(unknown("HMAC")),
        }
    }

    fn sign(&self, _: SigningAlgorithm, _: &[u8]) -> Result<Box<dyn Signer>> {
        Err(unknown("signature"))
    }
}

impl DigestContext for Digest {
    fn update(&mut self, data: &[u8]) {
        self.context.update(data);
    }

    fn finish(&mut self) -> Result<&[u8]> {
        let value = self.context.clone().finish();
        Ok(digest::Digest::as_ref(self.value.insert(value)))
    }
}

impl HmacContext for Hmac {
    fn update(&mut self, data: &[u8]) {
        self.context.update(data);
    }

    fn finish(&mut self) -> Result<&[u8]> {
        let value = self.context.clone().sign();
        Ok(hmac::Tag::as_ref(self.value.insert(value)))
    }
}

fn unknown(what: &str) -> Error {
    Error::NotSupported {
        source: format!("S3 asks for another kind of {what}").into(),
    }
}
