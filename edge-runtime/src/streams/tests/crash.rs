use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};

use super::*;

const CHILD_DIR: &str = "EDGE_STREAMS_CRASH_DIR";
const KILLS: u64 = 10;

/// Appends for ever and prints what was acknowledged. It is run by the test
/// below as a process of its own, and does nothing in an ordinary run.
#[tokio::test]
async fn crash_child() {
    let Some(dir) = std::env::var_os(CHILD_DIR) else {
        return;
    };
    let streams = open_with(
        Path::new(&dir),
        &[limited("a", 64 << 20, OnFull::Reject), spec("b")],
    );
    let mut number = health(&streams, "a").next_seq;
    println!("ready {number}");
    loop {
        let last = number + number % 40;
        let appended = streams
            .append("a", batch(number..=last, 120))
            .await
            .unwrap();
        assert_eq!((appended.first_seq, appended.last_seq), (number, last));
        println!("acked {last}");
        number = last + 1;
        if number.is_multiple_of(7) {
            // Frees the head, so that the kill also hits removals.
            let upto = number.saturating_sub(2_000);
            streams.release("a", streams.epoch(), upto).await;
            println!("freed {upto}");
        }
    }
}

#[tokio::test]
async fn a_kill_during_ingest_loses_nothing_that_was_acknowledged() {
    let dir = tempfile::tempdir().unwrap();
    let (mut acked, mut freed, mut epoch) = (0, 0, None);
    for kill in 0..KILLS {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "--nocapture",
                "streams::tests::crash::crash_child",
            ])
            .env(CHILD_DIR, dir.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut left = 40 + kill * 23;
        while left > 0 {
            let line = lines.next().expect("the child goes on").unwrap();
            note(&line, &mut acked, &mut freed);
            left -= u64::from(line.contains("acked"));
        }
        child.kill().unwrap();
        child.wait().unwrap();
        for line in lines.map_while(Result::ok) {
            note(&line, &mut acked, &mut freed);
        }

        let streams = open_with(dir.path(), &[spec("a")]);
        assert_eq!(*epoch.get_or_insert(streams.epoch()), streams.epoch());
        let (records, gaps) = everything(&streams, "a").await;
        assert!(gaps.is_empty(), "{gaps:?}");
        let last = records.last().unwrap().0;
        assert!(
            last >= acked,
            "kill {kill}: {last} stored, {acked} acknowledged"
        );
        let first = records.first().unwrap().0;
        assert!(
            first <= freed + 1,
            "kill {kill}: {first} is left, {freed} freed"
        );
        assert_eq!(records.len() as u64, last - first + 1, "no hole");
        for (seq, bytes) in records {
            assert_eq!(bytes, value(seq, 120));
        }
        streams.close();
    }
    assert!(acked > 1_000, "the children did some work: {acked}");
}

fn note(line: &str, acked: &mut u64, freed: &mut u64) {
    // A killed child's last line may be cut off.
    let number = |rest: &str| rest.trim().parse::<u64>().ok();
    if let Some(upto) = line.strip_prefix("acked ").and_then(number) {
        *acked = (*acked).max(upto);
    } else if let Some(upto) = line.strip_prefix("freed ").and_then(number) {
        *freed = (*freed).max(upto);
    }
}
