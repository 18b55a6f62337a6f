use anyhow::{Result, ensure};

use super::audit::{Auditor, promised_in, work};
use super::tally::Tally;
use crate::dice::Dice;
use crate::power_cut::{Cache, Disk, Entry, read};
use crate::promise::{Promised, Verdict};
use crate::shim::Shim;

/// What is made to fail, and how.
const FAULTS: [(&str, &str); 9] = [
    ("write", "EIO"),
    ("write", "ENOSPC"),
    ("write", "short"),
    ("sync", "EIO"),
    ("open", "EIO"),
    ("rename", "EIO"),
    ("resize", "ENOSPC"),
    ("mkdir", "EIO"),
    ("unlink", "EIO"),
];
/// Commands per stream of a run.
const COMMANDS: u64 = 8;

/// Lets the first, second, .. call of each kind fail, one a run, until a run makes no more of
/// them. After each run the folder has to hold all that was acknowledged, as it lies there
/// and after a power cut at the end of the run. `every` takes each number, else the gaps grow.
///
/// # Errors
/// If a run cannot be started.
pub fn io_errors(every: bool, seed: u64, mut progress: impl FnMut(u64)) -> Result<Tally> {
    let mut tally = Tally::default();
    for (call, error) in FAULTS {
        let mut number = 1;
        loop {
            let fault = format!("{call}:{number}:{error}");
            let Some(verdict) = one(&fault, seed)? else {
                break;
            };
            tally.count(&format!("seed {seed}, {fault}"), &verdict);
            progress(tally.trials);
            number += if every { 1 } else { 1 + number / 5 };
        }
    }
    Ok(tally)
}

/// One run; `None` if it made no such call.
fn one(fault: &str, seed: u64) -> Result<Option<Verdict>> {
    let place = tempfile::tempdir()?;
    let root = place.path().canonicalize()?;
    let (dir, log) = (root.join("node"), root.join("log"));
    std::fs::create_dir(&dir)?;
    let mut disk = Disk::load(&dir, Cache::Volatile)?;
    let shim = Shim::of(&dir)?.log(&log).fail(fault);
    // Half of the runs end in good order.
    let (status, said) = work(&dir, &log, COMMANDS, seed, &shim)?;
    let entries = read(&log, &dir)?;
    if !entries.iter().any(|e| matches!(e, Entry::Failed { .. })) {
        ensure!(status.success(), "an undisturbed run ended: {said}");
        return Ok(None);
    }
    let mut auditor = Auditor::new(&root);
    let promised = promised_in(&entries, Promised::default())?;
    let mut verdict = auditor.verdict(&dir, &promised)?;
    match status.code() {
        Some(0) => {}
        Some(3) if said.contains("refused: ") => {}
        _ => verdict
            .wrong
            .push(format!("the process ended with {status}: {said}")),
    }
    for entry in &entries {
        disk.follow(entry)?;
    }
    let left = tempfile::tempdir_in(&root)?;
    disk.cut(left.path(), 0, &mut Dice::new(seed))?;
    let after = auditor.verdict(left.path(), &promised)?;
    if let Some(reason) = after.unopenable {
        verdict.unopenable = Some(format!("after a power cut: {reason}"));
    }
    let named = |list: Vec<String>| {
        list.into_iter()
            .map(|text| format!("after a power cut: {text}"))
    };
    verdict.lost.extend(named(after.lost));
    verdict.wrong.extend(named(after.wrong));
    Ok(Some(verdict))
}
