//! The work of a node's data folder without the rest of the node, for tests that cut it short
//! hundreds of times: `append` does some and notes what was acknowledged, `audit` opens what
//! is left and compares.

mod append;
mod audit;
mod named;

use std::path::PathBuf;

use anyhow::Result;
use clap::{Parser, Subcommand};
use edge_runtime::streams::BufferConfig;
use fleet_api::desired::StreamSpec;
use fleet_api::ids::StreamName;
use fleet_tests::promise::PROCESSED;

/// Works on a data folder, or examines one.
#[derive(Debug, Parser)]
struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Appends, processes, frees and keeps; ends with 3 once the disk fails.
    Append {
        /// The data folder.
        dir: PathBuf,
        /// The file that acknowledgements are added to.
        log: PathBuf,
        /// Commands per stream.
        #[arg(long, default_value_t = 100)]
        commands: u64,
        /// Seed of the sizes.
        #[arg(long, default_value_t = 1)]
        seed: u64,
    },
    /// Reads `FOLDER<TAB>FILE` lines, FILE with what was promised; answers a verdict in JSON for each.
    Audit {
        /// Gap records and a new epoch may stand for what is missing.
        #[arg(long)]
        damaged: bool,
    },
}

fn main() -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    match Args::parse().what {
        What::Append {
            dir,
            log,
            commands,
            seed,
        } => {
            let log = std::fs::File::options()
                .append(true)
                .create(true)
                .open(log)?;
            let done = runtime.block_on(append::run(&dir, log, commands, seed));
            if let Err(error) = done {
                eprintln!("refused: {error:#}");
                std::process::exit(3);
            }
            Ok(())
        }
        What::Audit { damaged } => runtime.block_on(audit::serve(damaged)),
    }
}

/// The streams: two that are only forwarded, one with a processor, and its output.
fn specs() -> Result<Vec<StreamSpec>> {
    ["a", "b"]
        .into_iter()
        .chain(PROCESSED)
        .map(|name| Ok(StreamSpec::named(StreamName::new(name)?)))
        .collect()
}

fn config() -> BufferConfig {
    BufferConfig {
        // What it keeps aside would be most of what is written and compared.
        ballast_bytes: 256 << 10,
        free_floor_bytes: 1 << 20,
        cache_bytes: 4 << 20,
        ..BufferConfig::default()
    }
}
