use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::problems::Bad;
use super::{MOST_VALUES, second};
use crate::ids::Name;
use crate::units::Span;

/// Values that an OPC UA server tells of when they change.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct OpcuaSource {
    /// The server, `opc.tcp://HOST[:PORT][/PATH]`.
    pub endpoint: String,
    /// How messages are protected. Default sign-and-encrypt.
    #[serde(default, skip_serializing_if = "is_default")]
    pub security: OpcuaSecurity,
    /// User at the server. Default: anonymous.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub username: Option<String>,
    /// The node's secret with that user's password.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password: Option<Name>,
    /// How often the server samples the values and tells of changes. Default 1s.
    #[serde(default = "second")]
    pub every: Span,
    /// How long an answer may take. Default 5s.
    #[serde(default = "five_seconds")]
    pub timeout: Span,
    /// What is subscribed.
    pub nodes: Vec<OpcuaNode>,
}

/// A value of an OPC UA server.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct OpcuaNode {
    /// Its name.
    pub name: String,
    /// Its node at the server, as in `ns=2;s=Line1.Temperature`.
    pub node: NodeName,
    /// Unit of the value, best by the UCUM, as in `Cel`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unit: Option<String>,
    /// A change that is not larger than this makes no record. Default: every change makes one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadband: Option<f64>,
}

/// OPC UA's message security modes (Part 4, 7.20).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "kebab-case")]
pub enum OpcuaSecurity {
    /// Everybody between can read and change everything.
    None,
    /// Nobody between can change anything.
    Sign,
    /// Nobody between can read or change anything.
    #[default]
    SignAndEncrypt,
}

impl fmt::Display for OpcuaSecurity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "none",
            Self::Sign => "sign",
            Self::SignAndEncrypt => "sign-and-encrypt",
        })
    }
}

/// A node's name at an OPC UA server, in the notation of Part 6, 5.3.1.10:
/// `[ns=INDEX;|nsu=URI;]i|s|g|b=IDENTIFIER`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct NodeName {
    /// Whose name it is.
    pub namespace: Namespace,
    /// Type and identifier, as in `s=Line1.Temperature`.
    pub identifier: String,
}

crate::text_schema!(NodeName);

/// Whose name a node's is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Namespace {
    /// Place in the server's namespace array, which a server may change when it starts.
    Index(u16),
    /// Its URI, which stays.
    Uri(String),
}

/// A text is not a node's name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is not a node's name: write it as in \"ns=2;s=Line1.Temperature\", \"nsu=http://plant.example/;i=1001\" or \"i=2258\""
)]
pub struct NodeNameError(String);

impl FromStr for NodeName {
    type Err = NodeNameError;
    fn from_str(text: &str) -> Result<Self, NodeNameError> {
        let parse = || {
            let (namespace, identifier) = if let Some(rest) = text.strip_prefix("nsu=") {
                // A URI may have semicolons of its own; what follows the last one that a type stands behind is the name.
                let at = ["i", "s", "g", "b"]
                    .iter()
                    .filter_map(|kind| rest.find(&format!(";{kind}=")))
                    .min()?;
                (Namespace::Uri(rest[..at].to_owned()), &rest[at + 1..])
            } else if let Some(rest) = text.strip_prefix("ns=") {
                let (index, identifier) = rest.split_once(';')?;
                (Namespace::Index(index.parse().ok()?), identifier)
            } else {
                (Namespace::Index(0), text)
            };
            let (kind, value) = identifier.split_once('=')?;
            let fits = match kind {
                "i" => value.parse::<u32>().is_ok(),
                "s" | "b" => !value.is_empty(),
                "g" => value.len() == 36,
                _ => false,
            };
            let named = !matches!(&namespace, Namespace::Uri(uri) if uri.is_empty());
            (fits && named).then(|| Self {
                namespace,
                identifier: identifier.to_owned(),
            })
        };
        parse().ok_or_else(|| NodeNameError(text.to_owned()))
    }
}

impl TryFrom<String> for NodeName {
    type Error = NodeNameError;
    fn try_from(text: String) -> Result<Self, NodeNameError> {
        text.parse()
    }
}

impl fmt::Display for NodeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.namespace {
            Namespace::Index(0) => {}
            Namespace::Index(index) => write!(f, "ns={index};")?,
            Namespace::Uri(uri) => write!(f, "nsu={uri};")?,
        }
        f.write_str(&self.identifier)
    }
}

impl From<NodeName> for String {
    fn from(name: NodeName) -> Self {
        name.to_string()
    }
}

/// What cannot be followed in a source.
pub(super) fn bad_opcua(opcua: &OpcuaSource, bad: &mut Vec<Bad>) {
    let mut say =
        |key: String, value: String, allowed| bad.push((format!("opcua.{key}"), value, allowed));
    let host = opcua.endpoint.strip_prefix("opc.tcp://").unwrap_or("");
    if host.is_empty() || host.starts_with(['/', ':']) || host.contains(['@', ' ']) {
        let allowed = "opc.tcp://HOST[:PORT][/PATH], as in opc.tcp://10.0.0.8:4840";
        say("endpoint".to_owned(), opcua.endpoint.clone(), allowed);
    }
    if opcua.username.is_some() != opcua.password.is_some() {
        let (missing, allowed) = match &opcua.username {
            Some(_) => (
                "password",
                "the name of the node's secret with the password",
            ),
            None => ("username", "the user that the password belongs to"),
        };
        say(missing.to_owned(), "nothing".to_owned(), allowed);
    }
    if opcua.password.is_some() && opcua.security == OpcuaSecurity::None {
        let allowed = "sign or sign-and-encrypt: without, the password could be read on the way";
        say("security".to_owned(), opcua.security.to_string(), allowed);
    }
    for (key, span, least) in [("every", opcua.every, 10), ("timeout", opcua.timeout, 100)] {
        if span.ms() < least {
            let allowed = if least == 10 {
                "at least 10ms"
            } else {
                "at least 100ms"
            };
            say(key.to_owned(), span.to_string(), allowed);
        }
    }
    if opcua.nodes.is_empty() || opcua.nodes.len() > MOST_VALUES {
        let value = format!("{} nodes", opcua.nodes.len());
        say("nodes".to_owned(), value, "1 to 10000");
    }
    for (i, node) in opcua.nodes.iter().enumerate() {
        if opcua.nodes[..i].iter().any(|n| n.name == node.name) || node.name.is_empty() {
            let allowed = "a name of its own for each node";
            say(
                format!("nodes.{i}.name"),
                format!("{:?}", node.name),
                allowed,
            );
        }
        if let Some(deadband) = node.deadband
            && !(deadband.is_finite() && deadband >= 0.0)
        {
            let allowed = "a number that is not negative";
            say(format!("nodes.{i}.deadband"), deadband.to_string(), allowed);
        }
    }
}

const fn five_seconds() -> Span {
    Span::from_ms(5_000)
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_nodes_are_read_and_written_alike() {
        for text in [
            "i=2258",
            "ns=2;s=Line1.Temperature",
            "ns=3;i=1001",
            "nsu=http://plant.example/a;b/;s=press;1",
            "ns=1;g=09087e75-8e5e-499b-954f-f2a9603db28a",
        ] {
            let name: NodeName = text.parse().expect(text);
            assert_eq!(name.to_string(), text);
        }
        let name: NodeName = "nsu=urn:plant;i=7".parse().expect("valid");
        assert_eq!(name.namespace, Namespace::Uri("urn:plant".to_owned()));
        for text in [
            "",
            "Line1",
            "ns=2",
            "ns=70000;i=1",
            "i=-1",
            "s=",
            "nsu=;i=1",
            "x=1",
        ] {
            let error = text.parse::<NodeName>().expect_err(text);
            assert!(error.to_string().contains("ns=2;s=Line1"), "{error}");
        }
    }
}
