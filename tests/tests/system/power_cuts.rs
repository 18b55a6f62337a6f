use anyhow::Result;
use fleet_tests::Dice;
use fleet_tests::trial::{Cuts, chained_cuts, power_cuts};

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
