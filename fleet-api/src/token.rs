use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::ids::Digest;

const PREFIX: &str = "edge1";

/// What a new node needs to join: where, the CA to expect, and a secret. Written
/// `edge1.<url>.<ca digest>.<secret>` with url and secret in base64url.
#[derive(Clone, PartialEq, Eq)]
pub struct JoinToken {
    /// URL of the control plane.
    pub url: String,
    /// Digest of the CA certificate in DER.
    pub ca: Digest,
    /// The secret; the control plane keeps only its digest.
    pub secret: Vec<u8>,
}

/// A text that is no join token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "the join token is not whole: copy all of what `edgectl token create` printed, from edge1. to the end"
)]
pub struct TokenError;

impl JoinToken {
    /// The secret as it travels in the Authorization header.
    pub fn bearer(&self) -> String {
        URL_SAFE_NO_PAD.encode(&self.secret)
    }

    /// The digest of a bearer secret, under which the control plane keeps a token.
    pub fn digest_of(bearer: &str) -> Digest {
        Digest::of(bearer.as_bytes())
    }
}

impl fmt::Debug for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JoinToken")
            .field("url", &self.url)
            .field("ca", &self.ca)
            .finish_non_exhaustive()
    }
}

impl fmt::Display for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let url = URL_SAFE_NO_PAD.encode(&self.url);
        write!(f, "{PREFIX}.{url}.{}.{}", self.ca.hex(), self.bearer())
    }
}

impl FromStr for JoinToken {
    type Err = TokenError;
    fn from_str(text: &str) -> Result<Self, TokenError> {
        let parts: Vec<_> = text.trim().split('.').collect();
        let [PREFIX, url, ca, secret] = parts[..] else {
            return Err(TokenError);
        };
        let decode = |part: &str| URL_SAFE_NO_PAD.decode(part).map_err(|_| TokenError);
        let secret = decode(secret)?;
        if secret.len() < 16 {
            return Err(TokenError);
        }
        Ok(Self {
            url: String::from_utf8(decode(url)?).map_err(|_| TokenError)?,
            ca: Digest::new(format!("sha256:{ca}")).map_err(|_| TokenError)?,
            secret,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn survives_the_way_through_a_terminal() {
        let token = JoinToken {
            url: "https://127.0.0.1:8443".to_owned(),
            ca: Digest::of(b"ca"),
            secret: vec![7; 24],
        };
        let text = token.to_string();
        assert_eq!(format!(" {text}\n").parse(), Ok(token.clone()));
        assert_eq!(
            text[..text.len() - 12].parse::<JoinToken>(),
            Err(TokenError)
        );
        assert!(!format!("{token:?}").contains(&token.bearer()));
    }
}
