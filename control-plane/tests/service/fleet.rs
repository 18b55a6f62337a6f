use fleet_api::desired::{Desired, Envelope};
use serde_json::json;

use crate::registry::{handler, push_handler};
use crate::support::{Mqtt, Plane, read};

fn deployment(name: &str, select: &str, version: &str, route: &str) -> String {
    format!(
        "[deployment]\nname = \"{name}\"\nselect = \"{select}\"\n[[handler]]\nname = \"hello\"\nversion = \"{version}\"\nroute = \"{route}\"\n"
    )
}

async fn desired(session: &mut Mqtt) -> Desired {
    let (topic, payload) = session.message().await;
    assert!(topic.ends_with("/desired"));
    serde_json::from_slice::<Envelope>(&payload)
        .unwrap()
        .open()
        .unwrap()
}

#[tokio::test]
async fn a_deployment_reaches_its_nodes_retained_and_live() {
    let plane = Plane::start().await;
    let node = plane.join("n1", json!({ "site": "a" })).await;
    plane.join("n2", json!({ "site": "b" })).await;
    push_handler(&plane, "hello", "1.0.0", &handler(1)).await;
    push_handler(&plane, "hello", "2.0.0", &handler(2)).await;
    let toml = deployment("web", "site=a", "1.0.0", "/hello");
    let dry = plane.operator(reqwest::Method::POST, "/api/v1/deployments?dry_run=true");
    let dry = read(dry.body(toml.clone()).send().await.unwrap(), 200).await;
    assert_eq!(dry["updated"], json!([{ "node": "n1", "generation": 1 }]));
    assert_eq!(
        plane.get("/api/v1/deployments").await,
        json!([]),
        "only tried"
    );

    let applied = read(plane.apply(&toml).await, 200).await;
    assert_eq!(
        (&applied["change"], &applied["nodes"]),
        (&json!("created"), &json!(["n1"]))
    );
    let again = read(plane.apply(&toml).await, 200).await;
    assert_eq!(
        (&again["change"], &again["updated"]),
        (&json!("unchanged"), &json!([]))
    );

    let mut session = node.connect("n1").await;
    session.subscribe("edge/v1/n1/desired").await;
    let first = desired(&mut session).await;
    assert_eq!((first.generation, first.handlers.len()), (1, 1));
    assert_eq!(first.handlers[0].artifact.size, handler(1).len() as u64);
    read(
        plane
            .apply(&deployment("web", "site=a", "2.0.0", "/hello"))
            .await,
        200,
    )
    .await;
    assert_eq!(desired(&mut session).await.generation, 2);
    let answer = node.get("/api/v1/nodes/n1/desired").await;
    let envelope: Envelope = answer.json().await.unwrap();
    assert_eq!(
        envelope.open().unwrap().handlers[0]
            .artifact
            .version
            .as_str(),
        "2.0.0"
    );

    let report = json!({
        "v": 1, "node": "n1", "generation": 2, "serving_generation": 1, "phase": "idle",
        "result": "failed-no-change", "reason": "does not compile", "artifacts": [], "time_ms": 1,
    });
    session
        .publish("edge/v1/n1/reported", report.to_string())
        .await;
    let state = plane.wait_for("n1", |n| n["serving_generation"] == 1).await;
    assert_eq!(state["reason"], "does not compile");
    assert_eq!(plane.get("/api/v1/deployments").await[0]["failed"], 1);

    let gone = plane.operator(reqwest::Method::DELETE, "/api/v1/deployments/web");
    read(gone.send().await.unwrap(), 200).await;
    let last = desired(&mut session).await;
    assert_eq!((last.generation, last.handlers.len()), (3, 0));
}

#[tokio::test]
async fn desired_states_come_back_after_a_restart() {
    let plane = Plane::start().await;
    let node = plane.join("n1", json!({})).await;
    push_handler(&plane, "hello", "1.0.0", &handler(1)).await;
    read(
        plane.apply(&deployment("web", "*", "1.0.0", "/")).await,
        200,
    )
    .await;
    let plane = Plane::start_in(plane.stop().await).await;
    let mut session = node.at(&plane).connect("n1").await;
    session.subscribe("edge/v1/n1/desired").await;
    assert_eq!(desired(&mut session).await.generation, 1);
}

#[tokio::test]
async fn a_generation_is_never_given_twice() {
    let plane = Plane::start().await;
    plane.join("n1", json!({})).await;
    push_handler(&plane, "hello", "1.0.0", &handler(1)).await;
    read(
        plane.apply(&deployment("web", "*", "1.0.0", "/")).await,
        200,
    )
    .await;
    let gone = plane.operator(reqwest::Method::DELETE, "/api/v1/nodes/n1");
    assert_eq!(gone.send().await.unwrap().status(), 204);
    let again = plane.join("n1", json!({})).await;
    let answer = again.get("/api/v1/nodes/n1/desired").await;
    let envelope: Envelope = answer.json().await.unwrap();
    assert_eq!(envelope.open().unwrap().generation, 2);
}

#[tokio::test]
async fn bad_deployments_say_what_is_wrong_and_change_nothing() {
    let plane = Plane::start().await;
    plane.join("n1", json!({ "site": "a" })).await;
    push_handler(&plane, "hello", "1.0.0", &handler(1)).await;
    push_handler(&plane, "other", "1.0.0", &handler(2)).await;
    read(
        plane
            .apply(&deployment("first", "site=a", "1.0.0", "/x"))
            .await,
        200,
    )
    .await;
    let before = plane.get("/api/v1/deployments").await;
    let route = "[deployment]\nname = \"second\"\nselect = \"*\"\n[[handler]]\nname = \"other\"\nversion = \"1.0.0\"\nroute = \"/x\"\n";
    for (toml, status, words) in [
        ("[deploymnt]\n".to_owned(), 422, "deploymnt"),
        (
            deployment("second", "site==a", "1.0.0", "/y"),
            422,
            "selector term",
        ),
        (
            deployment("second", "*", "9.9.9", "/y"),
            422,
            "handler hello has no version 9.9.9: there are 1.0.0",
        ),
        (
            deployment("second", "*", "1.0.0", "/y").replace("\"hello\"", "\"nobody\""),
            422,
            "there is no handler nobody:1.0.0",
        ),
        (
            deployment("second", "*", "1.0.0", "/y"),
            409,
            "deployments first and second both have handler hello on node n1",
        ),
        (route.to_owned(), 409, "both have route /x on node n1"),
    ] {
        let body = read(plane.apply(&toml).await, status).await;
        let message = body["error"]["message"].as_str().unwrap();
        assert!(message.contains(words), "{message}");
    }
    assert_eq!(plane.get("/api/v1/deployments").await, before);
    assert_eq!(plane.get("/api/v1/nodes/n1").await["desired_generation"], 1);
}

#[tokio::test]
async fn what_is_not_enforced_yet_is_said() {
    let plane = Plane::start().await;
    push_handler(&plane, "hello", "1.0.0", &handler(1)).await;
    let toml = deployment("web", "site=nowhere", "1.0.0", "/") + "[rollout]\nwaves = [\"1\"]\n";
    let applied = read(plane.apply(&toml).await, 200).await;
    let warnings = applied["warnings"].to_string();
    assert!(
        warnings.contains("no node matches") && warnings.contains("[rollout]"),
        "{warnings}"
    );
}
