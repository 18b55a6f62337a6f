//! What is made out of the repository and of what was fetched: our own models in
//! their place, and what our scripts make.

use std::{fs, process::Command};

use anyhow::{Context as _, Result};

use crate::{
    checkout::Checkout,
    command,
    pins::{Made, Pins},
    progress,
    stamp::{self, Stamp},
};

/// Puts our models and the made files in place.
pub(crate) fn ensure(checkout: &Checkout, pins: &Pins) -> Result<()> {
    for local in &pins.local {
        let from = checkout.root().join(&local.from);
        let to = checkout.artifact(&local.to);
        let bytes =
            fs::read(&from).with_context(|| format!("failed to read {}", from.display()))?;
        if fs::read(&to).is_ok_and(|found| found == bytes) {
            progress::in_place(&local.to);
        } else {
            progress::step(&local.to, || stamp::write(&to, &bytes))?;
        }
    }
    for made in &pins.made {
        make(checkout, made)?;
    }
    Ok(())
}

fn make(checkout: &Checkout, made: &Made) -> Result<()> {
    let inputs: Vec<_> = made
        .inputs
        .iter()
        .map(|path| format!("artifacts/{path}"))
        .collect();
    let mut sources = vec![made.script.as_str()];
    sources.extend(inputs.iter().map(String::as_str));
    let words: Vec<_> = made.args.iter().map(String::as_str).collect();
    let digest = stamp::digest_of(checkout, &sources, &words)?;
    let stamp = Stamp::of(checkout, &made.script.replace('/', "_"));
    let what = made.outputs.join(", ");
    if stamp.holds(&digest)
        && made
            .outputs
            .iter()
            .all(|out| checkout.artifact(out).exists())
    {
        progress::in_place(&what);
        return Ok(());
    }
    progress::step(&format!("{what}: {}", made.script), || {
        command::output(
            Command::new(checkout.venv_python())
                .arg("-B")
                .arg(&made.script)
                .args(&made.args)
                .current_dir(checkout.root()),
        )?;
        stamp.set(&digest)
    })
}
