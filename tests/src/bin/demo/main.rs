//! The product's story on one machine, with real processes and real data.
//!
//! ```text
//!  devices ── vibration ──► line-1, line-2 (plant-07), press-1 (plant-12) ── MQTT ──► control plane ──► Parquet
//!  cameras ── pictures ───►    └─ SIGKILL and back                                     └─ stopped for a while
//! ```
//!
//! `--check` runs it without a terminal and exits with 1 on any miss; without it, the fleet stays
//! up until Ctrl-C.

mod cameras;
mod load;
mod report;
mod story;

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use clap::Parser;
use tokio::signal::unix::{SignalKind, signal};

use crate::report::Report;
use crate::story::Story;

/// The whole check may take this long.
const LIMIT: Duration = Duration::from_secs(180);

/// Shows the product on one machine.
#[derive(Debug, Parser)]
struct Args {
    /// Run without a terminal, exit with 1 on any miss.
    #[arg(long)]
    check: bool,
}

#[tokio::main]
async fn main() -> ExitCode {
    match run(Args::parse().check).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(check: bool) -> Result<()> {
    let mut report = Report::new(check);
    let mut story = tokio::select! {
        told = tokio::time::timeout(LIMIT, Story::tell(&mut report)) => {
            told.context("the demo took longer than three minutes")??
        }
        interrupted = interrupted() => return interrupted,
    };
    if !check {
        story.stay_up(&mut report).await?;
        stop_signal().await?;
    }
    let stopped = story.finish();
    report
        .step("every process ends well on SIGTERM", stopped)
        .await?;
    report.end();
    Ok(())
}

/// What runs is ended and removed as the story is dropped.
async fn interrupted() -> Result<()> {
    stop_signal().await?;
    fleet_tests::fleet::leave_logs_alone();
    bail!("interrupted; everything is ended and removed")
}

async fn stop_signal() -> Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(())
}
