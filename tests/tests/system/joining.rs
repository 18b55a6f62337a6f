use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result};
use fleet_api::ids::Digest;
use fleet_api::rest::TokenCreated;
use fleet_api::token::JoinToken;
use fleet_api::topic::acks_filter;
use fleet_tests::{Edge, Fleet, http, until};
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::{ConnectReturnCode, Packet, PubAckReason, SubscribeReasonCode};
use rumqttc::v5::{AsyncClient, ConnectionError, Event, EventLoop, MqttOptions};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use crate::fixtures;

const LIMIT: Duration = Duration::from_secs(20);

/// Joining must be refused with all `words`, and no node must come of it.
async fn refuses(fleet: &Fleet, node: &str, token: &str, words: &[&str]) -> Result<()> {
    let before = fleet.api()?.nodes().await?;
    let edge = Edge::new(node, fleet.dir())?;
    let said = edge
        .enroll(token)
        .await
        .expect_err("must be refused")
        .to_string();
    for word in words {
        assert!(
            said.contains(word),
            "should be refused with {word:?}: {said}"
        );
    }
    assert!(
        !said.contains(&secret(token)),
        "the secret must not be shown: {said}"
    );
    assert_eq!(fleet.api()?.nodes().await?, before);
    Ok(())
}

fn secret(token: &str) -> String {
    token
        .parse::<JoinToken>()
        .map_or_else(|_| "no secret".to_owned(), |t| t.bearer())
}

#[tokio::test(flavor = "multi_thread")]
async fn only_a_valid_token_lets_a_node_join() -> Result<()> {
    let mut fleet = Fleet::start().await?;
    let token = fleet.token(&[]).await?;

    refuses(&fleet, "n1", "edge1.what", &["edgectl token create"]).await?;
    let good: JoinToken = token.parse()?;
    let guessed = JoinToken {
        secret: vec![1; 32],
        ..good.clone()
    };
    refuses(&fleet, "n1", &guessed.to_string(), &["token"]).await?;
    let other_ca = JoinToken {
        ca: Digest::of(b"another"),
        ..good
    };
    refuses(&fleet, "n1", &other_ca.to_string(), &["CA"]).await?;

    let created: TokenCreated = fleet
        .edgectl
        .json(&["token", "create", "--ttl", "1s"])
        .await?;
    until("the token's end", LIMIT, async || {
        let now = SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap();
        if now.as_millis() > u128::from(created.expires_ms) {
            Ok(())
        } else {
            Err(format!("{now:?}"))
        }
    })
    .await?;
    refuses(&fleet, "n1", &created.token, &["expired"]).await?;

    // What was refused has used nothing up: the good one still works, once.
    Edge::new("n1", fleet.dir())?.enroll(&token).await?;
    refuses(&fleet, "n2", &token, &["used"]).await?;
    // Nobody takes a node's id with a token of their own.
    let second = fleet.token(&[]).await?;
    let elsewhere = tempfile::tempdir()?;
    let said = Edge::new("n1", elsewhere.path())?
        .enroll(&second)
        .await
        .expect_err("taken")
        .to_string();
    assert!(said.contains("n1"), "{said}");
    fleet.add("n2", &["site=x"]).await?;
    assert_eq!(fleet.reaches("n2", "ok").await?.labels["site"], "x");
    fleet.finish().await
}

/// A connection to the broker with a node's certificate.
fn connect(fleet: &Fleet, edge: &Edge, client_id: &str) -> Result<(AsyncClient, EventLoop)> {
    let identity = edge.data_dir().join("identity");
    let chain =
        CertificateDer::pem_file_iter(identity.join("node.pem"))?.collect::<Result<_, _>>()?;
    let key = PrivateKeyDer::from_pem_file(identity.join("node.key"))?;
    let tls = rustls::ClientConfig::builder_with_provider(http::provider())
        .with_safe_default_protocol_versions()?
        .with_root_certificates(http::roots(&fleet.control.ca())?)
        .with_client_auth_cert(chain, key)?;
    let (host, port) = fleet.control.mqtt().rsplit_once(':').context("HOST:PORT")?;
    let mut options = MqttOptions::new(client_id, host, port.parse()?);
    let transport =
        rumqttc::Transport::tls_with_config(rumqttc::TlsConfiguration::Rustls(tls.into()));
    options
        .set_transport(transport)
        .set_outgoing_inflight_upper_limit(10);
    Ok(AsyncClient::new(options, 10))
}

/// The next packet that `wanted` takes.
async fn packet<T>(events: &mut EventLoop, wanted: impl Fn(Packet) -> Option<T>) -> Result<T> {
    let next = async {
        loop {
            if let Event::Incoming(packet) = events.poll().await?
                && let Some(found) = wanted(packet)
            {
                return Ok(found);
            }
        }
    };
    tokio::time::timeout(LIMIT, next)
        .await
        .context("no such packet came")?
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_reaches_only_its_own_topics() -> Result<()> {
    let mut fleet = Fleet::start().await?;
    fleet.join("n1", &[]).await?;
    fleet.join("n11", &[]).await?;
    let thief = &fleet.edges["n1"];
    let (client, mut events) = connect(&fleet, thief, "n1")?;
    let own = acks_filter(&fleet_api::ids::NodeId::new("n1")?);
    for (filter, allowed) in [
        (own.as_str(), true),
        ("edge/v1/n11/desired", false),
        ("edge/v1/n11/#", false),
        ("edge/v1/+/desired", false),
        ("#", false),
        ("$share/g/edge/v1/n11/desired", false),
    ] {
        client.subscribe(filter, QoS::AtLeastOnce).await?;
        let codes = packet(&mut events, |p| match p {
            Packet::SubAck(ack) => Some(ack.return_codes),
            _ => None,
        })
        .await?;
        match codes[..] {
            [SubscribeReasonCode::Success(_)] => assert!(allowed, "{filter} was granted"),
            [SubscribeReasonCode::NotAuthorized] => assert!(!allowed, "{filter} was refused"),
            _ => panic!("{filter}: {codes:?}"),
        }
    }
    for topic in [
        "edge/v1/n11/reported",
        "edge/v1/n11/streams/vibration",
        "edge/v1/n11/presence",
    ] {
        client.publish(topic, QoS::AtLeastOnce, true, "{}").await?;
        let reason = packet(&mut events, |p| match p {
            Packet::PubAck(ack) => Some(ack.reason),
            _ => None,
        })
        .await?;
        assert_eq!(reason, PubAckReason::NotAuthorized, "{topic}");
    }
    let victim = fleet.api()?.node("n11").await?;
    assert!(!victim.summary.online && victim.presence.is_none() && victim.reported.is_none());

    let (_client, mut events) = connect(&fleet, thief, "n11")?;
    let refused = packet(&mut events, |p| {
        matches!(p, Packet::ConnAck(_)).then_some(())
    })
    .await;
    let refused = refused.expect_err("another node's client id must be refused");
    match refused.downcast_ref::<ConnectionError>() {
        Some(ConnectionError::ConnectionRefused(code)) => {
            assert_eq!(*code, ConnectReturnCode::NotAuthorized)
        }
        other => panic!("{other:?}"),
    }
    fleet.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_was_forgotten_is_kept_out() -> Result<()> {
    let mut fleet = fixtures::one_node().await?;
    fleet.reaches("n1", "ok").await?;
    fleet.edge("n1")?.stop().await?;
    fleet.edgectl.ok(["delete", "node", "n1"]).await?;
    assert!(fleet.api()?.nodes().await?.is_empty());
    let (_client, mut events) = connect(&fleet, &fleet.edges["n1"], "n1")?;
    packet(&mut events, |p| {
        matches!(p, Packet::ConnAck(_)).then_some(())
    })
    .await
    .expect_err("a forgotten node's certificate must open nothing");
    fleet.finish().await
}
