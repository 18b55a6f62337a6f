use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::artifact::Reference;
use crate::ids::{Name, StreamName, Version};
use crate::labels::Selector;
use crate::model::{Batch, Load, ModelOptions, Shadow};
pub use crate::route::{Route, RouteError};
use crate::source::{Source, SourceProblems};
use crate::strict::{self, StrictError};
use crate::units::{ByteSize, Span};

mod circles;
mod models;

pub use circles::Circle;
pub use models::{ModelProblem, ModelProblems, default_of};

/// A deployment: a TOML file that is applied whole.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Deployment {
    /// Name and nodes.
    pub deployment: Target,
    /// How the nodes are taken along.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rollout: Option<Rollout>,
    /// What must hold for a version to count as good.
    #[serde(default, rename = "gate", skip_serializing_if = "Vec::is_empty")]
    pub gates: Vec<Gate>,
    /// Handlers to run.
    #[serde(default, rename = "handler", skip_serializing_if = "Vec::is_empty")]
    pub handlers: Vec<HandlerEntry>,
    /// Models to load.
    #[serde(default, rename = "model", skip_serializing_if = "Vec::is_empty")]
    pub models: Vec<ModelEntry>,
    /// Streams to buffer.
    #[serde(default, rename = "stream", skip_serializing_if = "Vec::is_empty")]
    pub streams: Vec<StreamEntry>,
    /// Where the nodes get records from by themselves.
    #[serde(default, rename = "source", skip_serializing_if = "Vec::is_empty")]
    pub sources: Vec<Source>,
}

/// The `[deployment]` section.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Target {
    /// The deployment's name; applying it again replaces it.
    pub name: Name,
    /// Label selector for its nodes.
    pub select: Selector,
}

/// The `[rollout]` section.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Rollout {
    /// Waves as node counts or percentages, such as `["1", "25%", "100%"]`.
    #[serde(default)]
    pub waves: Vec<String>,
    /// How long a wave must run well.
    pub soak: Option<Span>,
    /// After which a silent node counts as failed.
    pub deadline: Option<Span>,
    /// Failures that are borne before the rollout stops.
    pub max_failures: Option<u32>,
    /// Nodes that change at the same time.
    pub max_concurrency: Option<u32>,
}

/// A `[[gate]]`: a figure and its highest good value.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Gate {
    /// The figure's name, such as `handler.error_ratio`.
    pub metric: String,
    /// Its highest good value.
    pub max: f64,
}

/// A `[[handler]]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct HandlerEntry {
    /// The artifact's name.
    pub name: Name,
    /// The artifact's version.
    pub version: Version,
    /// Where it serves HTTP; none for a stream processor.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub route: Option<Route>,
    /// Bounds on what one request may use.
    #[serde(default)]
    pub limits: Limits,
    /// What it may reach.
    #[serde(default)]
    pub allow: Allow,
    /// What wasi:config answers.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub config: BTreeMap<String, String>,
    /// What wasi:config answers too, from secrets of the node: the key that the
    /// handler asks for, and the secret's name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub secrets: BTreeMap<String, Name>,
    /// Whether requests share instances.
    #[serde(default)]
    pub isolation: Isolation,
}

/// Whether requests share instances of a handler.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Isolation {
    /// A new instance for every request.
    #[default]
    PerRequest,
    /// Warm instances that serve one request after the other.
    Reuse,
}

/// Bounds of a handler; each has a default that is on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(default)]
pub struct Limits {
    /// Memory over all memories and tables of an instance. Default 128MiB.
    pub memory: ByteSize,
    /// Wall-clock time of a request. Default 30s.
    pub timeout: Span,
    /// CPU time of a request. Default 5s.
    pub cpu: Span,
    /// Requests at the same time. Default 32.
    pub concurrency: u32,
    /// Size of a request's body. Default 16MiB.
    pub request_body: ByteSize,
    /// Size of a response's body. Default 256MiB.
    pub response_body: ByteSize,
    /// Requests that all instances together have out at the same time. Default 32.
    pub outbound: u32,
    /// Size of each body of an outbound request, sent or received. Default 64MiB.
    pub outbound_body: ByteSize,
    /// Requests that an instance serves before it is replaced, with isolation "reuse". Default 256.
    pub reuse_count: u32,
    /// How long an instance waits for its next request, with isolation "reuse". Default 30s.
    pub reuse_idle: Span,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            memory: ByteSize(128 << 20),
            timeout: Span::from_ms(30_000),
            cpu: Span::from_ms(5_000),
            concurrency: 32,
            request_body: ByteSize(16 << 20),
            response_body: ByteSize(256 << 20),
            outbound: 32,
            outbound_body: ByteSize(64 << 20),
            reuse_count: 256,
            reuse_idle: Span::from_ms(30_000),
        }
    }
}

/// What a handler may reach; nothing by default.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(default)]
pub struct Allow {
    /// Models, by name, for wasi:nn.
    pub models: BTreeSet<Name>,
    /// Streams it may append to and read back.
    pub streams: BTreeSet<StreamName>,
    /// Origins for outbound HTTP, such as `http://10.0.0.5:8080`.
    pub http: BTreeSet<String>,
    /// Bytes that it may keep in wasi:keyvalue, keys and values together; none by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keyvalue: Option<ByteSize>,
}

/// A `[[model]]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ModelEntry {
    /// The artifact's name.
    pub name: Name,
    /// The artifact's version.
    pub version: Version,
    /// Whether requests that name no version go to this one. Default: the last entry of the name that is no shadow.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub default: bool,
    /// Copies of the model that run at the same time. Default 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sessions: Option<u32>,
    /// Dynamic batching.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub batch: Option<Batch>,
    /// Longest time from a request's arrival to its result, for requests that name none. Default 30s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<Span>,
    /// Requests that may wait; more are answered with 503. Default 128.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub queue: Option<u32>,
    /// When the model is in memory. Default `always`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub load: Option<Load>,
    /// Makes this version a candidate that only sees copies of live requests.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shadow: Option<Shadow>,
}

impl ModelEntry {
    /// How the model runs, with defaults where the entry says nothing.
    pub fn options(&self) -> ModelOptions {
        let usual = ModelOptions::default();
        ModelOptions {
            sessions: self.sessions.unwrap_or(usual.sessions),
            batch: self.batch.clone(),
            timeout: self.timeout.unwrap_or(usual.timeout),
            queue: self.queue.unwrap_or(usual.queue),
            load: self.load.unwrap_or(usual.load),
            shadow: self.shadow.clone(),
        }
    }
}

/// A `[[stream]]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct StreamEntry {
    /// The stream's name.
    pub name: StreamName,
    /// Most bytes it may hold on a node. Default 256MiB.
    #[serde(default = "default_quota")]
    pub quota: ByteSize,
    /// What happens when it is full.
    #[serde(default)]
    pub on_full: OnFull,
    /// 0 to 9; a higher one is forwarded first. Default 4.
    #[serde(default = "default_priority")]
    pub priority: u8,
    /// How long a record is kept at most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl: Option<Span>,
    /// How long a record stays readable on the node once its receiver has it, while there is
    /// room. Default 24h.
    #[serde(default = "default_keep")]
    pub keep: Span,
    /// Who releases a record.
    #[serde(default)]
    pub ack: Ack,
    /// The handler that works on its batches.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub processor: Option<Reference>,
}

const fn default_quota() -> ByteSize {
    ByteSize(256 << 20)
}

const fn default_priority() -> u8 {
    4
}

/// How long a released record stays readable unless a stream says otherwise.
pub(crate) const fn default_keep() -> Span {
    Span::from_ms(24 * 3_600_000)
}

/// What happens to a record that finds its stream full.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "kebab-case")]
pub enum OnFull {
    /// The oldest records make place; a gap record names them.
    #[default]
    DropOldest,
    /// The new record is refused.
    Reject,
}

/// Who releases a record from the node's buffer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Ack {
    /// The receiver's watermark.
    #[default]
    Consumer,
    /// The broker's PUBACK.
    Broker,
}

/// Why a deployment file is refused.
#[derive(Debug, thiserror::Error)]
pub enum DeploymentError {
    /// Not TOML, not of the right types, or with unknown keys.
    #[error(transparent)]
    Syntax(#[from] StrictError),
    /// Two entries of a kind share a name.
    #[error("{kind} {name} stands in the deployment twice: give it once")]
    Twice {
        /// Handler or stream.
        kind: &'static str,
        /// The name.
        name: String,
    },
    /// Models that no node could run, or that do not go together.
    #[error("{file} has models that cannot run:{problems}")]
    Models {
        /// The file's name, for people.
        file: String,
        /// All of them.
        problems: ModelProblems,
    },
    /// Sources that no node could run.
    #[error("{file} has sources that cannot run:{problems}")]
    Sources {
        /// The file's name, for people.
        file: String,
        /// All of them.
        problems: SourceProblems,
    },
    /// Two handlers would serve the same requests.
    #[error("handlers {first} and {second} are both on route {route}: give each its own")]
    RouteTaken {
        /// The earlier handler.
        first: Name,
        /// The later handler.
        second: Name,
        /// The route they share.
        route: Route,
    },
    /// A stream's processor has a version that the deployment's handler has not.
    #[error(
        "stream {stream} wants processor {wanted}, but the deployment has that handler in version {given}"
    )]
    ProcessorVersion {
        /// The stream.
        stream: StreamName,
        /// What it wants.
        wanted: Reference,
        /// The version of the handler entry.
        given: Version,
    },
    /// Processors would feed each other without end.
    #[error(
        "processors feed each other in a circle: {0}: take one of these streams out of its processor's allow.streams"
    )]
    Circle(Circle),
    /// There is no room in a name for the stream of dead letters.
    #[error(
        "stream {0} has a processor, and {0}.dead, where its dead letters go, is too long for a name: shorten it by 5 letters"
    )]
    LongName(StreamName),
    /// A handler has no route and no stream that uses it.
    #[error("handler {0} would never run: give it a route or name it as a stream's processor")]
    Idle(Name),
    /// A stream has the name of the node's own.
    #[error(
        "stream {} is the node's own: give yours another name",
        crate::event::STREAM
    )]
    ReservedStream,
    /// A stream's priority is out of range.
    #[error("stream {stream} has priority {priority}: use 0 to 9")]
    Priority {
        /// The stream.
        stream: StreamName,
        /// The priority given.
        priority: u8,
    },
    /// A value and a secret share a key.
    #[error("handler {handler} has {key:?} in config and in secrets: keep one of them")]
    ConfigAndSecret {
        /// The handler.
        handler: Name,
        /// The key.
        key: String,
    },
    /// A limit that would refuse everything.
    #[error("handler {handler} has {limit} = 0: give at least 1, or leave it out for the default")]
    ZeroLimit {
        /// The handler.
        handler: Name,
        /// The limit's key.
        limit: &'static str,
    },
}

impl Deployment {
    /// Reads a deployment and checks what can be checked without the fleet.
    ///
    /// # Errors
    /// [`DeploymentError`], with all unknown keys and their lines at once.
    pub fn from_toml(text: &str, file: &str) -> Result<Self, DeploymentError> {
        let deployment: Self = strict::from_toml(text, file)?;
        if let Some(problems) = ModelProblems::of(&deployment.models, text) {
            let file = file.to_owned();
            return Err(DeploymentError::Models { file, problems });
        }
        if let Some(problems) = SourceProblems::of(&deployment.sources, text) {
            let file = file.to_owned();
            return Err(DeploymentError::Sources { file, problems });
        }
        deployment.check()?;
        Ok(deployment)
    }

    fn check(&self) -> Result<(), DeploymentError> {
        no_name_twice("handler", self.handlers.iter().map(|h| h.name.as_str()))?;
        no_name_twice("stream", self.streams.iter().map(|s| s.name.as_str()))?;
        let mut routes: BTreeMap<String, &Name> = BTreeMap::new();
        for handler in &self.handlers {
            let limits = &handler.limits;
            for (limit, value) in [
                ("memory", limits.memory.0),
                ("timeout", limits.timeout.ms()),
                ("cpu", limits.cpu.ms()),
                ("concurrency", limits.concurrency.into()),
                ("response_body", limits.response_body.0),
                ("reuse_count", limits.reuse_count.into()),
            ] {
                if value == 0 {
                    return Err(DeploymentError::ZeroLimit {
                        handler: handler.name.clone(),
                        limit,
                    });
                }
            }
            if let Some(key) = handler
                .secrets
                .keys()
                .find(|key| handler.config.contains_key(*key))
            {
                return Err(DeploymentError::ConfigAndSecret {
                    handler: handler.name.clone(),
                    key: key.clone(),
                });
            }
            let Some(route) = &handler.route else {
                let used =
                    |s: &StreamEntry| s.processor.as_ref().is_some_and(|p| p.name == handler.name);
                if !self.streams.iter().any(used) {
                    return Err(DeploymentError::Idle(handler.name.clone()));
                }
                continue;
            };
            for claim in route.claims() {
                if let Some(first) = routes.insert(claim, &handler.name) {
                    return Err(DeploymentError::RouteTaken {
                        first: first.clone(),
                        second: handler.name.clone(),
                        route: route.clone(),
                    });
                }
            }
        }
        for stream in &self.streams {
            if stream.name.as_str() == crate::event::STREAM {
                return Err(DeploymentError::ReservedStream);
            }
            if stream.priority > 9 {
                return Err(DeploymentError::Priority {
                    stream: stream.name.clone(),
                    priority: stream.priority,
                });
            }
            let Some(wanted) = &stream.processor else {
                continue;
            };
            if let Some(given) = self.handlers.iter().find(|h| h.name == wanted.name)
                && given.version != wanted.version
            {
                return Err(DeploymentError::ProcessorVersion {
                    stream: stream.name.clone(),
                    wanted: wanted.clone(),
                    given: given.version.clone(),
                });
            }
            if stream.name.dead_letters().is_none() {
                return Err(DeploymentError::LongName(stream.name.clone()));
            }
        }
        let processed = self.streams.iter();
        let processed = processed.filter_map(|s| Some((&s.name, s.processor.as_ref()?)));
        let handlers = self.handlers.iter().map(|h| (&h.name, &h.allow));
        match Circle::among(processed, handlers) {
            Some(circle) => Err(DeploymentError::Circle(circle)),
            None => Ok(()),
        }
    }
}

fn no_name_twice<'a>(
    kind: &'static str,
    names: impl Iterator<Item = &'a str>,
) -> Result<(), DeploymentError> {
    let mut seen = BTreeSet::new();
    for name in names {
        if !seen.insert(name) {
            return Err(DeploymentError::Twice {
                kind,
                name: name.to_owned(),
            });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINE: &str = r#"
[deployment]
name = "line-inspection"
select = "site=plant-07,role=vision"
[rollout]
waves = ["1", "25%", "100%"]
soak = "60s"
deadline = "15m"
max_failures = 1
max_concurrency = 10
[[gate]]
metric = "handler.error_ratio"
max = 0.01
[[handler]]
name = "inspect"
version = "1.2.0"
route = "/inspect/*"
limits = { memory = "64MiB", timeout = "2s", cpu = "500ms", concurrency = 32 }
allow = { models = ["defects"], streams = ["inspections"], http = ["http://10.0.0.5:8080"] }
config = { threshold = "0.8" }
[[model]]
name = "defects"
version = "3"
batch = { max = 8, window = "1ms" }
[[stream]]
name = "vibration"
quota = "512MiB"
on_full = "drop-oldest"
processor = "anomaly:1.0.0"
"#;

    fn refusal(text: &str) -> String {
        Deployment::from_toml(text, "line.toml")
            .expect_err("refused")
            .to_string()
    }

    #[test]
    fn reads_the_documented_example() {
        let deployment = Deployment::from_toml(LINE, "line.toml").expect("valid");
        assert_eq!(deployment.handlers[0].limits.cpu.ms(), 500);
        assert_eq!(
            deployment.handlers[0].limits.request_body,
            Limits::default().request_body
        );
        assert_eq!(deployment.streams[0].quota, ByteSize(512 << 20));
        let json = serde_json::to_string(&deployment).expect("serializes");
        assert_eq!(
            serde_json::from_str::<Deployment>(&json).expect("parses"),
            deployment
        );
    }

    #[test]
    fn names_all_unknown_keys_with_their_lines() {
        let text = LINE
            .replace("cpu =", "cpus =")
            .replace("quota =", "qouta =");
        insta::assert_snapshot!(refusal(&text), @r"
        line.toml has keys that are not known:
          line 18: handler.0.limits.cpus
          line 27: stream.0.qouta
        ");
    }

    #[test]
    fn refuses_what_cannot_run_together() {
        let twice = format!(
            "{LINE}[[handler]]\nname = \"other\"\nversion = \"1\"\nroute = \"/inspect/*\"\n"
        );
        assert_eq!(
            refusal(&twice),
            "handlers inspect and other are both on route /inspect/*: give each its own"
        );
        let idle = format!("{LINE}[[handler]]\nname = \"other\"\nversion = \"1\"\n");
        assert!(refusal(&idle).contains("would never run"));
        let both = LINE.replace("config =", "secrets = { threshold = \"plc\" }\nconfig =");
        assert_eq!(
            refusal(&both),
            "handler inspect has \"threshold\" in config and in secrets: keep one of them"
        );
        let selector = LINE.replace("site=plant-07,", "site==,");
        assert!(
            refusal(&selector).contains("selector term"),
            "{}",
            refusal(&selector)
        );
        let version = format!("{LINE}[[handler]]\nname = \"anomaly\"\nversion = \"2\"\n");
        assert!(refusal(&version).contains("in version 2"));
        let own = format!(
            "{LINE}[[handler]]\nname = \"anomaly\"\nversion = \"1.0.0\"\nallow = {{ streams = [\"vibration\"] }}\n"
        );
        assert_eq!(
            refusal(&own),
            "processors feed each other in a circle: vibration → (anomaly) → vibration: take one of these streams out of its processor's allow.streams"
        );
        let long = LINE.replace("\"vibration\"", &format!("\"{}\"", "v".repeat(60)));
        assert!(refusal(&long).contains("shorten it"), "{}", refusal(&long));
    }
}
