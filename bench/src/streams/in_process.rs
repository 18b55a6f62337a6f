use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use clap::Args;
use comfy_table::{Table, presets};
use fleet_tests::Checkout;
use tokio::process::Command;

use super::StreamsArgs;
use super::job::{self, Job, Outcome, Store};
use super::stores::{Ours, Raw};
use crate::quiet;
use crate::report::{Report, median};

/// Size of a record and records of a commit.
const JOBS: [(usize, usize); 4] = [(100, 1_000), (256, 100), (1_024, 100), (256, 1)];
const RAW: &str = "append + fdatasync";
const OURS: &str = "edge-runtime";
const PEERS: [(&str, &str); 3] = [
    ("sqlite", "SQLite, WAL, FULL"),
    ("redb", "redb 4"),
    ("fjall", "fjall 3"),
];

/// One job on one store, in a process of its own.
#[derive(Debug, Clone, Args)]
pub(crate) struct JobArgs {
    /// `raw` or `ours`.
    store: String,
    /// An empty folder.
    dir: PathBuf,
    /// Size of a record.
    bytes: usize,
    /// Records of a commit.
    per_commit: usize,
    /// How long.
    seconds: f64,
}

pub(super) async fn run_job(args: JobArgs) -> Result<()> {
    let runtime = tokio::runtime::Handle::current();
    let done = tokio::task::spawn_blocking(move || {
        let mut store: Box<dyn Store> = match args.store.as_str() {
            "raw" => Box::new(Raw::create(&args.dir)?),
            "ours" => Box::new(Ours::open(&args.dir, runtime)?),
            other => bail!("{other:?} is no store: use raw or ours"),
        };
        let job = Job {
            bytes: args.bytes,
            per_commit: args.per_commit,
            length: Duration::from_secs_f64(args.seconds),
        };
        job::run(job, &args.dir, store.as_mut())
    });
    println!("{}", serde_json::to_string(&done.await??)?);
    Ok(())
}

/// Every store on every job; rounds alternate between the stores.
pub(super) async fn measure(rounds: usize, args: &StreamsArgs, report: &mut Report) -> Result<()> {
    let peers = peers(args.with_peers).await?;
    let this = std::env::current_exe()?;
    let mut stores: Vec<(&str, PathBuf, Vec<&str>)> = vec![
        (RAW, this.clone(), vec!["streams-job", "raw"]),
        (OURS, this, vec!["streams-job", "ours"]),
    ];
    if let Some(program) = &peers {
        for (name, title) in PEERS {
            stores.push((title, program.clone(), vec![name]));
        }
    }
    let mut table = Table::new();
    table.load_preset(presets::ASCII_MARKDOWN);
    table.set_header([
        "durable ingest in process",
        "records/s",
        "of the limit",
        "write amplification",
        "disk / live",
        "RSS MiB",
    ]);
    for (bytes, per_commit) in JOBS {
        let mut outcomes: Vec<Vec<Outcome>> = vec![Vec::new(); stores.len()];
        for _ in 0..rounds {
            for ((_, program, arguments), outcomes) in stores.iter().zip(&mut outcomes) {
                quiet::machine().await;
                outcomes.push(one(program, arguments, bytes, per_commit, args.seconds).await?);
            }
        }
        let of = |outcomes: &[Outcome], figure: fn(&Outcome) -> f64| {
            let mut all: Vec<f64> = outcomes.iter().map(figure).collect();
            all.sort_by(f64::total_cmp);
            median(&all)
        };
        let limit = of(&outcomes[0], |o| o.records_per_s);
        for ((title, ..), outcomes) in stores.iter().zip(&outcomes) {
            let rate = of(outcomes, |o| o.records_per_s);
            table.add_row([
                format!("{bytes} B x {per_commit}, {title}"),
                format!("{rate:.0}"),
                format!("{:.2}", rate / limit),
                format!("{:.1}", of(outcomes, |o| o.write_amplification)),
                format!("{:.1}", of(outcomes, |o| o.disk_per_live)),
                format!(
                    "{:.0}",
                    of(outcomes, |o| o.rss_bytes as f64) / f64::from(1 << 20)
                ),
            ]);
            let rates = outcomes.iter().map(|o| o.records_per_s).collect();
            report.add(
                &format!("durable ingest, {bytes} B x {per_commit}: {title}"),
                "records/s",
                rates,
            );
        }
    }
    println!("{table}");
    Ok(())
}

async fn one(
    program: &Path,
    arguments: &[&str],
    bytes: usize,
    per_commit: usize,
    seconds: f64,
) -> Result<Outcome> {
    // Beside the programs, on a disk: the system's folder for temporary files may be memory.
    let beside = program.parent().context("a program lies in a folder")?;
    let dir = tempfile::Builder::new()
        .prefix("ingest")
        .tempdir_in(beside)?;
    let output = Command::new(program)
        .args(arguments)
        .arg(dir.path())
        .args([
            bytes.to_string(),
            per_commit.to_string(),
            seconds.to_string(),
        ])
        .output()
        .await?;
    ensure!(
        output.status.success(),
        "{arguments:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(serde_json::from_slice(&output.stdout)?)
}

/// The program with the other stores, if it is there or shall be.
async fn peers(build: bool) -> Result<Option<PathBuf>> {
    let folder = Checkout::root().join("bench/peers");
    let program = folder.join("target/release/store-peers");
    if build {
        let built = Command::new("cargo")
            .args(["build", "--release", "--locked"])
            .current_dir(&folder)
            .env_remove("CARGO_TARGET_DIR")
            .status()
            .await?;
        ensure!(built.success(), "cannot build {}", folder.display());
    }
    if !program.is_file() {
        eprintln!("other stores are not there to compare with: run again with --with-peers");
        return Ok(None);
    }
    Ok(Some(program))
}
