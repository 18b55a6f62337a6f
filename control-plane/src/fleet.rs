//! The fleet: which nodes there are, what each shall run, and what each says about itself.
//!
//! ```text
//!  apply, enroll, relabel ─► store ─► planner ─► desired per node (generation +1 if it differs)
//!                                                    │ reconcile: retained on MQTT
//!  reported, presence, health ─► ingest ─► observed ─┘ again where a node lags behind
//! ```

mod catalogue;
mod deploy;
mod enroll;
mod events;
mod ingest;
mod observed;
mod planner;
mod reconcile;
mod replays;
mod store;
mod view;

use std::sync::Arc;

use fleet_api::desired::{Desired, Envelope};
use fleet_api::ids::NodeId;
use tokio::sync::{Mutex, Notify};

use crate::authority::{Authority, AuthorityError};
use crate::members::Members;

pub(crate) use catalogue::Catalogue;
pub(crate) use deploy::ApplyError;
pub(crate) use enroll::EnrollError;
pub(crate) use ingest::IngestTask;
pub(crate) use observed::Observed;
pub(crate) use reconcile::ReconcileTask;
pub(crate) use replays::ReplayError;
pub(crate) use store::{Store, StoreError, signed, to_json, unsigned};

/// Fences a control plane that was deposed; there is only one yet.
const EPOCH: u64 = 1;

/// The fleet, for everything that asks about it or changes it.
#[derive(Clone)]
pub(crate) struct FleetHandle(Arc<Fleet>);

struct Fleet {
    store: Store,
    observed: Observed,
    members: Members,
    authority: Arc<Authority>,
    node_life: jiff::SignedDuration,
    /// One change at a time: planning reads everything and writes what differs.
    turn: Mutex<()>,
    changed: Notify,
}

impl FleetHandle {
    /// Reads what is known of the fleet.
    pub(crate) async fn open(
        store: Store,
        members: Members,
        authority: Arc<Authority>,
        node_life: jiff::SignedDuration,
    ) -> Result<Self, StoreError> {
        let observed = Observed::default();
        for node in store.nodes().await? {
            members.admit(node.id.clone(), node.fingerprint.clone());
            observed.restore(&node);
        }
        let fleet = Self(Arc::new(Fleet {
            store,
            observed,
            members,
            authority,
            node_life,
            turn: Mutex::new(()),
            changed: Notify::new(),
        }));
        fleet.replan_all().await?;
        Ok(fleet)
    }

    /// Whether the database answers.
    pub(crate) async fn ping(&self) -> Result<(), StoreError> {
        self.0.store.ping().await
    }

    /// What the nodes say.
    pub(crate) fn observed(&self) -> &Observed {
        &self.0.observed
    }

    /// The desired state of a node as it travels; `None` before its first generation.
    pub(crate) async fn desired(&self, node: &NodeId) -> Result<Option<Envelope>, StoreError> {
        let desired = self.0.store.desired(node).await?;
        Ok(desired.as_ref().map(Envelope::wrap))
    }

    /// All desired states.
    async fn all_desired(&self) -> Result<Vec<Desired>, StoreError> {
        self.0.store.all_desired().await
    }

    /// Takes a node out of the fleet; its certificate counts no more. False if there is none.
    pub(crate) async fn remove_node(&self, node: &NodeId) -> Result<bool, StoreError> {
        let _turn = self.0.turn.lock().await;
        let removed = self.0.store.remove_node(node).await?;
        if removed {
            self.0.members.remove(node);
            self.0.observed.remove(node);
        }
        Ok(removed)
    }
}

/// Why a certificate could not be issued; the request is to blame or the authority.
fn is_requests_fault(error: &AuthorityError) -> bool {
    matches!(error, AuthorityError::Request(_))
}
