//! What can be said on the command line.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Parser, Subcommand};
use fleet_api::ids::NodeId;
use fleet_api::token::JoinToken;

use crate::buffer_command::BufferCommand;
use crate::config::Overrides;
use crate::serve::ServeArgs;

/// Serves handlers and models on a gateway and keeps its data safe.
#[derive(Debug, Parser)]
#[command(name = "edge-runtime", version)]
pub struct Cli {
    /// What to log, as in `info` or `edge_runtime=debug`. Default: `info`, for `serve` `error`.
    #[arg(long, global = true, env = "EDGE_RUNTIME_LOG")]
    pub log: Option<String>,
    /// Log JSON lines instead of text.
    #[arg(long, global = true)]
    pub log_json: bool,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Serve a component without a control plane.
    Serve(Box<ServeArgs>),
    /// Run as a node of a fleet.
    Run(RunArgs),
    /// Join a control plane with a join token.
    Enroll(EnrollArgs),
    /// Check a configuration and print it with its defaults.
    CheckConfig(RunArgs),
    /// Look into a buffer that no process uses, copy records out of it, save a damaged one.
    #[command(subcommand)]
    Buffer(BufferCommand),
}

/// Arguments of `run` and `check-config`.
#[derive(Debug, clap::Args)]
pub struct RunArgs {
    /// The configuration file.
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,
    /// Folder of everything that the node keeps.
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Address of the data plane.
    #[arg(long, value_name = "ADDR")]
    listen: Option<SocketAddr>,
    /// Address of health, metrics and status.
    #[arg(long, value_name = "ADDR")]
    admin_listen: Option<SocketAddr>,
}

impl RunArgs {
    /// What the flags set.
    pub fn overrides(&self) -> Overrides {
        Overrides {
            data_dir: self.data_dir.clone(),
            listen: self.listen,
            admin_listen: self.admin_listen,
        }
    }
}

/// Arguments of `enroll`.
#[derive(Debug, clap::Args)]
pub struct EnrollArgs {
    /// The join token that `edgectl token create` printed.
    #[arg(long, env = "EDGE_RUNTIME_TOKEN", hide_env_values = true)]
    pub token: JoinToken,
    /// The id that this node shall have.
    #[arg(long, value_name = "ID")]
    pub node: NodeId,
    /// Folder of everything that the node keeps.
    #[arg(long, value_name = "DIR", env = "EDGE_RUNTIME_DATA_DIR")]
    pub data_dir: PathBuf,
}
