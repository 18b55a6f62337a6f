use serde::{Deserialize, Serialize};

use crate::units::Span;

/// How a model runs on a node. All of it may be left out.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(default)]
pub struct ModelOptions {
    /// Copies of the model that run at the same time. Default 1; never more than the node's permits.
    pub sessions: u32,
    /// Dynamic batching; none by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub batch: Option<Batch>,
    /// Longest time from a request's arrival to its result, for requests that name none. Default 30s.
    pub timeout: Span,
    /// Requests that may wait; more are answered with 503. Default 128.
    pub queue: u32,
    /// When the model is in memory.
    pub load: Load,
    /// Makes this version a candidate that only sees copies of live requests.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shadow: Option<Shadow>,
}

impl Default for ModelOptions {
    fn default() -> Self {
        Self {
            sessions: 1,
            batch: None,
            timeout: Span::from_ms(30_000),
            queue: 128,
            load: Load::default(),
            shadow: None,
        }
    }
}

/// How requests for a model are put together into one run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Batch {
    /// Most rows in a run; a request has as many rows as its inputs' first dimension says.
    pub max: u32,
    /// Longest wait for a fuller batch. Default 0s: what waits when a session becomes free runs together.
    #[serde(default)]
    pub window: Span,
}

/// When a model is in memory.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Load {
    /// Always; it is refused if the node's memory budget cannot hold it.
    #[default]
    Always,
    /// From its first request on, until another model needs its memory.
    OnDemand,
}

/// A version that runs on copies of the requests to the default version. Its outputs are compared and never sent.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(default)]
pub struct Shadow {
    /// Share of one core that it may use, above 0 and up to 1. Default 0.1. Requests beyond it are not copied.
    pub cpu: f64,
    /// Largest absolute difference of an element that counts as the same, relative to the serving version's element
    /// where that is above 1. Default 0.001.
    pub tolerance: f64,
}

impl Default for Shadow {
    fn default() -> Self {
        Self {
            cpu: 0.1,
            tolerance: 1e-3,
        }
    }
}
