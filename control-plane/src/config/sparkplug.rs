use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// A view of streams for SCADA systems, by Sparkplug B on a broker of the plant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SparkplugConfig {
    /// Sparkplug's group id.
    pub group: String,
    /// The plant's broker: `mqtt://HOST:PORT`, or `mqtts://HOST:PORT` with TLS.
    pub broker: String,
    /// Streams to show; `*` stands for all.
    pub streams: Vec<String>,
    /// User at the broker, with `password_file`. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub username: Option<String>,
    /// File that holds the password.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password_file: Option<PathBuf>,
    /// PEM file with the CA of the broker; needed for `mqtts`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca: Option<PathBuf>,
}

impl SparkplugConfig {
    /// Host and port of the broker, and whether it is spoken to over TLS.
    pub(crate) fn address(&self) -> (String, u16, bool) {
        let (rest, is_tls) = match self.broker.strip_prefix("mqtts://") {
            Some(rest) => (rest, true),
            None => (
                self.broker.strip_prefix("mqtt://").unwrap_or(&self.broker),
                false,
            ),
        };
        let usual = if is_tls { 8883 } else { 1883 };
        match rest.rsplit_once(':') {
            Some((host, port)) if !host.is_empty() => {
                let host = host.trim_matches(['[', ']']).to_owned();
                (host, port.parse().unwrap_or(usual), is_tls)
            }
            _ => (rest.to_owned(), usual, is_tls),
        }
    }

    /// The rule that a value breaks, with its key.
    pub(crate) fn broken_rule(&self) -> Option<(&'static str, &'static str)> {
        let rest = self.broker.strip_prefix("mqtt://");
        let rest = rest.or_else(|| self.broker.strip_prefix("mqtts://"));
        if rest.is_none_or(|rest| rest.is_empty() || rest.contains('/')) {
            return Some((
                "sparkplug.broker",
                "must be mqtt://HOST:PORT or mqtts://HOST:PORT",
            ));
        }
        if self.group.is_empty() || self.group.contains(['/', '+', '#']) {
            return Some(("sparkplug.group", "must be a name without /, + and #"));
        }
        if self.streams.is_empty() {
            return Some(("sparkplug.streams", "must name a stream, or * for all"));
        }
        if self.username.is_some() != self.password_file.is_some() {
            return Some(("sparkplug.username", "must come with password_file"));
        }
        if self.broker.starts_with("mqtts://") != self.ca.is_some() {
            return Some((
                "sparkplug.ca",
                "must be given with mqtts://, and only there",
            ));
        }
        None
    }
}
