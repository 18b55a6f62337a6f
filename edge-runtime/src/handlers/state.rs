//! What a store holds beside the guest's memory.

use std::sync::Arc;

use wasmtime::component::ResourceTable;
use wasmtime::{Store, UpdateDeadline};
use wasmtime_wasi::{WasiCtx, WasiCtxView, WasiView};
use wasmtime_wasi_http::p2::body::HostOutgoingBody;
use wasmtime_wasi_http::{WasiHttpCtx, WasiHttpCtxView, WasiHttpView};

use super::call::Call;
use super::capabilities::Grant;
use super::capabilities::outbound::Outbound;
use super::guest_log::{GuestLog, LogShare};
use super::limits::MemoryLimit;
use super::stats::Alive;

/// Bytes that a guest may make the host hold in one call between the two.
const HOSTCALL_BYTES: usize = 64 << 20;
/// Handles that a guest may hold.
const MAX_HANDLES: usize = 10_000;
/// Random bytes that a guest may ask for at once.
const MAX_RANDOM_BYTES: u64 = 4 << 20;

pub(super) struct GuestState {
    wasi: WasiCtx,
    http: WasiHttpCtx,
    table: ResourceTable,
    outbound: Outbound,
    stdout: GuestLog,
    stderr: GuestLog,
    pub(super) memory: MemoryLimit,
    pub(super) log: Arc<LogShare>,
    pub(super) grant: Arc<Grant>,
    pub(super) call: Arc<Call>,
    _alive: Alive,
}

impl GuestState {
    /// A store for one instance, with its limits in force.
    pub(super) fn store(
        engine: &wasmtime::Engine,
        grant: &Arc<Grant>,
        log: &Arc<LogShare>,
        env: &[(String, String)],
        memory: MemoryLimit,
        alive: Alive,
        call: Arc<Call>,
    ) -> Store<Self> {
        let stdout = GuestLog::new(Arc::clone(log), "stdout");
        let stderr = GuestLog::new(Arc::clone(log), "stderr");
        let mut wasi = WasiCtx::builder();
        wasi.envs(env)
            .stdout(stdout.clone())
            .stderr(stderr.clone())
            .allow_tcp(false)
            .allow_udp(false)
            .max_random_size(MAX_RANDOM_BYTES);
        let mut table = ResourceTable::new();
        table.set_max_capacity(MAX_HANDLES);
        let mut state = Self {
            wasi: wasi.build(),
            http: WasiHttpCtx::new(),
            table,
            outbound: Outbound {
                grant: Arc::clone(grant),
                log: Arc::clone(log),
                call: Arc::clone(&call),
            },
            stdout,
            stderr,
            memory,
            _alive: alive,
            log: Arc::clone(log),
            grant: Arc::clone(grant),
            call: Arc::clone(&call),
        };
        state.begin(call);
        let mut store = Store::new(engine, state);
        store.limiter(|state| &mut state.memory);
        store.set_hostcall_fuel(HOSTCALL_BYTES);
        store.set_max_component_handles(MAX_HANDLES);
        store.set_epoch_deadline(1);
        store.epoch_deadline_callback(|store| {
            store.data().call.check_cpu()?;
            Ok(UpdateDeadline::Yield(1))
        });
        store
    }

    /// Ties what the instance does next to `call`.
    pub(super) fn begin(&mut self, call: Arc<Call>) {
        self.stdout.begin(&call);
        self.stderr.begin(&call);
        self.outbound.call = Arc::clone(&call);
        self.call = call;
    }

    /// Tells the operator what the guest was refused.
    pub(super) fn denied(&self, what: &str) {
        self.log.denied(&self.call.id, what);
    }

    pub(super) fn table(&mut self) -> &mut ResourceTable {
        &mut self.table
    }

    /// Whether the guest still holds a body that it has not finished.
    pub(super) fn has_open_body(&mut self) -> bool {
        self.table
            .iter_mut()
            .any(|entry| (*entry).is::<HostOutgoingBody>())
    }
}

impl WasiView for GuestState {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView {
            ctx: &mut self.wasi,
            table: &mut self.table,
        }
    }
}

impl WasiHttpView for GuestState {
    fn http(&mut self) -> WasiHttpCtxView<'_> {
        WasiHttpCtxView {
            ctx: &mut self.http,
            table: &mut self.table,
            hooks: &mut self.outbound,
        }
    }
}
