//! HTTP: what operators, registry clients and nodes ask for.

mod archive;
mod artifacts;
mod caller;
mod dashboard;
mod deployments;
mod enroll;
mod error;
mod events;
mod figures;
mod health;
mod listener;
mod nodes;
mod oci;
mod openapi;
mod replays;
mod router;
mod tokens;
mod unread;

use std::sync::Arc;
use std::time::Instant;

use crate::app::Endpoint;
use crate::archive::ArchiveHandle;
use crate::authority::Authority;
use crate::broker::BrokerHandle;
use crate::fleet::FleetHandle;
use crate::members::Members;
use crate::registry::Registry;
use crate::secret::TokenDigest;

pub(crate) use listener::{HttpTask, Transport};

/// Everything that requests are answered from.
#[derive(Clone)]
pub(crate) struct Api {
    pub(crate) fleet: FleetHandle,
    pub(crate) registry: Registry,
    pub(crate) archive: ArchiveHandle,
    pub(crate) authority: Arc<Authority>,
    pub(crate) admin: TokenDigest,
    pub(crate) members: Members,
    pub(crate) broker: BrokerHandle,
    pub(crate) endpoint: Arc<Endpoint>,
    pub(crate) started: Instant,
}
