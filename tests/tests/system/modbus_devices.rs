use std::time::Duration;

use anyhow::Result;
use fleet_tests::{Checkout, Process, Serve, until};
use serde_json::{Value, json};
use tokio::process::Command;

use crate::mqtt_devices::{free_port, values};

const LIMIT: Duration = Duration::from_secs(30);

/// Values of every type, as pymodbus has written them.
const VALUES: &str = r#"
  { name = "temperature", register = "holding:100", type = "f32", unit = "Cel", deadband = 0.5 },
  { name = "offset", register = "holding:102", type = "i16", scale = 0.5 },
  { name = "counter", register = "holding:103", type = "u32" },
  { name = "total", register = "holding:110", type = "i64" },
  { name = "ratio", register = "holding:200", type = "f64" },
  { name = "level", register = "input:7" },
  { name = "running", register = "coil:0" },
  { name = "door", register = "discrete:1" },
"#;

async fn wait_for(serve: &Serve, wanted: impl Fn(&[Value]) -> bool) -> Result<Vec<Value>> {
    until("records", LIMIT, async || {
        let values = values(serve).await.map_err(|e| format!("{e:#}"))?;
        if wanted(&values) {
            Ok(values)
        } else {
            Err(format!("{values:?}"))
        }
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_reads_a_device_of_pymodbus_and_tells_when_it_is_lost() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let python = Checkout::artifact("venv/bin/python")?;
    let script = Checkout::root().join("tests/clients/modbus_device.py");
    let port = free_port()?.to_string();
    let start = || {
        let log = dir.path().join("device.log");
        let arguments = [script.as_os_str(), "serve".as_ref(), port.as_ref()];
        Process::start("the Modbus device", &python, arguments, &[], &log)
    };
    let mut device = start()?;
    let file = dir.path().join("sources.toml");
    std::fs::write(
        &file,
        format!(
            "[[source]]\nname = \"press-4\"\nstream = \"press\"\n\
             modbus = {{ address = \"127.0.0.1:{port}\", every = \"50ms\", values = [{VALUES}] }}\n"
        ),
    )?;
    let file = file.display().to_string();
    let serve = Serve::start(&["--sources", &file]).await?;
    let read = |values: &[Value]| {
        let good = values.iter().filter(|value| value["quality"] == "good");
        good.map(|value| (value["name"].clone(), value["value"].clone()))
            .collect::<Vec<_>>()
    };
    let all = wait_for(&serve, |values| read(values).len() >= 8).await?;
    let wanted = [
        (json!("temperature"), json!(21.5)),
        (json!("offset"), json!(-3.5)),
        (json!("counter"), json!(4_000_000_000_u32)),
        (json!("total"), json!(-9_007_199_254_740_993_i64)),
        (json!("ratio"), json!(0.1)),
        (json!("level"), json!(512)),
        (json!("running"), json!(true)),
        (json!("door"), json!(true)),
    ];
    assert_eq!(read(&all), wanted);

    let write = async |value: &str| {
        let mut command = Command::new(&python);
        let written = command
            .arg(&script)
            .args(["write", &port, "100", value])
            .status()
            .await?;
        anyhow::ensure!(written.success(), "{written}");
        anyhow::Ok(())
    };
    // Within the deadband, then beyond it.
    write("21.75").await?;
    write("30.25").await?;
    let all = wait_for(&serve, |values| read(values).len() >= 9).await?;
    assert_eq!(read(&all)[8], (json!("temperature"), json!(30.25)));

    device.kill()?;
    let is_bad = |value: &&Value| value["quality"] == "bad";
    let lost = |values: &[Value]| {
        let bad: Vec<_> = values.iter().rev().take(8).filter(is_bad).collect();
        bad.len() == 8 && bad.iter().all(|value| value["reason"].is_string())
    };
    let bad_before = all.iter().filter(is_bad).count();
    let all = wait_for(&serve, lost).await?;
    assert_eq!(
        all.iter().filter(is_bad).count(),
        bad_before + 8,
        "told once"
    );
    let _device = start()?;
    let all = wait_for(&serve, |values| values.len() >= all.len() + 8).await?;
    assert_eq!(read(&all)[9..], wanted);
    Ok(())
}
