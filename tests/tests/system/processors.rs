//! Processors one after the other, when all is well and when it is not.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, Result};
use fleet_api::health::ProcessorHealth;
use fleet_tests::device::Place;
use fleet_tests::{Edge, archive, until};
use serde_json::{Value, json};

use crate::fixtures;

const LIMIT: Duration = Duration::from_secs(60);
const KILLS: u64 = 6;

/// Three processors and an inference in a row: raw → clean → metric → windows → alerts.
const CHAIN: &str = r#"
[deployment]
name = "chain"
select = "*"
[[handler]]
name = "filter"
version = "1"
allow = { streams = ["clean", "alerts"] }
config = { field = "g", min = "-100", max = "100", to = "clean" }
[[handler]]
name = "convert"
version = "1"
allow = { streams = ["metric"] }
config = { field = "g", scale = "9.80665", unit = "m/s²", to = "metric" }
[[handler]]
name = "window"
version = "1"
allow = { streams = ["windows"], keyvalue = "1MiB" }
config = { field = "g", count = "50", samples = "true", rate_hz = "10", to = "windows" }
isolation = "reuse"
[[handler]]
name = "vibration"
version = "1"
allow = { streams = ["alerts"], models = ["vibration"] }
config = { threshold = "1000" }
[[model]]
name = "vibration"
version = "1"
[[stream]]
name = "raw"
processor = "filter:1"
[[stream]]
name = "clean"
processor = "convert:1"
[[stream]]
name = "metric"
processor = "window:1"
[[stream]]
name = "windows"
processor = "vibration:1"
[[stream]]
name = "alerts"
priority = 9
"#;

#[tokio::test(flavor = "multi_thread")]
async fn processors_in_a_row_end_in_an_inference_and_set_only_bad_records_aside() -> Result<()> {
    let mut fleet = fixtures::one_node().await?;
    for name in ["filter", "convert", "window", "vibration"] {
        fleet.push_handler(&format!("{name}:1"), name).await?;
    }
    fleet.push_model("vibration:1", "vibration").await?;
    let circle = CHAIN.replace("\"alerts\"], models", "\"raw\"], models");
    let refused = format!("{:#}", fleet.apply(&circle).await.unwrap_err());
    assert!(
        refused.contains("windows → (vibration) → raw"),
        "the circle is named: {refused}"
    );
    fleet.apply(CHAIN).await?;
    fleet.committed().await?;

    // 400 records of one machine; of each hundred one is out of range.
    let edge = fleet.edge("n1")?;
    let records: Vec<_> = (0..400_u32)
        .map(|n| match n % 100 {
            7 => json!({ "machine": "press-01", "g": 1e6 }),
            _ => json!({ "machine": "press-01", "g": f64::from(n % 13) }),
        })
        .collect();
    send(edge, "raw", &records).await?;
    // What comes into the middle of the chain and cannot be converted is set aside there.
    let middle = [
        json!({ "machine": "press-01", "g": 1 }),
        json!({ "machine": "press-01", "g": "high" }),
        json!({ "machine": "press-01", "g": 2 }),
        json!({ "machine": "press-01", "g": 3 }),
    ];
    send(edge, "clean", &middle).await?;

    let figures = until("all processed", LIMIT, async || {
        let figures = processors(edge).await.map_err(|e| format!("{e:#}"))?;
        let done = figures["raw"].records_in == 400
            && figures["clean"].records_in + figures["clean"].dead_letters == 400
            && figures.values().all(|p| p.lag == 0);
        if done {
            Ok(figures)
        } else {
            Err(format!("{figures:?}"))
        }
    })
    .await?;
    assert_eq!(figures["clean"].dead_letters, 1);
    assert_eq!(figures["metric"].records_in, 399);
    assert_eq!(figures["metric"].records_out, 7, "of 50 records each");
    assert_eq!(figures["windows"].records_in, 7);
    assert_eq!(
        figures["windows"].records_out, 7,
        "an alert for each window"
    );

    let dead = rows(edge, "clean.dead").await?;
    let letter = &dead[0]["value"];
    assert_eq!(dead.len(), 1, "only the bad one: {dead:?}");
    assert_eq!(letter["value"], middle[1]);
    assert_eq!(
        (&letter["stream"], &letter["processor"], &letter["encoding"]),
        (&json!("clean"), &json!("convert:1"), &json!("json"))
    );
    assert!(letter["attempts"].as_u64() >= Some(5), "{letter}");
    let reason = letter["reason"].as_str().unwrap_or_default();
    assert!(reason.contains("it has no number \"g\""), "{reason}");
    let alerts = rows(edge, "alerts").await?;
    let of_kind = |kind: &str| {
        let alerts = alerts.iter();
        alerts.filter(|row| row["value"]["kind"] == kind).count()
    };
    assert_eq!(of_kind("out-of-range"), 4, "{alerts:?}");
    assert_eq!(of_kind("vibration"), 7, "{alerts:?}");

    let (_, metrics) = edge.admin("/metrics").await?;
    let series = "edge_processor_dead_letters_total{stream=\"clean\",processor=\"convert\"} 1";
    assert!(metrics.contains(series), "{metrics}");
    until("the processors at the control plane", LIMIT, async || {
        let told = fleet.edgectl.ok(["node", "n1"]).await;
        match told {
            Ok(told) if told.contains("convert:1") && told.contains("DEAD LETTERS") => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await?;
    fleet.finish().await
}

/// Counts and numbers what passes, one output for each record.
fn counting(version: u64, more: &str) -> String {
    format!(
        r#"
[deployment]
name = "counting"
select = "*"
[[handler]]
name = "window"
version = "{version}"
allow = {{ streams = ["counted"], keyvalue = "64KiB" }}
config = {{ count = "1", to = "counted" }}
[[stream]]
name = "raw"
processor = "window:{version}"
{more}
"#
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn outputs_and_state_are_exactly_once_through_kills_and_new_versions() -> Result<()> {
    let mut fleet = fixtures::one_node().await?;
    for version in 1..=KILLS {
        fleet
            .push_handler(&format!("window:{version}"), "window")
            .await?;
    }
    let counted = "[[stream]]\nname = \"counted\"\n";
    fleet.apply(&counting(1, counted)).await?;
    fleet.committed().await?;
    let mut sent = 0_u64;
    for round in 1..=KILLS {
        // Under load: a new version while records come, then a kill at an odd moment.
        let mut goal = sent + 600;
        let mut applied = round == 1;
        while sent < goal {
            let records: Vec<_> = (sent..sent + 20)
                .map(|value| json!({ "machine": "m", "value": value }))
                .collect();
            send(fleet.edge("n1")?, "raw", &records).await?;
            sent += 20;
            if !applied && sent + 300 >= goal {
                applied = true;
                fleet.apply(&counting(round, counted)).await?;
                goal += 100 * (round % 3);
            }
        }
        // A backlog, and two kills while it is worked off.
        for kill in 0..2 {
            let end = sent + 1_000;
            let records: Vec<_> = (sent..end)
                .map(|value| json!({ "machine": "m", "value": value }))
                .collect();
            let edge = fleet.edge("n1")?;
            send(edge, "raw", &records).await?;
            sent = end;
            tokio::time::sleep(Duration::from_millis((7 * round + 5 * kill) % 40)).await;
            edge.kill()?;
            edge.start().await?;
            until("a node that serves", LIMIT, async || {
                let ready = edge.admin("/readyz").await;
                match ready {
                    Ok((200, _)) => Ok(()),
                    other => Err(format!("{other:?}")),
                }
            })
            .await?;
        }
        fleet.committed().await?;
    }
    let edge = fleet.edge("n1")?;
    until("all processed", LIMIT, async || {
        let figures = processors(edge).await.map_err(|e| format!("{e:#}"))?;
        let raw = &figures["raw"];
        if raw.lag == 0 {
            Ok(())
        } else {
            Err(format!("{raw:?}"))
        }
    })
    .await?;
    let last = processors(edge).await?.remove("raw");
    let last = last.context("a processor")?.processor.to_string();
    assert_eq!(last, format!("window:{KILLS}"));
    let data_dir = fleet.control.data_dir();
    let outputs = until("all outputs in the archive", LIMIT, async || {
        let contents = archive::read(data_dir, "n1", "counted").map_err(|e| format!("{e:#}"))?;
        if contents.len() as u64 >= sent {
            Ok(contents)
        } else {
            Err(contents.len().to_string())
        }
    })
    .await?;
    in_order_once(&outputs, sent)?;
    fleet.finish().await
}

/// Each record of `sent` has exactly one output, in order, and the count kept beside them says so.
fn in_order_once(outputs: &BTreeMap<Place, Vec<Vec<u8>>>, sent: u64) -> Result<()> {
    assert_eq!(outputs.len() as u64, sent, "as many outputs as records");
    for (expected, (place, values)) in outputs.iter().enumerate() {
        assert_eq!(values.len(), 1, "{place:?} is archived once");
        let output: Value = serde_json::from_slice(&values[0])?;
        let expected = expected as u64;
        let found = (output["mean"].as_f64(), output["number"].as_u64());
        assert_eq!(
            found,
            (Some(expected as f64), Some(expected + 1)),
            "at {place:?}: {output}"
        );
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_output_is_felt_by_the_device_and_nothing_is_lost() -> Result<()> {
    let mut fleet = fixtures::one_node().await?;
    fleet.push_handler("window:1", "window").await?;
    let streams = "quota = \"48KiB\"\non_full = \"reject\"\n\
        [[stream]]\nname = \"counted\"\nquota = \"48KiB\"\non_full = \"reject\"\n";
    fleet.apply(&counting(1, streams)).await?;
    fleet.committed().await?;
    // Nobody takes the outputs any more.
    fleet.control.stop().await?;
    let edge = fleet.edge("n1")?;
    let mut sent = 0_u64;
    let refusal = loop {
        let records: Vec<_> = (sent..sent + 20)
            .map(|value| json!({ "machine": "m", "value": value }))
            .collect();
        let body = serde_json::to_vec(&records)?;
        let (status, answer) = edge.post("/streams/raw", "application/json", body).await?;
        match status {
            200 => sent += 20,
            _ => break (status, answer),
        }
        assert!(sent < 20_000, "the device is never held back");
    };
    assert_eq!(refusal.0, 507, "{}", refusal.1);
    let waits = until("a processor that waits", LIMIT, async || {
        let figures = processors(edge).await.map_err(|e| format!("{e:#}"))?;
        figures["raw"]
            .waits_for
            .clone()
            .ok_or(format!("{figures:?}"))
    })
    .await?;
    assert!(waits.contains("\"counted\" is full"), "{waits}");

    fleet.control.restart().await?;
    let data_dir = fleet.control.data_dir();
    let outputs = until("all outputs in the archive", LIMIT, async || {
        let contents = archive::read(data_dir, "n1", "counted").map_err(|e| format!("{e:#}"))?;
        if contents.len() as u64 >= sent {
            Ok(contents)
        } else {
            Err(contents.len().to_string())
        }
    })
    .await?;
    in_order_once(&outputs, sent)?;
    let figures = processors(fleet.edge("n1")?).await?;
    assert_eq!(figures["raw"].waits_for, None);
    fleet.finish().await
}

async fn send(edge: &Edge, stream: &str, records: &[Value]) -> Result<()> {
    let body = serde_json::to_vec(records)?;
    let path = format!("/streams/{stream}");
    let (status, answer) = edge.post(&path, "application/json", body).await?;
    anyhow::ensure!(status == 200, "{status}: {answer}");
    Ok(())
}

/// The figures of all processors by stream.
async fn processors(edge: &Edge) -> Result<BTreeMap<String, ProcessorHealth>> {
    let health = edge.status().await?;
    let all = health.processors.into_iter();
    Ok(all.map(|p| (p.stream.to_string(), p)).collect())
}

/// What a node still holds of a stream.
async fn rows(edge: &Edge, stream: &str) -> Result<Vec<Value>> {
    let (status, text) = edge
        .get(&format!("/streams/{stream}?from=1&limit=1000"))
        .await?;
    anyhow::ensure!(status == 200, "{status}: {text}");
    let rows = text.lines().map(serde_json::from_str);
    Ok(rows.collect::<Result<_, _>>()?)
}
