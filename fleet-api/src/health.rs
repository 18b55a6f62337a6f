use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::artifact::Reference;
use crate::ids::{Name, NodeId, StreamName, Version};

/// What a node measures about itself; sent every 10 s. Counters grow from the runtime's start.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Health {
    /// Version of this document's form, 1.
    pub v: u8,
    /// The node.
    pub node: NodeId,
    /// Since the runtime started, in seconds.
    pub uptime_s: u64,
    /// Share of one core that the runtime used since the last report, 1.0 is a whole core.
    pub cpu: f64,
    /// Resident memory of the runtime in bytes.
    pub rss_bytes: u64,
    /// Free space where the data folder lies, in bytes.
    pub disk_free_bytes: u64,
    /// Whether the node is ready to serve, and if not, why.
    pub not_ready: Vec<String>,
    /// Figures per handler.
    pub handlers: Vec<HandlerHealth>,
    /// Figures per model.
    pub models: Vec<ModelHealth>,
    /// Figures per stream.
    pub streams: Vec<StreamHealth>,
    /// Figures per stream that has a processor.
    #[serde(default)]
    pub processors: Vec<ProcessorHealth>,
    /// Figures per source.
    #[serde(default)]
    pub sources: Vec<SourceHealth>,
    /// The buffer under the streams.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub buffer: Option<BufferHealth>,
    /// The data connection.
    pub uplink: UplinkHealth,
    /// When this was written, in milliseconds since the Unix epoch, by the node's clock.
    pub time_ms: u64,
}

/// Figures of one handler version.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct HandlerHealth {
    /// The handler.
    pub name: Name,
    /// Its version.
    pub version: Version,
    /// Requests, or batches of a processor.
    pub requests: u64,
    /// Answers with a status of 500 and above, and failed batches.
    pub errors: u64,
    /// Traps, limits included.
    pub traps: u64,
    /// Median latency in microseconds.
    pub p50_us: u64,
    /// 99th percentile of the latency in microseconds.
    pub p99_us: u64,
    /// Highest memory of an instance in bytes.
    pub memory_bytes: u64,
    /// Requests under way.
    pub in_flight: u64,
    /// Requests that wait for their turn.
    #[serde(default)]
    pub waiting: u64,
    /// Instances that live, at work or warm.
    #[serde(default)]
    pub instances: u64,
    /// CPU time of all calls in milliseconds.
    #[serde(default)]
    pub cpu_ms: u64,
    /// Requests by HTTP status.
    #[serde(default)]
    pub statuses: BTreeMap<u16, u64>,
    /// Calls that were stopped or turned away, by kind: `trap`, `timeout`, `cpu`, `memory`,
    /// `response-body`, `node-memory`, `cancelled`, `busy`.
    #[serde(default)]
    pub faults: BTreeMap<String, u64>,
    /// What stopped a guest the last time, with its innermost calls; cut at 2 KiB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_fault: Option<String>,
}

/// Figures of one model version.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ModelHealth {
    /// The model.
    pub name: Name,
    /// Its version.
    pub version: Version,
    /// Requests.
    pub requests: u64,
    /// Requests that failed.
    pub errors: u64,
    /// Median latency in microseconds.
    pub p50_us: u64,
    /// 99th percentile of the latency in microseconds.
    pub p99_us: u64,
    /// Requests that wait.
    pub queue: u64,
    /// Sessions.
    pub sessions: u32,
    /// Mean number of requests in a run.
    pub batch_mean: f64,
    /// Whether requests that name no version go to this one.
    #[serde(default)]
    pub default: bool,
    /// Whether it is in memory.
    #[serde(default)]
    pub state: ModelState,
    /// Memory that it takes, as measured when it was loaded, in bytes; 0 while it is not in memory.
    #[serde(default)]
    pub memory_bytes: u64,
    /// Requests that found the queue full or no memory.
    #[serde(default)]
    pub rejected: u64,
    /// Requests whose client went away before they had run.
    #[serde(default)]
    pub canceled: u64,
    /// What came of running it beside the default version, if it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shadow: Option<ShadowHealth>,
}

/// Whether a model is in memory.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "kebab-case")]
pub enum ModelState {
    /// It is, and answers.
    #[default]
    Ready,
    /// On its way there; requests wait for it.
    Loading,
    /// It is not; the next request brings it there.
    Evicted,
}

/// How a candidate's outputs compare with those of the version that answers. Counts are of requests.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ShadowHealth {
    /// The version that it is compared with.
    pub of: Version,
    /// Requests that it was given as well, those that it failed on included.
    pub mirrored: u64,
    /// Requests that its share of the processor had no room for.
    pub skipped: u64,
    /// Requests that it failed on and the other version did not.
    pub failed: u64,
    /// Of those compared: all outputs the same to the bit.
    pub exact: u64,
    /// Of those compared: no element further away than the tolerance.
    pub within_tolerance: u64,
    /// Of those compared: the highest score is in the same place.
    pub top1_agree: u64,
    /// Largest difference of an element that was seen.
    pub max_abs_diff: f64,
    /// How far the outputs' distributions are apart, 0 for the same.
    pub drift: f64,
}

impl ShadowHealth {
    /// Requests whose outputs could be compared.
    pub fn compared(&self) -> u64 {
        self.mirrored.saturating_sub(self.failed)
    }
}

impl fmt::Display for ModelState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.serialize(f)
    }
}

/// Figures of one stream's buffer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct StreamHealth {
    /// The stream.
    pub name: StreamName,
    /// Records in the buffer that are not released yet.
    pub depth: u64,
    /// Their size in bytes.
    pub bytes: u64,
    /// Records that are released and still readable.
    #[serde(default)]
    pub retained: u64,
    /// Their size in bytes.
    #[serde(default)]
    pub retained_bytes: u64,
    /// Age of the oldest record that is not released, in milliseconds.
    pub oldest_age_ms: Option<u64>,
    /// Records that a limit has evicted.
    pub evicted: u64,
    /// Epoch of the buffer.
    pub epoch: u64,
    /// Sequence of the next record.
    pub next_seq: u64,
    /// Highest sequence that the receiver has acknowledged.
    pub acked_seq: Option<u64>,
}

/// Figures of one stream's processor. Counters grow from the runtime's start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ProcessorHealth {
    /// The stream that it works on.
    pub stream: StreamName,
    /// Name and version.
    pub processor: Reference,
    /// Records that it has not processed yet.
    pub lag: u64,
    /// Batches that were committed.
    pub batches: u64,
    /// Records in these batches.
    pub records_in: u64,
    /// Records that it made of them.
    pub records_out: u64,
    /// Tries of a batch that failed.
    pub failures: u64,
    /// Records that were set aside in `<stream>.dead`.
    pub dead_letters: u64,
    /// Why a batch failed the last time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_failure: Option<String>,
    /// Why it waits although there are records: a full stream, a busy handler.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waits_for: Option<String>,
    /// Time spent to read batches from the buffer, in microseconds.
    #[serde(default)]
    pub read_us: u64,
    /// Time spent in the handler, inference included, in microseconds.
    #[serde(default)]
    pub call_us: u64,
    /// Time spent to commit outputs and progress, in microseconds.
    #[serde(default)]
    pub commit_us: u64,
}

/// Figures of one source.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct SourceHealth {
    /// The source.
    pub name: Name,
    /// `mqtt`, `mqtt-listener`, `modbus` or `file`.
    pub kind: String,
    /// The stream that takes its records.
    pub stream: StreamName,
    /// What it reads from, or where it listens.
    pub address: String,
    /// Whether it is in touch with what it reads from.
    pub connected: bool,
    /// Since when it is so, in milliseconds since the Unix epoch, by the node's clock.
    pub since_ms: u64,
    /// Why it is not connected, or why it waits.
    pub reason: Option<String>,
    /// Records that are durable.
    pub records: u64,
    /// Connections that broke, and answers and lines that could not be read.
    pub errors: u64,
    /// Values and messages that were not stored and that nobody sends again.
    pub lost: u64,
    /// Clients of a listener.
    pub clients: u64,
    /// When the last record became durable.
    pub last_record_ms: Option<u64>,
}

/// Figures of the buffer under all streams. Counters grow from the runtime's start.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct BufferHealth {
    /// Epoch of the buffer.
    pub epoch: u64,
    /// Bytes of all records in their frames, released ones included.
    pub live_bytes: u64,
    /// Bytes that all frames may have at present, so that the disk's limit holds.
    pub limit_bytes: u64,
    /// Bytes that the database takes on the disk.
    pub disk_bytes: u64,
    /// Bytes that it may take there.
    pub max_bytes: u64,
    /// `disk_bytes` to `live_bytes`; 0 while the buffer is empty.
    pub disk_ratio: f64,
    /// Values outside of the database's file, which no power cut would spare; must be 0.
    pub blobs: u64,
    /// Free space on the buffer's disk in bytes.
    pub free_bytes: u64,
    /// How long opening took, in milliseconds.
    pub open_ms: u64,
    /// Durable commits.
    pub commits: u64,
    /// Median time of a commit in microseconds.
    pub commit_p50_us: u64,
    /// 99th percentile of a commit's time in microseconds.
    pub commit_p99_us: u64,
    /// Gaps made.
    pub gaps: u64,
    /// Damaged databases that lie beside the buffer.
    pub quarantines: u64,
    /// Why the buffer takes nothing any more, if so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failed: Option<String>,
}

/// Figures of the data connection.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct UplinkHealth {
    /// Whether it stands.
    pub connected: bool,
    /// Since when, in milliseconds since the Unix epoch, by the node's clock.
    pub since_ms: u64,
    /// Why it does not stand.
    pub reason: Option<String>,
    /// Frames that the broker has taken.
    pub published: u64,
    /// Frames sent again.
    pub resent: u64,
}
