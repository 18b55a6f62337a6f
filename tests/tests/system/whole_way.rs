use std::time::Duration;

use anyhow::{Context as _, Result};
use fleet_api::reported::{Outcome, Phase};
use fleet_tests::archive::{self, Audit};
use fleet_tests::{Checkout, Device, until};
use serde_json::json;

use crate::fixtures;

const LIMIT: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread")]
async fn a_handler_and_its_model_go_from_push_to_verdict_and_archive() -> Result<()> {
    let mut fleet = fixtures::one_node().await?;
    for name in ["hello", "inspect", "vibration"] {
        fleet.push_handler(&format!("{name}:1.0.0"), name).await?;
    }
    for name in ["orientation", "vibration"] {
        fleet.push_model(&format!("{name}:1"), name).await?;
    }
    fleet.edge("n1")?.configure("[labels]\nrole = \"vision\"");
    fleet.edge("n1")?.stop().await?;
    fleet.edge("n1")?.start().await?;
    let files = Checkout::root().join("examples/demo").display().to_string();
    let applied = fleet.edgectl.ok(["apply", "-f", &files]).await?;
    assert!(
        applied.contains("inspection") && applied.contains("created"),
        "{applied}"
    );
    let api = fleet.api()?;
    until(
        "the node's own label at the control plane",
        LIMIT,
        async || {
            let node = api.node("n1").await.map_err(|e| format!("{e:#}"))?;
            let labels = node.summary.labels;
            if labels.get("role").is_some_and(|r| r == "vision") {
                Ok(())
            } else {
                Err(format!("{labels:?}"))
            }
        },
    )
    .await?;
    fleet.committed().await?;

    let edge = fleet.edge("n1")?;
    edge.serves("/inspect-is-not-a-route", Duration::ZERO)
        .await
        .unwrap_err();
    until("the picture's route", LIMIT, async || {
        let health = edge.status().await.map_err(|e| format!("{e:#}"))?;
        let names: Vec<_> = health.handlers.iter().map(|h| h.name.to_string()).collect();
        if names.iter().any(|n| n == "inspect") {
            Ok(())
        } else {
            Err(format!("{names:?}"))
        }
    })
    .await?;
    let picture = picture()?;
    let (status, verdict) = edge.post("/inspect", picture.0, picture.1).await?;
    assert_eq!(status, 200, "{verdict}");
    let verdict: serde_json::Value = serde_json::from_str(&verdict)?;
    assert!(
        verdict["width"].as_u64().is_some_and(|w| w > 0),
        "{verdict}"
    );

    infers_over_http(edge).await?;
    streams_reach_the_archive(&mut fleet).await?;
    the_fleet_knows(&fleet).await?;
    fleet.finish().await
}

fn picture() -> Result<(&'static str, Vec<u8>)> {
    let folder = Checkout::artifact("data")?;
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        match path.extension().and_then(|e| e.to_str()) {
            Some("png") => return Ok(("image/png", std::fs::read(path)?)),
            Some("jpg" | "jpeg") => return Ok(("image/jpeg", std::fs::read(path)?)),
            _ => {}
        }
    }
    anyhow::bail!("artifacts/data holds no picture: run `cargo xtask setup`")
}

async fn infers_over_http(edge: &fleet_tests::Edge) -> Result<()> {
    let (status, ready) = edge.get("/v2/models/vibration/ready").await?;
    assert_eq!(status, 200, "{ready}");
    let (status, metadata) = edge.get("/v2/models/vibration").await?;
    assert_eq!(status, 200, "{metadata}");
    let metadata: serde_json::Value = serde_json::from_str(&metadata)?;
    let input = &metadata["inputs"][0];
    let width = input["shape"][1].as_u64().context("a row has a width")?;
    let body = json!({ "inputs": [{
        "name": input["name"], "datatype": input["datatype"], "shape": [1, width],
        "data": vec![0.5; usize::try_from(width)?],
    }]});
    let (status, answer) = edge
        .post(
            "/v2/models/vibration/infer",
            "application/json",
            body.to_string().into_bytes(),
        )
        .await?;
    assert_eq!(status, 200, "{answer}");
    let answer: serde_json::Value = serde_json::from_str(&answer)?;
    assert!(answer["outputs"][0]["data"][0].is_number(), "{answer}");
    Ok(())
}

async fn streams_reach_the_archive(fleet: &mut fleet_tests::Fleet) -> Result<()> {
    let edge = fleet.edge("n1")?;
    let url = format!("{}/streams/vibration", edge.url());
    let device = Device::new(url, fixtures::series()?, 10)?;
    for batch in 0..20 {
        device.send_batch(batch * 10).await?;
    }
    until("scores of the processor", LIMIT, async || {
        let health = edge.status().await.map_err(|e| format!("{e:#}"))?;
        let model = health
            .models
            .iter()
            .find(|m| m.name.as_str() == "vibration");
        let handler = health
            .handlers
            .iter()
            .find(|h| h.name.as_str() == "vibration");
        match (model, handler) {
            (Some(m), Some(h)) if m.requests > 1 && h.requests > 0 && h.errors == 0 => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await?;
    let acknowledged = device.acknowledged().await;
    let data_dir = fleet.control.data_dir();
    let audit = until("all records in the archive", LIMIT, async || {
        let contents = archive::read(data_dir, "n1", "vibration").map_err(|e| format!("{e:#}"))?;
        let audit = Audit::of(&acknowledged, &contents);
        if audit.missing == 0 {
            Ok(audit)
        } else {
            Err(format!("{audit:?}"))
        }
    })
    .await?;
    assert!(audit.is_exactly_once(), "{audit:?}");
    assert_eq!(audit.acknowledged, 200);
    let edge = fleet.edge("n1")?;
    until("an empty buffer", LIMIT, async || {
        let health = edge.status().await.map_err(|e| format!("{e:#}"))?;
        let depth: u64 = health.streams.iter().map(|s| s.depth).sum();
        if depth == 0 {
            Ok(())
        } else {
            Err(format!("{depth} records"))
        }
    })
    .await
}

async fn the_fleet_knows(fleet: &fleet_tests::Fleet) -> Result<()> {
    let api = fleet.api()?;
    let node = until("health over MQTT", LIMIT, async || {
        let node = api.node("n1").await.map_err(|e| format!("{e:#}"))?;
        let archived = node
            .archive
            .iter()
            .any(|a| a.stream.as_str() == "vibration");
        let served = node
            .health
            .as_ref()
            .is_some_and(|h| h.handlers.iter().any(|h| h.requests > 0));
        if archived && served {
            Ok(node)
        } else {
            Err(format!("{node:?}"))
        }
    })
    .await?;
    let reported = node.reported.context("the node has reported")?;
    assert_eq!(
        (reported.phase, reported.result),
        (Phase::Committed, Some(Outcome::Succeeded))
    );
    let presence = node.presence.context("the node has told its birth")?;
    assert!(presence.online && presence.capabilities.inference);

    for (args, words) in [
        (&["nodes", "-l", "site=test"][..], &["n1", "ok"][..]),
        (&["nodes", "-l", "site=other"], &[]),
        (
            &["node", "n1"],
            &[
                "handler inspect",
                "model orientation",
                "vibration",
                "committed",
            ],
        ),
        (&["deployments"], &["inspection", "monitoring", "hello"]),
        (&["artifacts"], &["hello", "inspect", "orientation"]),
    ] {
        let text = fleet.edgectl.ok(args).await?;
        for word in words {
            assert!(
                text.contains(word),
                "{args:?} should tell {word:?}:\n{text}"
            );
        }
    }
    let nodes: serde_json::Value = fleet.edgectl.json(&["nodes"]).await?;
    assert_eq!(nodes[0]["id"], "n1");
    Ok(())
}
