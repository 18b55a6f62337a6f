//! Which files become one, and which may go. Pure.
//!
//! ```text
//!  files of a stream of a node ─► covered by another? ─► remove
//!                              └► small, one after the other, of one day ─► merge ─► (later) remove
//! ```
//!
//! A merged file is written before its parts are removed, and its name covers theirs. So a crash
//! at any point leaves either the parts, or parts that are covered and go at the next look.

use crate::archive::names::{Day, FileName, Kind, Span};

/// A file that lies there.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Lying {
    pub(crate) name: FileName,
    pub(crate) bytes: u64,
    pub(crate) written_ms: u64,
}

/// When files become one.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rules {
    /// Bytes that a merged file shall have. Files of half of it are left alone.
    pub(crate) target_bytes: u64,
    /// So many small files in a row become one also if they are small together.
    pub(crate) many: usize,
    /// Files to which nothing was added for so long become one.
    pub(crate) rest_ms: u64,
}

/// What to do with a stream's files.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Plan {
    /// Files whose records another file has: their places in the list.
    pub(crate) remove: Vec<usize>,
    /// Files that become one, in the order of their sequences.
    pub(crate) merge: Vec<Vec<usize>>,
}

/// Plans for the files of one stream of one node.
pub(crate) fn plan(files: &[Lying], rules: Rules, now_ms: u64) -> Plan {
    let mut order: Vec<usize> = (0..files.len())
        .filter(|at| files[*at].name.kind == Kind::Records)
        .collect();
    // The wider one first where two begin together; of two that are alike, the older one.
    order.sort_by_key(|at| {
        let Lying {
            name, written_ms, ..
        } = &files[*at];
        let Span { epoch, first, last } = name.span;
        (epoch, first, u64::MAX - last, *written_ms, *at)
    });
    let mut plan = Plan::default();
    let mut kept: Vec<usize> = Vec::new();
    for at in order {
        let span = files[at].name.span;
        // The one that reaches furthest so far is the last kept one.
        match kept.last().map(|before| files[*before].name.span) {
            Some(before) if before.epoch == span.epoch && span.last <= before.last => {
                plan.remove.push(at);
            }
            _ => kept.push(at),
        }
    }
    for run in runs(files, &kept) {
        merge_run(files, run, rules, now_ms, &mut plan.merge);
    }
    plan
}

/// Cuts files into runs without a hole, each of one epoch and day. Files that overlap are in one
/// run also if they are of two days: what two files have must become one.
fn runs<'a>(files: &[Lying], kept: &'a [usize]) -> Vec<&'a [usize]> {
    let follows = |a: &usize, b: &usize| {
        let (a, b) = (&files[*a].name, &files[*b].name);
        let touches = a.span.epoch == b.span.epoch && b.span.first <= a.span.last + 1;
        touches && (a.day == b.day || overlap(a.span, b.span))
    };
    kept.chunk_by(follows).collect()
}

fn overlap(a: Span, b: Span) -> bool {
    a.epoch == b.epoch && a.first <= b.last && b.first <= a.last
}

fn merge_run(
    files: &[Lying],
    run: &[usize],
    rules: Rules,
    now_ms: u64,
    merge: &mut Vec<Vec<usize>>,
) {
    let overlaps = |a: usize, b: usize| overlap(files[a].name.span, files[b].name.span);
    let mut chunk: Vec<usize> = Vec::new();
    let mut bytes = 0;
    let mut must = false;
    let mut has_large = false;
    let mut close = |chunk: &mut Vec<usize>, bytes: &mut u64, must: &mut bool, is_full: bool| {
        let parts = std::mem::take(chunk);
        let (total, forced) = (std::mem::take(bytes), std::mem::take(must));
        if parts.len() < 2 {
            return;
        }
        if forced || is_full {
            merge.push(parts);
        } else if let Some(parts) = tail(files, parts, total, rules, now_ms) {
            merge.push(parts);
        }
    };
    for &at in run {
        let file = &files[at];
        let doubled = chunk.last().is_some_and(|before| overlaps(*before, at));
        let is_large = file.bytes >= rules.target_bytes / 2;
        if !doubled {
            if is_large || has_large || bytes + file.bytes > rules.target_bytes {
                close(&mut chunk, &mut bytes, &mut must, true);
            }
            has_large = is_large;
        }
        must |= doubled;
        chunk.push(at);
        bytes += file.bytes;
    }
    close(&mut chunk, &mut bytes, &mut must, false);
}

/// What of a run's end becomes one file: all of it once nothing is added any more; before that,
/// many files of like sizes, so that no byte is written over and over.
fn tail(
    files: &[Lying],
    parts: Vec<usize>,
    total: u64,
    rules: Rules,
    now_ms: u64,
) -> Option<Vec<usize>> {
    let newest = parts.iter().map(|at| files[*at].written_ms).max()?;
    if newest.saturating_add(rules.rest_ms) <= now_ms {
        return Some(parts);
    }
    let mut sum = total;
    for start in 0..parts.len() {
        let rest = &parts[start..];
        if rest.len() < rules.many.max(2) {
            return None;
        }
        let largest = rest.iter().map(|at| files[*at].bytes).max()?;
        if largest * 2 <= sum {
            return Some(rest.to_vec());
        }
        sum -= files[parts[start]].bytes;
    }
    None
}

/// The name of the file that `parts` become: it covers them all. The day is the first one's.
pub(crate) fn merged_name(parts: &[&FileName]) -> Option<FileName> {
    let first = parts.first()?;
    let last = parts.iter().map(|part| part.span.last).max()?;
    let day: Day = first.day;
    Some(FileName {
        day,
        span: Span { last, ..first.span },
        ..(*first).clone()
    })
}

#[cfg(test)]
mod tests;
