//! Servers that do not notice that their clients have gone go on computing; the next one is measured after that.

use std::time::Duration;

use anyhow::{Context as _, Result};
use fleet_tests::until;

const LOOK: Duration = Duration::from_millis(200);
const LIMIT: Duration = Duration::from_secs(20);
/// Share of the processors' time that nobody uses.
const IDLE: f64 = 0.85;

/// Waits until nothing much runs on this machine; goes on after a while if something always does.
pub(crate) async fn machine() {
    let quiet = until("a quiet machine", LIMIT, async || {
        let before = times().map_err(|error| error.to_string())?;
        tokio::time::sleep(LOOK).await;
        let after = times().map_err(|error| error.to_string())?;
        let idle = (after.0 - before.0) / (after.1 - before.1).max(1.0);
        (idle >= IDLE)
            .then_some(())
            .ok_or(format!("{:.0} % idle", idle * 100.0))
    });
    if let Err(error) = quiet.await {
        eprintln!("measured all the same: {error:#}");
    }
}

/// Idle and all time of all processors (`/proc/stat`, proc(5)).
fn times() -> Result<(f64, f64)> {
    let stat = std::fs::read_to_string("/proc/stat")?;
    let line = stat.lines().next().context("a first line")?;
    let times: Vec<f64> = line
        .split_whitespace()
        .skip(1)
        .map(str::parse)
        .collect::<Result<_, _>>()?;
    let idle = times.iter().skip(3).take(2).sum();
    // Time of guests, behind the eighth, is counted in the first two already.
    Ok((idle, times.iter().take(8).sum()))
}
