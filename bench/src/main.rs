//! Figures of the programs as they are built, each beside what it can be compared with.
//!
//! Rounds of compared programs alternate, so that a busy machine slows both; medians are told.

mod aggressors;
mod codec;
mod handlers;
mod inference;
mod ingest;
mod memory;
mod native;
mod plot;
mod program;
mod quiet;
mod report;
mod soak;
mod start;
mod streams;
mod streams_processor;
mod swaps;
mod wrk;

use anyhow::Result;
use clap::{Parser, Subcommand};

use crate::handlers::HandlersArgs;
use crate::inference::InferenceArgs;
use crate::report::Report;
use crate::soak::SoakArgs;
use crate::streams::{JobArgs, StreamsArgs};
use crate::streams_processor::ProcessorsArgs;

/// Measures the edge runtime and the control plane on this machine.
#[derive(Debug, Parser)]
struct Args {
    /// Rounds of each measurement; the median is told.
    #[arg(long, global = true, default_value_t = 5)]
    rounds: usize,
    /// Also write the figures as JSON.
    #[arg(long, global = true, value_name = "FILE")]
    json: Option<std::path::PathBuf>,
    /// Build wasmtime 48 first if it is not there; takes a quarter of an hour.
    #[arg(long, global = true)]
    with_wasmtime: bool,
    /// What to measure; everything if it is not named.
    #[command(subcommand)]
    what: Option<What>,
}

#[derive(Debug, Clone, Subcommand)]
enum What {
    /// Everything.
    Summary,
    /// Resident memory of idle programs.
    Memory,
    /// From the start of the process to its first answer.
    Start,
    /// Requests per second through handlers.
    Handlers(HandlersArgs),
    /// Versions that change under load.
    Swaps,
    /// A handler beside one that does its worst.
    Aggressors,
    /// Memory of many idle handlers.
    Many {
        /// How many.
        #[arg(default_value_t = 200)]
        count: usize,
    },
    /// Serves the limit that handlers are compared with.
    #[command(hide = true)]
    Native {
        /// Address to listen on.
        listen: std::net::SocketAddr,
    },
    /// How quickly bodies of inference requests are read.
    Codec,
    /// Inference over HTTP beside other servers, and what a server has to do besides.
    Inference(InferenceArgs),
    /// Records through a processor with an inference for each batch.
    Processors(ProcessorsArgs),
    /// Records per second that are on disk before their answer.
    Ingest,
    /// Power cuts, kills, damage and failing calls, by the thousand.
    Soak(SoakArgs),
    /// Device data: durable ingest beside other stores, over HTTP, and on its way out.
    Streams(StreamsArgs),
    /// Does one job on one store.
    #[command(hide = true)]
    StreamsJob(JobArgs),
}

#[tokio::main]
async fn main() -> Result<()> {
    let args = Args::parse();
    if args.with_wasmtime {
        program::install_wasmtime().await?;
    }
    let (rounds, mut report) = (args.rounds.max(1), Report::new());
    match args.what.unwrap_or(What::Summary) {
        What::Native { listen } => return native::serve(listen).await,
        What::Soak(soak) => return soak::run(&soak, args.json.as_deref()).await,
        What::Memory => memory::measure(rounds, &mut report).await?,
        What::Start => start::measure(rounds, &mut report).await?,
        What::Swaps => swaps::measure(&mut report).await?,
        What::Aggressors => aggressors::measure(rounds, &mut report).await?,
        What::Many { count } => start::many(count.max(2), &mut report).await?,
        What::Handlers(args) => handlers::measure(rounds, &args, &mut report).await?,
        What::Codec => codec::measure(rounds, &mut report)?,
        What::Inference(args) => inference::measure(rounds, &args, &mut report).await?,
        What::Processors(args) => {
            streams_processor::measure(rounds, &args, &mut report).await?;
        }
        What::StreamsJob(args) => return streams::run_job(args).await,
        What::Streams(args) => streams::measure(rounds, &args, &mut report).await?,
        What::Ingest => ingest::measure(rounds, &mut report).await?,
        What::Summary => {
            memory::measure(rounds, &mut report).await?;
            start::measure(rounds, &mut report).await?;
            let args = HandlersArgs {
                seconds: 3,
                connections: vec![32],
                guests: vec!["hello".to_owned()],
                plot: None,
            };
            handlers::measure(rounds, &args, &mut report).await?;
            inference::overhead::measure(rounds, &mut report).await?;
            ingest::measure(rounds, &mut report).await?;
        }
    }
    report.print(args.json.as_deref())
}
