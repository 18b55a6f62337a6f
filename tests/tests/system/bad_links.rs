//! The whole way over a link that does what bad links do. The long form of this runs in the soak.

use std::time::Duration;

use anyhow::Result;
use fleet_tests::links::{self, Report};

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_link_loses_nothing_and_doubles_nothing() -> Result<()> {
    let seed = std::env::var("FLEET_SEED")
        .ok()
        .and_then(|seed| seed.parse().ok());
    let seed = seed.unwrap_or(2_026);
    println!("FLEET_SEED={seed}");
    let report: Report = links::run(seed, Duration::from_secs(15)).await?;
    println!("{report:?}");
    assert!(report.audit.is_exactly_once(), "{report:?}");
    assert!(
        report.moods > 3 && report.broken > 0,
        "the link was too good: {report:?}"
    );
    Ok(())
}
