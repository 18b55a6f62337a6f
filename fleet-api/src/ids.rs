use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Why a string is not an identifier.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} {value:?} is not valid: {rule}")]
pub struct IdError {
    what: &'static str,
    value: String,
    rule: &'static str,
}

macro_rules! string_id {
    ($(#[$doc:meta])* $name:ident, $what:literal, $rule:literal, $check:expr) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[cfg_attr(feature = "openapi", derive(utoipa::ToSchema), schema(value_type = String))]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// Checks the string against the identifier's rule.
            ///
            /// # Errors
            /// [`IdError`] with the rule that the value breaks.
            pub fn new(value: impl Into<String>) -> Result<Self, IdError> {
                let value = value.into();
                let check: fn(&str) -> bool = $check;
                if check(&value) {
                    Ok(Self(value))
                } else {
                    Err(IdError { what: $what, value, rule: $rule })
                }
            }

            /// The identifier as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl TryFrom<String> for $name {
            type Error = IdError;
            fn try_from(value: String) -> Result<Self, IdError> {
                Self::new(value)
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> String {
                id.0
            }
        }

        impl FromStr for $name {
            type Err = IdError;
            fn from_str(value: &str) -> Result<Self, IdError> {
                Self::new(value)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl std::borrow::Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }
    };
}

string_id!(
    /// A gateway's id: the common name of its certificate and its place in MQTT topics.
    NodeId,
    "node id",
    "use 1 to 63 lower-case letters, digits and inner hyphens",
    |s| is_label(s, |c| c == b'-')
);
string_id!(
    /// The name of a handler, model or deployment; also an OCI repository component.
    Name,
    "name",
    "use 1 to 63 lower-case letters and digits, separated by single '-', '_' or '.'",
    |s| is_label(s, |c| matches!(c, b'-' | b'_' | b'.')) && !has_double_separator(s)
);
string_id!(
    /// The name of a stream of records; one level of an MQTT topic.
    StreamName,
    "stream name",
    "use 1 to 63 lower-case letters and digits, separated by single '-', '_' or '.'",
    |s| is_label(s, |c| matches!(c, b'-' | b'_' | b'.')) && !has_double_separator(s)
);
string_id!(
    /// A version: an OCI tag.
    Version,
    "version",
    "use 1 to 128 letters, digits, '.', '_' or '-', the first a letter, digit or '_'",
    |s| (1..=128).contains(&s.len())
        && s.bytes().all(|c| c.is_ascii_alphanumeric() || matches!(c, b'.' | b'_' | b'-'))
        && !s.starts_with(['.', '-'])
);
string_id!(
    /// A content digest, `sha256:` and 64 lower-case hexadecimal digits.
    Digest,
    "digest",
    "use sha256: and 64 lower-case hexadecimal digits",
    |s| s.strip_prefix("sha256:").is_some_and(|hex| {
        hex.len() == 64 && hex.bytes().all(|c| c.is_ascii_digit() || (b'a'..=b'f').contains(&c))
    })
);

impl StreamName {
    /// Where records of this stream go that its processor cannot process, `<stream>.dead`;
    /// none where that would be too long for a name.
    pub fn dead_letters(&self) -> Option<Self> {
        Self::new(format!("{self}.dead")).ok()
    }
}

impl Digest {
    /// The digest of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        use sha2::Digest as _;
        Self::from_sha256(&sha2::Sha256::digest(bytes))
    }

    /// A digest from the 32 bytes of a SHA-256 sum.
    pub fn from_sha256(sum: &[u8]) -> Self {
        use fmt::Write as _;
        let mut text = String::with_capacity(71);
        text.push_str("sha256:");
        for byte in sum {
            write!(text, "{byte:02x}").expect("writing to a String cannot fail");
        }
        Self(text)
    }

    /// The hexadecimal part.
    pub fn hex(&self) -> &str {
        &self.0["sha256:".len()..]
    }
}

fn is_label(s: &str, inner: fn(u8) -> bool) -> bool {
    let bytes = s.as_bytes();
    let edge = |c: &u8| c.is_ascii_lowercase() || c.is_ascii_digit();
    (1..=63).contains(&bytes.len())
        && bytes.first().is_some_and(edge)
        && bytes.last().is_some_and(edge)
        && bytes.iter().all(|c| edge(c) || inner(*c))
}

fn has_double_separator(s: &str) -> bool {
    let separator = |c: &u8| matches!(c, b'-' | b'_' | b'.');
    s.as_bytes().windows(2).any(|w| w.iter().all(separator))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_names_that_break_topics_or_repositories() {
        for bad in [
            "",
            "A",
            "a/b",
            "a+",
            "#",
            "-a",
            "a-",
            "a..b",
            "a b",
            &"x".repeat(64),
        ] {
            assert!(Name::new(bad).is_err(), "{bad:?}");
            assert!(StreamName::new(bad).is_err(), "{bad:?}");
        }
        for bad in ["n_1", "n.1", "N1", ""] {
            assert!(NodeId::new(bad).is_err(), "{bad:?}");
        }
        for good in ["a", "line-3", "plant7"] {
            assert!(NodeId::new(good).is_ok() && Name::new(good).is_ok());
        }
    }

    #[test]
    fn digests_are_lower_case_hexadecimal() {
        let digest = Digest::of(b"");
        assert_eq!(
            digest.as_str(),
            "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
        );
        assert_eq!(Digest::new(digest.as_str()), Ok(digest.clone()));
        assert!(Digest::new(digest.as_str().to_uppercase()).is_err());
        assert_eq!(digest.hex().len(), 64);
    }

    #[test]
    fn says_which_rule_a_value_breaks() {
        let error = NodeId::new("Gate 1").expect_err("spaces are refused");
        assert_eq!(
            error.to_string(),
            "node id \"Gate 1\" is not valid: use 1 to 63 lower-case letters, digits and inner hyphens"
        );
    }
}
