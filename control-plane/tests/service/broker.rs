use std::time::Duration;

use fleet_api::topic;
use rumqttc::v5::ConnectionError;
use serde_json::json;

use crate::support::{Mqtt, PATIENCE, Plane};

#[tokio::test]
async fn a_node_is_held_to_its_own_topics() {
    let plane = Plane::start().await;
    let node = plane.join("n1", json!({})).await;
    plane.join("n11", json!({})).await;
    let mut session = node.connect("n1").await;
    for topic in [
        "edge/v1/n11/reported",
        "edge/v1/n2/presence",
        "edge/v1/n1/desired",
        "edge/v1/n1/streams/s/ack",
        "elsewhere",
    ] {
        assert_eq!(
            session.publish(topic, "{}").await,
            "NotAuthorized",
            "{topic}"
        );
    }
    for filter in [
        "#",
        "edge/v1/+/desired",
        "edge/v1/n11/desired",
        "$share/g/edge/v1/n1/desired",
    ] {
        assert_eq!(session.subscribe(filter).await, "NotAuthorized", "{filter}");
    }
    assert_eq!(session.publish("edge/v1/n1/health", "{}").await, "Success");
    assert!(
        session
            .subscribe("edge/v1/n1/desired")
            .await
            .starts_with("Success")
    );
    assert!(
        session
            .subscribe("edge/v1/n1/streams/+/ack")
            .await
            .starts_with("Success")
    );
}

#[tokio::test]
async fn a_foreign_client_id_or_will_gets_nowhere() {
    let plane = Plane::start().await;
    let (a, _) = (
        plane.join("n1", json!({})).await,
        plane.join("n2", json!({})).await,
    );
    a.connect(&topic::data_client_id(&a.id)).await;
    let refused = Mqtt::connect(a.options("n2")).await;
    let Err(ConnectionError::ConnectionRefused(code)) = refused else {
        panic!("a foreign client id was let in");
    };
    assert_eq!(format!("{code:?}"), "NotAuthorized");

    // The will is dropped when the session breaks; a birth of the true node is what counts.
    let will = json!({ "v": 1, "node": "n2", "online": true }).to_string();
    let session = a.connect_with_will("edge/v1/n2/presence", &will).await;
    drop(session);
    let mut again = a.connect("n1").await;
    again.publish("edge/v1/n1/health", "{}").await;
    assert!(plane.get("/api/v1/nodes/n2").await["presence"].is_null());
}

#[tokio::test]
async fn a_node_is_told_that_another_has_its_identity() {
    let plane = Plane::start().await;
    let broker = plane.join("n1", json!({})).await.broker();
    let session = fleet_mqtt::Session {
        client_id: topic::data_client_id(&"n1".parse().unwrap()),
        keep_alive: Duration::from_secs(15),
        connect: PATIENCE,
        incoming_bytes: 1 << 20,
        in_flight: 20,
        will: None,
        kept: None,
    };
    let mut first = broker.connect(&session).await.unwrap();
    let _second = broker.connect(&session).await.unwrap();
    let ended = async {
        loop {
            if let Err(error) = first.events.poll().await {
                return error;
            }
        }
    };
    let error = tokio::time::timeout(PATIENCE, ended).await.unwrap();
    assert!(matches!(error, fleet_mqtt::Error::TakenOver), "{error:?}");
}

#[tokio::test]
async fn a_client_that_says_nothing_does_not_keep_others_out() {
    let plane = Plane::start().await;
    let node = plane.join("n1", json!({})).await;
    let (_, port) = node.options("n1").broker_address();
    let mut silent = Vec::new();
    for _ in 0..20 {
        silent.push(
            tokio::net::TcpStream::connect(("127.0.0.1", port))
                .await
                .unwrap(),
        );
    }
    let connect = tokio::time::timeout(Duration::from_secs(4), node.connect("n1"));
    connect
        .await
        .expect("others wait for no handshake of theirs");
}

#[tokio::test]
async fn a_death_ends_only_its_own_birth() {
    let plane = Plane::start().await;
    let node = plane.join("n1", json!({})).await;
    let presence = |online: bool, bd_seq: u64| {
        json!({
            "v": 1, "node": "n1", "online": online, "bd_seq": bd_seq, "boot_id": "b",
            "version": "0.1.0", "capabilities": { "arch": "x", "cores": 1, "worlds": [], "inference": false },
            "labels": { "line": "3" }, "time_ms": 1,
        })
        .to_string()
    };
    let mut first = node
        .connect_with_will("edge/v1/n1/presence", &presence(false, 1))
        .await;
    first
        .publish("edge/v1/n1/presence", presence(true, 1))
        .await;
    plane
        .wait_for("n1", |n| n["online"] == true && n["labels"]["line"] == "3")
        .await;
    // Taken over by a newer connection: the old will comes late.
    let mut second = node
        .connect_with_will("edge/v1/n1/presence", &presence(false, 2))
        .await;
    second
        .publish("edge/v1/n1/presence", presence(true, 2))
        .await;
    first.ended().await;
    plane
        .wait_for("n1", |n| {
            n["online"] == true && n["presence"]["bd_seq"] == 2
        })
        .await;
    second
        .publish("edge/v1/n1/presence", presence(false, 1))
        .await;
    // What a node says is taken in one after the other.
    let report = json!({
        "v": 1, "node": "n1", "generation": 9, "serving_generation": 9, "phase": "idle",
        "result": null, "reason": null, "artifacts": [], "time_ms": 1,
    });
    second
        .publish("edge/v1/n1/reported", report.to_string())
        .await;
    let state = plane
        .wait_for("n1", |n| n["reported"]["generation"] == 9)
        .await;
    assert_eq!(state["online"], true);
    drop(second);
    plane.wait_for("n1", |n| n["state"] == "offline").await;
}
