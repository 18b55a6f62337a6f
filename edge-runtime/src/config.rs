//! Configuration of `edge-runtime run`: the file, then `config.d/*.toml` beside
//! it, then the environment, then flags; later ones win.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use fleet_api::labels::Labels;
use fleet_api::strict::{self, StrictError};
use fleet_api::units::{ByteSize, Span};
use fleet_mqtt::{Address, Protocol};
use serde::{Deserialize, Serialize};

use crate::gateway::TlsFiles;
use crate::handlers::half_of_memory;
use crate::uplink::UplinkConfig;

/// The checked configuration of a node.
#[derive(Debug, Clone, Serialize)]
pub struct Config {
    /// Folder of everything that the node keeps.
    pub data_dir: PathBuf,
    /// Address of the data plane. Default 127.0.0.1:8080.
    pub listen: SocketAddr,
    /// Address of health, metrics and status. Default 127.0.0.1:9090.
    pub admin_listen: SocketAddr,
    /// Labels that the node tells of itself, beside those of its join token.
    pub labels: Labels,
    /// How often the desired state is asked for over HTTPS beside MQTT. Default 5m.
    pub poll: Span,
    /// How long requests may take to end at a stop. Default 10s.
    pub drain: Span,
    /// HTTPS instead of HTTP on the data plane.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<TlsFiles>,
    /// Folder of the handlers' secrets, a file each. Default: `secrets` in the data folder.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secrets: Option<PathBuf>,
    /// Inference over gRPC, with the data plane's certificate if it has one. Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grpc: Option<GrpcSection>,
    /// Handlers.
    pub handlers: HandlersSection,
    /// Models.
    pub models: ModelsSection,
    /// The buffer.
    pub buffer: BufferSection,
    /// The way to the broker.
    pub uplink: UplinkSection,
}

/// `[grpc]`
#[derive(Debug, Clone, Serialize)]
pub struct GrpcSection {
    /// Address of inference over gRPC.
    pub listen: SocketAddr,
}

/// `[handlers]`
#[derive(Debug, Clone, Serialize)]
pub struct HandlersSection {
    /// Instances of all handlers at the same time. Default 128.
    pub max_instances: u32,
    /// Memory of all instances together. Default: half of the machine's.
    pub max_memory: ByteSize,
}

/// `[models]`
#[derive(Debug, Clone, Serialize)]
pub struct ModelsSection {
    /// ONNX Runtime's shared library; found by itself where none is given.
    pub library: Option<PathBuf>,
    /// Runs of all models at the same time. Default: the number of cores.
    pub permits: Option<u32>,
    /// Memory of all loaded models together. Default: no bound.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<ByteSize>,
}

/// `[buffer]`
#[derive(Debug, Clone, Serialize)]
pub struct BufferSection {
    /// What the buffer may take on the disk. Default 1GiB, or a quarter of a smaller file system.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max: Option<ByteSize>,
    /// Records are refused when less than this is free on the disk. Default 64MiB.
    pub min_free: ByteSize,
    /// Space kept aside so that the buffer opens on a full disk. Default 32MiB.
    pub ballast: ByteSize,
}

/// `[uplink]`
#[derive(Debug, Clone, Serialize)]
pub struct UplinkSection {
    /// `mqtt://HOST:PORT` or `mqtts://HOST:PORT`. Default: the control plane's broker over TLS.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "as_text")]
    pub broker: Option<Address>,
    /// `5` or `3.1.1`. Default: 5, and 3.1.1 with a broker that refuses 5.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "as_text")]
    pub protocol: Option<Protocol>,
    /// Name to log in with, beside the node's certificate.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub username: Option<String>,
    /// File with the password to that name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub password_file: Option<PathBuf>,
    /// File with the CA's certificate that the broker's must come from. Default: the control plane's CA.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca: Option<PathBuf>,
    /// Bytes of device data a second at most, such as `2MiB/s`. Default: no bound.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate: Option<String>,
    /// The same as a number.
    #[serde(skip)]
    pub bytes_per_s: Option<u64>,
    /// Bytes of device data in flight at most. Default 1MiB.
    pub window: ByteSize,
}

fn as_text<T: std::fmt::Display, S: serde::Serializer>(
    value: &Option<T>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    match value {
        Some(value) => serializer.collect_str(value),
        None => serializer.serialize_none(),
    }
}

/// Why the configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A file cannot be read.
    #[error("read {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// A file is not valid.
    #[error(transparent)]
    Invalid(#[from] StrictError),
    /// A value from the environment is not valid.
    #[error("environment variable {name} is {value:?}, which is not {expected}")]
    Environment {
        /// The variable.
        name: &'static str,
        /// Its value.
        value: String,
        /// What it should be.
        expected: &'static str,
    },
    /// A value makes no sense.
    #[error("{key} in {path} {rule}")]
    Value {
        /// The main file.
        path: PathBuf,
        /// The key.
        key: &'static str,
        /// What it must be.
        rule: String,
    },
    /// The data folder is not given anywhere.
    #[error("data_dir is not set: give it in {path}, in EDGE_RUNTIME_DATA_DIR or by --data-dir")]
    NoDataDir {
        /// The main file.
        path: PathBuf,
    },
}

/// What the command line sets.
#[derive(Debug, Clone, Default)]
pub struct Overrides {
    /// `--data-dir`
    pub data_dir: Option<PathBuf>,
    /// `--listen`
    pub listen: Option<SocketAddr>,
    /// `--admin-listen`
    pub admin_listen: Option<SocketAddr>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct RawConfig {
    data_dir: Option<PathBuf>,
    listen: Option<SocketAddr>,
    admin_listen: Option<SocketAddr>,
    labels: Labels,
    poll: Option<Span>,
    drain: Option<Span>,
    tls: Option<TlsFiles>,
    secrets: Option<PathBuf>,
    grpc: RawGrpc,
    handlers: RawHandlers,
    models: RawModels,
    buffer: RawBuffer,
    uplink: RawUplink,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct RawUplink {
    broker: Option<String>,
    protocol: Option<String>,
    username: Option<String>,
    password_file: Option<PathBuf>,
    ca: Option<PathBuf>,
    rate: Option<String>,
    window: Option<ByteSize>,
}

impl RawUplink {
    fn then(self, later: Self) -> Self {
        Self {
            broker: later.broker.or(self.broker),
            protocol: later.protocol.or(self.protocol),
            username: later.username.or(self.username),
            password_file: later.password_file.or(self.password_file),
            ca: later.ca.or(self.ca),
            rate: later.rate.or(self.rate),
            window: later.window.or(self.window),
        }
    }

    fn check(self, path: &Path) -> Result<UplinkSection, ConfigError> {
        let wrong = |key, rule: String| ConfigError::Value {
            path: path.to_owned(),
            key,
            rule,
        };
        let broker: Option<Address> = self.broker.map(|text| text.parse()).transpose().map_err(
            |e: fleet_mqtt::AddressError| wrong("uplink.broker", format!("is wrong: {e}")),
        )?;
        let protocol = self.protocol.map(|text| text.parse()).transpose();
        let protocol =
            protocol.map_err(|rule| wrong("uplink.protocol", format!("must be {rule}")))?;
        let bytes_per_s = match &self.rate {
            None => None,
            Some(text) => {
                let bytes = text.strip_suffix("/s").and_then(|bytes| bytes.parse().ok());
                let bytes = bytes.filter(|ByteSize(bytes)| *bytes > 0).ok_or_else(|| {
                    wrong(
                        "uplink.rate",
                        "must be bytes a second, such as 2MiB/s".to_owned(),
                    )
                })?;
                Some(bytes.0)
            }
        };
        if self.password_file.is_some() && self.username.is_none() {
            return Err(wrong(
                "uplink.password_file",
                "needs uplink.username beside it".to_owned(),
            ));
        }
        if self.ca.is_some() && broker.as_ref().is_some_and(|broker| !broker.tls) {
            return Err(wrong(
                "uplink.ca",
                "needs a broker at mqtts://: mqtt:// has no TLS".to_owned(),
            ));
        }
        let window = self.window.unwrap_or(ByteSize(UplinkConfig::WINDOW as u64));
        if !(16 << 10..=64 << 20).contains(&window.0) {
            return Err(wrong(
                "uplink.window",
                "must lie between 16KiB and 64MiB".to_owned(),
            ));
        }
        Ok(UplinkSection {
            broker,
            protocol,
            username: self.username,
            password_file: self.password_file,
            ca: self.ca,
            rate: self.rate,
            bytes_per_s,
            window,
        })
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct RawGrpc {
    listen: Option<SocketAddr>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct RawHandlers {
    max_instances: Option<u32>,
    max_memory: Option<ByteSize>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct RawModels {
    library: Option<PathBuf>,
    permits: Option<u32>,
    memory: Option<ByteSize>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct RawBuffer {
    max: Option<ByteSize>,
    min_free: Option<ByteSize>,
    ballast: Option<ByteSize>,
}

impl RawConfig {
    fn then(self, later: Self) -> Self {
        let mut labels = self.labels;
        labels.extend(later.labels);
        Self {
            data_dir: later.data_dir.or(self.data_dir),
            listen: later.listen.or(self.listen),
            admin_listen: later.admin_listen.or(self.admin_listen),
            labels,
            poll: later.poll.or(self.poll),
            drain: later.drain.or(self.drain),
            tls: later.tls.or(self.tls),
            secrets: later.secrets.or(self.secrets),
            grpc: RawGrpc {
                listen: later.grpc.listen.or(self.grpc.listen),
            },
            handlers: RawHandlers {
                max_instances: later.handlers.max_instances.or(self.handlers.max_instances),
                max_memory: later.handlers.max_memory.or(self.handlers.max_memory),
            },
            models: RawModels {
                library: later.models.library.or(self.models.library),
                permits: later.models.permits.or(self.models.permits),
                memory: later.models.memory.or(self.models.memory),
            },
            buffer: RawBuffer {
                max: later.buffer.max.or(self.buffer.max),
                min_free: later.buffer.min_free.or(self.buffer.min_free),
                ballast: later.buffer.ballast.or(self.buffer.ballast),
            },
            uplink: self.uplink.then(later.uplink),
        }
    }

    fn check(self, path: &Path) -> Result<Config, ConfigError> {
        Ok(Config {
            data_dir: self.data_dir.ok_or_else(|| ConfigError::NoDataDir {
                path: path.to_owned(),
            })?,
            listen: self
                .listen
                .unwrap_or(SocketAddr::from(([127, 0, 0, 1], 8080))),
            admin_listen: self
                .admin_listen
                .unwrap_or(SocketAddr::from(([127, 0, 0, 1], 9090))),
            labels: self.labels,
            poll: self.poll.unwrap_or(Span::from_ms(300_000)),
            drain: self.drain.unwrap_or(Span::from_ms(10_000)),
            tls: self.tls,
            secrets: self.secrets,
            grpc: self.grpc.listen.map(|listen| GrpcSection { listen }),
            handlers: HandlersSection {
                max_instances: self.handlers.max_instances.unwrap_or(128).max(1),
                max_memory: self
                    .handlers
                    .max_memory
                    .unwrap_or_else(|| ByteSize(half_of_memory())),
            },
            models: ModelsSection {
                library: self.models.library,
                permits: self.models.permits,
                memory: self.models.memory,
            },
            buffer: BufferSection {
                max: self.buffer.max,
                min_free: self.buffer.min_free.unwrap_or(ByteSize(64 << 20)),
                ballast: self.buffer.ballast.unwrap_or(ByteSize(32 << 20)),
            },
            uplink: self.uplink.check(path)?,
        })
    }
}

impl Config {
    /// Reads the file at `path`, what lies in `config.d` beside it, and the environment.
    ///
    /// # Errors
    /// [`ConfigError`]; unknown keys are all listed with their file and line.
    pub fn load(path: &Path, flags: Overrides) -> Result<Self, ConfigError> {
        let mut raw = read(path)?;
        for extra in drop_ins(path)? {
            raw = raw.then(read(&extra)?);
        }
        raw = raw.then(environment(|name| std::env::var(name).ok())?);
        raw = raw.then(RawConfig {
            data_dir: flags.data_dir,
            listen: flags.listen,
            admin_listen: flags.admin_listen,
            ..RawConfig::default()
        });
        raw.check(path)
    }
}

fn read(path: &Path) -> Result<RawConfig, ConfigError> {
    let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Read {
        path: path.to_owned(),
        source,
    })?;
    Ok(strict::from_toml(&text, &path.display().to_string())?)
}

fn drop_ins(path: &Path) -> Result<Vec<PathBuf>, ConfigError> {
    let folder = path.parent().unwrap_or(Path::new("")).join("config.d");
    let entries = match std::fs::read_dir(&folder) {
        Ok(entries) => entries,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(source) => {
            return Err(ConfigError::Read {
                path: folder,
                source,
            });
        }
    };
    let mut files = entries
        .map(|entry| entry.map(|e| e.path()))
        .collect::<Result<Vec<_>, _>>()
        .map_err(|source| ConfigError::Read {
            path: folder,
            source,
        })?;
    files.retain(|file| file.extension().is_some_and(|e| e == "toml"));
    files.sort();
    Ok(files)
}

fn environment(variable: impl Fn(&str) -> Option<String>) -> Result<RawConfig, ConfigError> {
    let address = |name: &'static str| {
        variable(name)
            .map(|value| {
                value.parse().map_err(|_| ConfigError::Environment {
                    name,
                    value,
                    expected: "an address such as 127.0.0.1:8080",
                })
            })
            .transpose()
    };
    Ok(RawConfig {
        data_dir: variable("EDGE_RUNTIME_DATA_DIR").map(PathBuf::from),
        listen: address("EDGE_RUNTIME_LISTEN")?,
        admin_listen: address("EDGE_RUNTIME_ADMIN_LISTEN")?,
        models: RawModels {
            library: variable("ORT_DYLIB_PATH").map(PathBuf::from),
            ..RawModels::default()
        },
        ..RawConfig::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().expect("a temporary folder");
        for (name, text) in files {
            let path = folder.path().join(name);
            std::fs::create_dir_all(path.parent().expect("has a parent")).expect("created");
            std::fs::write(path, text).expect("written");
        }
        folder
    }

    #[test]
    fn later_files_and_flags_win() {
        let folder = folder(&[
            (
                "node.toml",
                "data_dir = \"/a\"\nlisten = \"127.0.0.1:1\"\n[labels]\nsite = \"x\"\n",
            ),
            (
                "config.d/10.toml",
                "listen = \"127.0.0.1:2\"\n[labels]\nrole = \"y\"\n",
            ),
            (
                "config.d/20.toml",
                "[buffer]\nballast = \"2GiB\"\n[models]\nmemory = \"512MiB\"\n[grpc]\nlisten = \"127.0.0.1:4\"\n",
            ),
            ("config.d/note.txt", "not read"),
        ]);
        let flags = Overrides {
            admin_listen: Some(SocketAddr::from(([127, 0, 0, 1], 3))),
            ..Overrides::default()
        };
        let config = Config::load(&folder.path().join("node.toml"), flags).expect("valid");
        assert_eq!(config.listen.port(), 2);
        assert_eq!(config.admin_listen.port(), 3);
        assert_eq!(config.buffer.ballast, ByteSize(2 << 30));
        assert_eq!(config.models.memory, Some(ByteSize(512 << 20)));
        assert_eq!(config.grpc.map(|grpc| grpc.listen.port()), Some(4));
        assert_eq!(config.labels.len(), 2);
    }

    #[test]
    fn lists_all_unknown_keys_of_a_file() {
        let folder = folder(&[(
            "node.toml",
            "data_dri = \"/a\"\n[buffer]\nqouta = \"1GiB\"\n",
        )]);
        let error = Config::load(&folder.path().join("node.toml"), Overrides::default())
            .expect_err("refused")
            .to_string();
        assert!(error.contains("line 1: data_dri"), "{error}");
        assert!(error.contains("line 3: buffer.qouta"), "{error}");
    }

    #[test]
    fn the_uplink_says_what_is_wrong_with_it() {
        let load = |uplink: &str| {
            let text = format!("data_dir = \"/a\"\n[uplink]\n{uplink}\n");
            let folder = folder(&[("node.toml", &text)]);
            Config::load(&folder.path().join("node.toml"), Overrides::default())
        };
        let good =
            load("broker = \"mqtts://b\"\nrate = \"2MiB/s\"\nprotocol = \"3.1.1\"\nca = \"/ca\"");
        let uplink = good.expect("valid").uplink;
        assert_eq!(uplink.bytes_per_s, Some(2 << 20));
        assert_eq!(uplink.broker.map(|b| b.port), Some(8883));
        for (text, words) in [
            ("broker = \"b:1883\"", "mqtts://HOST:PORT"),
            ("protocol = \"4\"", "\"3.1.1\""),
            ("rate = \"2MiB\"", "2MiB/s"),
            ("password_file = \"/p\"", "uplink.username"),
            ("ca = \"/ca\"\nbroker = \"mqtt://b\"", "no TLS"),
            ("window = \"1KiB\"", "between 16KiB"),
        ] {
            let error = load(text).expect_err(text).to_string();
            assert!(error.contains(words), "{error}");
        }
    }

    #[test]
    fn the_data_folder_has_no_default() {
        let folder = folder(&[("node.toml", "")]);
        let error = Config::load(&folder.path().join("node.toml"), Overrides::default());
        assert!(matches!(error, Err(ConfigError::NoDataDir { .. })));
    }

    #[test]
    fn the_environment_is_checked_too() {
        let bad = environment(|name| (name == "EDGE_RUNTIME_LISTEN").then(|| "here".to_owned()));
        assert!(matches!(bad, Err(ConfigError::Environment { .. })));
    }
}
