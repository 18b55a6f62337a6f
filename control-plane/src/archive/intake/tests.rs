use bytes::Bytes;
use fleet_api::frame::{Gap, GapReason};
use proptest::prelude::*;

use super::*;

fn record(sequence: u64, encoding: Encoding) -> Record {
    Record {
        time_ms: sequence,
        encoding,
        value: Bytes::from(sequence.to_string()),
    }
}

fn records(epoch: u64, first: u64, last: u64) -> Frame {
    Frame {
        epoch,
        first,
        body: Body::Records((first..=last).map(|s| record(s, Encoding::Json)).collect()),
    }
}

fn gap(epoch: u64, first: u64, last: u64) -> Frame {
    Frame {
        epoch,
        first,
        body: Body::Gap(Gap {
            last,
            reason: GapReason::Quota,
            lost: last - first + 1,
        }),
    }
}

/// Writes everything that is pending, as the disk would.
fn flush(intake: &mut Intake) -> Vec<Piece> {
    let pieces = intake.pieces(1000);
    let done: Vec<_> = pieces.iter().map(|p| (p.epoch, p.last)).collect();
    intake.settle(&done, Vec::new());
    pieces
}

fn values(pieces: &[Piece]) -> Vec<(u64, String)> {
    let mut all = Vec::new();
    for piece in pieces {
        if let Content::Records(records) = &piece.content {
            for (sequence, record) in (piece.first..).zip(records) {
                let value = String::from_utf8(record.value.to_vec()).expect("text");
                all.push((sequence, value));
            }
        }
    }
    all
}

#[test]
fn the_watermark_waits_for_the_file() {
    let now = Instant::now();
    let mut intake = Intake::default();
    assert_eq!(intake.take(records(7, 1, 3), now), Taken::Pending);
    assert_eq!(intake.durable(), None);
    let pieces = intake.pieces(1000);
    intake.settle(&[], pieces);
    assert_eq!(intake.durable(), None, "the disk was full");
    assert_eq!(values(&flush(&mut intake)).len(), 3);
    assert_eq!(intake.durable(), Some((7, 3)));
}

#[test]
fn what_came_twice_is_dropped_also_in_part() {
    let now = Instant::now();
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
    let now = Instant::now();
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
    let later = now + PATIENCE;
    assert_eq!(intake.take(records(7, 9, 9), later), Taken::Pending);
    let pieces = flush(&mut intake);
    let gaps: Vec<_> = pieces
        .iter()
        .filter_map(|p| match &p.content {
            Content::Gap { reason, lost } => Some((p.first, p.last, *reason, *lost)),
            Content::Records(_) => None,
        })
        .collect();
    assert_eq!(gaps, [(7, 8, "missing", 2)]);
    assert_eq!(intake.durable(), Some((7, 9)));
}

#[test]
fn gaps_move_the_watermark() {
    let now = Instant::now();
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
    let now = Instant::now();
    let mut intake = Intake::default();
    intake.restore(7, 100);
    assert_eq!(intake.durable(), Some((7, 100)));
    assert_eq!(intake.take(records(8, 1, 2), now), Taken::Pending);
    flush(&mut intake);
    assert_eq!(intake.durable(), Some((8, 2)));
    assert_eq!(intake.take(records(7, 90, 100), now), Taken::Known);
}

#[test]
fn a_file_holds_json_only_or_none() {
    let now = Instant::now();
    let mut intake = Intake::default();
    let encodings = [
        Encoding::Json,
        Encoding::Json,
        Encoding::Cbor,
        Encoding::Bytes,
        Encoding::Json,
    ];
    let body = encodings
        .iter()
        .zip(1..)
        .map(|(e, s)| record(s, *e))
        .collect();
    intake.take(
        Frame {
            epoch: 1,
            first: 1,
            body: Body::Records(body),
        },
        now,
    );
    let spans: Vec<_> = flush(&mut intake)
        .iter()
        .map(|p| (p.first, p.last))
        .collect();
    assert_eq!(spans, [(1, 2), (3, 4), (5, 5)]);
}

proptest! {
    /// A node that repeats itself as it likes, an archive that crashes as it likes: in the files
    /// every record is there once, up to the watermark.
    #[test]
    fn nothing_is_lost_or_doubled(steps in prop::collection::vec((0u8..10, 1u64..6, 0u64..8), 1..60)) {
        let now = Instant::now();
        let mut intake = Intake::default();
        let mut files: Vec<Piece> = Vec::new();
        for (what, count, back) in steps {
            match what {
                0 => files.extend(flush(&mut intake)),
                1 => {
                    // A crash: only the files are left.
                    intake = Intake::default();
                    for file in &files {
                        intake.restore(file.epoch, file.last);
                    }
                }
                2 => {
                    // The disk fails after the first piece.
                    let mut pieces = intake.pieces(2).into_iter();
                    let first = pieces.next();
                    let done: Vec<_> = first.iter().map(|p| (p.epoch, p.last)).collect();
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
