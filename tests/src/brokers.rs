//! MQTT brokers that are not ours, as `cargo xtask setup` unpacks them from their packages. Each
//! runs on loopback with all it keeps in a temporary folder, and can be killed and started again.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};
use tempfile::TempDir;

use crate::checkout::Checkout;
use crate::process::{Process, tail};
use crate::wait::until;

/// RabbitMQ takes its time on a busy machine.
const START: Duration = Duration::from_secs(90);

/// Which broker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// mosquitto: MQTT 5 and 3.1.1, nothing kept on the disk.
    Mosquitto,
    /// RabbitMQ 3.10: MQTT 3.1.1.
    RabbitMq,
    /// NATS 2.9: MQTT 3.1.1.
    Nats,
}

/// A broker's process.
#[derive(Debug)]
pub struct Broker {
    kind: Kind,
    port: u16,
    dir: TempDir,
    extra: String,
    process: Option<Process>,
    /// RabbitMQ's port mapper.
    mapper: Option<Process>,
}

/// Where the brokers are; says SKIPPED where they cannot be had.
pub fn unpacked() -> Option<PathBuf> {
    let root = Checkout::root().join("artifacts/tools/brokers");
    if root.join("bin/erl").exists() {
        return Some(root);
    }
    eprintln!(
        "SKIPPED: {} is not there: `cargo xtask setup` says why",
        root.display()
    );
    None
}

/// A port of loopback that is free at this moment: these programs cannot tell which one they got.
///
/// # Errors
/// If the system gives none.
pub fn free_port() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

impl Broker {
    /// Starts a broker that anybody may use.
    ///
    /// # Errors
    /// If it does not come up, with the end of its log.
    pub async fn start(kind: Kind) -> Result<Self> {
        Self::start_with(kind, free_port()?, "allow_anonymous true\n").await
    }

    /// Starts a broker on a port with more lines of configuration, for mosquitto.
    ///
    /// # Errors
    /// If it does not come up, with the end of its log.
    pub async fn start_with(kind: Kind, port: u16, extra: &str) -> Result<Self> {
        let mut broker = Self {
            kind,
            port,
            dir: tempfile::Builder::new().prefix("broker-").tempdir()?,
            extra: extra.to_owned(),
            process: None,
            mapper: None,
        };
        broker.restart().await?;
        Ok(broker)
    }

    /// Starts it again on the same port, with what it kept on the disk.
    ///
    /// # Errors
    /// If it does not come up, with the end of its log.
    pub async fn restart(&mut self) -> Result<()> {
        let mut process = match self.kind {
            Kind::Mosquitto => self.mosquitto()?,
            Kind::RabbitMq => self.rabbitmq().await?,
            Kind::Nats => self.nats()?,
        };
        let at = format!("127.0.0.1:{}", self.port);
        let log = self.log();
        until(&format!("{:?} at {at}", self.kind), START, async || {
            if let Some(status) = process.has_ended() {
                return Ok(Err(status));
            }
            let connected = tokio::net::TcpStream::connect(&at).await;
            connected.map(|_| Ok(())).map_err(|e| e.to_string())
        })
        .await
        .with_context(|| tail("the broker", &log))?
        .map_err(|status| anyhow::anyhow!("ended with {status}\n{}", tail("the broker", &log)))?;
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
            .context("the broker does not run")?
            .kill()
    }

    /// Throws away all that it kept on the disk; it must not run.
    ///
    /// # Errors
    /// If the system does not let it.
    pub fn wipe(&mut self) -> Result<()> {
        let data = self.dir.path().join("data");
        if data.exists() {
            std::fs::remove_dir_all(data)?;
        }
        Ok(())
    }

    /// Its port on loopback.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Its address without TLS.
    pub fn url(&self) -> String {
        format!("mqtt://127.0.0.1:{}", self.port)
    }

    /// Its folder.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// What it has printed.
    pub fn log(&self) -> PathBuf {
        self.dir.path().join("log")
    }

    /// Lets it read its configuration again, as SIGHUP does.
    ///
    /// # Errors
    /// If it does not run.
    pub fn reload(&self) -> Result<()> {
        let process = self.process.as_ref().context("the broker does not run")?;
        process.send(rustix::process::Signal::HUP)
    }

    fn mosquitto(&self) -> Result<Process> {
        let root = unpacked().context("no brokers")?;
        let config = self.dir.path().join("mosquitto.conf");
        let Self { port, extra, .. } = self;
        // It gives up root's rights for a user that may not exist here, unless it is told to stay.
        let text = format!("listener {port} 127.0.0.1\nuser root\npersistence false\n{extra}");
        std::fs::write(&config, text)?;
        let libraries = libraries(&root);
        Process::start(
            "mosquitto",
            &root.join("usr/sbin/mosquitto"),
            ["-c".as_ref(), config.as_os_str()],
            &[("LD_LIBRARY_PATH", &libraries)],
            &self.log(),
        )
    }

    fn nats(&self) -> Result<Process> {
        let root = unpacked().context("no brokers")?;
        let config = self.dir.path().join("nats.conf");
        let data = self.dir.path().join("data");
        let (own, port) = (free_port()?, self.port);
        let text = format!(
            "host: 127.0.0.1\nport: {own}\nserver_name: test\n\
             jetstream {{ store_dir: {:?}, max_mem: 64M, max_file: 1G }}\n\
             mqtt {{ host: 127.0.0.1, port: {port} }}\n",
            data.display().to_string()
        );
        std::fs::write(&config, text)?;
        Process::start(
            "nats-server",
            &root.join("usr/sbin/nats-server"),
            ["-c".as_ref(), config.as_os_str()],
            &[],
            &self.log(),
        )
    }

    async fn rabbitmq(&mut self) -> Result<Process> {
        let root = unpacked().context("no brokers")?;
        let dir = self.dir.path().to_owned();
        let libraries = libraries(&root);
        let mapper = free_port()?.to_string();
        let path = format!("{}:/usr/bin:/bin", root.join("bin").display());
        self.mapper = Some(Process::start(
            "epmd",
            &root.join("bin/epmd"),
            ["-address", "127.0.0.1", "-port", &mapper],
            &[("LD_LIBRARY_PATH", &libraries)],
            &dir.join("epmd.log"),
        )?);
        let at: std::net::SocketAddr = format!("127.0.0.1:{mapper}").parse()?;
        until("the port mapper", START, async || {
            let connected = tokio::net::TcpStream::connect(at).await;
            connected.map(drop).map_err(|e| e.to_string())
        })
        .await?;
        let write = |name: &str, text: &str| -> Result<String> {
            let path = dir.join(name);
            std::fs::write(&path, text)?;
            Ok(path.display().to_string())
        };
        let port = self.port;
        let config = write(
            "rabbitmq.conf",
            &format!(
                "listeners.tcp = none\nmqtt.listeners.tcp.default = 127.0.0.1:{port}\n\
                 mqtt.allow_anonymous = true\nlog.console = true\nlog.console.level = warning\n"
            ),
        )?;
        let plugins = write("plugins", "[rabbitmq_mqtt].\n")?;
        let inside = |name: &str| dir.join(name).display().to_string();
        let scripts = root.join("usr/lib/rabbitmq/lib");
        let scripts = std::fs::read_dir(scripts)?
            .next()
            .context("no RabbitMQ")??;
        let scripts = scripts.path().join("sbin");
        let distribution = free_port()?.to_string();
        let (home, data, logs) = (inside(""), inside("data"), inside("logs"));
        let scripts_dir = scripts.display().to_string();
        let env = [
            ("LD_LIBRARY_PATH", libraries.as_str()),
            ("PATH", &path),
            ("HOME", &home),
            ("RABBITMQ_SCRIPTS_DIR", &scripts_dir),
            ("RABBITMQ_NODENAME", "test@localhost"),
            ("RABBITMQ_MNESIA_BASE", &data),
            ("RABBITMQ_LOG_BASE", &logs),
            ("RABBITMQ_CONFIG_FILE", &config),
            ("RABBITMQ_ENABLED_PLUGINS_FILE", &plugins),
            ("RABBITMQ_CONF_ENV_FILE", "/dev/null"),
            ("RABBITMQ_DIST_PORT", &distribution),
            ("RABBITMQ_ALLOW_INPUT", "1"),
            ("ERL_EPMD_PORT", &mapper),
            ("ERL_EPMD_ADDRESS", "127.0.0.1"),
            (
                "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS",
                "-kernel inet_dist_use_interface {127,0,0,1} -start_epmd false",
            ),
        ];
        let server = scripts.join("rabbitmq-server");
        let args = [server.as_os_str(), "-noinput".as_ref()];
        Process::start(
            "rabbitmq-server",
            Path::new("/bin/sh"),
            args,
            &env,
            &self.log(),
        )
    }
}

/// Where the packages' own libraries are, for `LD_LIBRARY_PATH`.
pub fn libraries(root: &Path) -> String {
    let arch = std::env::consts::ARCH;
    let of = |place: &str| {
        root.join(format!("{place}/{arch}-linux-gnu"))
            .display()
            .to_string()
    };
    format!("{}:{}", of("usr/lib"), of("lib"))
}
