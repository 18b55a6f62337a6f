use std::time::Duration;

use anyhow::Result;
use fleet_tests::{Edge, Fleet, http, until};
use serde_json::{Value, json};

const LIMIT: Duration = Duration::from_secs(30);

/// What a handler keeps survives kill -9, and only those may keep something who were granted room.
#[tokio::test(flavor = "multi_thread")]
async fn a_handler_s_values_outlive_its_process_and_need_a_grant() -> Result<()> {
    let mut fleet = Fleet::start().await?;
    fleet.add("n1", &[]).await?;
    fleet.push_handler("counter:1", "counter").await?;
    fleet
        .apply(&deployment("allow = { keyvalue = \"1KiB\" }"))
        .await?;
    fleet.committed().await?;

    for count in 1..=3 {
        let (status, body) = pass(fleet.edge("n1")?, "north").await?;
        assert_eq!((status, &body["count"]), (200, &json!(count)));
    }
    let edge = fleet.edge("n1")?;
    edge.kill()?;
    edge.start().await?;
    edge.serves("/gates", LIMIT).await?;
    assert_eq!(pass(edge, "north").await?.1["count"], 4);
    let (status, body) = pass(edge, &"x".repeat(600)).await?;
    assert_eq!(status, 507);
    assert!(
        body["error"]
            .as_str()
            .unwrap()
            .contains("a key has 1 to 512 bytes"),
        "{body}"
    );
    let gate = format!("{}/gates/north", edge.url());
    http::plain()?
        .delete(gate)
        .send()
        .await?
        .error_for_status()?;
    let log = edge.log();
    until("the handler's own line", LIMIT, async || {
        let log = std::fs::read_to_string(&log).map_err(|e| e.to_string())?;
        let line = log
            .lines()
            .find(|line| line.contains("gate north counts from 0 again"));
        let line = line.ok_or("no such line")?;
        let whole = [
            "WARN",
            "handler=\"counter\"",
            "version=\"1\"",
            "context=\"reset\"",
        ];
        if whole.iter().all(|part| line.contains(part)) {
            Ok(())
        } else {
            Err(line.to_owned())
        }
    })
    .await?;
    assert_eq!(pass(edge, "north").await?.1["count"], 1);

    fleet.apply(&deployment("")).await?;
    fleet.committed().await?;
    let (status, body) = pass(fleet.edge("n1")?, "north").await?;
    assert_eq!(status, 403);
    assert!(
        body["error"].as_str().unwrap().contains("allow.keyvalue"),
        "{body}"
    );
    fleet.finish().await
}

fn deployment(grant: &str) -> String {
    format!(
        "[deployment]\nname = \"gates\"\nselect = \"*\"\n\
         [[handler]]\nname = \"counter\"\nversion = \"1\"\nroute = \"/gates/*\"\n{grant}\n"
    )
}

async fn pass(edge: &Edge, gate: &str) -> Result<(u16, Value)> {
    let url = format!("{}/gates/{gate}", edge.url());
    let answer = http::plain()?.post(url).send().await?;
    Ok((answer.status().as_u16(), answer.json().await?))
}
