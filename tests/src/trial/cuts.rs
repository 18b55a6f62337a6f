use std::path::Path;

use anyhow::{Context, Result, ensure};

use super::audit::{Auditor, promised_in, work};
use super::tally::Tally;
use crate::dice::Dice;
use crate::power_cut::{Cache, Disk, Entry, read};
use crate::promise::Promised;
use crate::shim::Shim;

/// Percent of the unsynced pages that a cut may keep.
const KEEP: [u64; 4] = [0, 50, 90, 100];
/// Cuts of the log of one run.
const CUTS_OF_A_RUN: u64 = 25;
/// Files whose content says nothing and is made by calls that the shim does not see.
const UNSEEN: [&str; 2] = ["ballast", "lock"];

/// Power cuts that are to be made.
#[derive(Debug, Clone, Copy)]
pub struct Cuts<'a> {
    /// How many.
    pub cuts: u64,
    /// Seed of everything random.
    pub seed: u64,
    /// Syncs that are taken out: none, `fdatasync` or `all`.
    pub swallow: Option<&'a str>,
    /// Commands per stream in one run.
    pub commands: u64,
}

impl Cuts<'_> {
    fn shim(&self, dir: &Path, log: &Path) -> Result<Shim> {
        let shim = Shim::of(dir)?.log(log);
        Ok(match self.swallow {
            Some(which) => shim.swallow(which),
            None => shim,
        })
    }

    fn name(&self, run: u64, cache: Cache, at: usize, keep: u64) -> String {
        let Self { seed, .. } = self;
        format!("seed {seed}, run {run}, {cache:?} cache, cut at entry {at}, {keep} % kept")
    }
}

/// Runs, each from an empty folder and cut at many places of its log.
///
/// # Errors
/// If a run fails by itself, or the log does not tell all that it did.
pub fn power_cuts(wanted: Cuts, mut progress: impl FnMut(u64)) -> Result<Tally> {
    let mut tally = Tally::default();
    let mut run = 0;
    while tally.trials < wanted.cuts {
        let cache = cache_of(run);
        let seed = wanted.seed.wrapping_mul(1_000) + run;
        let mut dice = Dice::new(seed);
        let place = tempfile::tempdir()?;
        let root = place.path().canonicalize()?;
        let (dir, log) = (root.join("node"), root.join("log"));
        std::fs::create_dir(&dir)?;
        let mut disk = Disk::load(&dir, cache)?;
        let shim = wanted.shim(&dir, &log)?;
        let (status, said) = work(&dir, &log, wanted.commands, seed, &shim)?;
        ensure!(status.success(), "the work ended with {status}: {said}");
        let entries = read(&log, &dir)?;

        let count = CUTS_OF_A_RUN.min(wanted.cuts - tally.trials);
        let before = tally.trials;
        let name = |at, keep| wanted.name(run, cache, at, keep);
        let tell = |trials| progress(before + trials);
        let (more, followed) = cuts_of(&root, &entries, &mut disk, count, &mut dice, name, tell)?;
        tally.add(more);
        // Runs with an even seed end in good order, so that the log must tell all.
        if seed.is_multiple_of(2) {
            for entry in &entries[followed..] {
                disk.follow(entry)?;
            }
            disk.compare(&dir, &UNSEEN)
                .context("the log does not tell all that was written")?;
        }
        run += 1;
    }
    Ok(tally)
}

/// Cuts one run's log at `count` places; the disk has followed it up to the second value.
fn cuts_of(
    root: &Path,
    entries: &[Entry],
    disk: &mut Disk,
    count: u64,
    dice: &mut Dice,
    name: impl Fn(usize, u64) -> String,
    mut progress: impl FnMut(u64),
) -> Result<(Tally, usize)> {
    let mut tally = Tally::default();
    let mut auditor = Auditor::new(root);
    let mut promised = Promised::default();
    let mut followed = 0;
    for at in places(entries, count, dice) {
        for entry in &entries[followed..at] {
            disk.follow(entry)?;
        }
        promised = promised_in(&entries[followed..at], promised)?;
        followed = at;
        let keep = KEEP[usize::try_from(dice.below(4))?];
        let left = tempfile::tempdir_in(root)?;
        disk.cut(left.path(), keep, dice)?;
        let verdict = auditor.verdict(left.path(), &promised)?;
        tally.count(&name(at, keep), &verdict);
        progress(tally.trials);
    }
    Ok((tally, followed))
}

/// Cuts of what another program than the trials' own has done, whose log has acknowledgements
/// too: each of `disks` is its folder before, and is followed to the end.
///
/// # Errors
/// If the log is not understood.
pub fn cuts_of_log(
    root: &Path,
    disks: &mut [Disk],
    entries: &[Entry],
    cuts: u64,
    seed: u64,
) -> Result<Tally> {
    let mut tally = Tally::default();
    for disk in disks {
        let cache = disk.cache();
        let name = |at, keep| format!("seed {seed}, {cache:?} cache, entry {at}, {keep} % kept");
        let mut dice = Dice::new(seed);
        let (more, followed) = cuts_of(root, entries, disk, cuts, &mut dice, name, |_| {})?;
        tally.add(more);
        for entry in &entries[followed..] {
            disk.follow(entry)?;
        }
    }
    Ok(tally)
}

/// Rounds of cut, recovery and more work in the same folder.
///
/// # Errors
/// As [`power_cuts`].
pub fn chained_cuts(wanted: Cuts, mut progress: impl FnMut(u64)) -> Result<Tally> {
    let mut tally = Tally::default();
    let place = tempfile::tempdir()?;
    let root = place.path().canonicalize()?;
    let mut auditor = Auditor::new(&root);
    let mut promised = Promised::default();
    let mut dice = Dice::new(wanted.seed);
    let mut dir = root.join("round-0");
    std::fs::create_dir(&dir)?;
    for round in 0..wanted.cuts {
        let cache = cache_of(round);
        let log = root.join(format!("log-{round}"));
        let mut disk = Disk::load(&dir, cache)?;
        // Odd seeds: the process goes on until its last acknowledgement and is cut there at the latest.
        let seed = wanted.seed.wrapping_mul(1_000) + 2 * round + 1;
        let shim = wanted.shim(&dir, &log)?;
        let (status, said) = work(&dir, &log, wanted.commands, seed, &shim)?;
        ensure!(
            status.success(),
            "seed {}, round {round}: the work ended with {status}: {said}",
            wanted.seed
        );
        let entries = read(&log, &dir)?;
        // Some cuts hit the recovery itself.
        let at = match dice.below(4) {
            0 => usize::try_from(dice.below(200.min(entries.len() as u64)))?,
            _ => usize::try_from(dice.below(entries.len() as u64 + 1))?,
        };
        for entry in &entries[..at] {
            disk.follow(entry)?;
        }
        promised = promised_in(&entries[..at], promised)?;
        let keep = KEEP[usize::try_from(dice.below(4))?];
        let next = root.join(format!("round-{}", round + 1));
        let examined = tempfile::tempdir_in(&root)?;
        // The same cut twice: the examination changes its copy.
        disk.cut(&next, keep, &mut dice.clone())?;
        disk.cut(examined.path(), keep, &mut dice)?;
        let verdict = auditor.verdict(examined.path(), &promised)?;
        tally.count(&wanted.name(round, cache, at, keep), &verdict);
        progress(tally.trials);
        std::fs::remove_dir_all(&dir)?;
        std::fs::remove_file(&log)?;
        dir = next;
        if verdict.new_epoch {
            // What follows is counted from here.
            promised = Promised::default();
        }
    }
    Ok(tally)
}

/// Both kinds of disk in turn.
fn cache_of(run: u64) -> Cache {
    if run.is_multiple_of(2) {
        Cache::Volatile
    } else {
        Cache::Protected
    }
}

/// Places in the log, in order: half of them right behind an acknowledgement.
fn places(entries: &[Entry], count: u64, dice: &mut Dice) -> Vec<usize> {
    let acks: Vec<_> = (0..entries.len())
        .filter(|at| matches!(entries[*at], Entry::Ack(_)))
        .collect();
    let mut places: Vec<_> = (0..count)
        .map(|cut| {
            let any = dice.below(entries.len() as u64 + 1);
            if cut % 2 == 0 || acks.is_empty() {
                usize::try_from(any).unwrap_or(0)
            } else {
                let ack = usize::try_from(dice.below(acks.len() as u64)).unwrap_or(0);
                acks[ack] + 1
            }
        })
        .collect();
    places.sort_unstable();
    places
}
