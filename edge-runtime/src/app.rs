//! The only place that connects the parts of a node.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use fleet_api::event::EventKind;
use fleet_api::presence::{Capabilities, Presence};
use fleet_mqtt::{Broker, Credentials};
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::agent::{AgentTask, Fetcher, Workload};
use crate::clock::unix_ms;
use crate::config::Config;
use crate::control::{self, Control};
use crate::data_dir::DataDir;
use crate::events;
use crate::gateway::{Admin, Gateway, GrpcGateway, Parts};
use crate::handlers::{Handlers, HandlersConfig};
use crate::health::NodeHealth;
use crate::identity::Identity;
use crate::idle_code;
use crate::keyvalue::KeyValue;
use crate::models::{Models, ModelsConfig};
use crate::processors::{self, Processors};
use crate::replays::{ReplayParts, ReplaysTask};
use crate::sources::{self, SourceSecrets, Sources, SourcesConfig};
use crate::streams::{BufferConfig, Streams};
use crate::uplink::{self, UplinkConfig, UplinkHandle};

/// Runs a node until SIGTERM or SIGINT.
///
/// # Errors
/// What keeps the node from starting; a running node reports its troubles instead.
pub async fn run(config: Config) -> anyhow::Result<()> {
    let data = DataDir::open(&config.data_dir)?;
    let identity = Identity::load(&data.identity())?;
    let broker = broker(&config, &identity)?;
    let mut gateway = Gateway::bind(config.listen).await?;
    if let Some(tls) = &config.tls {
        gateway = gateway.with_tls(tls)?;
    }
    let grpc = match &config.grpc {
        Some(section) => Some(
            GrpcGateway::bind(section.listen)
                .await?
                .with_tls(config.tls.as_ref())?,
        ),
        None => None,
    };
    let admin = Admin::bind(config.admin_listen).await?;

    let inference = ModelsConfig {
        library: config.models.library.clone(),
        permits: config
            .models
            .permits
            .map_or_else(|| ModelsConfig::default().permits, |n| n as usize),
        memory: config.models.memory.map(|memory| memory.0),
        cache: Some(data.models()),
        ..ModelsConfig::default()
    };
    let models = Models::start(inference.clone());
    let (folder, buffer) = (data.buffer(), buffer_config(&config));
    let streams = tokio::task::spawn_blocking(move || Streams::open(&folder, buffer))
        .await
        .context("open the buffer")??;
    let version = env!("CARGO_PKG_VERSION");
    let started = format!("edge-runtime {version} has started");
    streams.events().note(EventKind::Start, None, started);
    let folder = data.keyvalue();
    let buffer = streams.clone();
    let keyvalue = tokio::task::spawn_blocking(move || KeyValue::open(buffer, &folder)).await;
    let keyvalue = keyvalue.context("open the handlers' values")??;
    let handlers = Handlers::start(
        HandlersConfig {
            cache_dir: Some(data.compiled()),
            max_instances: config.handlers.max_instances as usize,
            max_memory: config.handlers.max_memory.0,
            keyvalue: Some(keyvalue.clone()),
            streams: Some(streams.clone()),
        },
        models.clone(),
    )?;
    let processors = Processors::new();
    let sources = Sources::new();
    let secrets = config.secrets.clone().unwrap_or_else(|| data.secrets());
    let workload = Workload {
        handlers: handlers.clone(),
        models: models.clone(),
        streams: streams.clone(),
        processors: processors.clone(),
        sources: sources.clone(),
        secrets: secrets.clone(),
    };
    let client = identity.https().context("make an HTTPS client")?;
    let fetcher = Fetcher::new(client.clone(), identity.url.clone());
    let (mut agent, handle) = AgentTask::new(
        identity.node.clone(),
        data.state(),
        data.artifacts(),
        fetcher.clone(),
        workload.clone(),
    )?;
    agent.restore().await;
    let parts = ReplayParts {
        workload: workload.clone(),
        store: agent.store(),
        fetcher,
        keyvalue,
        models: inference,
    };
    let (replays, replays_handle) = ReplaysTask::new(identity.node.clone(), data.replays(), parts);

    let uplink = UplinkHandle::default();
    let health = Arc::new(NodeHealth::new(
        identity.node.clone(),
        config.data_dir.clone(),
        workload,
        handle.reported(),
        uplink.clone(),
    ));
    let control = Control {
        identity: identity.clone(),
        broker: broker.clone(),
        agent: handle.clone(),
        replays: replays_handle,
        health: health.clone(),
        birth: birth(&config, &identity, &models, &gateway),
    };

    let (serving, admin_url) = (gateway.url(), admin.url());
    let grpc_address = grpc.as_ref().map(GrpcGateway::address);
    let stop = CancellationToken::new();
    let parts = Parts {
        handlers: handlers.clone(),
        models: models.clone(),
        streams: Some(streams.clone()),
    };
    let stopped = stop_signal().context("listen for signals")?;
    let mut tasks = JoinSet::new();
    tasks.spawn(agent.run(stop.clone()));
    tasks.spawn(replays.run(stop.clone()));
    tasks.spawn(control.run(stop.clone()));
    tasks.spawn(control::poll(
        identity.clone(),
        client,
        handle,
        config.poll.duration(),
        stop.clone(),
    ));
    tasks.spawn(processors::run(
        processors,
        handlers.clone(),
        streams.clone(),
        stop.clone(),
    ));
    tasks.spawn(events::run(streams.clone(), stop.clone()));
    tasks.spawn(sources::run(
        sources,
        SourcesConfig {
            node: identity.node.to_string(),
            secrets: SourceSecrets::Folder(secrets),
            keys: config.data_dir.join("opcua"),
        },
        streams.clone(),
        stop.clone(),
    ));
    tasks.spawn(uplink::run(
        UplinkConfig {
            node: identity.node.clone(),
            broker,
            rate: config.uplink.bytes_per_s,
            window: config.uplink.window.as_usize(),
        },
        streams.clone(),
        uplink,
        stop.clone(),
    ));
    tasks.spawn(gateway.serve(parts, config.drain.duration(), stop.clone()));
    if let Some(grpc) = grpc {
        tasks.spawn(grpc.serve(models, config.drain.duration(), stop.clone()));
    }
    tasks.spawn(admin.serve(health, stop.clone()));

    data.announce(&serde_json::json!({
        "url": serving, "admin_url": admin_url, "grpc": grpc_address, "node": identity.node, "pid": std::process::id(),
    }))?;
    eprintln!("serving {serving}\nadmin {admin_url}");
    if let Some(address) = grpc_address {
        eprintln!("serving gRPC at {address}");
    }
    tokio::task::spawn_blocking(idle_code::let_go_of_start);

    let cause = tokio::select! {
        () = stopped => None,
        reason = buffer_failure(&streams) => Some(anyhow::anyhow!(
            "the buffer has failed: {reason}; start the node again, it recovers what is durable"
        )),
        Some(ended) = tasks.join_next() => Some(match ended {
            Ok(()) => anyhow::anyhow!("a part of the node ended by itself; the log says which"),
            Err(error) => anyhow::Error::from(error).context("a part of the node has failed"),
        }),
    };
    stop.cancel();
    // Each part has its own deadline; this one is for a part that forgets.
    let deadline = config.drain.duration() + Duration::from_secs(5);
    let drained = tokio::time::timeout(deadline, async {
        while tasks.join_next().await.is_some() {}
    });
    if drained.await.is_err() {
        tracing::warn!("some parts did not end in time");
    }
    let close = move || {
        handlers.stop();
        streams.close();
    };
    tokio::task::spawn_blocking(close)
        .await
        .context("close the buffer")?;
    cause.map_or(Ok(()), Err)
}

/// Waits until the buffer has failed for good: sled cannot be opened again in the same process.
async fn buffer_failure(streams: &Streams) -> String {
    let mut look = tokio::time::interval(Duration::from_secs(1));
    loop {
        look.tick().await;
        if let Some(reason) = streams.failed() {
            return reason;
        }
    }
}

/// Listens for SIGTERM and SIGINT from this call on; the future waits for the first.
///
/// # Errors
/// What the system says if it does not allow that.
pub(crate) fn stop_signal() -> std::io::Result<impl Future<Output = ()>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}

fn buffer_config(config: &Config) -> BufferConfig {
    BufferConfig {
        max_bytes: config.buffer.max.map(|max| max.0),
        ballast_bytes: config.buffer.ballast.0,
        free_floor_bytes: config.buffer.min_free.0,
        ..BufferConfig::default()
    }
}

/// The broker that is configured, else the control plane's.
fn broker(config: &Config, identity: &Identity) -> anyhow::Result<Broker> {
    let uplink = &config.uplink;
    let credentials = match &uplink.username {
        None => None,
        Some(username) => {
            let password = match &uplink.password_file {
                None => String::new(),
                Some(file) => std::fs::read_to_string(file)
                    .with_context(|| format!("read uplink.password_file {}", file.display()))?,
            };
            Some(Credentials {
                username: username.clone(),
                password: password.trim_end_matches(['\r', '\n']).to_owned(),
            })
        }
    };
    let tls = match &uplink.ca {
        Some(ca) => identity
            .tls_trusting(ca)
            .with_context(|| format!("use uplink.ca {}", ca.display()))?,
        None => identity.tls.clone(),
    };
    let (host, port, tls) = match &uplink.broker {
        Some(at) => (at.host.clone(), at.port, at.tls.then_some(tls)),
        None => (identity.mqtt_host.clone(), identity.mqtt_port, Some(tls)),
    };
    Ok(Broker {
        host,
        port,
        tls,
        protocol: uplink.protocol,
        credentials,
    })
}

fn birth(config: &Config, identity: &Identity, models: &Models, gateway: &Gateway) -> Presence {
    let mut boot = [0_u8; 8];
    // Without randomness the start's time still tells boots apart.
    let _ = getrandom::fill(&mut boot);
    Presence {
        v: 1,
        node: identity.node.clone(),
        online: true,
        bd_seq: 0,
        boot_id: format!("{:x}-{:016x}", unix_ms(), u64::from_be_bytes(boot)),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        capabilities: Capabilities {
            arch: std::env::consts::ARCH.to_owned(),
            cores: std::thread::available_parallelism().map_or(1, |n| n.get() as u32),
            worlds: crate::handlers::WORLDS
                .iter()
                .map(|&world| world.to_owned())
                .collect(),
            inference: models.engine_error().is_none(),
        },
        labels: config.labels.clone(),
        listen: Some(gateway.url()),
        time_ms: 0,
    }
}
