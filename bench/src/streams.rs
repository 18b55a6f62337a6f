//! Device data: durable ingest beside other stores and beside the disk's own limit, over HTTP, and on its way out.

mod bare;
mod drain;
mod http;
mod in_process;
#[path = "../peers/src/job.rs"]
mod job;
mod stores;

use anyhow::Result;
use clap::Args;

use crate::report::Report;
pub(crate) use in_process::JobArgs;

/// What of it is measured.
#[derive(Debug, Clone, Args)]
pub(crate) struct StreamsArgs {
    /// How long each store works on each job, in seconds.
    #[arg(long, default_value_t = 4.0)]
    seconds: f64,
    /// Build the other stores first if they are not there; takes some minutes.
    #[arg(long)]
    with_peers: bool,
    /// Only this part.
    #[arg(long, value_enum)]
    only: Option<Part>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Part {
    /// The buffer itself, beside other stores.
    Stores,
    /// Ingest over HTTP.
    Http,
    /// A backlog on its way out.
    Drain,
}

pub(crate) async fn measure(rounds: usize, args: &StreamsArgs, report: &mut Report) -> Result<()> {
    let wanted = |part| args.only.is_none_or(|only| only == part);
    if wanted(Part::Stores) {
        in_process::measure(rounds, args, report).await?;
    }
    if wanted(Part::Http) {
        http::measure(rounds, args, report).await?;
    }
    if wanted(Part::Drain) {
        drain::measure(rounds, report).await?;
    }
    Ok(())
}

/// Does a job in this process and tells its outcome as JSON.
pub(crate) async fn run_job(args: JobArgs) -> Result<()> {
    in_process::run_job(args).await
}
