use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use fleet_tests::chaos::{Chaos, Mood};
use fleet_tests::serve::printed;
use fleet_tests::{Checkout, Process, Serve, until};
use serde_json::{Value, json};
use tokio::process::Command;

use crate::mqtt_devices::{free_port, values};

const LIMIT: Duration = Duration::from_secs(60);
const SCRIPT: &str = "tests/clients/opcua_server.py";

/// A server of asyncua with a few values, which counts a hundred times a second.
struct Plant {
    process: Process,
    port: u16,
}

impl Plant {
    /// A server that hands subscriptions over as asyncua does, or as it should (`whole`).
    async fn start(folder: &Path, port: u16, whole: bool) -> Result<Self> {
        let python = Checkout::artifact("venv/bin/python")?;
        let script = Checkout::root().join(SCRIPT);
        let number = port.to_string();
        let whole = if whole { "whole" } else { "" };
        let arguments = [
            script.as_os_str(),
            "serve".as_ref(),
            number.as_ref(),
            folder.as_ref(),
            whole.as_ref(),
        ];
        let log = folder.join("server.log");
        let mut process = Process::start("the OPC UA server", &python, arguments, &[], &log)?;
        printed(&mut process, "serving", LIMIT).await?;
        Ok(Self { process, port })
    }

    /// Runs the script's `write` or `fail` with its arguments.
    async fn command(&self, command: &str, arguments: &[&str]) -> Result<()> {
        let mut script = Command::new(Checkout::artifact("venv/bin/python")?);
        let done = script
            .arg(Checkout::root().join(SCRIPT))
            .args([command, &self.port.to_string()])
            .args(arguments)
            .output()
            .await?;
        ensure!(
            done.status.success(),
            "{}",
            String::from_utf8_lossy(&done.stderr)
        );
        Ok(())
    }
}

fn sources(folder: &Path, opcua: &str) -> Result<String> {
    let file = folder.join("sources.toml");
    let text = format!("[[source]]\nname = \"plc\"\nstream = \"press\"\nopcua = {{ {opcua} }}\n");
    fs::write(&file, text)?;
    Ok(file.display().to_string())
}

async fn wait_for(serve: &Serve, wanted: impl Fn(&[Value]) -> bool) -> Result<Vec<Value>> {
    until("records", LIMIT, async || {
        let values = values(serve).await.map_err(|e| format!("{e:#}"))?;
        if wanted(&values) {
            Ok(values)
        } else {
            let last = values.len().saturating_sub(8);
            Err(format!("{:?}\n{}", &values[last..], serve.process.tail()))
        }
    })
    .await
}

/// What was recorded under `name`, with its quality.
fn of<'a>(values: &'a [Value], name: &str) -> Vec<(&'a Value, &'a str)> {
    let named = values.iter().filter(|value| value["name"] == name);
    named
        .map(|value| {
            (
                &value["value"],
                value["quality"].as_str().unwrap_or_default(),
            )
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_subscribes_at_a_server_that_is_trusted_and_tells_when_it_is_lost() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let mut plant = Plant::start(dir.path(), free_port()?, true).await?;
    let secret = dir.path().join("password");
    fs::write(&secret, "secret")?;
    let secret = format!("plc={}", secret.display());
    let file = sources(
        dir.path(),
        &format!(
            r#"endpoint = "opc.tcp://127.0.0.1:{}", username = "edge", password = "plc", every = "50ms", nodes = [
  {{ name = "temperature", node = "ns=2;s=Press4.Temperature", unit = "Cel", deadband = 0.5 }},
  {{ name = "level", node = "nsu=http://plant.example/;s=Press4.Level" }},
  {{ name = "running", node = "ns=2;s=Press4.Running" }},
  {{ name = "total", node = "ns=2;s=Press4.Total" }},
  {{ name = "order", node = "ns=2;s=Press4.Order" }},
  {{ name = "zones", node = "ns=2;s=Press4.Zones" }},
  {{ name = "nothing", node = "ns=2;s=Press4.Nothing" }} ]"#,
            plant.port
        ),
    )?;
    let serve = Serve::start(&["--sources", &file, "--secret", &secret]).await?;

    // Nobody has said yet that this server is the right one.
    let keys = serve.dir().join("data/opcua");
    let rejected = until("a certificate that is not trusted", LIMIT, async || {
        let mut found = fs::read_dir(keys.join("rejected")).map_err(|e| e.to_string())?;
        found
            .next()
            .and_then(Result::ok)
            .ok_or_else(|| serve.process.tail())
    })
    .await?;
    assert!(
        values(&serve)
            .await?
            .iter()
            .all(|value| value["quality"] == "bad")
    );
    fs::rename(
        rejected.path(),
        keys.join("trusted").join(rejected.file_name()),
    )?;

    let good = |values: &[Value]| values.iter().filter(|v| v["quality"] == "good").count();
    let all = wait_for(&serve, |values| good(values) >= 6).await?;
    let wanted = [
        ("temperature", json!(21.5)),
        ("level", json!(0.3)),
        ("running", json!(true)),
        ("total", json!(-9_007_199_254_740_993_i64)),
        ("order", json!("A-4711")),
        ("zones", json!([1, 2, 3])),
    ];
    for (name, value) in &wanted {
        assert_eq!(of(&all, name).last(), Some(&(value, "good")), "{name}");
    }
    let temperature = all.iter().rfind(|value| value["name"] == "temperature");
    let temperature = temperature.context("a temperature")?;
    assert_eq!(temperature["unit"], "Cel");
    assert!(
        temperature["time"].as_u64() > Some(1_700_000_000_000),
        "{temperature}"
    );
    let nothing = all.iter().rfind(|value| value["name"] == "nothing");
    let reason = &nothing.context("a record of a node that is not there")?["reason"];
    assert!(
        reason
            .as_str()
            .is_some_and(|r| r.contains("BadNodeIdUnknown")),
        "{reason}"
    );

    // Within the deadband, then beyond it, then without a value.
    let node = "ns=2;s=Press4.Temperature";
    plant.command("write", &[node, "21.75"]).await?;
    plant.command("write", &[node, "30.25"]).await?;
    plant.command("fail", &[node]).await?;
    let told = |values: &[Value]| of(values, "temperature").last() == Some(&(&Value::Null, "bad"));
    let all = wait_for(&serve, told).await?;
    let told = of(&all, "temperature");
    assert_eq!(
        told[told.len() - 3..told.len() - 1],
        [(&json!(21.5), "good"), (&json!(30.25), "good")]
    );
    plant.command("write", &[node, "31"]).await?;

    plant.process.kill()?;
    let lost = |values: &[Value]| {
        wanted
            .iter()
            .all(|(name, _)| of(values, name).last() == Some(&(&Value::Null, "bad")))
    };
    wait_for(&serve, lost).await?;
    let _plant = Plant::start(dir.path(), plant.port, true).await?;
    let back = |values: &[Value]| {
        let is = |(name, value): &(&str, Value)| of(values, name).last() == Some(&(value, "good"));
        wanted.iter().all(is)
    };
    wait_for(&serve, back).await?;
    Ok(())
}

/// What is not known stands in the data, where the values would be.
#[tokio::test(flavor = "multi_thread")]
async fn a_hole_is_told_where_the_server_does_not_bring_what_it_handed_over() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let plant = Plant::start(dir.path(), free_port()?, false).await?;
    let opcua = format!(
        r#"endpoint = "opc.tcp://127.0.0.1:{}", security = "none", every = "50ms", timeout = "1s", nodes = [
  {{ name = "counter", node = "ns=2;s=Counter" }}, {{ name = "order", node = "ns=2;s=Press4.Order" }} ]"#,
        plant.port
    );
    let file = sources(dir.path(), &opcua)?;
    let args = ["--sources", file.as_str(), "--log", "info"];
    let serve = Serve::start(&args).await?;
    wait_for(&serve, |values| of(values, "counter").len() > 50).await?;
    let serve = serve.kill_and_restart(&args).await?;
    let is_bad = |found: &(&Value, &str)| found.1 == "bad";
    let back = |values: &[Value]| {
        let counted = of(values, "counter");
        let hole = counted.iter().position(is_bad);
        hole.is_some_and(|hole| counted.len() > hole + 50)
    };
    let all = wait_for(&serve, back).await?;
    let counted = of(&all, "counter");
    assert_eq!(
        counted.iter().filter(|found| is_bad(found)).count(),
        1,
        "told once"
    );
    let order = of(&all, "order");
    let wanted = json!("A-4711");
    assert_eq!(
        order,
        [(&wanted, "good"), (&Value::Null, "bad"), (&wanted, "good")]
    );
    Ok(())
}

/// As long as the server keeps the subscription, each change is a record once and in order.
#[tokio::test(flavor = "multi_thread")]
async fn every_change_is_a_record_once_through_broken_links_and_kill_9() -> Result<()> {
    const STEPS: usize = 8;
    let dir = tempfile::tempdir()?;
    let plant = Plant::start(dir.path(), free_port()?, true).await?;
    let server = format!("127.0.0.1:{}", plant.port).parse()?;
    let link = Chaos::start(server, 7).await?;
    let file = sources(
        dir.path(),
        &format!(
            r#"endpoint = "opc.tcp://{}", security = "none", every = "50ms", timeout = "2s", nodes = [
  {{ name = "counter", node = "ns=2;s=Counter" }} ]"#,
            link.address()
        ),
    )?;
    let args = ["--sources", file.as_str(), "--log", "info"];
    let mut serve = Serve::start(&args).await?;
    let counted = |values: &[Value]| {
        let named = of(values, "counter").into_iter();
        named
            .filter_map(|(value, _)| value.as_u64())
            .collect::<Vec<_>>()
    };
    for step in 0..STEPS {
        let so_far = counted(&values(&serve).await?).len();
        wait_for(&serve, |values| counted(values).len() > so_far + 100).await?;
        if step % 2 == 0 {
            serve = serve.kill_and_restart(&args).await?;
        } else {
            // A link that takes and does not bring loses messages that the server has sent.
            link.set(if step == 1 {
                Mood::HalfOpen
            } else {
                Mood::Refuse
            });
            let bad = |values: &[Value]| of(values, "counter").last().is_some_and(|v| v.1 == "bad");
            wait_for(&serve, bad).await?;
            link.set(Mood::Good);
        }
    }
    let so_far = counted(&values(&serve).await?).len();
    let all = wait_for(&serve, |values| counted(values).len() > so_far + 100).await?;
    let counted = counted(&all);
    let wrong = counted.windows(2).find(|pair| pair[1] != pair[0] + 1);
    assert_eq!(wrong, None, "of {} values", counted.len());
    Ok(())
}
