//! Puts the parts together; each part is made from its own section of the configuration.

use std::fmt;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::BoxFuture;
use serde::Serialize;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::archive::{Archive, ArchiveError};
use crate::authority::{Authority, AuthorityError};
use crate::broker::{Broker, Outlets};
use crate::config::{Config, ConfigError, ExternalBroker};
use crate::data_dir::{DataDir, DataDirError};
use crate::fleet::{FleetHandle, IngestTask, ReconcileTask, Store, StoreError};
use crate::http::{Api, HttpTask, Transport};
use crate::members::Members;
use crate::objects::{self, ObjectsError};
use crate::registry::Registry;
use crate::secret::{TokenDigest, random_token, write_durably};
use crate::sparkplug::{SparkplugError, SparkplugTask};
use crate::tls::{self, Tls, TlsError};

/// Connections get this long to finish after the signal to stop.
const DRAIN: Duration = Duration::from_secs(10);
/// Documents of nodes that wait to be taken in.
const MESSAGES: usize = 1024;
/// Frames that wait for the archive; it bounds their bytes itself.
const FRAMES: usize = 64;

/// Why the control plane cannot start or go on.
#[derive(Debug, thiserror::Error)]
pub enum AppError {
    /// The data folder cannot be used.
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    /// The database cannot be used.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// There is no certificate authority.
    #[error(transparent)]
    Authority(#[from] AuthorityError),
    /// There is no TLS.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The configuration does not fit.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A socket is taken or forbidden.
    #[error(
        "listen on {address} for {what}: {source}; is another process there? Give another address with {flag}"
    )]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What would be served there.
        what: &'static str,
        /// The flag that changes it.
        flag: &'static str,
        /// What the system says.
        source: std::io::Error,
    },
    /// The object store cannot be opened.
    #[error(transparent)]
    Objects(#[from] ObjectsError),
    /// There is no view for Sparkplug.
    #[error(transparent)]
    Sparkplug(#[from] SparkplugError),
    /// The archive cannot be read.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    /// A file of the data folder cannot be written.
    #[error("write {what}: {source}")]
    Write {
        /// The file.
        what: &'static str,
        /// What the system says.
        source: std::io::Error,
    },
    /// A part ended that should not.
    #[error("go on: {0} has ended unexpectedly")]
    PartEnded(&'static str),
}

/// Where the running process is reached; also written to `endpoint.json` in the data folder.
#[derive(Debug, Clone, Serialize)]
pub struct Endpoint {
    /// URL of the HTTPS listener.
    pub url: String,
    /// Host of the MQTT listener.
    pub mqtt_host: String,
    /// Port of the MQTT listener.
    pub mqtt_port: u16,
    /// URL of the registry over plain HTTP, if it is served.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub registry_http: Option<String>,
    /// The process.
    pub pid: u32,
}

/// The control plane, ready to serve.
pub struct App {
    endpoint: Endpoint,
    broker: Broker,
    https: HttpTask,
    plain: Option<HttpTask>,
    ingest: IngestTask,
    reconcile: ReconcileTask,
    archive: Archive,
    sparkplug: Option<SparkplugTask>,
    store: Store,
    // Last, so that the folder is free only when everything else is gone.
    data: DataDir,
}

impl App {
    /// Opens everything and binds the sockets; nobody is served yet.
    ///
    /// # Errors
    /// [`AppError`] for the first part that cannot be made.
    pub async fn build(config: Config) -> Result<Self, AppError> {
        // Boxed here and in `run`, so that a program does not compile all parts anew.
        let parts: BoxFuture<'static, _> = Box::pin(Self::open(config));
        parts.await
    }

    async fn open(config: Config) -> Result<Self, AppError> {
        let started = Instant::now();
        let listener = listen(config.listen, "HTTPS", "--listen").await?;
        let mqtt = match config.broker.external {
            Some(_) => None,
            None => Some(listen(config.mqtt_listen, "MQTT", "--mqtt-listen").await?),
        };
        let plain = match config.registry_http_listen {
            Some(at) => Some(listen(at, "the registry", "--registry-http-listen").await?),
            None => None,
        };
        let data = DataDir::open(&config.data_dir)?;
        let store = Store::open(&data.database()).await?;
        let authority = Arc::new(Authority::open(&data)?);
        let tls = Tls::new(&authority, &config.host())?;
        let admin = admin_token(&data)?;
        let objects = objects::open(&config.objects, &data.objects())?;

        let members = Members::default();
        let node_life = i64::try_from(config.certificates.node_life.ms()).unwrap_or(i64::MAX);
        let fleet = FleetHandle::open(
            store.clone(),
            members.clone(),
            Arc::clone(&authority),
            jiff::SignedDuration::from_millis(node_life),
        )
        .await?;
        let (messages, message_inbox) = mpsc::channel(MESSAGES);
        let (frames, frame_inbox) = mpsc::channel(FRAMES);
        let outlets = Outlets { messages, frames };
        let limits = &config.limits;
        let (broker, nodes) = match (mqtt, &config.broker.external) {
            (_, Some(external)) => {
                let other = external_broker(external, &authority)?;
                Broker::external(other, limits, members.clone(), outlets)
            }
            (Some(mqtt), None) => Broker::embedded(mqtt, &tls, limits, members.clone(), outlets),
            (None, None) => unreachable!("without another broker, a socket is bound for ours"),
        };
        let (sparkplug, view) = match config.sparkplug.clone() {
            Some(config) => {
                let (task, handle) = SparkplugTask::new(config, fleet.clone())?;
                (Some(task), Some(handle))
            }
            None => (None, None),
        };
        let archive = Archive::open(
            Arc::clone(&objects),
            &config.archive,
            frame_inbox,
            nodes.clone(),
            view,
        )
        .await?;
        let registry = Registry::new(store.clone(), objects, data.uploads(), &config.limits);
        let ingest = IngestTask::new(message_inbox, fleet.clone(), members.clone());
        let reconcile = ReconcileTask::new(fleet.clone(), nodes.clone());

        let endpoint = endpoint(&config, &listener, &broker, plain.as_ref()).map_err(|source| {
            AppError::Write {
                what: "where it listens",
                source,
            }
        })?;
        let api = Api {
            fleet,
            registry,
            archive: archive.handle(),
            authority,
            admin,
            members,
            broker: nodes,
            endpoint: Arc::new(endpoint.clone()),
            started,
        };
        let plain = plain
            .map(|l| HttpTask::new(l, Transport::Plain, api.clone(), config.limits.connections));
        let transport = Transport::Tls(tls.https);
        let https = HttpTask::new(listener, transport, api, config.limits.connections);
        Ok(Self {
            endpoint,
            broker,
            https,
            plain,
            ingest,
            reconcile,
            archive,
            sparkplug,
            store,
            data,
        })
    }

    /// Where it is reached.
    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// Serves until `stop` resolves, then lets what is under way finish, within a deadline.
    ///
    /// # Errors
    /// [`AppError::PartEnded`] if a part ends by itself.
    pub async fn run(
        self,
        stop: impl Future<Output = ()> + Send + 'static,
    ) -> Result<(), AppError> {
        let serving: BoxFuture<'static, _> = Box::pin(self.serve(Box::pin(stop)));
        serving.await
    }

    async fn serve(self, stop: BoxFuture<'static, ()>) -> Result<(), AppError> {
        let json = serde_json::to_vec_pretty(&self.endpoint).expect("strings and numbers only");
        write_durably(&self.data.endpoint(), &json, 0o644).map_err(|source| AppError::Write {
            what: "endpoint.json",
            source,
        })?;
        let ending = CancellationToken::new();
        let mut parts = JoinSet::new();
        spawn(&mut parts, "HTTPS", self.https.run(ending.clone(), DRAIN));
        if let Some(plain) = self.plain {
            spawn(&mut parts, "plain HTTP", plain.run(ending.clone(), DRAIN));
        }
        spawn(&mut parts, "the broker", self.broker.run(ending.clone()));
        if let Some(sparkplug) = self.sparkplug {
            let view = sparkplug.run(ending.clone());
            spawn(&mut parts, "the view for Sparkplug", view);
        }
        let compactor = self.archive.compactor();
        spawn(
            &mut parts,
            "the merging of files",
            compactor.run(ending.clone()),
        );
        spawn(
            &mut parts,
            "the reconciler",
            self.reconcile.run(ending.clone()),
        );
        // These two end when the broker and its connections have let go of their outlets.
        spawn(&mut parts, "the intake", self.ingest.run());
        spawn(&mut parts, "the archive", self.archive.run(ending.clone()));
        let early = tokio::select! {
            () = stop => None,
            ended = parts.join_next() => ended.and_then(Result::ok),
        };
        tracing::info!("stopping");
        ending.cancel();
        let all = async { while parts.join_next().await.is_some() {} };
        if tokio::time::timeout(DRAIN + Duration::from_secs(5), all)
            .await
            .is_err()
        {
            tracing::warn!("not everything could finish before the deadline");
        }
        self.store.close().await;
        drop(self.data);
        match early {
            Some(part) => Err(AppError::PartEnded(part)),
            None => Ok(()),
        }
    }
}

fn spawn(
    parts: &mut JoinSet<&'static str>,
    name: &'static str,
    part: impl Future<Output = ()> + Send + 'static,
) {
    parts.spawn(async move {
        part.await;
        name
    });
}

/// Resolves at SIGINT or SIGTERM.
pub async fn shutdown_signal() {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate()).expect("signals can be listened for");
    tokio::select! {
        _ = terminate.recv() => {}
        _ = tokio::signal::ctrl_c() => {}
    }
}

async fn listen(
    address: SocketAddr,
    what: &'static str,
    flag: &'static str,
) -> Result<TcpListener, AppError> {
    TcpListener::bind(address)
        .await
        .map_err(|source| AppError::Listen {
            address,
            what,
            flag,
            source,
        })
}

/// The operators' token; made at the first start, and never logged.
fn admin_token(data: &DataDir) -> Result<TokenDigest, AppError> {
    let path = data.admin_token();
    if let Ok(token) = std::fs::read_to_string(&path)
        && !token.trim().is_empty()
    {
        return Ok(TokenDigest::of(token.trim()));
    }
    let token = random_token();
    write_durably(&path, format!("{token}\n").as_bytes(), 0o600).map_err(|source| {
        AppError::Write {
            what: "the admin token",
            source,
        }
    })?;
    tracing::info!(path = %path.display(), "made the admin token");
    Ok(TokenDigest::of(&token))
}

/// The broker that the configuration names.
fn external_broker(
    external: &ExternalBroker,
    authority: &Authority,
) -> Result<fleet_mqtt::Broker, AppError> {
    let at: fleet_mqtt::Address = external.url.parse().map_err(|_| ConfigError::Value {
        key: "broker.external.url",
        rule: "must be mqtt://HOST:PORT, or mqtts://HOST:PORT for TLS",
    })?;
    let credentials = match &external.username {
        None => None,
        Some(username) => {
            let password = match &external.password_file {
                None => String::new(),
                Some(path) => {
                    let text = std::fs::read_to_string(path);
                    text.map_err(|source| ConfigError::Read {
                        path: path.clone(),
                        source,
                    })?
                }
            };
            Some(fleet_mqtt::Credentials {
                username: username.clone(),
                password: password.trim_end_matches(['\r', '\n']).to_owned(),
            })
        }
    };
    let identity = external.certificate.as_deref().zip(external.key.as_deref());
    let tls = if at.tls {
        Some(tls::of_client(authority, external.ca.as_deref(), identity)?)
    } else {
        None
    };
    Ok(fleet_mqtt::Broker {
        host: at.host,
        port: at.port,
        tls,
        protocol: external
            .protocol
            .as_deref()
            .and_then(|text| text.parse().ok()),
        credentials,
    })
}

fn endpoint(
    config: &Config,
    https: &TcpListener,
    broker: &Broker,
    plain: Option<&TcpListener>,
) -> std::io::Result<Endpoint> {
    let host = config.host();
    let in_url = if host.contains(':') {
        format!("[{host}]")
    } else {
        host.clone()
    };
    let registry_http = match plain {
        Some(listener) => Some(format!("http://{}", listener.local_addr()?)),
        None => None,
    };
    let (mqtt_host, mqtt_port) = broker.place(&host)?;
    Ok(Endpoint {
        url: format!("https://{in_url}:{}", https.local_addr()?.port()),
        mqtt_host,
        mqtt_port,
        registry_http,
        pid: std::process::id(),
    })
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} mqtt {}:{}", self.url, self.mqtt_host, self.mqtt_port)
    }
}
