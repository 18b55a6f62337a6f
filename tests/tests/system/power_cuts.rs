use std::time::Duration;

use anyhow::{Context, Result};
use fleet_tests::archive::{self, Audit};
use fleet_tests::power_cut::{Cache, Disk, acknowledge, read};
use fleet_tests::promise::{Ack, Promised, record};
use fleet_tests::trial::{Cuts, chained_cuts, cuts_of_log, power_cuts, promised_in};
use fleet_tests::{Dice, Fleet, Shim, http, until};

/// Set it to what a failure has printed, to see the same again.
const SEED: &str = "FLEET_POWER_SEED";
const COMMANDS: u64 = 120;

fn cuts(cuts: u64) -> Cuts<'static> {
    Cuts {
        cuts,
        seed: Dice::seed(SEED, 1),
        swallow: None,
        commands: COMMANDS,
    }
}

#[test]
fn two_hundred_power_cuts_lose_nothing_that_was_acknowledged() -> Result<()> {
    let tally = power_cuts(cuts(200), |_| {})?;
    assert!(tally.is_good(), "{tally:#?}");
    assert_eq!(tally.trials, 200);
    assert!(tally.records > 50_000, "{tally:?}");
    Ok(())
}

#[test]
fn twenty_five_power_cuts_in_a_row_lose_nothing_that_was_acknowledged() -> Result<()> {
    let tally = chained_cuts(cuts(25), |_| {})?;
    assert!(tally.is_good(), "{tally:#?}");
    Ok(())
}

/// The test of the test: without the sync that the engine lacks, the same trials must find losses.
#[test]
fn without_fdatasync_power_cuts_do_lose_records() -> Result<()> {
    let unsafe_cuts = Cuts {
        swallow: Some("fdatasync"),
        ..cuts(50)
    };
    let tally = power_cuts(unsafe_cuts, |_| {})?;
    assert!(tally.lost + tally.unopenable >= 10, "{tally:#?}");
    Ok(())
}

const LIMIT: Duration = Duration::from_secs(60);
const STREAMS: &str = r#"
[deployment]
name = "streams"
select = "*"
[[stream]]
name = "a"
quota = "64MiB"
[[stream]]
name = "b"
quota = "64MiB"
"#;

/// Sends numbered records, one request after the other, and notes each answer in the shim's log.
async fn send(url: String, stream: &str, requests: u64, log: std::path::PathBuf) -> Result<()> {
    let client = http::plain()?;
    let mut log = std::fs::File::options().append(true).open(log)?;
    let mut next = 1;
    for request in 0..requests {
        let last = next + request % 23;
        let lines: Vec<_> = (next..=last).map(|seq| record(stream, seq)).collect();
        let post = client
            .post(format!("{url}/streams/{stream}"))
            .header("content-type", "application/x-ndjson")
            .body(lines.join("\n"));
        let answer: serde_json::Value = post.send().await?.error_for_status()?.json().await?;
        assert_eq!(answer["first_seq"], next, "{answer}");
        assert_eq!(answer["last_seq"], last, "{answer}");
        let epoch = answer["epoch"].as_u64().context("an epoch")?;
        let stream = stream.to_owned();
        let ack = Ack::Stored {
            stream,
            epoch,
            last,
        };
        acknowledge(&mut log, &ack.text()?)?;
        next = last + 1;
    }
    Ok(())
}

/// The same with a node of a fleet, from its first start on: it is deployed to, fed over HTTP,
/// cut at many places, and started again on what the last cut has left.
#[tokio::test(flavor = "multi_thread")]
async fn power_cuts_of_a_whole_node_lose_nothing_that_was_answered() -> Result<()> {
    let mut fleet = Fleet::start().await?;
    let root = fleet.dir().canonicalize()?;
    let (dir, log) = (root.join("n1"), root.join("n1.shim"));
    fleet.join("n1", &[]).await?;
    // What enrolment has left is durable.
    let disks = [Cache::Volatile, Cache::Protected].map(|cache| Disk::load(&dir, cache));
    let [volatile, protected] = disks;
    let mut disks = [volatile?, protected?];
    let shim = Shim::of(&dir)?.log(&log);
    let edge = fleet.edge("n1")?;
    for (name, value) in shim.env() {
        edge.env(name, value);
    }
    edge.start().await?;
    let url = edge.url();
    fleet.apply(STREAMS).await?;
    fleet.committed().await?;
    // Nobody takes the records from the node, so that all have to be there.
    fleet.control.kill()?;
    let work = tokio::time::timeout(LIMIT, async {
        tokio::try_join!(
            send(url.clone(), "a", 60, log.clone()),
            send(url.clone(), "b", 60, log.clone())
        )
    });
    work.await??;
    fleet.edge("n1")?.kill()?;

    let seed = Dice::seed(SEED, 1);
    let entries = read(&log, &dir)?;
    let (tally, disks, entries) = tokio::task::spawn_blocking(move || {
        let tally = cuts_of_log(&root, &mut disks, &entries, 20, seed)?;
        anyhow::Ok((tally, disks, entries))
    })
    .await??;
    assert!(tally.is_good(), "{tally:#?}");
    assert_eq!(tally.trials, 40);
    assert!(tally.records > 5_000, "{tally:?}");

    std::fs::remove_dir_all(&dir)?;
    disks[0].cut(&dir, 50, &mut Dice::new(seed))?;
    let promised = promised_in(&entries, Promised::default())?;
    let edge = fleet.edge("n1")?;
    edge.clear_env();
    edge.start().await?;
    fleet.control.restart().await?;
    let epoch = promised.epoch.context("something was stored")?;
    for (stream, last) in promised.stored {
        let acknowledged = (1..=last)
            .map(|seq| ((epoch, seq), record(&stream, seq)))
            .collect();
        let data_dir = fleet.control.data_dir();
        let audit = until("all that was answered in the archive", LIMIT, async || {
            let contents = archive::read(data_dir, "n1", &stream).map_err(|e| format!("{e:#}"))?;
            let audit = Audit::of(&acknowledged, &contents);
            (audit.missing == 0)
                .then_some(audit)
                .ok_or_else(|| format!("{audit:?}"))
        })
        .await?;
        assert!(audit.is_exactly_once(), "{audit:?}");
    }
    fleet.finish().await
}
