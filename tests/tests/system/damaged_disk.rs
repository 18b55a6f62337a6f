use anyhow::Result;
use fleet_tests::Dice;
use fleet_tests::trial::damage;

#[test]
fn after_damage_to_any_file_every_missing_record_is_named_and_the_node_takes_more() -> Result<()> {
    let seed = Dice::seed("FLEET_DAMAGE_SEED", 1);
    let tally = damage(150, seed, |_| {})?;
    assert!(tally.is_good(), "{tally:#?}");
    assert!(tally.new_epochs > 0, "no damage was met: {tally:?}");
    assert!(
        tally.new_epochs < 100,
        "most of it was thrown away: {tally:?}"
    );
    Ok(())
}
