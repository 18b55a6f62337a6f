//! The job of a gateway's buffer, for any store: records come in commits that are durable before they are answered,
//! the newest 32 MiB are kept, what is older goes, oldest first.

use std::ops::Range;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

/// Bytes of records that are kept.
const LIVE_BYTES: u64 = 32 << 20;

/// What comes in.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Job {
    /// Size of a record in bytes.
    pub(crate) bytes: usize,
    /// Records of one commit.
    pub(crate) per_commit: usize,
    /// How long it goes on.
    pub(crate) length: Duration,
}

/// What a store made of it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Outcome {
    /// Durable records per second.
    pub(crate) records_per_s: f64,
    /// Bytes handed to the disk for each byte of a record.
    pub(crate) write_amplification: f64,
    /// Bytes of files for each byte that is kept.
    pub(crate) disk_per_live: f64,
    /// Resident memory at the end, in bytes.
    pub(crate) rss_bytes: u64,
}

/// A store at this job.
pub(crate) trait Store {
    /// Adds the records from sequence `first` on and removes those of `old`; durable when it returns.
    ///
    /// # Errors
    /// Whatever the store says.
    fn commit(&mut self, first: u64, records: &[Vec<u8>], old: Range<u64>) -> Result<()>;
}

/// Runs the job on `store`, which lies in `dir`.
///
/// # Errors
/// What the store says, or that this system does not tell what a process writes.
pub(crate) fn run(job: Job, dir: &Path, store: &mut dyn Store) -> Result<Outcome> {
    let keep = (LIVE_BYTES / job.bytes as u64).max(job.per_commit as u64);
    let mut records = vec![Vec::new(); job.per_commit];
    let (mut next, mut low) = (1_u64, 1_u64);
    let written = written_bytes()?;
    let begun = Instant::now();
    while begun.elapsed() < job.length {
        for (record, seq) in records.iter_mut().zip(next..) {
            fill(record, seq, job.bytes);
        }
        let end = next + job.per_commit as u64;
        let old = low..end.saturating_sub(keep).max(low);
        store.commit(next, &records, old.clone())?;
        (next, low) = (end, old.end);
    }
    let took = begun.elapsed().as_secs_f64();
    let total = (next - 1) as f64 * job.bytes as f64;
    let live = (next - low) as f64 * job.bytes as f64;
    Ok(Outcome {
        records_per_s: (next - 1) as f64 / took,
        write_amplification: (written_bytes()? - written) as f64 / total,
        disk_per_live: folder_bytes(dir)? as f64 / live,
        rss_bytes: resident_bytes()?,
    })
}

/// A line of JSON as devices send it, of just so many bytes.
fn fill(record: &mut Vec<u8>, seq: u64, bytes: usize) {
    use std::io::Write as _;
    record.clear();
    let number = seq.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    // Writing to a vector cannot fail.
    let _ = write!(record, r#"{{"n":{seq},"t":{},"x":""#, number >> 40);
    let mut state = number;
    while record.len() + 2 < bytes {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        record.push(b'a' + (state >> 59) as u8 % 26);
    }
    record.truncate(bytes.saturating_sub(2));
    record.extend_from_slice(b"\"}");
}

/// What this process has had written to disks (`/proc/self/io`, proc(5)).
fn written_bytes() -> Result<u64> {
    field("/proc/self/io", "write_bytes:")
}

fn resident_bytes() -> Result<u64> {
    Ok(field("/proc/self/status", "VmRSS:")? * 1024)
}

fn field(path: &str, name: &str) -> Result<u64> {
    let text = std::fs::read_to_string(path)?;
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    let value = line.and_then(|rest| rest.split_whitespace().next());
    Ok(value
        .with_context(|| format!("{path} has no {name}"))?
        .parse()?)
}

/// Space that the files take, holes left out.
fn folder_bytes(dir: &Path) -> Result<u64> {
    use std::os::unix::fs::MetadataExt as _;
    let mut total = 0;
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        let data = entry.metadata()?;
        total += if data.is_dir() {
            folder_bytes(&entry.path())?
        } else {
            data.blocks() * 512
        };
    }
    Ok(total)
}
