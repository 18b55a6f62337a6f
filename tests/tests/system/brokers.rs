//! The whole way through brokers that are not ours: records in, the broker killed in between, and
//! every record in the archive exactly once.

use std::time::Duration;

use anyhow::Result;
use fleet_api::event::Event;
use fleet_api::rest::NodeEvent;
use fleet_tests::archive::{self, Audit};
use fleet_tests::brokers::{Broker, Kind, free_port, unpacked};
use fleet_tests::{Device, Fleet, until};

use crate::fixtures;

const LIMIT: Duration = Duration::from_secs(90);

#[tokio::test(flavor = "multi_thread")]
async fn the_whole_way_through_mosquitto_over_mqtt_5() -> Result<()> {
    whole_way(Kind::Mosquitto, "", "5").await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_whole_way_through_mosquitto_over_mqtt_3_1_1() -> Result<()> {
    whole_way(Kind::Mosquitto, "protocol = \"3.1.1\"", "3.1.1").await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_whole_way_through_rabbitmq() -> Result<()> {
    whole_way(Kind::RabbitMq, "", "3.1.1").await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_whole_way_through_nats() -> Result<()> {
    whole_way(Kind::Nats, "", "3.1.1").await
}

/// A fleet of one node, both on the given broker.
async fn fleet_on(url: &str, protocol: &str) -> Result<Fleet> {
    let inline = protocol.is_empty().then(String::new);
    let inline = inline.unwrap_or_else(|| format!(", {protocol}"));
    let config = format!("[broker]\nexternal = {{ url = {url:?}{inline} }}\n");
    let mut fleet = Fleet::start_with(&config).await?;
    let edge = fleet.join("n1", &["site=test"]).await?;
    edge.configure(&format!("[uplink]\nbroker = {url:?}\n{protocol}\n"));
    edge.start().await?;
    Ok(fleet)
}

async fn archived(fleet: &Fleet, device: &Device) -> Result<()> {
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
    assert_eq!(audit.archived, acknowledged.len());
    Ok(())
}

async fn whole_way(kind: Kind, protocol: &str, spoken: &str) -> Result<()> {
    if unpacked().is_none() {
        return Ok(());
    }
    let mut broker = Broker::start(kind).await?;
    let mut fleet = fleet_on(&broker.url(), protocol).await?;
    let word = "[[stream]]\nname = \"word\"\nack = \"broker\"\n";
    let streams = format!("{}{word}", fixtures::VIBRATION_STREAM);
    fleet.apply(&streams).await?;
    fleet.committed().await?;
    let edge = fleet.edge("n1")?;
    let (status, _) = edge
        .post("/streams/word", "application/json", b"{}".to_vec())
        .await?;
    assert_eq!(status, 200);
    let url = format!("{}/streams/vibration", fleet.edge("n1")?.url());
    let device = Device::new(url, fixtures::series()?, 50)?;
    for batch in 0..10 {
        device.send_batch(batch * 50).await?;
    }
    archived(&fleet, &device).await?;

    // Records come while the broker is away, and the broker forgets all it had.
    broker.kill()?;
    for batch in 10..20 {
        device.send_batch(batch * 50).await?;
    }
    broker.wipe()?;
    broker.restart().await?;
    for batch in 20..30 {
        device.send_batch(batch * 50).await?;
    }
    archived(&fleet, &device).await?;
    let edge = fleet.edge("n1")?;
    until("an empty buffer", LIMIT, async || {
        let health = edge.status().await.map_err(|e| format!("{e:#}"))?;
        let waiting = health
            .streams
            .iter()
            .find(|s| s.name.as_str() == "vibration");
        match waiting {
            Some(stream) if stream.acked_seq == Some(1500) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await?;
    let log = std::fs::read_to_string(edge.log())?;
    let words = format!("protocol={spoken}");
    assert!(
        log.contains(&words),
        "{words:?} should be in the log:\n{log}"
    );

    // What is retained comes to a control plane that starts anew, and changes still reach the node.
    fleet.control.stop().await?;
    fleet.control.restart().await?;
    fleet.apply(&streams.replace("64MiB", "32MiB")).await?;
    fleet.committed().await?;
    for batch in 30..35 {
        device.send_batch(batch * 50).await?;
    }
    archived(&fleet, &device).await?;
    let events: Vec<NodeEvent> = fleet.api()?.get("/api/v1/events").await?;
    let warned = events
        .iter()
        .any(|e| e.event.text.contains("ack = broker needs MQTT 5"));
    assert_eq!(warned, spoken == "3.1.1", "{events:?}");
    fleet.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_stream_waits_at_mosquitto_with_tls_and_rules() -> Result<()> {
    if unpacked().is_none() {
        return Ok(());
    }
    let port = free_port()?;
    let url = format!("mqtts://127.0.0.1:{port}");
    let config = format!("[broker]\nexternal = {{ url = {url:?} }}\n");
    // The fleet's CA signs for this broker, too; until it is there, both sides try again.
    let mut fleet = Fleet::start_with(&config).await?;
    let authority = fleet.control.ca();
    let authority = authority.parent().expect("lies in a folder").to_owned();
    let rules = fleet.dir().join("acl");
    let open = "user control-plane\ntopic readwrite edge/v1/#\npattern readwrite edge/v1/%u/#\n";
    let closed = open.replace(
        "pattern",
        "user n1\ntopic deny edge/v1/n1/streams/vibration\npattern",
    );
    std::fs::write(&rules, &closed)?;
    let (certificate, key) = certificate(&authority, fleet.dir())?;
    let ca = authority.join("ca.pem");
    let extra = format!(
        "cafile {}\ncertfile {}\nkeyfile {}\nrequire_certificate true\nuse_identity_as_username true\nacl_file {}\n",
        ca.display(),
        certificate.display(),
        key.display(),
        rules.display()
    );
    let broker = Broker::start_with(Kind::Mosquitto, port, &extra).await?;
    let edge = fleet.join("n1", &["site=test"]).await?;
    // The broker's address came with the certificate.
    edge.start().await?;
    let streams = format!(
        "{}\nack = \"broker\"\n[[stream]]\nname = \"other\"\n",
        fixtures::VIBRATION_STREAM
    );
    fleet.apply(&streams).await?;
    fleet.committed().await?;
    let edge = fleet.edge("n1")?;
    let url = format!("{}/streams/vibration", edge.url());
    let device = Device::new(url, fixtures::series()?, 50)?;
    device.send_batch(0).await?;
    let (status, _) = edge
        .post("/streams/other", "application/json", b"{}".to_vec())
        .await?;
    assert_eq!(status, 200);
    let api = fleet.api()?;
    until("the refusal among the events", LIMIT, async || {
        let events: Vec<NodeEvent> = api
            .get("/api/v1/events")
            .await
            .map_err(|e| format!("{e:#}"))?;
        // Before the control plane has subscribed, another refusal may be told: that nobody listens.
        let refused = |e: &Event| e.kind == "refusal" && e.text.contains("NotAuthorized");
        if events.iter().any(|e| refused(&e.event)) {
            Ok(())
        } else {
            Err(format!("{events:?}"))
        }
    })
    .await?;
    let health = fleet.edge("n1")?.status().await?;
    let kept = health
        .streams
        .iter()
        .find(|s| s.name.as_str() == "vibration");
    assert_eq!(
        kept.map(|s| (s.next_seq, s.acked_seq)),
        Some((51, None)),
        "nothing is let go of"
    );
    let data_dir = fleet.control.data_dir();
    until("the other stream in the archive", LIMIT, async || {
        let other = archive::read(data_dir, "n1", "other").map_err(|e| format!("{e:#}"))?;
        if other.len() == 1 {
            Ok(())
        } else {
            Err(format!("{other:?}"))
        }
    })
    .await?;

    std::fs::write(&rules, open)?;
    broker.reload()?;
    archived(&fleet, &device).await?;
    fleet.finish().await
}

/// A certificate for a server on loopback by the authority in `ca`.
pub(crate) fn certificate(
    ca: &std::path::Path,
    folder: &std::path::Path,
) -> Result<(std::path::PathBuf, std::path::PathBuf)> {
    let key = rcgen::KeyPair::from_pem(&std::fs::read_to_string(ca.join("ca.key"))?)?;
    let issuer =
        rcgen::Issuer::from_ca_cert_pem(&std::fs::read_to_string(ca.join("ca.pem"))?, key)?;
    let own = rcgen::KeyPair::generate()?;
    let params = rcgen::CertificateParams::new(vec!["127.0.0.1".to_owned()])?;
    let certificate = params.signed_by(&own, &issuer)?;
    let paths = (folder.join("broker.pem"), folder.join("broker.key"));
    std::fs::write(&paths.0, certificate.pem())?;
    std::fs::write(&paths.1, own.serialize_pem())?;
    Ok(paths)
}
