use std::path::PathBuf;

use anyhow::Result;
use clap::{Args, CommandFactory, Parser, Subcommand};
use fleet_api::artifact::{ArtifactKind, Reference};
use fleet_api::ids::{Name, NodeId, StreamName};
use fleet_api::labels::{Selector, parse_label};
use fleet_api::units::Span;

use crate::output::Format;
use crate::replay::ReplayArgs;

/// Operates a fleet of edge runtimes through its control plane.
#[derive(Debug, Parser)]
#[command(name = "edgectl", version, propagate_version = true, after_help = AFTER)]
pub(crate) struct Cli {
    /// How results are printed.
    #[arg(
        short,
        long,
        global = true,
        value_enum,
        default_value = "table",
        value_name = "FORMAT"
    )]
    pub(crate) output: Format,
    #[command(subcommand)]
    pub(crate) command: Command,
}

const AFTER: &str = "\
Environment:
  EDGECTL_CONFIG               where the login is kept (default ~/.config/edgectl/config.toml)
  EDGECTL_URL, EDGECTL_TOKEN   take the place of the saved address and token
  EDGECTL_CA                   file with the CA's certificate, takes the place of the saved one

Exit code: 0 done, 1 failed, 2 wrong usage.";

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Save where the control plane is and how to prove who you are.
    Login(LoginArgs),
    /// Upload a handler or a model as a version that never changes.
    Push(PushArgs),
    /// List what has been pushed.
    Artifacts,
    /// Apply a deployment file, or every *.toml of a folder.
    Apply(ApplyArgs),
    /// List nodes.
    Nodes {
        /// Only nodes whose labels match, as in site=plant-07,role!=test.
        #[arg(short = 'l', long, value_name = "SELECTOR")]
        selector: Option<Selector>,
    },
    /// Show all that is known of a node.
    Node {
        /// The node's id.
        name: NodeId,
    },
    /// Show what nodes tell: gaps, refusals, lost sources and the like.
    Events(EventsArgs),
    /// List the streams of a node, or of all, with what is buffered and archived.
    Streams {
        /// The node's id.
        node: Option<NodeId>,
    },
    /// Have a node run recorded records through another version, and show the difference.
    Replay(ReplayArgs),
    /// Show what is archived of every stream, and what is missing there.
    Archive(ArchiveArgs),
    /// List deployments and how far their nodes are.
    Deployments,
    /// Delete a deployment, or forget a node.
    #[command(subcommand)]
    Delete(DeleteCommand),
    /// Join tokens for new nodes.
    #[command(subcommand)]
    Token(TokenCommand),
    /// Begin something new.
    #[command(subcommand)]
    New(NewCommand),
    /// Print a completion script for a shell.
    Completions {
        /// Which shell.
        #[arg(value_enum)]
        shell: clap_complete::Shell,
    },
}

#[derive(Debug, Args)]
pub(crate) struct EventsArgs {
    /// Only those of this node.
    pub(crate) node: Option<NodeId>,
    /// Stay, and show new ones as they come.
    #[arg(short, long)]
    pub(crate) follow: bool,
    /// How many to begin with.
    #[arg(short = 'n', long, default_value_t = 50, value_name = "COUNT")]
    pub(crate) last: u32,
}

#[derive(Debug, Subcommand)]
pub(crate) enum NewCommand {
    /// Make a project for a handler in a folder of its name.
    Handler(NewHandlerArgs),
}

#[derive(Debug, Args)]
pub(crate) struct ArchiveArgs {
    /// Of this node only.
    pub(crate) node: Option<NodeId>,
    /// Of this stream only.
    #[arg(long)]
    pub(crate) stream: Option<StreamName>,
    /// Which sequences are missing, why and since when.
    #[arg(long)]
    pub(crate) gaps: bool,
    /// The newest gaps of each stream of a node, at most.
    #[arg(long, default_value_t = 100, requires = "gaps", value_parser = clap::value_parser!(u64).range(1..=10_000))]
    pub(crate) limit: u64,
}

#[derive(Debug, Args)]
pub(crate) struct NewHandlerArgs {
    /// Name of the handler and of its folder.
    pub(crate) name: Name,
    /// Language that it is written in.
    #[arg(long, value_enum, default_value = "rust")]
    pub(crate) lang: Lang,
}

/// Languages that there are projects for.
#[derive(Debug, Clone, Copy, clap::ValueEnum)]
pub(crate) enum Lang {
    /// Rust, with the guest SDK.
    Rust,
    /// JavaScript, built with componentize-js.
    Js,
    /// Python, built with componentize-py.
    Python,
}

#[derive(Debug, Args)]
pub(crate) struct LoginArgs {
    /// Address of the control plane, such as https://fleet.example:8443.
    #[arg(required_unless_present = "data_dir")]
    pub(crate) url: Option<String>,
    /// File that holds the access token; - reads it from standard input.
    #[arg(long, value_name = "FILE", required_unless_present_any = ["token", "data_dir"], conflicts_with = "token")]
    pub(crate) token_file: Option<PathBuf>,
    /// The access token itself; other users of this machine can see it, prefer --token-file.
    #[arg(long, value_name = "TOKEN")]
    pub(crate) token: Option<String>,
    /// File with the certificate of the control plane's CA.
    #[arg(long, value_name = "FILE", required_unless_present = "data_dir")]
    pub(crate) ca: Option<PathBuf>,
    /// Take address, token and CA from the data folder of a control plane on this machine.
    #[arg(long, value_name = "DIR", conflicts_with_all = ["url", "token", "token_file", "ca"])]
    pub(crate) data_dir: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct PushArgs {
    /// What the file is.
    #[arg(value_parser = parse_kind, value_name = "handler|model")]
    pub(crate) kind: ArtifactKind,
    /// Its name and version.
    #[arg(value_name = "NAME:VERSION")]
    pub(crate) reference: Reference,
    /// A WebAssembly component, or an ONNX model. What lies beside a model FILE.onnx is pushed with it:
    /// FILE.card.toml, FILE.labels.txt, FILE.golden.json, and the files that it keeps weights in.
    pub(crate) file: PathBuf,
    /// How pictures become inputs of the model (TOML).
    #[arg(long, value_name = "FILE")]
    pub(crate) card: Option<PathBuf>,
    /// The names of the model's classes, one a line.
    #[arg(long, value_name = "FILE")]
    pub(crate) labels: Option<PathBuf>,
    /// Inputs and the outputs that the model has to give (JSON).
    #[arg(long, value_name = "FILE")]
    pub(crate) golden: Option<PathBuf>,
    /// A file that the model keeps weights in, if it does not lie beside it; may be given several times.
    #[arg(long, value_name = "FILE")]
    pub(crate) data: Vec<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct ApplyArgs {
    /// A deployment file, or a folder of them.
    #[arg(short, long = "file", value_name = "PATH")]
    pub(crate) file: PathBuf,
    /// Check and show what would change, but change nothing.
    #[arg(long)]
    pub(crate) dry_run: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum DeleteCommand {
    /// Take a deployment off its nodes.
    Deployment {
        /// The deployment's name.
        name: Name,
    },
    /// Forget a node; its certificate no longer opens anything.
    Node {
        /// The node's id.
        name: NodeId,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum TokenCommand {
    /// Make a token with which new nodes join; it is shown only once.
    Create(TokenArgs),
}

#[derive(Debug, Args)]
pub(crate) struct TokenArgs {
    /// A label for every node that joins with it; may be given several times.
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = parse_label)]
    pub(crate) labels: Vec<(String, String)>,
    /// How long it may be used.
    #[arg(long, default_value = "1d", value_name = "SPAN")]
    pub(crate) ttl: Span,
    /// How many nodes may join with it.
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) uses: u32,
}

fn parse_kind(text: &str) -> Result<ArtifactKind, String> {
    match text {
        "handler" => Ok(ArtifactKind::Handler),
        "model" => Ok(ArtifactKind::Model),
        _ => Err("write handler or model".to_owned()),
    }
}

/// Prints the completion script of `shell`.
pub(crate) fn completions(shell: clap_complete::Shell) -> Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "edgectl", &mut script);
    crate::output::emit(&String::from_utf8_lossy(&script))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn login_wants_either_a_data_folder_or_all_three_parts() {
        let ok =
            |args: &[&str]| Cli::try_parse_from(["edgectl", "login"].iter().chain(args)).is_ok();
        assert!(ok(&["--data-dir", "d"]));
        assert!(ok(&["https://h:1", "--token", "t", "--ca", "c"]));
        assert!(ok(&["https://h:1", "--token-file", "-", "--ca", "c"]));
        assert!(!ok(&["https://h:1", "--token", "t"]));
        assert!(!ok(&["https://h:1", "--ca", "c"]));
        assert!(!ok(&["--data-dir", "d", "--token", "t"]));
        assert!(!ok(&[]));
    }
}
