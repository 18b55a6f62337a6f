use std::fmt;

use serde::de::DeserializeOwned;
use toml::de::{DeTable, DeValue};

/// Why a TOML text is refused.
#[derive(Debug, thiserror::Error)]
pub enum StrictError {
    /// Not TOML, or a value of the wrong type.
    #[error("{file} is not valid: {source}")]
    Invalid {
        /// The file's name, for people.
        file: String,
        /// What the parser says, with line and column.
        source: toml::de::Error,
    },
    /// Keys that mean nothing.
    #[error("{file} has keys that are not known:{keys}")]
    Unknown {
        /// The file's name, for people.
        file: String,
        /// All of them.
        keys: UnknownKeys,
    },
}

/// The unknown keys of a text, in the order of their lines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnknownKeys(Vec<(usize, String)>);

impl fmt::Display for UnknownKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0
            .iter()
            .try_for_each(|(line, key)| write!(f, "\n  line {line}: {key}"))
    }
}

/// Reads `text` as `T` and refuses keys that `T` does not have, all at once.
///
/// # Errors
/// [`StrictError`], with `file` and the lines in its message.
pub fn from_toml<T: DeserializeOwned>(text: &str, file: &str) -> Result<T, StrictError> {
    let invalid = |source| StrictError::Invalid {
        file: file.to_owned(),
        source,
    };
    let mut unknown = Vec::new();
    let parser = toml::Deserializer::parse(text).map_err(invalid)?;
    let value = serde_ignored::deserialize(parser, |path| unknown.push(path.to_string())).map_err(
        |source: toml::de::Error| {
            // Only the plain parser knows where in the text a wrong value stands.
            invalid(toml::from_str::<T>(text).err().unwrap_or(source))
        },
    )?;
    if unknown.is_empty() {
        return Ok(value);
    }
    let table = DeTable::parse(text).map_err(invalid)?;
    let mut keys: Vec<_> = unknown
        .into_iter()
        .map(|key| {
            let key: String = key.replace(".?", "").replace("?.", "");
            let at = offset(table.get_ref(), &key).unwrap_or(0);
            (line_of(text, at), key)
        })
        .collect();
    keys.sort();
    Err(StrictError::Unknown {
        file: file.to_owned(),
        keys: UnknownKeys(keys),
    })
}

/// The line on which the key at a dotted `path` stands in a TOML text.
pub(crate) fn line(text: &str, path: &str) -> Option<usize> {
    let table = DeTable::parse(text).ok()?;
    Some(line_of(text, offset(table.get_ref(), path)?))
}

fn line_of(text: &str, at: usize) -> usize {
    text[..at].matches('\n').count() + 1
}

/// The byte offset of the key at a dotted `path`.
fn offset(table: &DeTable<'_>, path: &str) -> Option<usize> {
    let mut table = table;
    let mut parts = path.split('.').peekable();
    loop {
        let part = parts.next()?;
        let (key, mut value) = table
            .iter()
            .find(|(key, _)| key.get_ref().as_ref() == part)?;
        if parts.peek().is_none() {
            return Some(key.span().start);
        }
        while let DeValue::Array(items) = value.get_ref() {
            value = items.get(parts.next()?.parse::<usize>().ok()?)?;
        }
        let DeValue::Table(inner) = value.get_ref() else {
            return None;
        };
        table = inner;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Deserialize)]
    #[expect(dead_code, reason = "only the parsing is looked at")]
    struct Config {
        port: u16,
        inner: Option<Inner>,
        #[serde(default)]
        free: BTreeMap<String, String>,
    }

    #[derive(Debug, Deserialize)]
    #[expect(dead_code, reason = "only the parsing is looked at")]
    struct Inner {
        name: String,
    }

    #[test]
    fn lists_every_unknown_key() {
        let text =
            "port = 1\nprot = 2\n\n[inner]\nname = \"x\"\nnmae = \"y\"\n[free]\nany = \"z\"\n";
        let error = from_toml::<Config>(text, "node.toml").expect_err("refused");
        assert_eq!(
            error.to_string(),
            "node.toml has keys that are not known:\n  line 2: prot\n  line 6: inner.nmae"
        );
    }

    #[test]
    fn wrong_values_name_their_line() {
        let error = from_toml::<Config>("\nport = \"x\"\n", "node.toml").expect_err("refused");
        assert!(error.to_string().contains("line 2"), "{error}");
        assert!(from_toml::<Config>("port =", "node.toml").is_err());
    }
}
