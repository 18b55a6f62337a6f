use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A node's labels, such as `site=plant-07`.
pub type Labels = BTreeMap<String, String>;

/// Why a label or a selector cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LabelError {
    /// A term of the selector is not one of the known forms.
    #[error(
        "selector term {0:?} is not valid: write key=value, key!=value, key or !key, separated by commas, or * for every node"
    )]
    Term(String),
    /// A label is not `key=value`.
    #[error(
        "label {0:?} is not valid: write key=value with letters, digits, '-', '_', '.' and '/'"
    )]
    Label(String),
}

/// Which nodes a deployment is for: terms that must all hold.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Selector {
    terms: Vec<Term>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Term {
    Is(String, String),
    IsNot(String, String),
    Has(String),
    HasNot(String),
}

impl Selector {
    /// Whether every term holds for `labels`; `*` holds for all.
    pub fn matches(&self, labels: &Labels) -> bool {
        self.terms.iter().all(|term| match term {
            Term::Is(key, value) => labels.get(key) == Some(value),
            Term::IsNot(key, value) => labels.get(key) != Some(value),
            Term::Has(key) => labels.contains_key(key),
            Term::HasNot(key) => !labels.contains_key(key),
        })
    }
}

impl FromStr for Selector {
    type Err = LabelError;
    fn from_str(text: &str) -> Result<Self, LabelError> {
        if text.trim() == "*" {
            return Ok(Self { terms: Vec::new() });
        }
        let terms = text
            .split(',')
            .map(|term| Term::parse(term.trim()))
            .collect::<Result<_, _>>()?;
        Ok(Self { terms })
    }
}

impl Term {
    fn parse(text: &str) -> Result<Self, LabelError> {
        let bad = || LabelError::Term(text.to_owned());
        let checked = |part: &str| is_word(part).then(|| part.to_owned()).ok_or_else(bad);
        if let Some((key, value)) = text.split_once("!=") {
            Ok(Self::IsNot(checked(key.trim())?, checked(value.trim())?))
        } else if let Some((key, value)) = text.split_once('=') {
            Ok(Self::Is(checked(key.trim())?, checked(value.trim())?))
        } else if let Some(key) = text.strip_prefix('!') {
            Ok(Self::HasNot(checked(key)?))
        } else {
            Ok(Self::Has(checked(text)?))
        }
    }
}

/// Reads one `key=value`.
///
/// # Errors
/// [`LabelError::Label`] where a part is missing or has other characters.
pub fn parse_label(text: &str) -> Result<(String, String), LabelError> {
    text.split_once('=')
        .filter(|(key, value)| is_word(key) && is_word(value))
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .ok_or_else(|| LabelError::Label(text.to_owned()))
}

fn is_word(text: &str) -> bool {
    (1..=63).contains(&text.len())
        && text
            .bytes()
            .all(|c| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'_' | b'.' | b'/'))
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.terms.is_empty() {
            return f.write_str("*");
        }
        for (i, term) in self.terms.iter().enumerate() {
            if i > 0 {
                f.write_str(",")?;
            }
            match term {
                Term::Is(key, value) => write!(f, "{key}={value}")?,
                Term::IsNot(key, value) => write!(f, "{key}!={value}")?,
                Term::Has(key) => write!(f, "{key}")?,
                Term::HasNot(key) => write!(f, "!{key}")?,
            }
        }
        Ok(())
    }
}

impl TryFrom<String> for Selector {
    type Error = LabelError;
    fn try_from(text: String) -> Result<Self, LabelError> {
        text.parse()
    }
}

impl From<Selector> for String {
    fn from(selector: Selector) -> String {
        selector.to_string()
    }
}

crate::text_schema!(Selector);

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> Labels {
        pairs
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
            .collect()
    }

    #[test]
    fn all_terms_must_hold() {
        let node = labels(&[("site", "plant-07"), ("role", "vision")]);
        for (selector, holds) in [
            ("*", true),
            ("site=plant-07", true),
            ("site=plant-07,role=vision", true),
            ("site=plant-07, role=press", false),
            ("role", true),
            ("!role", false),
            ("!spare", true),
            ("site!=plant-08", true),
            ("missing!=x", true),
        ] {
            let parsed: Selector = selector.parse().expect("valid");
            assert_eq!(parsed.matches(&node), holds, "{selector}");
            assert_eq!(parsed.to_string().parse::<Selector>(), Ok(parsed));
        }
    }

    #[test]
    fn refuses_selectors_that_say_nothing() {
        for bad in ["", ",", "=a", "a=", "a=b,,c", "a==b", "a b"] {
            assert!(bad.parse::<Selector>().is_err(), "{bad:?}");
        }
    }
}
