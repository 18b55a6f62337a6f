mod objects;
mod sparkplug;

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use fleet_api::strict::{self, StrictError};
use fleet_api::units::{ByteSize, Span};
use serde::{Deserialize, Serialize};

pub use objects::ObjectsConfig;
pub(crate) use objects::Place;
pub use sparkplug::SparkplugConfig;

/// The control plane's configuration. Every key may be left out.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Config {
    /// Folder for everything that is kept. Default `control-plane-data`.
    pub data_dir: PathBuf,
    /// Address for HTTPS. Default 127.0.0.1:8443.
    pub listen: SocketAddr,
    /// Address for MQTT over TLS. Default 127.0.0.1:8883.
    pub mqtt_listen: SocketAddr,
    /// Host by which nodes and operators reach this process. Default: the address of `listen`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub public_host: Option<String>,
    /// Loopback address for the registry over plain HTTP. Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub registry_http_listen: Option<SocketAddr>,
    /// The MQTT broker.
    pub broker: BrokerConfig,
    /// Bounds on what clients may use.
    pub limits: LimitsConfig,
    /// Where the registry's blobs and the archive's files lie.
    pub objects: ObjectsConfig,
    /// How device data is written.
    pub archive: ArchiveConfig,
    /// Certificates that the CA issues.
    pub certificates: CertificatesConfig,
    /// A view for SCADA systems. Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sparkplug: Option<SparkplugConfig>,
}

/// The MQTT broker.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct BrokerConfig {
    /// A broker to use instead of the one in this process. Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub external: Option<ExternalBroker>,
}

/// A broker that is not part of this process.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ExternalBroker {
    /// `mqtt://HOST:PORT` or `mqtts://HOST:PORT`; nodes that join are told host and port.
    pub url: String,
    /// `5` or `3.1.1`. Default: 5, and 3.1.1 with a broker that refuses 5.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protocol: Option<String>,
    /// Name to log in with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub username: Option<String>,
    /// File with the password to that name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password_file: Option<PathBuf>,
    /// File with the CA that the broker's certificate must come from. Default: the fleet's CA.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca: Option<PathBuf>,
    /// File with the certificate to show. Default: one of the fleet's CA for `control-plane`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate: Option<PathBuf>,
    /// File with the key of that certificate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<PathBuf>,
}

/// Bounds on what clients may use.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct LimitsConfig {
    /// Largest blob in the registry. Default 2GiB.
    pub blob: ByteSize,
    /// Largest manifest in the registry. Default 4MiB.
    pub manifest: ByteSize,
    /// HTTPS connections at the same time. Default 4096.
    pub connections: usize,
    /// MQTT connections at the same time; a node has two. Default 8192.
    pub mqtt_connections: usize,
    /// Largest MQTT packet. Default 1MiB.
    pub mqtt_packet: ByteSize,
}

/// How device data is written.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ArchiveConfig {
    /// Longest time that a record waits for its file. Default 500ms.
    pub flush_after: Span,
    /// Records in a file at most. Default 20000.
    pub flush_records: usize,
    /// Bytes of values in a file at most. Default 8MiB.
    pub flush_bytes: ByteSize,
    /// Fields of records that get a column in a file at most; 0 for none. Default 200.
    pub columns: usize,
    /// Bytes of frames in memory at most, over all nodes. Default 256MiB.
    pub memory: ByteSize,
    /// How often small files are looked for, to become large ones; 0s for never. Default 5m.
    pub compact_every: Span,
    /// Files to which nothing follows for so long become one. Default 1h.
    pub compact_after: Span,
    /// Bytes of a file that small ones have become. Default 64MiB.
    pub compact_bytes: ByteSize,
}

/// Certificates that the CA issues.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct CertificatesConfig {
    /// Life of a node's certificate. Default 365d.
    pub node_life: Span,
}

/// Why a configuration is refused.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("read the configuration {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// The file has a wrong value or unknown keys.
    #[error("read the configuration: {0}")]
    Strict(#[from] StrictError),
    /// A value makes no sense.
    #[error("read the configuration: {key} {rule}")]
    Value {
        /// The key.
        key: &'static str,
        /// What it must be.
        rule: &'static str,
    },
}

impl Default for Config {
    fn default() -> Self {
        Self {
            data_dir: PathBuf::from("control-plane-data"),
            listen: (Ipv4Addr::LOCALHOST, 8443).into(),
            mqtt_listen: (Ipv4Addr::LOCALHOST, 8883).into(),
            public_host: None,
            registry_http_listen: None,
            broker: BrokerConfig::default(),
            limits: LimitsConfig::default(),
            objects: ObjectsConfig::default(),
            archive: ArchiveConfig::default(),
            certificates: CertificatesConfig::default(),
            sparkplug: None,
        }
    }
}

impl Default for LimitsConfig {
    fn default() -> Self {
        Self {
            blob: ByteSize(2 << 30),
            manifest: ByteSize(4 << 20),
            connections: 4096,
            mqtt_connections: 8192,
            mqtt_packet: ByteSize(1 << 20),
        }
    }
}

impl Default for ArchiveConfig {
    fn default() -> Self {
        Self {
            flush_after: Span::from_ms(500),
            flush_records: 20_000,
            flush_bytes: ByteSize(8 << 20),
            columns: 200,
            memory: ByteSize(256 << 20),
            compact_every: Span::from_ms(300_000),
            compact_after: Span::from_ms(3_600_000),
            compact_bytes: ByteSize(64 << 20),
        }
    }
}

impl Default for CertificatesConfig {
    fn default() -> Self {
        Self {
            node_life: Span::from_ms(365 * 86_400_000),
        }
    }
}

impl Config {
    /// Reads a configuration file.
    ///
    /// # Errors
    /// [`ConfigError`], with all unknown keys and their lines at once.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Read {
            path: path.to_owned(),
            source,
        })?;
        Ok(strict::from_toml(&text, &path.display().to_string())?)
    }

    /// Checks what types cannot.
    ///
    /// # Errors
    /// [`ConfigError::Value`] for the first value that makes no sense.
    pub fn check(&self) -> Result<(), ConfigError> {
        let value = |key, rule| Err(ConfigError::Value { key, rule });
        if let Some(host) = &self.public_host
            && (host.is_empty() || host.contains(['/', ' ', '@']))
        {
            return value("public_host", "must be a host name or an address only");
        }
        if self
            .registry_http_listen
            .is_some_and(|a| !a.ip().is_loopback())
        {
            return value(
                "registry_http_listen",
                "must be a loopback address: it has no TLS",
            );
        }
        if let Some(external) = &self.broker.external {
            if external.url.parse::<fleet_mqtt::Address>().is_err() {
                return value(
                    "broker.external.url",
                    "must be mqtt://HOST:PORT, or mqtts://HOST:PORT for TLS",
                );
            }
            let protocol = external.protocol.as_deref();
            if protocol.is_some_and(|text| text.parse::<fleet_mqtt::Protocol>().is_err()) {
                return value("broker.external.protocol", "must be \"5\" or \"3.1.1\"");
            }
            if external.certificate.is_some() != external.key.is_some() {
                return value("broker.external.key", "must be given with its certificate");
            }
            if external.password_file.is_some() && external.username.is_none() {
                return value("broker.external.username", "must be given with a password");
            }
        }
        if self.limits.connections == 0 || self.limits.mqtt_connections == 0 {
            return value("limits.connections", "must be at least 1");
        }
        if self.limits.mqtt_packet.0 < 64 << 10 || self.limits.mqtt_packet.0 > 64 << 20 {
            return value("limits.mqtt_packet", "must lie between 64KiB and 64MiB");
        }
        if let Some((key, rule)) = self.sparkplug.as_ref().and_then(|s| s.broken_rule()) {
            return value(key, rule);
        }
        if let Some((key, rule)) = self.objects.broken_rule() {
            return value(key, rule);
        }
        if self.archive.flush_records == 0 || self.archive.flush_bytes.0 == 0 {
            return value("archive.flush_records", "must be at least 1");
        }
        if self.archive.columns > 10_000 {
            return value("archive.columns", "must be at most 10000");
        }
        if self.archive.memory.0 < self.limits.mqtt_packet.0 || self.archive.memory.0 > 1 << 40 {
            return value("archive.memory", "must hold at least one MQTT packet");
        }
        if self.archive.compact_bytes.0 == 0 || self.archive.compact_bytes.0 > 1 << 30 {
            return value("archive.compact_bytes", "must lie between 1B and 1GiB");
        }
        if self.certificates.node_life.ms() < 60_000 {
            return value("certificates.node_life", "must be at least one minute");
        }
        Ok(())
    }

    /// The host by which nodes and operators reach this process.
    pub(crate) fn host(&self) -> String {
        match &self.public_host {
            Some(host) => host.clone(),
            None if self.listen.ip().is_unspecified() => "127.0.0.1".to_owned(),
            None => self.listen.ip().to_string(),
        }
    }
}

impl fmt::Display for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&toml::to_string(self).map_err(|_| fmt::Error)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Config, ConfigError> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("cp.toml");
        std::fs::write(&path, text).unwrap();
        Config::read(&path)
    }

    #[test]
    fn what_is_printed_reads_back() {
        let config = read("listen = \"127.0.0.1:0\"\n[archive]\nflush_after = \"2s\"\n").unwrap();
        assert_eq!(config.archive.flush_after.ms(), 2_000);
        assert_eq!(read(&config.to_string()).unwrap(), config);
    }

    #[test]
    fn lists_all_unknown_keys() {
        let error = read("lisen = \"x\"\n[limits]\nblobs = 3\n")
            .unwrap_err()
            .to_string();
        assert!(error.contains("line 1: lisen"), "{error}");
        assert!(error.contains("line 3: limits.blobs"), "{error}");
    }

    #[test]
    fn plain_http_stays_on_loopback() {
        let config = Config {
            registry_http_listen: Some("0.0.0.0:5000".parse().unwrap()),
            ..Config::default()
        };
        assert!(config.check().unwrap_err().to_string().contains("loopback"));
    }
}
