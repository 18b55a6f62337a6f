//! The edge runtime's binary: arguments, logging, one command, an exit code.

use std::io::IsTerminal as _;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Parser as _;
use edge_runtime::cli::{Cli, Command};
use edge_runtime::config::Config;
use edge_runtime::{app, buffer_command, data_dir::DataDir, identity, log, serve};

fn main() -> ExitCode {
    quiet_libraries();
    let cli = Cli::parse();
    let _last_lines = log_to_stderr(&cli);
    rustls::crypto::ring::default_provider()
        .install_default()
        .expect("nothing has chosen a provider before");
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build();
    let outcome = runtime
        .context("start the async runtime")
        .and_then(|r| r.block_on(run(cli.command)));
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {}", edge_runtime::chain(error.as_ref()));
            ExitCode::FAILURE
        }
    }
}

async fn run(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Serve(args) => serve::run(*args).await?,
        Command::Run(args) => app::run(Config::load(&args.config, args.overrides())?).await?,
        Command::Enroll(args) => {
            let data = DataDir::open(&args.data_dir)?;
            let node = identity::enroll(&data, &args.token, args.node).await?;
            println!("joined {} as {node}", args.token.url);
        }
        Command::Buffer(command) => {
            tokio::task::spawn_blocking(move || buffer_command::run(command)).await??;
        }
        Command::CheckConfig(args) => {
            let config = Config::load(&args.config, args.overrides())?;
            print!("{}", toml::to_string_pretty(&config)?);
        }
    }
    Ok(())
}

/// ONNX Runtime reports its use to its maker unless this is set before it loads.
#[expect(
    unsafe_code,
    reason = "the environment can only be changed by an unsafe call"
)]
fn quiet_libraries() {
    // SAFETY: main has just begun, so there is no other thread that could read the environment.
    unsafe { std::env::set_var("ORT_DISABLE_TELEMETRY", "1") };
}

fn log_to_stderr(cli: &Cli) -> log::LogGuard {
    // The first line of `serve` says where it serves, so that programs need not look for it.
    // People are told before that why it takes its time.
    let default = match cli.command {
        Command::Serve(_) if std::io::stderr().is_terminal() => {
            "error,edge_runtime::handlers::compile=info"
        }
        Command::Serve(_) | Command::Buffer(_) => "error",
        // That crate's warnings are in a guest's hands, outside of its share of the log.
        _ => "info,wasmtime_wasi_http=error,opcua_client=off,opcua_core=off,opcua_crypto=off",
    };
    log::to_stderr(cli.log.as_deref().unwrap_or(default), cli.log_json)
}
