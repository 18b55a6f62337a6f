//! One handler version that is ready to serve: linked, tried, with its limits.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use fleet_api::deployment::{Allow, Isolation, Limits, Route};
use fleet_api::desired::DesiredHandler;
use fleet_api::ids::{Digest, Name, Version};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use wasmtime::Store;

use super::HandlerError;
use super::call::Call;
use super::capabilities::Grant;
use super::guest_log::LogShare;
use super::limits::{MemoryLimit, NodeMemory};
use super::long_work::LongWork;
use super::metered::Metered;
use super::secrets::Secrets;
use super::state::GuestState;
use super::stats::{Alive, Stats};
use super::warm::Warm;
use super::world::{Guest, World};
use crate::keyvalue::Batch;

/// Calls that may wait for their turn, for each that may run.
const QUEUE_PER_SLOT: u64 = 4;
const MIN_QUEUE: u64 = 64;
/// How long a call waits for its turn.
const QUEUE_WAIT: Duration = Duration::from_secs(1);

/// A handler as it is to be prepared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HandlerSpec {
    /// Its name.
    pub name: Name,
    /// Its version.
    pub version: Version,
    /// Digest of the component.
    pub digest: Digest,
    /// File of the component.
    pub path: PathBuf,
    /// Where it serves; none for a stream processor.
    pub route: Option<Route>,
    /// Bounds of a call.
    pub limits: Limits,
    /// What it may reach.
    pub allow: Allow,
    /// What wasi:config answers.
    pub config: BTreeMap<String, String>,
    /// What wasi:config answers too, from files of the node.
    pub secrets: Secrets,
    /// Whether calls share instances.
    pub isolation: Isolation,
    /// Its environment variables.
    pub env: Vec<(String, String)>,
}

impl HandlerSpec {
    /// A handler of the desired state, whose component lies in `path` and whose
    /// secrets lie in the folder `secrets`.
    pub fn from_desired(desired: &DesiredHandler, path: PathBuf, secrets: &Path) -> Self {
        Self {
            name: desired.artifact.name.clone(),
            version: desired.artifact.version.clone(),
            digest: desired.artifact.digest.clone(),
            path,
            route: desired.route.clone(),
            limits: desired.limits.clone(),
            allow: desired.allow.clone(),
            config: desired.config.clone(),
            secrets: Secrets::in_folder(secrets, &desired.secrets),
            isolation: desired.isolation,
            env: Vec::new(),
        }
    }
}

pub(super) struct Handler {
    pub(super) spec: HandlerSpec,
    pub(super) stats: Arc<Stats>,
    pub(super) log: Arc<LogShare>,
    engine: wasmtime::Engine,
    world: World,
    grant: Arc<Grant>,
    turns: Arc<Semaphore>,
    /// Places for instances of all handlers on the node.
    places: Arc<Semaphore>,
    node_memory: NodeMemory,
    pub(super) long_work: LongWork,
    warm: Warm<Instance>,
    /// Its instances answer one call and then no more, as some engines' do.
    answers_once: AtomicBool,
}

/// What all handlers of a node share.
#[derive(Clone)]
pub(super) struct Node {
    /// Places for instances.
    pub(super) places: Arc<Semaphore>,
    pub(super) memory: NodeMemory,
    pub(super) long_work: LongWork,
}

/// An instance with its store.
pub(super) struct Instance {
    pub(super) store: Store<GuestState>,
    pub(super) guest: Guest,
    uses: u32,
    has_answered: bool,
}

/// The right to run one call; given back when dropped.
pub(super) struct Turn {
    _turn: OwnedSemaphorePermit,
    _place: OwnedSemaphorePermit,
}

/// The handler has too much to do.
#[derive(Debug, Clone, Copy)]
pub(super) struct Busy;

impl Handler {
    pub(super) fn new(
        spec: HandlerSpec,
        engine: wasmtime::Engine,
        world: World,
        grant: Grant,
        node: Node,
    ) -> Self {
        Self {
            stats: Arc::default(),
            log: LogShare::new(spec.name.clone(), spec.version.clone()),
            engine,
            world,
            grant: Arc::new(grant),
            turns: Arc::new(Semaphore::new(spec.limits.concurrency as usize)),
            places: node.places,
            node_memory: node.memory,
            long_work: node.long_work,
            warm: Warm::default(),
            answers_once: AtomicBool::new(false),
            spec,
        }
    }

    pub(super) fn is_processor(&self) -> bool {
        matches!(self.world, World::Processor(_))
    }

    /// Waits until the handler's values are free for a batch; none if it may not keep any.
    pub(super) async fn batch_of_values(&self) -> Result<Option<Batch>, HandlerError> {
        let Some(values) = &self.grant.keyvalue else {
            return Ok(None);
        };
        if self.grant.allow.keyvalue.is_none() {
            return Ok(None);
        }
        let name = self.spec.name.as_str();
        Ok(Some(values.batch(name).await?))
    }

    /// Waits a short while for the right to run a call.
    pub(super) async fn turn(&self) -> Result<Turn, Busy> {
        if let (Ok(turn), Ok(place)) = (
            Arc::clone(&self.turns).try_acquire_owned(),
            Arc::clone(&self.places).try_acquire_owned(),
        ) {
            return Ok(Turn {
                _turn: turn,
                _place: place,
            });
        }
        let queue = (u64::from(self.spec.limits.concurrency) * QUEUE_PER_SLOT).max(MIN_QUEUE);
        let waiting = Waiting::enter(&self.stats);
        if waiting.count > queue {
            self.stats.refuse();
            return Err(Busy);
        }
        let both = async {
            let turn = Arc::clone(&self.turns).acquire_owned().await.ok()?;
            let place = Arc::clone(&self.places).acquire_owned().await.ok()?;
            Some(Turn {
                _turn: turn,
                _place: place,
            })
        };
        match tokio::time::timeout(QUEUE_WAIT, both).await {
            Ok(Some(turn)) => Ok(turn),
            _ => {
                self.stats.refuse();
                Err(Busy)
            }
        }
    }

    /// A warm instance, or a new one.
    pub(super) async fn instance(&self, call: &Arc<Call>) -> wasmtime::Result<Instance> {
        if self.reuses()
            && let Some(mut instance) = self.warm.take()
        {
            instance.store.data_mut().begin(Arc::clone(call));
            instance.store.set_epoch_deadline(1);
            return Ok(instance);
        }
        let mut store = GuestState::store(
            &self.engine,
            &self.grant,
            &self.log,
            &self.spec.env,
            MemoryLimit::new(self.spec.limits.memory.0, self.node_memory.clone()),
            Alive::new(&self.stats),
            Arc::clone(call),
        );
        let guest = self.world.instantiate(&mut store).await?;
        Ok(Instance {
            store,
            guest,
            uses: 0,
            has_answered: false,
        })
    }

    fn reuses(&self) -> bool {
        self.spec.isolation == Isolation::Reuse && !self.answers_once.load(Relaxed)
    }

    /// Takes an instance back after a call that ended without a fault. One that
    /// had answered before and now has not is of a kind that answers once.
    pub(super) fn done(&self, mut instance: Instance, answered: bool) {
        if answered {
            instance.has_answered = true;
            self.give_back(instance);
        } else if instance.has_answered && !self.answers_once.swap(true, Relaxed) {
            let (handler, version) = (self.spec.name.as_str(), self.spec.version.as_str());
            tracing::warn!(
                handler,
                version,
                "an instance that had answered before gave no answer: from now on each request gets a new one"
            );
        }
    }

    /// Keeps an instance for the next call, where that is of use.
    pub(super) fn give_back(&self, mut instance: Instance) {
        let memory = instance.store.data().memory.used();
        self.stats.memory(memory);
        instance.uses += 1;
        if !self.reuses()
            || instance.uses >= self.spec.limits.reuse_count
            || memory as u64 > self.spec.limits.memory.0 / 2
            || instance.store.data_mut().has_open_body()
        {
            return;
        }
        self.warm.put(instance);
    }

    /// Lets go of instances that had nothing to do for a while.
    pub(super) fn sweep(&self, now: Instant) {
        self.warm.sweep(now, self.spec.limits.reuse_idle.duration());
    }

    /// Brings one instance up and keeps it where that is of use.
    pub(super) async fn try_out(self: &Arc<Self>) -> Result<(), String> {
        let call = Arc::new(Call::new(
            "trial".to_owned(),
            &self.spec.limits,
            Instant::now(),
        ));
        let (this, its_call) = (Arc::clone(self), Arc::clone(&call));
        let work = async move {
            let _turn = this.turn().await;
            let instance = this.instance(&its_call).await?;
            this.give_back(instance);
            Ok(())
        };
        Metered::new(&self.long_work, call, work)
            .await
            .map_err(|failed| format!("{:#}", failed.error))
    }
}

struct Waiting<'a> {
    stats: &'a Stats,
    count: u64,
}

impl<'a> Waiting<'a> {
    fn enter(stats: &'a Stats) -> Self {
        let count = stats.waiting().fetch_add(1, Relaxed) + 1;
        Self { stats, count }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.stats.waiting().fetch_sub(1, Relaxed);
    }
}
