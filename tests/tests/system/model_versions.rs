use std::time::Duration;

use anyhow::{Context as _, Result};
use fleet_api::desired::Envelope;
use fleet_tests::{Fleet, until};

use crate::fixtures::one_node;
use crate::model_files::{deployment, entry, scaled, whole_model};

const LIMIT: Duration = Duration::from_secs(60);

async fn push(fleet: &Fleet, version: &str, factor: f32) -> Result<()> {
    let file = whole_model(fleet, version, factor)?.display().to_string();
    let reference = format!("net:{version}");
    fleet
        .edgectl
        .ok(["push", "model", &reference, &file])
        .await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn versions_serve_side_by_side_and_a_deployment_moves_the_default() -> Result<()> {
    let mut fleet = one_node().await?;
    push(&fleet, "1", 2.0).await?;
    push(&fleet, "2", 3.0).await?;
    let (one, two) = (entry("1"), entry("2"));
    fleet.apply(&deployment(&format!("{one}{two}"))).await?;
    fleet.committed().await?;
    let edge = fleet.edge("n1")?;
    assert_eq!(scaled(edge, "net").await?[0], 3.0);
    assert_eq!(scaled(edge, "net/versions/1").await?[0], 2.0);
    assert_eq!(scaled(edge, "net/versions/2").await?[0], 3.0);

    let moved = format!("{one}default = true\n{two}");
    fleet.apply(&deployment(&moved)).await?;
    fleet.committed().await?;
    let edge = fleet.edge("n1")?;
    assert_eq!(scaled(edge, "net").await?[0], 2.0);
    assert_eq!(scaled(edge, "net/versions/2").await?[0], 3.0);
    // The document says it in words and in the order.
    let envelope: Envelope = fleet.api()?.get("/api/v1/nodes/n1/desired").await?;
    let models = envelope.open()?.models;
    let last = models.last().context("there are two")?;
    assert_eq!((last.artifact.version.as_str(), last.default), ("1", true));
    assert!(!models[0].default);

    fleet.apply(&deployment(&two)).await?;
    fleet.committed().await?;
    let edge = fleet.edge("n1")?;
    assert_eq!(scaled(edge, "net").await?[0], 3.0);
    let (status, _) = edge.get("/v2/models/net/versions/1/ready").await?;
    assert!(
        status >= 400,
        "a version that no deployment names is gone: {status}"
    );
    fleet.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shadow_sees_live_requests_and_never_answers() -> Result<()> {
    let mut fleet = one_node().await?;
    push(&fleet, "1", 2.0).await?;
    push(&fleet, "2", 3.0).await?;
    let (one, two) = (entry("1"), entry("2"));
    let models = format!("{one}{two}shadow = {{ cpu = 1.0, tolerance = 0.1 }}\n");
    fleet.apply(&deployment(&models)).await?;
    fleet.committed().await?;
    let edge = fleet.edge("n1")?;
    let shadow = until("a shadow that has compared", LIMIT, async || {
        let scaled = scaled(edge, "net").await.map_err(|e| format!("{e:#}"))?;
        assert_eq!(scaled, [2.0, 4.0, 6.0, 8.0]);
        let health = edge.status().await.map_err(|e| format!("{e:#}"))?;
        let mut models = health.models.into_iter();
        let shadow = models.find_map(|model| model.shadow);
        shadow
            .filter(|s| s.compared() > 0)
            .ok_or("none yet".to_owned())
    });
    let shadow = shadow.await?;
    assert_eq!(shadow.of.as_str(), "1");
    // 3, 6, 9 and 12 instead of 2, 4, 6 and 8: the highest is in the same place.
    assert_eq!((shadow.exact, shadow.within_tolerance), (0, 0));
    // One more may have been compared while the figures were read.
    assert!(shadow.top1_agree >= shadow.compared(), "{shadow:?}");
    assert_eq!(shadow.max_abs_diff, 4.0);
    let shown = until("the control plane knows", LIMIT, async || {
        let shown = fleet.edgectl.ok(["node", "n1"]).await;
        let shown = shown.map_err(|e| format!("{e:#}"))?;
        shown
            .contains("2 (shadow)")
            .then_some(shown.clone())
            .ok_or(shown)
    });
    let shown = shown.await?;
    assert!(
        shown.contains("1 (default)") && shown.contains("SHADOW"),
        "{shown}"
    );
    fleet.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_beyond_the_nodes_memory_changes_nothing() -> Result<()> {
    let mut fleet = Fleet::start().await?;
    let edge = fleet.join("n1", &["site=test"]).await?;
    edge.configure("[models]\nmemory = \"4MiB\"");
    edge.start().await?;
    push(&fleet, "1", 2.0).await?;
    fleet.apply(&deployment(&entry("1"))).await?;
    fleet.committed().await?;
    fleet.push_model("big:1", "orientation").await?;
    let both = format!("{}[[model]]\nname = \"big\"\nversion = \"1\"\n", entry("1"));
    fleet.apply(&deployment(&both)).await?;
    let node = fleet.reaches("n1", "failed").await?;
    let reason = node.reason.context("a failure has a reason")?;
    assert!(
        reason.contains("big:1") && reason.contains("models.memory"),
        "{reason}"
    );
    let edge = fleet.edge("n1")?;
    assert_eq!(scaled(edge, "net").await?[0], 2.0);
    fleet.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn options_that_no_node_could_follow_are_all_named_at_once() -> Result<()> {
    let fleet = one_node().await?;
    push(&fleet, "1", 2.0).await?;
    let toml = deployment(&format!(
        "{}sessions = 0\nbatch = {{ max = 0, window = \"1m\" }}\n{}shadow = {{ cpu = 2.0 }}\ndefault = true\n",
        entry("1"),
        entry("1")
    ));
    let file = fleet.file("deployment.toml", &toml)?;
    let said = fleet.edgectl.refused(["apply", "-f", &file]).await?;
    for line in [
        "line 7: model net 1 has sessions = 0: use 1 to 64",
        "line 8: model net 1 has batch.max = 0: use 1 to 1024",
        "line 8: model net 1 has batch.window = \"1m\": use up to \"10s\"",
        "line 11: model net 1 stands in line 6 already: give it once",
        "line 12: model net 1 has shadow.cpu = 2: use a share of one core above 0 and up to 1",
        "line 13: model net 1 is a shadow and the default",
    ] {
        assert!(said.contains(line), "{line:?} is not told: {said}");
    }
    fleet.finish().await
}
