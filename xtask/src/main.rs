//! Every chore of the repository: `cargo xtask setup|modules|test|demo|bench`.
//!
//! ```text
//!   setup ──► artifacts/{lib,models,data,venv,tools}     pins.toml says what and which
//!   modules ─► artifacts/modules/*.wasm
//!   test, demo, bench ─► setup, modules, cargo build, then their own work
//! ```
//!
//! Each chore can be run again at no cost: what is in place is left alone.

mod checkout;
mod command;
mod guests;
mod pins;
mod progress;
mod setup;
mod stamp;
mod suite;

use anyhow::Result;
use clap::{Parser, Subcommand};

use crate::checkout::Checkout;

/// The repository's chores.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    chore: Chore,
}

#[derive(Subcommand)]
enum Chore {
    /// Install what the machine lacks: a Wasm target, ONNX Runtime, models, data, test clients.
    Setup {
        /// Also the client that takes minutes to build, and Debian's clients for benchmarks.
        #[arg(long)]
        all: bool,
    },
    /// Build the guests of modules/ into artifacts/modules/.
    Modules,
    /// Format, lint, build and test everything, then check the demo.
    Test {
        /// Also the tests that need slow clients, and the example guests in other languages.
        #[arg(long)]
        all: bool,
    },
    /// Run the demo: a control plane, three nodes, real guests and real input.
    Demo {
        /// Flags for the demo, such as --check.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Run the benchmarks, or those that are named.
    Bench {
        /// Names and flags for the benchmarks.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
}

fn main() -> Result<()> {
    let checkout = Checkout::find()?;
    match Arguments::parse().chore {
        Chore::Setup { all } => {
            setup::run(&checkout, all)?;
            setup::builders(&checkout)
        }
        Chore::Modules => {
            guests::build(&checkout)?;
            guests::foreign::build(&checkout)
        }
        Chore::Test { all } => suite::test(&checkout, all),
        Chore::Demo { arguments } => suite::run_program(&checkout, "demo", &arguments),
        Chore::Bench { arguments } => suite::run_program(&checkout, "fleet-bench", &arguments),
    }
}
