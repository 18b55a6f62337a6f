//! A WebAssembly engine: its settings, and the clock that interrupts guests.

use std::fmt;
use std::hash::{Hash as _, Hasher};
use std::thread;
use std::time::Duration;

use fleet_api::ids::Digest;
use sha2::{Digest as _, Sha256};
use wasmtime::{Config, Enabled, EngineWeak, PoolingAllocationConfig, WasmBacktraceDetails};

use super::HandlerError;

/// Time between two interruptions of a guest that computes.
pub(super) const TICK: Duration = Duration::from_millis(5);

/// Address space that one linear memory takes: with 4 GiB no access needs a
/// bounds check; the smaller ones are for kernels with a small address space.
const RESERVATIONS: [u64; 3] = [4 << 30, 1 << 30, 256 << 20];

/// How guests and host call each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Calls {
    /// One call at a time in an instance, as in WASI 0.2.
    Sync,
    /// The Component Model's async, as in WASI 0.3. Its book-keeping makes every
    /// call dearer, also those that do not use it.
    Async,
}

/// Where instances live.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Allocation {
    /// In slots that are set up once; `reservation` bytes of address space each.
    Pool {
        /// Instances at the same time.
        slots: u32,
        /// Address space of a memory in bytes.
        reservation: u64,
    },
    /// Each on its own, slower: the machine has no address space for a pool.
    OnDemand,
}

impl fmt::Display for Allocation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pool { slots, reservation } => {
                write!(f, "pool of {slots} slots of {} MiB", reservation >> 20)
            }
            Self::OnDemand => f.write_str("on demand"),
        }
    }
}

#[derive(Clone)]
pub(super) struct Engine {
    pub(super) wasm: wasmtime::Engine,
    pub(super) allocation: Allocation,
}

impl Engine {
    pub(super) fn start(max_instances: usize, calls: Calls) -> Result<Self, HandlerError> {
        let slots = u32::try_from(max_instances).unwrap_or(u32::MAX / 8).max(1);
        let engine = Self::probe(slots, calls)?;
        let weak = engine.wasm.weak();
        thread::Builder::new()
            .name("epoch".to_owned())
            .spawn(move || tick(&weak))
            .map_err(|e| HandlerError::Engine {
                reason: e.to_string(),
            })?;
        Ok(engine)
    }

    /// Takes the first allocation that the machine's address space holds.
    fn probe(slots: u32, calls: Calls) -> Result<Self, HandlerError> {
        for reservation in RESERVATIONS {
            let mut config = base(calls);
            config.memory_reservation(reservation);
            config.allocation_strategy(pool(slots, reservation));
            match wasmtime::Engine::new(&config) {
                Ok(wasm) => {
                    let allocation = Allocation::Pool { slots, reservation };
                    return Ok(Self { wasm, allocation });
                }
                Err(error) => tracing::debug!(
                    reservation,
                    slots,
                    "no pool of this size on this machine: {error:#}"
                ),
            }
        }
        tracing::warn!(
            slots,
            "no address space for a pool of instances; requests will be slower. Lower handlers.max_instances"
        );
        let wasm = wasmtime::Engine::new(&base(calls)).map_err(|e| HandlerError::Engine {
            reason: format!("{e:#}"),
        })?;
        Ok(Self {
            wasm,
            allocation: Allocation::OnDemand,
        })
    }

    /// Names what a compiled component depends on beside its source: version,
    /// processor and settings of the engine.
    pub(super) fn compatibility(&self) -> Digest {
        let mut hasher = Fingerprint(Sha256::new());
        self.wasm.precompile_compatibility_hash().hash(&mut hasher);
        Digest::from_sha256(&hasher.0.finalize())
    }
}

fn tick(engine: &EngineWeak) {
    loop {
        thread::sleep(TICK);
        match engine.upgrade() {
            Some(engine) => engine.increment_epoch(),
            None => return,
        }
    }
}

fn base(calls: Calls) -> Config {
    let mut config = Config::new();
    config
        .wasm_component_model(true)
        .wasm_component_model_async(calls == Calls::Async)
        .concurrency_support(calls == Calls::Async)
        .epoch_interruption(true)
        // Faults are told with the component's source lines, if it has them.
        .wasm_backtrace_details(WasmBacktraceDetails::Enable)
        .memory_init_cow(true);
    config
}

/// What a component consists of must not bound how many there are: those of
/// Rust are two to four core instances with two tables, those of Python dozens.
/// Numbers of core instances cost nothing, tables cost address space.
///
/// Pages that a guest has touched stay in the slot and are reset in place.
fn pool(slots: u32, reservation: u64) -> PoolingAllocationConfig {
    let mut pool = PoolingAllocationConfig::new();
    pool.total_component_instances(slots)
        .total_core_instances(slots * 64)
        .total_memories(slots * 2)
        .total_tables(slots * 8)
        .total_stacks(slots * 2)
        .max_core_instances_per_component(64)
        .max_memories_per_component(16)
        .max_tables_per_component(64)
        .max_memories_per_module(4)
        .max_tables_per_module(16)
        .max_component_instance_size(2 << 20)
        .max_core_instance_size(2 << 20)
        .table_elements(100_000)
        .max_memory_size(usize::try_from(reservation).unwrap_or(usize::MAX))
        .max_unused_warm_slots(slots.min(64))
        .linear_memory_keep_resident(4 << 20)
        .table_keep_resident(64 << 10)
        .async_stack_keep_resident(128 << 10)
        .decommit_batch_size(16)
        .pagemap_scan(Enabled::Auto);
    pool
}

struct Fingerprint(Sha256);

impl Hasher for Fingerprint {
    fn write(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    fn finish(&self) -> u64 {
        unreachable!("only the whole SHA-256 sum is read")
    }
}
