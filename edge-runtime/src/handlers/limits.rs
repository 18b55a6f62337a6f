//! Bounds on what one call into a guest may use.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

use fleet_api::units::ByteSize;
use rustix::time::{ClockId, clock_gettime};
use wasmtime::ResourceLimiter;

use super::engine::TICK;

/// Bytes that one table element takes in the host.
const TABLE_ELEMENT_BYTES: usize = 16;

/// A bound that the guest ran into.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Exceeded {
    /// Wall-clock time.
    #[error("it took longer than its limit of {} ms", .0.as_millis())]
    Timeout(Duration),
    /// CPU time.
    #[error("it used more CPU time than its limit of {} ms", .0.as_millis())]
    Cpu(Duration),
    /// Bytes of a response body.
    #[error("its response is larger than its limit of {0}")]
    ResponseBody(ByteSize),
}

/// Memory of all guests of the node, in bytes. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct NodeMemory(Arc<NodeBudget>);

#[derive(Debug)]
struct NodeBudget {
    limit: usize,
    used: AtomicUsize,
}

impl NodeMemory {
    pub(super) fn new(limit_bytes: u64) -> Self {
        Self(Arc::new(NodeBudget {
            limit: usize::try_from(limit_bytes).unwrap_or(usize::MAX),
            used: AtomicUsize::new(0),
        }))
    }

    pub(super) fn used(&self) -> usize {
        self.0.used.load(Relaxed)
    }

    pub(super) fn limit(&self) -> usize {
        self.0.limit
    }

    fn take(&self, more: usize) -> bool {
        let within = |used: usize| used.checked_add(more).filter(|sum| *sum <= self.0.limit);
        self.0.used.fetch_update(Relaxed, Relaxed, within).is_ok()
    }

    fn give_back(&self, bytes: usize) {
        self.0.used.fetch_sub(bytes, Relaxed);
    }
}

/// Whose limit a guest's wish for memory ran into.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Denied {
    ByHandler,
    ByNode,
}

/// Total of all memories and tables of one store.
#[derive(Debug)]
pub(super) struct MemoryLimit {
    limit: usize,
    used: usize,
    node: NodeMemory,
    denied: Option<Denied>,
}

impl MemoryLimit {
    pub(super) fn new(limit_bytes: u64, node: NodeMemory) -> Self {
        Self {
            limit: usize::try_from(limit_bytes).unwrap_or(usize::MAX),
            used: 0,
            node,
            denied: None,
        }
    }

    /// What the store holds now; memories never shrink, so this is its peak too.
    pub(super) fn used(&self) -> usize {
        self.used
    }

    /// Who refused the guest memory, if anyone did.
    pub(super) fn denied(&self) -> Option<Denied> {
        self.denied
    }

    fn admit(&mut self, more: usize, maximum: Option<usize>, desired: usize) -> bool {
        if maximum.is_some_and(|maximum| desired > maximum) {
            return false;
        }
        let wanted = self.used.checked_add(more);
        if wanted.is_none_or(|wanted| wanted > self.limit) {
            self.denied = Some(Denied::ByHandler);
            return false;
        }
        if !self.node.take(more) {
            self.denied = Some(Denied::ByNode);
            return false;
        }
        self.used += more;
        true
    }
}

impl Drop for MemoryLimit {
    fn drop(&mut self) {
        self.node.give_back(self.used);
    }
}

impl ResourceLimiter for MemoryLimit {
    fn memory_growing(
        &mut self,
        current: usize,
        desired: usize,
        maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        Ok(self.admit(desired.saturating_sub(current), maximum, desired))
    }

    fn table_growing(
        &mut self,
        current: usize,
        desired: usize,
        maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        let more = desired.saturating_sub(current);
        let bytes = more.saturating_mul(TABLE_ELEMENT_BYTES);
        Ok(self.admit(bytes, maximum, desired))
    }
}

/// CPU time of one call: what its polls have used.
///
/// Asking the system for a thread's CPU time costs more than a short guest, so
/// a poll is first timed by the clock on the wall, and counts as one tick at
/// most. A poll that is still under way at the engine's next tick is from then
/// on measured on its thread, so that neither waiting for a core nor other
/// work on the machine counts.
#[derive(Debug)]
pub(super) struct CpuMeter {
    used_ns: AtomicU64,
    zero: Instant,
    /// When the poll began, in nanoseconds after `zero`.
    poll_start_ns: AtomicU64,
    /// The thread's CPU time when the poll began; none before its first tick.
    thread_start_ns: AtomicU64,
}

const NONE: u64 = u64::MAX;

impl CpuMeter {
    pub(super) fn new(zero: Instant) -> Self {
        Self {
            used_ns: AtomicU64::new(0),
            zero,
            poll_start_ns: AtomicU64::new(0),
            thread_start_ns: AtomicU64::new(NONE),
        }
    }

    pub(super) fn poll_begins(&self) {
        self.poll_start_ns.store(self.wall_ns(), Relaxed);
        self.thread_start_ns.store(NONE, Relaxed);
    }

    pub(super) fn poll_ends(&self) {
        let spent = match self.thread_start_ns.load(Relaxed) {
            NONE => self.wall_spent_ns(),
            start => thread_cpu_ns().saturating_sub(start),
        };
        self.used_ns.fetch_add(spent, Relaxed);
    }

    /// Used by the polls that have ended.
    pub(super) fn used(&self) -> Duration {
        Duration::from_nanos(self.used_ns.load(Relaxed))
    }

    /// Used so far, asked at a tick within a poll.
    pub(super) fn used_within_poll(&self) -> Duration {
        let now = thread_cpu_ns();
        let start = match self.thread_start_ns.load(Relaxed) {
            NONE => {
                let start = now.saturating_sub(self.wall_spent_ns());
                self.thread_start_ns.store(start, Relaxed);
                start
            }
            start => start,
        };
        self.used() + Duration::from_nanos(now.saturating_sub(start))
    }

    fn wall_ns(&self) -> u64 {
        u64::try_from(self.zero.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    fn wall_spent_ns(&self) -> u64 {
        let spent = self.wall_ns() - self.poll_start_ns.load(Relaxed);
        spent.min(TICK.as_nanos() as u64)
    }
}

fn thread_cpu_ns() -> u64 {
    let now = clock_gettime(ClockId::ThreadCPUTime);
    let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
    let nanoseconds = u64::try_from(now.tv_nsec).unwrap_or(0);
    seconds * 1_000_000_000 + nanoseconds
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_summed_over_memories_and_tables() {
        let mut limit = MemoryLimit::new(100_000, NodeMemory::new(u64::MAX));
        assert!(limit.memory_growing(0, 60_000, None).unwrap());
        assert!(limit.memory_growing(0, 30_000, None).unwrap());
        assert!(!limit.memory_growing(30_000, 60_000, None).unwrap());
        assert!(limit.table_growing(0, 500, None).unwrap());
        assert!(!limit.table_growing(500, 1_500, None).unwrap());
        assert_eq!(limit.used(), 98_000);
        assert_eq!(limit.denied(), Some(Denied::ByHandler));
    }

    #[test]
    fn the_node_s_memory_is_shared_and_comes_back() {
        let node = NodeMemory::new(100_000);
        let mut first = MemoryLimit::new(80_000, node.clone());
        let mut second = MemoryLimit::new(80_000, node.clone());
        assert!(first.memory_growing(0, 60_000, None).unwrap());
        assert!(!second.memory_growing(0, 60_000, None).unwrap());
        assert_eq!(second.denied(), Some(Denied::ByNode));
        drop(first);
        assert!(second.memory_growing(0, 60_000, None).unwrap());
        drop(second);
        assert_eq!(node.used(), 0);
    }

    #[test]
    fn a_module_s_own_maximum_is_no_denial() {
        let mut limit = MemoryLimit::new(u64::MAX, NodeMemory::new(u64::MAX));
        assert!(!limit.memory_growing(0, 10, Some(5)).unwrap());
        assert_eq!(limit.denied(), None);
    }

    #[test]
    fn cpu_time_does_not_run_while_waiting() {
        let meter = CpuMeter::new(Instant::now());
        meter.poll_begins();
        std::thread::sleep(Duration::from_millis(30));
        meter.poll_ends();
        assert!(meter.used() < Duration::from_millis(10));
        meter.poll_begins();
        std::thread::sleep(Duration::from_millis(30));
        while meter.used_within_poll() < Duration::from_millis(20) {
            std::hint::spin_loop();
        }
        meter.poll_ends();
        assert!(meter.used() >= Duration::from_millis(20));
    }
}
