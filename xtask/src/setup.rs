//! Brings what the machine lacks, and leaves alone what is in place.

mod brokers;
pub(crate) mod builders;
pub(crate) mod debian;
mod derived;
mod perf_analyzer;
mod tools;
mod venv;
pub(crate) mod wasm;
mod wheels;

use anyhow::Result;

use self::builders::Builders;
use crate::{checkout::Checkout, pins::Pins, progress};

/// All parts, in the order in which they need each other. `all` adds clients
/// that take minutes to build.
pub(crate) fn run(checkout: &Checkout, all: bool) -> Result<()> {
    progress::heading("setup: what the machine lacks, into artifacts/");
    let pins = Pins::load()?;
    wasm::ensure(&pins)?;
    debian::ensure_python(&pins)?;
    wheels::ensure(checkout, &pins)?;
    perf_analyzer::ensure(checkout, &pins)?;
    brokers::ensure(checkout, &pins)?;
    venv::ensure(checkout, &pins)?;
    derived::ensure(checkout, &pins)?;
    if all {
        debian::ensure("test clients", &pins.debian.clients)?;
        tools::ensure(checkout, &pins)?;
    }
    Ok(())
}

/// What builds guests in other languages, which tests need beside [`run`].
pub(crate) fn builders(checkout: &Checkout) -> Result<()> {
    Builders::ensure(checkout, &Pins::load()?).map(drop)
}

/// What the benchmarks need beside [`run`].
pub(crate) fn bench_clients() -> Result<()> {
    debian::ensure("test clients", &Pins::load()?.debian.clients)
}
