use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use fleet_tests::brokers::{Broker, Kind, libraries, unpacked};
use fleet_tests::{Process, Serve, http, until};
use serde_json::Value;

use crate::brokers::certificate;

const LIMIT: Duration = Duration::from_secs(60);
/// Messages of a run of mosquitto_pub; more than the node takes before it is killed.
const MESSAGES: usize = 5_000;
const KILLS: usize = 3;

/// A port that was free a moment ago, for a listener that has to come back on it.
pub(crate) fn free_port() -> Result<u16> {
    Ok(std::net::TcpListener::bind("127.0.0.1:0")?
        .local_addr()?
        .port())
}

/// The values of all records that the node holds of the stream `press`.
pub(crate) async fn values(serve: &Serve) -> Result<Vec<Value>> {
    let mut next = 1;
    let mut values = Vec::new();
    loop {
        let url = format!("{}/streams/press?from={next}&limit=100000", serve.url);
        let answer = http::plain()?.get(&url).send().await?.error_for_status()?;
        let before = values.len();
        for line in answer.text().await?.lines() {
            let mut row: Value = serde_json::from_str(line)?;
            next = row["seq"].as_u64().context("a sequence")? + 1;
            values.push(row["value"].take());
        }
        if values.len() == before {
            return Ok(values);
        }
    }
}

/// The `n` of each message that the node holds.
async fn held(serve: &Serve) -> Result<Vec<u64>> {
    let values = values(serve).await?;
    let n = |value: &Value| {
        value["value"]["n"]
            .as_u64()
            .with_context(|| value.to_string())
    };
    values.iter().map(n).collect()
}

/// What the node tells of its first source, once that is as `wanted`.
async fn source_until(serve: &Serve, what: &str, wanted: impl Fn(&Value) -> bool) -> Result<Value> {
    until(what, LIMIT, async || {
        let output = serve.process.output();
        let admin = output.lines().rev().find_map(|l| l.strip_prefix("admin "));
        let url = format!("{}/status", admin.ok_or("no address")?);
        let get = async {
            let answer = http::plain()?.get(url).send().await?;
            anyhow::Ok(answer.json::<Value>().await?)
        };
        let mut status = get.await.map_err(|e| e.to_string())?;
        let source = status["sources"][0].take();
        match wanted(&source) {
            true => Ok(source),
            false => Err(source.to_string()),
        }
    })
    .await
}

fn lines(dir: &Path, from: usize) -> Result<PathBuf> {
    let path = dir.join(format!("messages-{from}"));
    let text: String = (from..from + MESSAGES)
        .map(|n| format!("{{\"n\":{n}}}\n"))
        .collect();
    std::fs::write(&path, text)?;
    Ok(path)
}

/// mosquitto_pub on a file of messages with QoS 1; its log tells what was acknowledged.
fn publisher(dir: &Path, port: u16, version: &str, from: usize) -> Result<Process> {
    let file = lines(dir, from)?;
    let root = unpacked().context("no brokers")?;
    let script = format!(
        "exec {} -h 127.0.0.1 -p {port} -V {version} -i device -t plant/press -q 1 -d -l < {}",
        root.join("usr/bin/mosquitto_pub").display(),
        file.display()
    );
    let log = dir.join(format!("published-{from}"));
    Process::start(
        "mosquitto_pub",
        Path::new("/bin/sh"),
        ["-c", &script],
        &[("LD_LIBRARY_PATH", &libraries(&root))],
        &log,
    )
}

/// Which messages mosquitto_pub has an acknowledgement for, counted from 1.
fn acknowledged(publisher: &Process) -> BTreeSet<u64> {
    let mid = |line: &str| {
        let rest = line.split_once("received PUBACK (Mid: ")?.1;
        rest.split([',', ')']).next()?.parse().ok()
    };
    publisher.output().lines().filter_map(mid).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_s_acknowledged_messages_survive_kill_9_of_the_node() -> Result<()> {
    if unpacked().is_none() {
        return Ok(());
    }
    let dir = tempfile::tempdir()?;
    let port = free_port()?;
    let file = dir.path().join("sources.toml");
    std::fs::write(
        &file,
        format!(
            "[[source]]\nname = \"devices\"\nstream = \"press\"\nmqtt = {{ listen = \"127.0.0.1:{port}\" }}\n"
        ),
    )?;
    let file = file.display().to_string();
    let args = ["--sources", file.as_str()];
    let mut serve = Serve::start(&args).await?;
    let mut promised = Vec::new();
    for kill in 0..KILLS {
        let version = ["311", "5"][kill % 2];
        let from = kill * MESSAGES;
        let publisher = publisher(dir.path(), port, version, from)?;
        let goal = 200 + 300 * kill;
        until("acknowledgements", LIMIT, async || {
            match acknowledged(&publisher).len() {
                n if n >= goal => Ok(()),
                n => Err(format!("{n} of {goal}\n{}", publisher.tail())),
            }
        })
        .await?;
        // Nothing is acknowledged after this, as nobody is there to do it.
        serve.process.kill()?;
        let seen = acknowledged(&publisher);
        assert!(
            seen.len() < MESSAGES,
            "the kill came too late to meet a message"
        );
        promised.extend(seen.iter().map(|mid| from as u64 + mid - 1));
        drop(publisher);
        serve = serve.start_again(&args).await?;
    }
    // A device that is let alone gets everything through.
    let from = KILLS * MESSAGES;
    let mut last = publisher(dir.path(), port, "5", from)?;
    until("the end of mosquitto_pub", LIMIT, async || {
        last.has_ended().map(drop).ok_or_else(|| last.tail())
    })
    .await?;
    promised.extend((from..from + MESSAGES).map(|n| n as u64));
    let held = held(&serve).await?;
    let all: BTreeSet<_> = held.iter().collect();
    let missing: Vec<_> = promised.iter().filter(|n| !all.contains(n)).collect();
    assert!(
        missing.is_empty(),
        "{} of {} are missing: {missing:?}",
        missing.len(),
        promised.len()
    );
    let last: Vec<_> = held.iter().filter(|n| **n >= from as u64).collect();
    assert!(
        last.is_sorted() && last.len() == MESSAGES,
        "{} in the last run",
        last.len()
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_mosquitto_has_taken_survives_kill_9_of_the_node() -> Result<()> {
    let extra = "allow_anonymous true\nmax_queued_messages 0\n";
    plant_broker(Kind::Mosquitto, extra, "5").await
}

/// RabbitMQ and NATS of these versions know MQTT 3.1.1 only.
#[tokio::test(flavor = "multi_thread")]
async fn what_rabbitmq_has_taken_survives_kill_9_of_the_node() -> Result<()> {
    plant_broker(Kind::RabbitMq, "", "311").await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nats_has_taken_survives_kill_9_of_the_node() -> Result<()> {
    plant_broker(Kind::Nats, "", "311").await
}

async fn plant_broker(kind: Kind, extra: &str, version: &str) -> Result<()> {
    let dir = tempfile::tempdir()?;
    if unpacked().is_none() {
        return Ok(());
    }
    let broker = Broker::start_with(kind, free_port()?, extra).await?;
    let port = broker.port();
    let file = dir.path().join("sources.toml");
    std::fs::write(
        &file,
        format!(
            "[[source]]\nname = \"plant\"\nstream = \"press\"\n\
             mqtt = {{ broker = \"mqtt://127.0.0.1:{port}\", topics = [\"plant/+\"] }}\n"
        ),
    )?;
    let file = file.display().to_string();
    let args = ["--sources", file.as_str(), "--admin-listen", "127.0.0.1:0"];
    let mut serve = Serve::start(&args).await?;
    let connected = async |serve: &Serve| {
        let connected = |source: &Value| source["connected"] == true;
        source_until(serve, "the subscription", connected).await
    };
    connected(&serve).await?;
    let mut publisher = publisher(dir.path(), port, version, 0)?;
    for goal in [300, 1_500] {
        until("records", LIMIT, async || {
            let held = held(&serve).await.map_err(|e| format!("{e:#}"))?;
            if held.len() >= goal {
                Ok(())
            } else {
                Err(held.len().to_string())
            }
        })
        .await?;
        serve = serve.kill_and_restart(&args).await?;
    }
    until("the end of mosquitto_pub", LIMIT, async || {
        publisher
            .has_ended()
            .map(drop)
            .ok_or_else(|| publisher.tail())
    })
    .await?;
    let wanted: BTreeSet<u64> = (0..MESSAGES as u64).collect();
    until("every message in the stream", LIMIT, async || {
        let held: BTreeSet<_> = held(&serve)
            .await
            .map_err(|e| format!("{e:#}"))?
            .into_iter()
            .collect();
        if held == wanted {
            Ok(())
        } else {
            Err(format!("{} of {MESSAGES}", held.len()))
        }
    })
    .await
}

/// Who is not who the source expects, or does not know the source, is named as the reason.
#[tokio::test(flavor = "multi_thread")]
async fn a_plant_broker_shows_a_certificate_and_asks_for_a_password() -> Result<()> {
    let Some(root) = unpacked() else {
        return Ok(());
    };
    let dir = tempfile::tempdir()?;
    let path = |name: &str| dir.path().join(name).display().to_string();
    let authority = |folder: &str| -> Result<PathBuf> {
        let folder = dir.path().join(folder);
        std::fs::create_dir(&folder)?;
        let key = rcgen::KeyPair::generate()?;
        let mut params = rcgen::CertificateParams::default();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let name = format!("{} CA", folder.display());
        params
            .distinguished_name
            .push(rcgen::DnType::CommonName, name);
        std::fs::write(folder.join("ca.pem"), params.self_signed(&key)?.pem())?;
        std::fs::write(folder.join("ca.key"), key.serialize_pem())?;
        Ok(folder)
    };
    let (plant, other) = (authority("plant")?, authority("other")?);
    let (certificate, key) = certificate(&plant, dir.path())?;
    let (users, password, ca) = (path("users"), path("password"), path("ca.pem"));
    let made = std::process::Command::new(root.join("usr/bin/mosquitto_passwd"))
        .env("LD_LIBRARY_PATH", libraries(&root))
        .args(["-b", "-c", &users, "edge", "right"])
        .status()?;
    ensure!(made.success(), "{made}");
    let extra = format!(
        "allow_anonymous false\npassword_file {users}\ncertfile {}\nkeyfile {}\n",
        certificate.display(),
        key.display()
    );
    let broker = Broker::start_with(Kind::Mosquitto, free_port()?, &extra).await?;
    let port = broker.port();
    std::fs::copy(other.join("ca.pem"), &ca)?;
    std::fs::write(&password, "wrong")?;
    let file = path("sources.toml");
    std::fs::write(
        &file,
        format!(
            "[[source]]\nname = \"plant\"\nstream = \"press\"\n\
             mqtt = {{ broker = \"mqtts://127.0.0.1:{port}\", topics = [\"plant/+\"], \
             username = \"edge\", password = \"plant\", ca = {ca:?} }}\n"
        ),
    )?;
    let secret = format!("plant={password}");
    let admin = ["--admin-listen", "127.0.0.1:0"];
    let args = ["--sources", &file, "--secret", &secret, admin[0], admin[1]];
    let serve = Serve::start(&args).await?;
    let because = |reason: &'static str| {
        move |source: &Value| {
            source["reason"]
                .as_str()
                .is_some_and(|r| r.contains(reason))
        }
    };
    source_until(&serve, "a stranger's certificate", because("UnknownIssuer")).await?;
    std::fs::copy(plant.join("ca.pem"), &ca)?;
    source_until(&serve, "a wrong password", because("NotAuthorized")).await?;
    std::fs::write(&password, "right")?;
    source_until(&serve, "the subscription", |s| s["connected"] == true).await?;

    let ca = plant.join("ca.pem").display().to_string();
    let (at, topic) = (["-h", "127.0.0.1", "-p"], ["-t", "plant/press"]);
    let port = port.to_string();
    let sent = std::process::Command::new(root.join("usr/bin/mosquitto_pub"))
        .env("LD_LIBRARY_PATH", libraries(&root))
        .args(at)
        .args([&port, "--cafile", &ca, "-u", "edge", "-P", "right"])
        .args(topic)
        .args(["-q", "1", "-m", "{\"n\":7}"])
        .status()?;
    ensure!(sent.success(), "{sent}");
    until("the message", LIMIT, async || {
        match held(&serve).await.map_err(|e| format!("{e:#}"))?[..] {
            [7] => Ok(()),
            ref other => Err(format!("{other:?}")),
        }
    })
    .await
}
