use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use super::audit::{Auditor, promised_in, work};
use super::tally::Tally;
use crate::dice::Dice;
use crate::power_cut::read;
use crate::promise::{Promised, Verdict};
use crate::shim::Shim;

/// Trials with one folder before a new one is filled.
const TRIALS_OF_A_FOLDER: u64 = 50;
/// Starts after which a node has to serve again.
const STARTS: u32 = 3;
/// Its damage is told to the operator: nothing can be known about a folder of unknown form.
const TOLD: &str = "version";
/// Its content says nothing.
const IDLE: &str = "ballast";

/// Flips bits in, cuts off or blanks a file of a closed data folder, `trials` times.
///
/// # Errors
/// If a folder cannot be filled or copied.
pub fn damage(trials: u64, seed: u64, mut progress: impl FnMut(u64)) -> Result<Tally> {
    let mut tally = Tally::default();
    let mut dice = Dice::new(seed);
    while tally.trials < trials {
        let place = tempfile::tempdir()?;
        let root = place.path().canonicalize()?;
        let (dir, log) = (root.join("node"), root.join("log"));
        std::fs::create_dir(&dir)?;
        // An even seed closes the folder in good order.
        let (status, said) = work(&dir, &log, 60, dice.any() << 1, &Shim::default())?;
        ensure!(status.success(), "the work ended with {status}: {said}");
        let promised = promised_in(&read(&log, &dir)?, Promised::default())?;
        let files = files(&dir)?;
        let mut auditor = Auditor::of_damage(&root);
        for _ in 0..TRIALS_OF_A_FOLDER.min(trials - tally.trials) {
            let copy = tempfile::tempdir_in(&root)?;
            let hit = &files[usize::try_from(dice.below(files.len() as u64))?];
            copy_files(&dir, &files, copy.path())?;
            let done = hurt(&copy.path().join(hit), &mut dice)?;
            let name = format!(
                "seed {seed}, trial {}: {}: {done}",
                tally.trials,
                hit.display()
            );
            let verdict = served(&mut auditor, copy.path(), &promised)?;
            let told = hit == Path::new(TOLD)
                && verdict
                    .unopenable
                    .as_ref()
                    .is_some_and(|said| said.contains("has form"));
            let verdict = if told { Verdict::default() } else { verdict };
            tally.count(&name, &verdict);
            progress(tally.trials);
        }
    }
    Ok(tally)
}

/// Starts until it serves.
fn served(auditor: &mut Auditor, dir: &Path, promised: &Promised) -> Result<Verdict> {
    let mut verdict = auditor.verdict(dir, promised)?;
    for _ in 1..STARTS {
        if verdict.unopenable.is_none() || !verdict.failed_late {
            break;
        }
        auditor.restart();
        verdict = auditor.verdict(dir, promised)?;
    }
    Ok(verdict)
}

/// Damages a file; says how.
fn hurt(file: &Path, dice: &mut Dice) -> Result<String> {
    let mut content = std::fs::read(file)?;
    let length = content.len();
    if length == 0 {
        std::fs::write(file, [0x5a])?;
        return Ok("a byte in an empty file".to_owned());
    }
    let at = usize::try_from(dice.below(length as u64))?;
    let done = match dice.below(10) {
        0..7 => {
            let mask = u8::try_from(1 << dice.below(8))?;
            content[at] ^= mask;
            format!("bits {mask:#04x} of byte {at} of {length}")
        }
        7 | 8 => {
            content.truncate(at);
            format!("cut off at {at} of {length}")
        }
        _ => {
            let begin = at / 4_096 * 4_096;
            content[begin..length.min(begin + 4_096)].fill(0);
            format!("the page at {begin} of {length} blank")
        }
    };
    std::fs::write(file, content)?;
    Ok(done)
}

/// All files below a folder, the large one of each store three times, as most lies there.
fn files(dir: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut open = vec![dir.to_owned()];
    while let Some(folder) = open.pop() {
        for entry in std::fs::read_dir(&folder).with_context(|| folder.display().to_string())? {
            let path = entry?.path();
            let inner = path.strip_prefix(dir)?.to_owned();
            if path.is_dir() {
                open.push(path);
            } else if path.ends_with("db") {
                found.extend([inner.clone(), inner.clone(), inner]);
            } else if !path.ends_with(IDLE) {
                found.push(inner);
            }
        }
    }
    found.sort();
    Ok(found)
}

/// Copies the files, and the folders even where they are empty.
fn copy_files(from: &Path, files: &[PathBuf], to: &Path) -> Result<()> {
    let mut open = vec![from.to_owned()];
    while let Some(folder) = open.pop() {
        std::fs::create_dir_all(to.join(folder.strip_prefix(from)?))?;
        for entry in std::fs::read_dir(&folder)? {
            let path = entry?.path();
            open.extend(path.is_dir().then_some(path));
        }
    }
    for file in files {
        std::fs::copy(from.join(file), to.join(file))?;
    }
    Ok(())
}
