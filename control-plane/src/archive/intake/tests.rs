use bytes::Bytes;
use fleet_api::frame::{Encoding, GapReason};
use proptest::prelude::*;

use super::*;

/// Midnight, in the middle of the records.
const MIDNIGHT_MS: u64 = 1_764_028_800_000;
const BOUNDS: Bounds = Bounds {
    records: 1000,
    bytes: usize::MAX,
};

fn record(sequence: u64) -> Record {
    Record {
        time_ms: MIDNIGHT_MS + sequence,
        encoding: Encoding::Json,
        value: Bytes::from(sequence.to_string()),
    }
}

fn records(epoch: u64, first: u64, last: u64) -> Frame {
    Frame {
        epoch,
        first,
        body: Body::Records((first..=last).map(record).collect()),
    }
}

fn span(epoch: u64, first: u64, last: u64) -> Span {
    Span { epoch, first, last }
}

fn gap(epoch: u64, first: u64, last: u64) -> Frame {
    Frame {
        epoch,
        first,
        body: Body::Gap(fleet_api::frame::Gap {
            last,
            reason: GapReason::Quota,
            lost: last - first + 1,
        }),
    }
}

fn now() -> Receipt {
    Receipt {
        at: Instant::now(),
        time_ms: MIDNIGHT_MS,
    }
}

/// Writes everything that is pending, as the disk would.
fn flush(intake: &mut Intake) -> Vec<Piece> {
    let pieces = intake.pieces(BOUNDS);
    let done: Vec<_> = pieces
        .iter()
        .filter(|p| !matches!(p.content, Content::Turn { .. }))
        .map(|p| p.span)
        .collect();
    intake.settle(&done, Vec::new());
    pieces
}

fn values(pieces: &[Piece]) -> Vec<(u64, String)> {
    let mut all = Vec::new();
    for piece in pieces {
        if let Content::Records(records) = &piece.content {
            for (sequence, record) in (piece.span.first..).zip(records) {
                let value = String::from_utf8(record.value.to_vec()).expect("text");
                all.push((sequence, value));
            }
        }
    }
    all
}

#[test]
fn the_watermark_waits_for_the_file() {
    let now = now();
    let mut intake = Intake::default();
    assert_eq!(intake.take(records(7, 1, 3), now), Taken::Pending);
    assert_eq!(intake.durable(), None);
    let pieces = intake.pieces(BOUNDS);
    intake.settle(&[], pieces);
    assert_eq!(intake.durable(), None, "the disk was full");
    assert_eq!(values(&flush(&mut intake)).len(), 3);
    assert_eq!(intake.durable(), Some((7, 3)));
}

#[test]
fn what_came_twice_is_dropped_also_in_part() {
    let now = now();
    let mut intake = Intake::default();
    intake.take(records(7, 1, 3), now);
    assert_eq!(intake.take(records(7, 1, 3), now), Taken::Known);
    assert_eq!(intake.take(records(7, 2, 5), now), Taken::Pending);
    let sequences: Vec<_> = values(&flush(&mut intake))
        .into_iter()
        .map(|(s, _)| s)
        .collect();
    assert_eq!(sequences, [1, 2, 3, 4, 5]);
    assert_eq!((intake.records(), intake.duplicates()), (5, 5));
}

#[test]
fn a_hole_is_waited_for_and_then_named() {
    let now = now();
    let mut intake = Intake::default();
    intake.take(records(7, 1, 2), now);
    let hole = Taken::Hole {
        expected: 3,
        first: 5,
    };
    assert_eq!(intake.take(records(7, 5, 6), now), hole);
    assert_eq!(intake.take(records(7, 3, 4), now), Taken::Pending);
    assert_eq!(intake.take(records(7, 5, 6), now), Taken::Pending);
    let hole = Taken::Hole {
        expected: 7,
        first: 9,
    };
    assert_eq!(intake.take(records(7, 9, 9), now), hole);
    let later = Receipt {
        at: now.at + PATIENCE,
        ..now
    };
    assert_eq!(intake.take(records(7, 9, 9), later), Taken::Pending);
    let pieces = flush(&mut intake);
    let gaps: Vec<_> = pieces
        .iter()
        .filter_map(|p| match &p.content {
            Content::Gap(gap) => Some((p.span.first, p.span.last, gap.reason, gap.lost)),
            Content::Records(_) | Content::Turn { .. } => None,
        })
        .collect();
    assert_eq!(gaps, [(7, 8, "missing", 2)]);
    assert_eq!(intake.durable(), Some((7, 9)));
}

#[test]
fn gaps_move_the_watermark() {
    let now = now();
    let mut intake = Intake::default();
    intake.take(records(7, 1, 4), now);
    assert_eq!(intake.take(gap(7, 3, 8), now), Taken::Pending);
    assert_eq!(intake.take(records(7, 9, 9), now), Taken::Pending);
    assert_eq!(flush(&mut intake).len(), 3);
    assert_eq!(intake.durable(), Some((7, 9)));
    assert_eq!(intake.lost(), 4);
}

#[test]
fn a_new_epoch_starts_over() {
    let now = now();
    let mut intake = Intake::default();
    intake.restore(span(7, 1, 100), 0);
    assert_eq!(intake.durable(), Some((7, 100)));
    assert_eq!(intake.take(records(8, 1, 2), now), Taken::Pending);
    let pieces = flush(&mut intake);
    assert_eq!(intake.durable(), Some((8, 2)));
    let turn = Content::Turn {
        to: 8,
        noted_ms: MIDNIGHT_MS,
    };
    assert_eq!(
        (pieces[0].span, &pieces[0].content),
        (span(7, 101, 101), &turn)
    );
    assert_eq!(intake.take(records(7, 90, 100), now), Taken::Known);
}

#[test]
fn after_a_restart_the_epoch_that_was_written_last_is_the_nodes() {
    let mut intake = Intake::default();
    intake.restore(span(3, 1, 20), 2_000);
    intake.restore(span(9, 1, 50), 1_000);
    intake.restore(span(3, 21, 30), 1_500);
    assert_eq!(intake.durable(), Some((3, 30)));
    // Merged files are newer than what they say; a turn is not.
    intake.restore_turn(9, 500);
    intake.restore(span(3, 1, 30), 9_000);
    assert_eq!(intake.durable(), Some((9, 50)));
}

#[test]
fn a_file_holds_one_day_and_unset_clocks_go_to_the_day_of_receipt() {
    let mut intake = Intake::default();
    let times = [
        MIDNIGHT_MS - 2,
        MIDNIGHT_MS - 1,
        MIDNIGHT_MS,
        5,
        MIDNIGHT_MS - 1,
        MIDNIGHT_MS + 1,
    ];
    let body = times.iter().zip(1..).map(|(time_ms, sequence)| Record {
        time_ms: *time_ms,
        ..record(sequence)
    });
    let body = Body::Records(body.collect());
    let (epoch, first) = (1, 1);
    intake.take(Frame { epoch, first, body }, now());
    let pieces = flush(&mut intake);
    let days: Vec<_> = pieces
        .iter()
        .map(|p| (p.span.first, p.span.last, p.day.to_string()))
        .collect();
    let expected = [
        (1, 2, "2025-11-24"),
        (3, 4, "2025-11-25"),
        (5, 5, "2025-11-24"),
        (6, 6, "2025-11-25"),
    ];
    assert_eq!(
        days,
        expected.map(|(first, last, day)| (first, last, day.to_owned()))
    );
}

#[test]
fn a_write_that_failed_is_repeated_under_the_same_name() {
    let now = now();
    let mut intake = Intake::default();
    intake.take(records(1, 1, 5), now);
    let bounds = Bounds {
        records: 3,
        ..BOUNDS
    };
    let first_try: Vec<_> = intake.pieces(bounds);
    intake.settle(&[], first_try.clone());
    intake.take(records(1, 6, 9), now);
    let second_try = intake.pieces(bounds);
    assert_eq!(second_try[..2], first_try);
    let spans: Vec<_> = second_try
        .iter()
        .map(|p| (p.span.first, p.span.last))
        .collect();
    assert_eq!(spans, [(1, 3), (4, 5), (6, 8), (9, 9)]);
}

#[test]
fn files_are_bounded_in_bytes() {
    let mut intake = Intake::default();
    intake.take(records(1, 1, 9), now());
    let bytes = 3 * record_bytes(&record(1));
    let pieces = intake.pieces(Bounds {
        records: 100,
        bytes,
    });
    let spans: Vec<_> = pieces.iter().map(|p| (p.span.first, p.span.last)).collect();
    assert_eq!(spans, [(1, 3), (4, 6), (7, 9)]);
}

proptest! {
    /// A node that repeats itself as it likes, an archive that crashes as it likes: in the files
    /// every record is there once, up to the watermark.
    #[test]
    fn nothing_is_lost_or_doubled(steps in prop::collection::vec((0u8..10, 1u64..6, 0u64..8), 1..60)) {
        let now = now();
        let mut intake = Intake::default();
        let mut files: Vec<Piece> = Vec::new();
        for (what, count, back) in steps {
            match what {
                0 => files.extend(flush(&mut intake)),
                1 => {
                    // A crash: only the files are left.
                    intake = Intake::default();
                    for file in &files {
                        intake.restore(file.span, 0);
                    }
                }
                2 => {
                    // The disk fails after the first piece.
                    let bounds = Bounds { records: 2, ..BOUNDS };
                    let mut pieces = intake.pieces(bounds).into_iter();
                    let first = pieces.next();
                    let done: Vec<_> = first.iter().map(|p| p.span).collect();
                    files.extend(first);
                    intake.settle(&done, pieces.collect());
                }
                _ => {
                    let mark = intake.taken.get(&1).copied().unwrap_or(0);
                    let first = (mark + 1).saturating_sub(back).max(1);
                    let taken = intake.take(records(1, first, first + count - 1), now);
                    let is_hole = matches!(taken, Taken::Hole { .. });
                    prop_assert!(!is_hole);
                }
            }
            let sequences: Vec<_> = values(&files).into_iter().map(|(s, _)| s).collect();
            let durable = intake.durable().map_or(0, |(_, s)| s);
            prop_assert_eq!(sequences, (1..=durable).collect::<Vec<_>>());
        }
    }
}
