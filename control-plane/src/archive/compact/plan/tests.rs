use std::collections::BTreeMap;

use fleet_api::ids::{NodeId, StreamName};
use proptest::prelude::*;

use super::*;

const RULES: Rules = Rules {
    target_bytes: 1000,
    many: 4,
    rest_ms: 60_000,
};
const TODAY_MS: u64 = 1_764_028_800_000;

fn file(epoch: u64, first: u64, last: u64, bytes: u64, written_ms: u64) -> Lying {
    Lying {
        name: FileName {
            node: NodeId::new("n1").unwrap(),
            stream: StreamName::new("s").unwrap(),
            day: Day::of(TODAY_MS, 0),
            span: Span { epoch, first, last },
            kind: Kind::Records,
        },
        bytes,
        written_ms,
    }
}

fn row(sizes: &[u64]) -> Vec<Lying> {
    let files = sizes.iter().zip(1..);
    files.map(|(size, n)| file(7, n, n, *size, 0)).collect()
}

#[test]
fn a_file_within_another_goes() {
    let files = [
        file(7, 11, 20, 10, 0),
        file(7, 1, 20, 900, 5),
        file(7, 1, 10, 10, 0),
        file(8, 1, 10, 10, 0),
        file(7, 1, 20, 900, 9),
    ];
    let plan = plan(&files, RULES, 0);
    assert_eq!(plan.remove, [4, 2, 0]);
    assert!(plan.merge.is_empty());
}

#[test]
fn small_files_in_a_row_fill_a_file_and_large_ones_are_left_alone() {
    let files = row(&[400, 400, 400, 700, 400, 400]);
    let plan = plan(&files, RULES, 0);
    assert_eq!(plan.merge, [vec![0, 1]]);
    assert!(plan.remove.is_empty());
}

#[test]
fn the_end_of_a_row_waits_until_it_rests_or_is_many() {
    let files = row(&[10, 10, 10]);
    assert_eq!(plan(&files, RULES, 0).merge, Vec::<Vec<usize>>::new());
    assert_eq!(plan(&files, RULES, 60_000).merge, [vec![0, 1, 2]]);
    assert_eq!(plan(&row(&[10; 4]), RULES, 0).merge, [vec![0, 1, 2, 3]]);
    // What has become one is not written again for every few files that follow.
    let files = row(&[400, 10, 10, 10]);
    assert_eq!(plan(&files, RULES, 0).merge, Vec::<Vec<usize>>::new());
    let files = row(&[400, 10, 10, 10, 10]);
    assert_eq!(plan(&files, RULES, 0).merge, [vec![1, 2, 3, 4]]);
}

#[test]
fn holes_days_and_epochs_are_borders() {
    let mut files = vec![
        file(7, 1, 1, 1, 0),
        file(7, 3, 3, 1, 0),
        file(7, 4, 4, 1, 0),
        file(9, 5, 5, 1, 0),
    ];
    files[2].name.day = Day::of(TODAY_MS + 86_400_000, 0);
    assert_eq!(plan(&files, RULES, 60_000), Plan::default());
}

#[test]
fn files_that_overlap_become_one_at_once() {
    let files = [file(7, 1, 10, 800, 0), file(7, 6, 15, 800, 0)];
    assert_eq!(plan(&files, RULES, 0).merge, [vec![0, 1]]);
}

/// Does to a set of files what a plan says, up to a crash after `acts` acts.
fn act(files: &mut Vec<Lying>, plan: &Plan, acts: usize, now_ms: u64) {
    let before = files.clone();
    let mut left = acts;
    let mut gone = Vec::new();
    let mut step = || {
        let may = left > 0;
        left = left.saturating_sub(1);
        may
    };
    for at in &plan.remove {
        if step() {
            gone.push(before[*at].name.clone());
        }
    }
    for parts in &plan.merge {
        let names: Vec<_> = parts.iter().map(|at| &before[*at].name).collect();
        let name = merged_name(&names).unwrap();
        if !step() {
            break;
        }
        let bytes = parts.iter().map(|at| before[*at].bytes).sum();
        files.push(Lying {
            name,
            bytes,
            written_ms: now_ms,
        });
        for part in names {
            if step() {
                gone.push(part.clone());
            }
        }
    }
    files.retain(|file| !gone.contains(&file.name));
}

/// Sequences of the files that count, with how many files have each.
fn covered(files: &[Lying]) -> BTreeMap<u64, usize> {
    let counts = |at: usize| {
        let span = files[at].name.span;
        !files.iter().enumerate().any(|(other, file)| {
            let wide = file.name.span;
            let within = wide.first <= span.first && span.last <= wide.last;
            other != at && within && (wide != span || other < at)
        })
    };
    let mut all = BTreeMap::new();
    for at in (0..files.len()).filter(|at| counts(*at)) {
        let Span { first, last, .. } = files[at].name.span;
        for sequence in first..=last {
            *all.entry(sequence).or_default() += 1;
        }
    }
    all
}

proptest! {
    /// Whatever files come, whatever crash stops the work: every sequence stays in a file, and
    /// where the reader's rule is followed, in one only. In the end the plan comes to rest.
    #[test]
    fn every_sequence_stays_in_one_file(
        sizes in prop::collection::vec((1u64..20, 1u64..700, 0u64..3), 1..40),
        crashes in prop::collection::vec(0usize..12, 0..12),
    ) {
        let mut files = Vec::new();
        let mut next = 1;
        for (count, bytes, hole) in sizes {
            next += hole / 2;
            files.push(file(7, next, next + count - 1, bytes, 0));
            next += count;
        }
        let whole = covered(&files);
        prop_assert!(whole.values().all(|times| *times == 1));
        for (at, acts) in crashes.iter().enumerate() {
            let now_ms = at as u64 * 30_000;
            let next = plan(&files, RULES, now_ms);
            act(&mut files, &next, *acts, now_ms);
            prop_assert_eq!(&covered(&files), &whole);
        }
        for _ in 0..20 {
            let next = plan(&files, RULES, u64::MAX);
            act(&mut files, &next, usize::MAX, 0);
            prop_assert_eq!(&covered(&files), &whole);
        }
        prop_assert_eq!(plan(&files, RULES, u64::MAX), Plan::default());
        files.sort_by_key(|file| file.name.span.first);
        let small = files.windows(2).filter(|two| {
            let follows = two[0].name.span.last + 1 == two[1].name.span.first;
            follows && two.iter().map(|f| f.bytes).sum::<u64>() <= RULES.target_bytes / 2
        });
        prop_assert_eq!(small.count(), 0);
    }
}
