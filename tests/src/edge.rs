use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use fleet_api::health::Health;
use tokio::process::Command;

use crate::checkout::Checkout;
use crate::http;
use crate::process::Process;
use crate::wait::until;

const START: Duration = Duration::from_secs(30);
const STOP: Duration = Duration::from_secs(20);

/// An edge runtime's process. It can be killed and started again at the same addresses.
#[derive(Debug)]
pub struct Edge {
    id: String,
    dir: PathBuf,
    process: Option<Process>,
    listen: String,
    admin_listen: String,
    extra: String,
    env: Vec<(String, String)>,
    http: reqwest::Client,
}

impl Edge {
    /// A node that keeps everything below `dir`; nothing runs yet.
    ///
    /// # Errors
    /// If no HTTP client can be built.
    pub fn new(id: &str, dir: &Path) -> Result<Self> {
        Ok(Self {
            id: id.to_owned(),
            dir: dir.to_owned(),
            process: None,
            listen: "127.0.0.1:0".to_owned(),
            admin_listen: "127.0.0.1:0".to_owned(),
            extra: String::new(),
            env: Vec::new(),
            http: http::plain()?,
        })
    }

    /// Adds lines to the configuration of the next start.
    pub fn configure(&mut self, toml: &str) {
        toml.clone_into(&mut self.extra);
    }

    /// Sets an environment variable for every later start.
    pub fn env(&mut self, name: &str, value: &str) {
        self.env.push((name.to_owned(), value.to_owned()));
    }

    /// Takes back all that [`Self::env`] has set.
    pub fn clear_env(&mut self) {
        self.env.clear();
    }

    /// Waits until it ends by itself.
    ///
    /// # Errors
    /// If it does not run, or goes on running.
    pub async fn ended(&mut self, limit: Duration) -> Result<ExitStatus> {
        let process = self.process.as_mut();
        let process = process.with_context(|| format!("{} does not run", self.id))?;
        let status = process.ended(limit).await?;
        self.process = None;
        Ok(status)
    }

    /// Joins a control plane.
    ///
    /// # Errors
    /// If it is refused, with what the runtime printed.
    pub async fn enroll(&self, token: &str) -> Result<()> {
        let output = Command::new(Checkout::program("edge-runtime")?)
            .args(["enroll", "--token", token, "--node", &self.id, "--data-dir"])
            .arg(self.data_dir())
            .output()
            .await?;
        if !output.status.success() {
            bail!("{}", String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(())
    }

    /// Starts it, at the addresses that it had before if it ran before.
    ///
    /// # Errors
    /// If it does not come up, with the end of its log.
    pub async fn start(&mut self) -> Result<()> {
        let config = self.dir.join(format!("{}.toml", self.id));
        std::fs::write(&config, self.config())?;
        let args = ["run".as_ref(), "--config".as_ref(), config.as_os_str()];
        let program = Checkout::program("edge-runtime")?;
        let env: Vec<_> = self
            .env
            .iter()
            .map(|(k, v)| (k.as_str(), v.as_str()))
            .collect();
        let mut process = Process::start(&self.id, &program, args, &env, &self.log())?;
        let endpoint = process
            .announced(&self.data_dir().join("endpoint.json"), START)
            .await?;
        let address = |name: &str| {
            let url = endpoint[name].as_str();
            url.and_then(|u| u.strip_prefix("http://"))
                .map(str::to_owned)
                .with_context(|| format!("endpoint.json has no {name}: {endpoint}"))
        };
        (self.listen, self.admin_listen) = (address("url")?, address("admin_url")?);
        self.process = Some(process);
        Ok(())
    }

    fn config(&self) -> String {
        let Self {
            listen,
            admin_listen,
            extra,
            ..
        } = self;
        let data_dir = self.data_dir();
        format!(
            "data_dir = {:?}\nlisten = {listen:?}\nadmin_listen = {admin_listen:?}\n{extra}\n",
            data_dir.display().to_string()
        )
    }

    /// Ends it as a power cut would.
    ///
    /// # Errors
    /// If it had ended before.
    pub fn kill(&mut self) -> Result<()> {
        self.process
            .take()
            .with_context(|| format!("{} does not run", self.id))?
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
            .with_context(|| format!("{} does not run", self.id))?;
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

    /// The node's id.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The node's data folder.
    pub fn data_dir(&self) -> PathBuf {
        self.dir.join(&self.id)
    }

    /// The node's log.
    pub fn log(&self) -> PathBuf {
        self.dir.join(format!("{}.log", self.id))
    }

    /// Address of its data plane.
    pub fn url(&self) -> String {
        format!("http://{}", self.listen)
    }

    /// Address of its health, metrics and status.
    pub fn admin_url(&self) -> String {
        format!("http://{}", self.admin_listen)
    }

    /// A request to its data plane; status and text.
    ///
    /// # Errors
    /// If no answer comes.
    pub async fn get(&self, path: &str) -> Result<(u16, String)> {
        let response = self
            .http
            .get(format!("{}{path}", self.url()))
            .send()
            .await?;
        Ok((response.status().as_u16(), response.text().await?))
    }

    /// Sends a body to its data plane; status and text.
    ///
    /// # Errors
    /// If no answer comes.
    pub async fn post(&self, path: &str, media_type: &str, body: Vec<u8>) -> Result<(u16, String)> {
        let request = self
            .http
            .post(format!("{}{path}", self.url()))
            .header("content-type", media_type);
        let response = request.body(body).send().await?;
        Ok((response.status().as_u16(), response.text().await?))
    }

    /// A request to its admin address; status and text.
    ///
    /// # Errors
    /// If no answer comes.
    pub async fn admin(&self, path: &str) -> Result<(u16, String)> {
        let response = self
            .http
            .get(format!("{}{path}", self.admin_url()))
            .send()
            .await?;
        Ok((response.status().as_u16(), response.text().await?))
    }

    /// Its own figures, from `/status`.
    ///
    /// # Errors
    /// If they cannot be had.
    pub async fn status(&self) -> Result<Health> {
        let (status, text) = self.admin("/status").await?;
        if status != 200 {
            bail!("/status of {} answers {status}: {text}", self.id);
        }
        let mut value: serde_json::Value = serde_json::from_str(&text)?;
        // The figures stand under `health`, or are the document.
        let health = value.get_mut("health").map(serde_json::Value::take);
        Ok(serde_json::from_value(health.unwrap_or(value))?)
    }

    /// Waits until `path` answers 200; answers the body.
    ///
    /// # Errors
    /// If it does not within `limit`.
    pub async fn serves(&self, path: &str, limit: Duration) -> Result<String> {
        let what = format!("200 from {} of {}", path, self.id);
        until(&what, limit, async || match self.get(path).await {
            Ok((200, text)) => Ok(text),
            Ok((status, text)) => Err(format!("{status} {text}")),
            Err(error) => Err(format!("{error:#}")),
        })
        .await
    }
}
