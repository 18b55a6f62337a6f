use std::time::Duration;

use anyhow::Result;
use fleet_tests::backlog;

/// The aim for a backlog of any size.
const RSS: u64 = 150 << 20;
/// Bytes a second that a busy machine drains at least.
const DRAIN: u64 = 1_000_000;

#[tokio::test(flavor = "multi_thread")]
async fn a_backlog_is_not_held_in_memory() -> Result<()> {
    // `FLEET_BACKLOG=1000000000` makes it the full size.
    let bytes = std::env::var("FLEET_BACKLOG")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(40 << 20);
    let drain = Duration::from_secs(600 + bytes / DRAIN);
    let report = backlog::run(bytes, drain).await?;
    println!("{report:?}");
    assert!(report.rss() < RSS, "{report:?}");
    Ok(())
}
