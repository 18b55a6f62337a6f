use std::io::Write as _;
use std::time::Instant;

use super::*;

/// Prints the durable ingest rate beside append and fdatasync of the same
/// bytes to a plain file: `cargo test --release -p edge-runtime --lib rate -- --ignored --nocapture`.
#[tokio::test]
#[ignore = "a measurement, not a check"]
async fn durable_ingest_rate_beside_the_raw_disk() {
    for (size, count, rounds) in [(100, 1000, 300), (256, 100, 600), (256, 1, 1500)] {
        let (mut best, mut raw_best) = (0.0f64, 0.0f64);
        for _ in 0..3 {
            let dir = tempfile::tempdir_in(".").unwrap();
            let streams = open_with(dir.path(), &[limited("a", 1 << 40, OnFull::Reject)]);
            let records = batch(1..=count, size);
            let started = Instant::now();
            for _ in 0..rounds {
                streams.append("a", records.clone()).await.unwrap();
            }
            let total = (count * rounds) as f64;
            best = best.max(total / started.elapsed().as_secs_f64());
            streams.close();

            let mut file = std::fs::File::create(dir.path().join("raw")).unwrap();
            let bytes = vec![7; size * count as usize];
            let started = Instant::now();
            for _ in 0..rounds {
                file.write_all(&bytes).unwrap();
                file.sync_data().unwrap();
            }
            raw_best = raw_best.max(total / started.elapsed().as_secs_f64());
        }
        println!(
            "{size} B x {count}: {best:.0} records/s, raw {raw_best:.0}, ratio {:.2}",
            best / raw_best
        );
    }
}
