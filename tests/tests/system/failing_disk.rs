use anyhow::Result;
use fleet_tests::Dice;
use fleet_tests::trial::io_errors;

#[test]
fn nothing_that_was_acknowledged_is_lost_whichever_call_to_the_disk_fails() -> Result<()> {
    let seed = Dice::seed("FLEET_IO_SEED", 2);
    let tally = io_errors(false, seed, |_| {})?;
    assert!(tally.is_good(), "{tally:#?}");
    assert!(tally.trials > 80, "{tally:?}");
    Ok(())
}
