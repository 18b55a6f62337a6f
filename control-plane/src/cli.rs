use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::config::{Config, ConfigError};

/// The fleet's control plane: registry, desired state, broker and archive in one process.
#[derive(Debug, Parser)]
#[command(name = "control-plane", version)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve until SIGINT or SIGTERM.
    Serve(Serve),
    /// Read the configuration, print what results, and stop.
    CheckConfig(Serve),
}

#[derive(Debug, Args)]
struct Serve {
    /// Configuration file; flags win over it.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Folder for everything that is kept [default: control-plane-data].
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Address for HTTPS; port 0 takes a free one [default: 127.0.0.1:8443].
    #[arg(long, value_name = "ADDR")]
    listen: Option<SocketAddr>,
    /// Address for MQTT over TLS; port 0 takes a free one [default: 127.0.0.1:8883].
    #[arg(long, value_name = "ADDR")]
    mqtt_listen: Option<SocketAddr>,
    /// Host name or address by which nodes and operators reach this process
    /// [default: the address of --listen].
    #[arg(long, value_name = "HOST")]
    public_host: Option<String>,
    /// Also serve /v2/ as plain HTTP on this loopback address, for registry clients
    /// that cannot be given a CA.
    #[arg(long, value_name = "ADDR")]
    registry_http_listen: Option<SocketAddr>,
}

impl Cli {
    /// The configuration that file and flags make together. With `check-config`, prints it
    /// and ends the process.
    ///
    /// # Errors
    /// [`ConfigError`] if the file cannot be read or has unknown keys.
    pub fn into_config(self) -> Result<Config, ConfigError> {
        match self.command {
            Command::Serve(serve) => serve.config(),
            Command::CheckConfig(serve) => {
                print!("{}", serve.config()?);
                std::process::exit(0);
            }
        }
    }
}

impl Serve {
    fn config(self) -> Result<Config, ConfigError> {
        let mut config = match &self.config {
            Some(path) => Config::read(path)?,
            None => Config::default(),
        };
        if let Some(dir) = self.data_dir {
            config.data_dir = dir;
        }
        if let Some(address) = self.listen {
            config.listen = address;
        }
        if let Some(address) = self.mqtt_listen {
            config.mqtt_listen = address;
        }
        if self.public_host.is_some() {
            config.public_host = self.public_host;
        }
        if self.registry_http_listen.is_some() {
            config.registry_http_listen = self.registry_http_listen;
        }
        config.check()?;
        Ok(config)
    }
}
