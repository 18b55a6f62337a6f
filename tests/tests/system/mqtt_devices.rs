use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};
use fleet_tests::brokers::{Broker, Kind, libraries, unpacked};
use fleet_tests::{Process, Serve, http, until};
use serde_json::Value;

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
async fn what_a_plant_broker_has_taken_survives_kill_9_of_the_node() -> Result<()> {
    let dir = tempfile::tempdir()?;
    if unpacked().is_none() {
        return Ok(());
    }
    let extra = "allow_anonymous true\nmax_queued_messages 0\n";
    let broker = Broker::start_with(Kind::Mosquitto, free_port()?, extra).await?;
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
        until("the subscription", LIMIT, async || {
            let output = serve.process.output();
            let admin = output.lines().rev().find_map(|l| l.strip_prefix("admin "));
            let url = format!("{}/status", admin.ok_or("no address")?);
            let get = async {
                http::plain()?
                    .get(url)
                    .send()
                    .await?
                    .json::<Value>()
                    .await
                    .map_err(anyhow::Error::from)
            };
            let status = get.await.map_err(|e: anyhow::Error| e.to_string())?;
            match status["sources"][0]["connected"] == true {
                true => Ok(()),
                false => Err(status["sources"].to_string()),
            }
        })
        .await
    };
    connected(&serve).await?;
    let mut publisher = publisher(dir.path(), port, "5", 0)?;
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
