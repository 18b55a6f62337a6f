//! What the machine has.

use std::fs;

/// Where a container's limit stands (control groups, version 2).
const CGROUP_LIMIT: &str = "/sys/fs/cgroup/memory.max";

/// Half of the memory that this process may use, in bytes: the machine's, or
/// its container's where that is less.
pub fn half_of_memory() -> u64 {
    let machine = {
        let info = rustix::system::sysinfo();
        info.totalram.saturating_mul(u64::from(info.mem_unit))
    };
    let container = fs::read_to_string(CGROUP_LIMIT).ok();
    let container = container.and_then(|text| text.trim().parse().ok());
    container.unwrap_or(u64::MAX).min(machine) / 2
}
