use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};

use crate::api::Api;
use crate::checkout::Checkout;
use crate::http;
use crate::process::Process;

const START: Duration = Duration::from_secs(30);
const STOP: Duration = Duration::from_secs(20);

/// The control plane's process. It can be stopped and started again at the same addresses.
#[derive(Debug)]
pub struct ControlPlane {
    data_dir: PathBuf,
    log: PathBuf,
    config: PathBuf,
    process: Option<Process>,
    addresses: [String; 3],
    url: String,
    registry: String,
}

impl ControlPlane {
    /// Starts a control plane with its data below `dir`.
    ///
    /// # Errors
    /// If it does not come up, with the end of its log.
    pub async fn start(dir: &Path) -> Result<Self> {
        Self::start_with(dir, "").await
    }

    /// As [`ControlPlane::start`], with a configuration in TOML.
    ///
    /// # Errors
    /// If it does not come up, with the end of its log.
    pub async fn start_with(dir: &Path, config: &str) -> Result<Self> {
        let file = dir.join("control-plane.toml");
        std::fs::write(&file, config)?;
        let free = || "127.0.0.1:0".to_owned();
        let mut new = Self {
            data_dir: dir.join("control-plane"),
            log: dir.join("control-plane.log"),
            config: file,
            process: None,
            addresses: [free(), free(), free()],
            url: String::new(),
            registry: String::new(),
        };
        new.restart().await?;
        Ok(new)
    }

    /// Starts it again, at the addresses that it had before.
    ///
    /// # Errors
    /// If it does not come up, with the end of its log.
    pub async fn restart(&mut self) -> Result<()> {
        let data_dir = self.data_dir.display().to_string();
        let config = self.config.display().to_string();
        let [listen, mqtt, registry] = &self.addresses;
        let args = [
            "serve",
            "--config",
            &config,
            "--data-dir",
            &data_dir,
            "--listen",
            listen,
            "--mqtt-listen",
            mqtt,
            "--registry-http-listen",
            registry,
        ];
        let program = Checkout::program("control-plane")?;
        let mut process = Process::start("control plane", &program, args, &[], &self.log)?;
        let endpoint = process
            .announced(&self.data_dir.join("endpoint.json"), START)
            .await?;
        let field = |name: &str| {
            let value = endpoint[name].as_str();
            value
                .map(str::to_owned)
                .with_context(|| format!("endpoint.json has no {name}: {endpoint}"))
        };
        self.url = field("url")?;
        self.registry = field("registry_http")?;
        let host_port = |url: &str| url.rsplit('/').next().unwrap_or(url).to_owned();
        let mqtt = format!("{}:{}", field("mqtt_host")?, endpoint["mqtt_port"]);
        self.addresses = [host_port(&self.url), mqtt, host_port(&self.registry)];
        self.process = Some(process);
        Ok(())
    }

    /// Ends it as a power cut would.
    ///
    /// # Errors
    /// If it had ended before.
    pub fn kill(&mut self) -> Result<()> {
        self.process
            .take()
            .context("the control plane does not run")?
            .kill()
    }

    /// Ends it with SIGTERM.
    ///
    /// # Errors
    /// If it does not end well.
    pub async fn stop(&mut self) -> Result<()> {
        let mut process = self
            .process
            .take()
            .context("the control plane does not run")?;
        process.terminate(STOP).await
    }

    /// Whether it runs.
    pub fn runs(&self) -> bool {
        self.process.is_some()
    }

    /// The process's id while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.process.as_ref().map(Process::id)
    }

    /// Its address for HTTPS.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Host and port of its MQTT listener.
    pub fn mqtt(&self) -> &str {
        &self.addresses[1]
    }

    /// Address of its registry over plain HTTP.
    pub fn registry(&self) -> &str {
        &self.registry
    }

    /// Its data folder.
    pub fn data_dir(&self) -> &Path {
        &self.data_dir
    }

    /// The certificate of its CA.
    pub fn ca(&self) -> PathBuf {
        self.data_dir.join("ca/ca.pem")
    }

    /// Its log.
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// Its REST API, as the administrator.
    ///
    /// # Errors
    /// If its CA or token cannot be read.
    pub fn api(&self) -> Result<Api> {
        let token = std::fs::read_to_string(self.data_dir.join("admin-token"))?;
        Ok(Api::new(
            http::pinned(&self.ca())?,
            self.url.clone(),
            token.trim().to_owned(),
        ))
    }
}
