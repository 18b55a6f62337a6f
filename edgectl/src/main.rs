//! `edgectl`: the operator's command line, a client of the control plane's REST API and registry.
//!
//! ```text
//!  arguments (cli) ─► session (who and where) ─► client (HTTPS, pinned CA) ─► one file per command ─► output
//! ```

mod apply;
mod archive;
mod artifacts;
mod cli;
mod client;
mod deployments;
mod events;
mod login;
mod nodes;
mod output;
mod push;
mod registry;
mod replay;
mod scaffold;
mod session;
mod streams;
mod token;

use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;

use crate::cli::{Cli, Command, DeleteCommand, NewCommand, TokenCommand};
use crate::client::Client;
use crate::session::Session;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    match run(Cli::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(cli: Cli) -> Result<()> {
    let format = cli.output;
    let client = || Client::new(&Session::load()?);
    match cli.command {
        Command::Login(args) => login::run(args, format).await,
        Command::Push(args) => push::run(&client()?, args, format).await,
        Command::Artifacts => artifacts::list(&client()?, format).await,
        Command::Apply(args) => apply::run(&args, client, format).await,
        Command::Nodes { selector } => nodes::list(&client()?, selector.as_ref(), format).await,
        Command::Node { name } => nodes::show(&client()?, &name, format).await,
        Command::Events(args) => events::run(&client()?, &args, format).await,
        Command::Streams { node } => streams::list(&client()?, node.as_ref(), format).await,
        Command::Replay(args) => replay::run(&client()?, args, format).await,
        Command::Archive(args) => archive::run(&client()?, &args, format).await,
        Command::Deployments => deployments::list(&client()?, format).await,
        Command::Delete(DeleteCommand::Deployment { name }) => {
            deployments::delete(&client()?, &name, format).await
        }
        Command::Delete(DeleteCommand::Node { name }) => {
            nodes::delete(&client()?, &name, format).await
        }
        Command::Token(TokenCommand::Create(args)) => token::create(&client()?, args, format).await,
        Command::New(NewCommand::Handler(args)) => scaffold::handler(&args, format),
        Command::Completions { shell } => cli::completions(shell),
    }
}
