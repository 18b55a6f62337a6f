use std::time::Duration;

use anyhow::Result;
use fleet_tests::backlog;

/// The aim for a backlog of any size.
const RSS: u64 = 150 << 20;

#[tokio::test(flavor = "multi_thread")]
async fn a_backlog_is_not_held_in_memory() -> Result<()> {
    // `FLEET_BACKLOG=1000000000` makes it the full size.
    let bytes = std::env::var("FLEET_BACKLOG")
        .ok()
        .and_then(|text| text.parse().ok());
    let report = backlog::run(bytes.unwrap_or(40 << 20), Duration::from_secs(600)).await?;
    println!("{report:?}");
    assert!(report.rss() < RSS, "{report:?}");
    Ok(())
}
