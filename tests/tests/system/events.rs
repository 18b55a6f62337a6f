use std::time::Duration;

use anyhow::Result;
use fleet_api::rest::NodeEvent;
use fleet_tests::{archive, until};

use crate::fixtures;

const LIMIT: Duration = Duration::from_secs(30);

/// A stream that holds little, so that it evicts.
const SMALL_STREAM: &str = r#"
[deployment]
name = "streams"
select = "*"
[[stream]]
name = "small"
quota = "8KiB"
"#;

#[tokio::test(flavor = "multi_thread")]
async fn what_a_node_tells_is_seen_by_operators_and_archived() -> Result<()> {
    let mut fleet = fixtures::one_node().await?;
    fleet.apply(SMALL_STREAM).await?;
    fleet.committed().await?;
    let edge = fleet.edge("n1")?;
    let (status, refused) = edge
        .post("/streams/events", "application/json", b"{}".to_vec())
        .await?;
    assert_eq!(status, 403, "only the node writes there: {refused}");

    // Cut off, it evicts; what it has to tell outlives a kill and waits for the link.
    fleet.control.stop().await?;
    let edge = fleet.edge("n1")?;
    for _ in 0..20 {
        let (status, answer) = edge
            .post("/streams/small", "application/octet-stream", vec![7; 1500])
            .await?;
        assert_eq!(status, 200, "{answer}");
    }
    until("the event in the node's own stream", LIMIT, async || {
        let rows = edge.get("/streams/events?from=1&limit=100").await;
        match rows {
            Ok((200, rows)) if rows.contains("\"gap\"") => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await?;
    edge.kill()?;
    fleet.control.restart().await?;
    fleet.edge("n1")?.start().await?;

    let api = fleet.api()?;
    let kinds = until("the events of both starts", LIMIT, async || {
        let events: Vec<NodeEvent> = api
            .get("/api/v1/events?node=n1")
            .await
            .map_err(|e| format!("{e:#}"))?;
        let kinds: Vec<_> = events.iter().map(|e| e.event.kind.clone()).collect();
        if kinds.iter().filter(|kind| *kind == "start").count() == 2 {
            Ok(kinds)
        } else {
            Err(format!("{events:?}"))
        }
    })
    .await?;
    assert_eq!(kinds[0], "start", "from old to new: {kinds:?}");
    let gap = kinds.iter().position(|kind| kind == "gap");
    let second = kinds.iter().rposition(|kind| kind == "start");
    assert!(gap.is_some() && gap < second, "{kinds:?}");

    let told = fleet.edgectl.ok(["events", "n1"]).await?;
    assert!(told.contains("gap") && told.contains("small"), "{told}");
    let none = fleet
        .edgectl
        .json::<Vec<NodeEvent>>(&["events", "n2"])
        .await?;
    assert!(none.is_empty(), "{none:?}");
    let newest: Vec<NodeEvent> = fleet.edgectl.json(&["events", "-n", "1"]).await?;
    assert_eq!(newest.len(), 1, "{newest:?}");
    let data_dir = fleet.control.data_dir();
    until("the events in the archive", LIMIT, async || {
        let contents = archive::read(data_dir, "n1", "events").map_err(|e| format!("{e:#}"))?;
        let twice = contents.values().any(|values| values.len() > 1);
        if contents.len() >= kinds.len() && !twice {
            Ok(())
        } else {
            Err(format!("{contents:?}"))
        }
    })
    .await?;
    let error = fleet.apply(&SMALL_STREAM.replace("small", "events")).await;
    let error = format!("{:#}", error.unwrap_err());
    assert!(error.contains("node's own"), "{error}");
    fleet.finish().await
}
