use std::fs::{self, File};
use std::io::Write as _;
use std::time::Duration;

use anyhow::Result;
use fleet_tests::{Serve, until};

use crate::mqtt_devices::values;

const LIMIT: Duration = Duration::from_secs(60);
const LINES: u64 = 40_000;
/// Lines after which the file is rotated.
const ROTATION: u64 = 15_000;
const KILLS: u64 = 4;

/// Each line is a record exactly once and in order, whatever moment the kills meet.
#[tokio::test(flavor = "multi_thread")]
async fn every_line_is_a_record_once_through_rotation_and_kill_9() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let path = dir.path().join("press.log");
    File::create(&path)?;
    let sources = dir.path().join("sources.toml");
    fs::write(
        &sources,
        format!(
            "[[source]]\nname = \"log\"\nstream = \"press\"\n\
             file = {{ path = {path:?}, format = \"json-lines\", every = \"10ms\" }}\n"
        ),
    )?;
    let sources = sources.display().to_string();
    let args = ["--sources", sources.as_str()];
    let mut serve = Serve::start(&args).await?;
    let writer = tokio::task::spawn_blocking(move || -> Result<()> {
        let mut file = File::options().append(true).open(&path)?;
        for n in 1..=LINES {
            // In two pieces, so that half lines are met.
            write!(file, "{{\"n\":")?;
            writeln!(file, "{n}}}")?;
            if n % ROTATION == 0 {
                fs::rename(&path, path.with_extension(format!("log.{n}")))?;
                file = File::create(&path)?;
            }
            if n % 200 == 0 {
                std::thread::sleep(Duration::from_millis(10));
            }
        }
        Ok(())
    });
    for kill in 0..KILLS {
        let goal = usize::try_from(500 + kill * LINES / (KILLS + 1))?;
        until("records", LIMIT, async || {
            let values = values(&serve).await.map_err(|e| format!("{e:#}"))?;
            if values.len() >= goal {
                Ok(())
            } else {
                Err(format!("{} of {goal}", values.len()))
            }
        })
        .await?;
        serve = serve.kill_and_restart(&args).await?;
    }
    writer.await??;
    let values = until("every line", LIMIT, async || {
        let values = values(&serve).await.map_err(|e| format!("{e:#}"))?;
        if values.len() as u64 >= LINES {
            Ok(values)
        } else {
            Err(format!("{} of {LINES}", values.len()))
        }
    })
    .await?;
    let numbers: Vec<_> = values
        .iter()
        .map(|value| value["value"]["n"].as_u64())
        .collect();
    let wanted: Vec<_> = (1..=LINES).map(Some).collect();
    assert!(
        numbers == wanted,
        "{} records, the first wrong one is {:?}",
        numbers.len(),
        numbers.iter().zip(&wanted).find(|(a, b)| a != b)
    );
    Ok(())
}
