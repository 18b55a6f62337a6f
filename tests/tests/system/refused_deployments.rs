use anyhow::Result;
use fleet_api::rest::{DeploymentStatus, NodeSummary};
use fleet_tests::Fleet;
use reqwest::Method;

use crate::fixtures::{self, HELLO, greeting};

/// Everything that a refused deployment must not change.
async fn state(fleet: &Fleet) -> Result<(Vec<DeploymentStatus>, Vec<(String, u64)>)> {
    let deployments = fleet.edgectl.json(&["deployments"]).await?;
    let nodes: Vec<NodeSummary> = fleet.edgectl.json(&["nodes"]).await?;
    let generations = nodes
        .into_iter()
        .map(|n| (n.id.to_string(), n.desired_generation));
    Ok((deployments, generations.collect()))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deployment_that_makes_no_sense_changes_nothing() -> Result<()> {
    let mut fleet = fixtures::one_node_with_hello().await?;
    let before = state(&fleet).await?;
    let other = HELLO.replace("name = \"hello\"\nselect", "name = \"other\"\nselect");
    let twice = "[[handler]]\nname = \"second\"\nversion = \"1\"\nroute = \"/hello\"\n";
    for (what, toml, words) in [
        (
            "unknown keys",
            HELLO
                .replace("select", "selekt = 1\nselect")
                .replace("route =", "rout = 1\nroute ="),
            &["line 4: deployment.selekt", "line 9: handler.0.rout"][..],
        ),
        (
            "a wrong type",
            HELLO.replace("\"/hello\"", "7"),
            &["line 8"],
        ),
        ("no TOML", "[deployment".to_owned(), &["line 1"]),
        (
            "a selector's syntax",
            HELLO.replace("\"*\"", "\"site==x\""),
            &["selector term", "key=value"],
        ),
        (
            "two handlers on one route",
            format!("{HELLO}{twice}"),
            &["hello", "second", "/hello"],
        ),
        (
            "a reserved route",
            HELLO.replace("/hello", "/v2/x"),
            &["reserved"],
        ),
        (
            "an unknown handler",
            HELLO.replace("name = \"hello\"\nversion", "name = \"nobody\"\nversion"),
            &["nobody:1.0.0", "push"],
        ),
        (
            "an unknown version",
            HELLO.replace("\"1.0.0\"", "\"9\""),
            &["hello", "9", "1.0.0"],
        ),
        (
            "an unknown model",
            format!("{HELLO}[[model]]\nname = \"none\"\nversion = \"1\"\n"),
            &["none:1", "push"],
        ),
        (
            "a handler that another deployment has",
            other,
            &["hello", "other", "n1"],
        ),
    ] {
        let file = fleet.file("deployment.toml", &toml)?;
        let said = fleet.edgectl.refused(["apply", "-f", &file]).await?;
        for word in words {
            assert!(
                said.contains(word),
                "{what} should be refused with {word:?}: {said}"
            );
        }
        // The control plane itself refuses as well, whoever asks.
        let answer = fleet
            .api()?
            .send(Method::POST, "/api/v1/deployments", toml)
            .await?;
        assert!(
            answer.status().is_client_error(),
            "{what}: {}",
            answer.status()
        );
        assert_eq!(state(&fleet).await?, before, "{what}");
    }
    assert_eq!(greeting(fleet.edge("n1")?).await?, "one");
    fleet.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn two_deployments_cannot_share_a_route() -> Result<()> {
    let mut fleet = fixtures::one_node_with_hello().await?;
    fleet.push_handler("second:1", "hello").await?;
    let before = state(&fleet).await?;
    let toml = HELLO
        .replace("name = \"hello\"", "name = \"second\"")
        .replace("1.0.0", "1");
    let file = fleet.file("deployment.toml", &toml)?;
    let said = fleet.edgectl.refused(["apply", "-f", &file]).await?;
    assert!(said.contains("/hello") && said.contains("n1"), "{said}");
    assert_eq!(state(&fleet).await?, before);
    assert_eq!(greeting(fleet.edge("n1")?).await?, "one");
    fleet.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dry_run_tells_what_would_change_and_changes_nothing() -> Result<()> {
    let fleet = fixtures::one_node_with_hello().await?;
    let before = state(&fleet).await?;
    let file = fleet.file("deployment.toml", HELLO.replace("\"one\"", "\"two\""))?;
    let said = fleet
        .edgectl
        .ok(["apply", "-f", &file, "--dry-run"])
        .await?;
    assert!(
        said.contains("changed (dry run)") && said.contains("n1"),
        "{said}"
    );
    assert_eq!(state(&fleet).await?, before);
    fleet.finish().await
}
