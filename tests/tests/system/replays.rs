use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use fleet_api::replay::{ReplayResult, ReplayState, ReplayStatus};
use fleet_tests::{Fleet, until};
use serde_json::{Value, json};

use crate::fixtures;

const LIMIT: Duration = Duration::from_secs(60);
/// Enough for a few batches.
const RECORDS: usize = 1_000;

/// Every window is below this threshold, so that each record gives an alert with its score.
const SCORED: &str = r#"
[deployment]
name = "monitoring"
select = "*"
[[handler]]
name = "vibration"
version = "1.0.0"
allow = { models = ["vibration"], streams = ["alerts"] }
config = { threshold = "1000" }
[[model]]
name = "vibration"
version = "1"
[[stream]]
name = "vibration"
processor = "vibration:1.0.0"
[[stream]]
name = "alerts"
"#;

/// A node that has scored its records in production; the scores by sequence.
async fn scored() -> Result<(Fleet, Vec<f64>)> {
    let mut fleet = fixtures::one_node().await?;
    fleet.push_handler("vibration:1.0.0", "vibration").await?;
    let variant = fixtures::variant("vibration", "two")?;
    let file = fleet.file("variant.wasm", variant)?;
    let push = ["push", "handler", "vibration:2.0.0", &file];
    fleet.edgectl.ok(push).await?;
    fleet.push_model("vibration:1", "vibration").await?;
    fleet.push_model("vibration:2", "vibration").await?;
    fleet.apply(SCORED).await?;
    fleet.committed().await?;
    let series = fixtures::series()?;
    let lines: Vec<_> = (0..RECORDS as u64).map(|n| series.record(n)).collect();
    let edge = fleet.edge("n1")?;
    for part in lines.chunks(250) {
        let body = part.join("\n").into_bytes();
        let (status, answer) = edge
            .post("/streams/vibration", "application/x-ndjson", body)
            .await?;
        ensure!(status == 200, "{status}: {answer}");
    }
    let scores = until("an alert for each record", LIMIT, async || {
        let path = format!("/streams/alerts?limit={}", 2 * RECORDS);
        let (_, rows) = edge.get(&path).await.map_err(|e| e.to_string())?;
        let scores: Vec<_> = rows
            .lines()
            .filter_map(|row| serde_json::from_str::<Value>(row).ok()?["value"]["score"].as_f64())
            .collect();
        match scores.len() {
            RECORDS => Ok(scores),
            count => Err(format!("{count} of {RECORDS}")),
        }
    })
    .await?;
    Ok((fleet, scores))
}

async fn replay(fleet: &Fleet, args: &[&str]) -> Result<ReplayResult> {
    replay_of("vibration", fleet, args).await
}

async fn replay_of(stream: &str, fleet: &Fleet, args: &[&str]) -> Result<ReplayResult> {
    let all = [&["replay", "n1", "--stream", stream], args].concat();
    let status: ReplayStatus = fleet.edgectl.json(&all).await?;
    ensure!(status.report.state == ReplayState::Done, "{status:?}");
    status.report.result.context("a result")
}

/// What `edgectl` says of a replay that is refused or fails.
async fn refused(fleet: &Fleet, args: &[&str]) -> Result<String> {
    let all = [&["replay", "n1"], args].concat();
    fleet.edgectl.refused(&all).await
}

/// Equal, differing, missing and extra outputs to the stream of alerts.
fn difference(result: &ReplayResult) -> [u64; 4] {
    difference_in("alerts", result)
}

fn difference_in(stream: &str, result: &ReplayResult) -> [u64; 4] {
    let streams = &result.streams;
    assert_eq!(streams.len(), 1, "{streams:?}");
    let s = &streams[0];
    assert_eq!(s.stream, stream);
    [s.equal, s.differing, s.missing, s.extra]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_is_tried_on_recorded_data_apart_from_production() -> Result<()> {
    let (mut fleet, scores) = scored().await?;
    let all = RECORDS as u64;
    let before = fleet.edge("n1")?.status().await?;

    // Another version that does the same, not deployed anywhere.
    let same = replay(&fleet, &["--handler", "vibration:2.0.0"]).await?;
    assert_eq!(difference(&same), [all, 0, 0, 0], "{same:?}");
    assert_eq!((same.records, same.first_seq, same.last_seq), (all, 1, all));
    assert_eq!(same.candidate.version, "vibration:2.0.0");
    assert_eq!(same.baseline.as_ref().map(|b| b.outputs), Some(all));
    assert!(same.candidate.p50_us > 0 && same.batches >= 4, "{same:?}");

    // Another threshold: the alerts above it are missing, the others tell the new threshold.
    let mut sorted = scores.clone();
    sorted.sort_by(f64::total_cmp);
    let threshold = f64::midpoint(sorted[RECORDS / 4], sorted[RECORDS / 4 + 1]);
    let below = scores.iter().filter(|score| **score < threshold).count() as u64;
    assert!(below > 0 && below < all, "{below}");
    let config = format!("threshold={threshold}");
    let stricter = replay(&fleet, &["--config", &config, "--show", "3"]).await?;
    assert_eq!(
        difference(&stricter),
        [0, below, all - below, 0],
        "{stricter:?}"
    );
    assert_eq!(stricter.candidate.outputs, below);
    assert_eq!(stricter.examples.len(), 3);
    assert!(stricter.agreement() < 1e-9);

    // A part of the records, under another version of the model.
    let range = ["--from", "11", "--to", "40", "--model", "vibration:2"];
    let part = replay(&fleet, &range).await?;
    assert_eq!((part.records, part.first_seq, part.last_seq), (30, 11, 40));
    assert_eq!(difference(&part), [30, 0, 0, 0]);
    let since = [
        "--since",
        "1h",
        "--handler",
        "vibration:2.0.0",
        "--max-records",
        "300",
    ];
    let cut = replay(&fleet, &since).await?;
    assert_eq!(cut.records, 300);
    assert!(
        cut.cut_short
            .is_some_and(|reason| reason.contains("300 records"))
    );

    let text = fleet
        .edgectl
        .ok(["replay", "n1", "--stream", "vibration", "--config", &config])
        .await?;
    assert!(text.contains("agreement  0.00 %"), "{text}");
    assert!(text.contains("First differences"), "{text}");
    let gate = [
        "--stream",
        "vibration",
        "--config",
        &config,
        "--min-agreement",
        "0.5",
    ];
    let gate = refused(&fleet, &gate).await?;
    assert!(
        gate.contains("0.00 % of the outputs agree, less than 50.00 %"),
        "{gate}"
    );

    // Nothing of that is to be seen in production.
    let after = fleet.edge("n1")?.status().await?;
    let next = |health: &fleet_api::health::Health| -> Vec<_> {
        let streams = health.streams.iter();
        // The node's own events have nothing to do with it.
        let own = streams.filter(|s| s.name.as_str() != "events");
        own.map(|s| (s.name.clone(), s.next_seq)).collect()
    };
    assert_eq!(next(&after), next(&before));
    let calls = |health: &fleet_api::health::Health| health.handlers[0].requests;
    assert_eq!(calls(&after), calls(&before));
    let node = fleet.api()?.node("n1").await?;
    assert_eq!(node.summary.desired_generation, 1);

    refusals(&fleet).await?;
    until("the node's figures", LIMIT, async || {
        let streams = fleet.edgectl.json::<Vec<Value>>(&["streams", "n1"]).await;
        let streams = streams.map_err(|e| e.to_string())?;
        let found = streams.iter().any(|s| s["name"] == "vibration");
        if found {
            Ok(())
        } else {
            Err(format!("{streams:?}"))
        }
    })
    .await?;
    let table = fleet.edgectl.ok(["streams"]).await?;
    assert!(
        table.starts_with("NODE") && table.contains("alerts"),
        "{table}"
    );
    fleet.finish().await
}

/// Sums of ten records; an open sum is kept on the node.
const SUMS: &str = r#"
[deployment]
name = "sums"
select = "*"
[[handler]]
name = "window"
version = "1.0.0"
allow = { streams = ["windows"], keyvalue = "64KiB" }
config = { count = "10", to = "windows" }
[[stream]]
name = "raw"
processor = "window:1.0.0"
[[stream]]
name = "windows"
"#;

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_begins_with_nothing_or_with_a_copy_of_what_is_kept() -> Result<()> {
    let mut fleet = fixtures::one_node().await?;
    fleet.push_handler("window:1.0.0", "window").await?;
    let variant = fleet.file("variant.wasm", fixtures::variant("window", "two")?)?;
    let push = ["push", "handler", "window:2.0.0", &variant];
    fleet.edgectl.ok(push).await?;
    fleet.apply(SUMS).await?;
    fleet.committed().await?;
    send(&mut fleet, 0..15).await?;
    assert_eq!(sums(&mut fleet, 1).await?[0]["mean"], 4.5);

    let v2 = ["--handler", "window:2.0.0"];
    let empty = replay_of("raw", &fleet, &v2).await?;
    assert_eq!(difference_in("windows", &empty), [1, 0, 0, 0], "{empty:?}");
    // Five of the fifteen are in the sum that is open.
    let copy = ["--copy-state", v2[0], v2[1]];
    for _ in 0..2 {
        let kept = replay_of("raw", &fleet, &copy).await?;
        assert_eq!(difference_in("windows", &kept), [2, 0, 0, 0], "{kept:?}");
    }
    let against = ["--config", "count=5", "--against", "window:2.0.0"];
    let other = replay_of("raw", &fleet, &against).await?;
    let baseline = other.baseline.as_ref().context("a baseline")?;
    assert_eq!(baseline.version, "window:2.0.0");
    assert_eq!((other.candidate.outputs, baseline.outputs), (3, 1));
    assert_eq!(difference_in("windows", &other), [0, 1, 0, 2], "{other:?}");

    // What production keeps is as it was.
    send(&mut fleet, 15..20).await?;
    let second = &sums(&mut fleet, 2).await?[1];
    assert_eq!(
        (&second["mean"], &second["number"]),
        (&14.5.into(), &2.into())
    );
    fleet.finish().await
}

async fn send(fleet: &mut Fleet, values: std::ops::Range<u64>) -> Result<()> {
    let lines = values.map(|value| json!({ "machine": "m", "value": value }).to_string());
    let body = lines.collect::<Vec<_>>().join("\n").into_bytes();
    let edge = fleet.edge("n1")?;
    let (status, answer) = edge
        .post("/streams/raw", "application/x-ndjson", body)
        .await?;
    ensure!(status == 200, "{status}: {answer}");
    Ok(())
}

/// The sums that production has put out, once there are so many.
async fn sums(fleet: &mut Fleet, count: usize) -> Result<Vec<Value>> {
    let edge = fleet.edge("n1")?;
    until("sums", LIMIT, async || {
        let rows = edge.get("/streams/windows").await;
        let (_, rows) = rows.map_err(|e| e.to_string())?;
        let sums: Vec<_> = rows
            .lines()
            .filter_map(|row| Some(serde_json::from_str::<Value>(row).ok()?["value"].clone()))
            .collect();
        if sums.len() == count {
            Ok(sums)
        } else {
            Err(rows)
        }
    })
    .await
}

async fn refusals(fleet: &Fleet) -> Result<()> {
    fleet.push_handler("hello:1.0.0", "hello").await?;
    let v2 = ["--handler", "vibration:2.0.0"];
    for (args, part) in [
        (
            &["--stream", "other", v2[0], v2[1]][..],
            "has no stream other: it has alerts, vibration",
        ),
        (&["--stream", "vibration"], "say what to try"),
        (
            &["--stream", "vibration", "--handler", "vibration:9"],
            "its versions are 1.0.0, 2.0.0",
        ),
        (
            &["--stream", "vibration", "--handler", "hello:1.0.0"],
            "hello:1.0.0 is no stream processor",
        ),
        (
            &[
                "--stream",
                "vibration",
                v2[0],
                v2[1],
                "--from",
                "5000",
                "--to",
                "6000",
            ],
            "has no record in this range any more: the node holds 1 to 1000",
        ),
        (
            &[
                "--stream",
                "vibration",
                v2[0],
                v2[1],
                "--until",
                "2020-01-01T00:00:00Z",
            ],
            "stream vibration has no record in this range",
        ),
        (&["--id", "r0"], "has no replay r0"),
    ] {
        let error = refused(fleet, args).await?;
        assert!(error.contains(part), "{args:?}: {error}");
    }
    Ok(())
}

/// Waits until the node has written down that a replay has begun for the `attempt`th time.
async fn begun(fleet: &mut Fleet, attempt: u32) -> Result<()> {
    let path = fleet.edge("n1")?.data_dir().join("replays.json");
    let wanted = format!("\"attempt\":{attempt}");
    let running = ["preparing", "running"].map(|state| format!("\"state\":\"{state}\""));
    let begun = tokio::time::timeout(LIMIT, async {
        loop {
            let text = std::fs::read_to_string(&path).unwrap_or_default();
            if text.contains(&wanted) && running.iter().any(|state| text.contains(state)) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    });
    begun
        .await
        .with_context(|| format!("attempt {attempt} does not begin"))
}

async fn ended(fleet: &Fleet, id: &str) -> Result<ReplayStatus> {
    until("the end of a replay", LIMIT, async || {
        let ran = fleet
            .edgectl
            .run(["replay", "n1", "--id", id, "-o", "json"])
            .await;
        let ran = ran.map_err(|e| e.to_string())?;
        let status: ReplayStatus =
            serde_json::from_str(&ran.stdout).map_err(|e| format!("{e}: {}", ran.stderr))?;
        if status.report.state.is_final() {
            Ok(status)
        } else {
            Err(format!("{:?}", status.report))
        }
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_survives_a_kill_and_is_given_up_after_three() -> Result<()> {
    let (mut fleet, _) = scored().await?;
    let args = [
        "replay",
        "n1",
        "--stream",
        "vibration",
        "--handler",
        "vibration:2.0.0",
        "--no-wait",
    ];
    let begin = async |fleet: &Fleet| -> Result<String> {
        Ok(fleet.edgectl.ok(args).await?.trim().to_owned())
    };
    let first = begin(&fleet).await?;
    begun(&mut fleet, 1).await?;
    fleet.edge("n1")?.kill()?;
    fleet.edge("n1")?.start().await?;
    let status = ended(&fleet, &first).await?;
    assert_eq!(status.report.state, ReplayState::Done, "{status:?}");
    assert_eq!(status.report.attempt, 2);
    let result = status.report.result.context("a result")?;
    assert_eq!(result.records, RECORDS as u64);
    assert!((result.agreement() - 1.0).abs() < 1e-9);

    let second = begin(&fleet).await?;
    for attempt in 1..=3 {
        begun(&mut fleet, attempt).await?;
        fleet.edge("n1")?.kill()?;
        if attempt < 3 {
            fleet.edge("n1")?.start().await?;
        }
    }
    // Nobody is there to take a third one up: it can be taken back.
    let third = begin(&fleet).await?;
    let cancelled = fleet
        .edgectl
        .ok(["replay", "n1", "--cancel", &third])
        .await?;
    assert!(cancelled.contains("is cancelled"), "{cancelled}");
    fleet.edge("n1")?.start().await?;
    let status = ended(&fleet, &second).await?;
    assert_eq!(status.report.state, ReplayState::Failed, "{status:?}");
    let reason = status.report.reason.unwrap_or_default();
    assert!(reason.contains("stopped 3 times"), "{reason}");
    assert_eq!(ended(&fleet, &third).await?.report.attempt, 0);
    fleet.committed().await?;
    fleet.finish().await
}
