//! How quickly a backlog leaves: the uplink with what it has to do, beside a socket that does nothing but publish.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use edge_runtime::streams::{BufferConfig, NewRecord, Streams};
use edge_runtime::uplink::{self, UplinkConfig, UplinkHandle};
use fleet_api::deployment::Ack;
use fleet_api::desired::StreamSpec;
use fleet_api::frame::Encoding;
use fleet_api::ids::{NodeId, StreamName};
use fleet_api::units::{ByteSize, Span};
use fleet_tests::brokers::{Broker, Kind, unpacked};
use fleet_tests::until;
use tokio_util::sync::CancellationToken;

use super::bare::{Bare, subscribe};
use crate::quiet;
use crate::report::{Report, median};

const STREAM: &str = "records";
const BACKLOG: u64 = 128 << 20;
/// Size of a record, records of an append, what a frame of them comes to in bytes.
const SHAPES: [(usize, usize, usize); 2] = [(100, 1_000, 6_000), (16_000, 16, 16_045)];
/// Messages of a round at mosquitto.
const MESSAGES: u64 = 100_000;
const PATIENCE: Duration = Duration::from_secs(300);

pub(super) async fn measure(rounds: usize, report: &mut Report) -> Result<()> {
    if unpacked().is_none() {
        eprintln!("mosquitto is not there to drain to: run `cargo xtask setup`");
        return Ok(());
    }
    let settings = "allow_anonymous true\nmax_inflight_messages 256\nmax_queued_messages 0\nmax_queued_bytes 0\n";
    let port = fleet_tests::brokers::free_port()?;
    let broker = Broker::start_with(Kind::Mosquitto, port, settings).await?;
    let address = format!("127.0.0.1:{}", broker.port());
    let listener = subscribe(&address, "edge/v1/+/streams/+").await?;
    for (bytes, per_append, frame) in SHAPES {
        let (mut ours, mut limit) = (Vec::new(), Vec::new());
        for _ in 0..rounds {
            quiet::machine().await;
            limit.push(bare(&address, frame).await?);
            quiet::machine().await;
            ours.push(drain(broker.port(), bytes, per_append).await?);
        }
        let ratio = middle(&ours) / middle(&limit);
        let what = format!("drain of frames of {} KB to mosquitto", frame / 1_000);
        report.add(&format!("{what}: bare socket"), "MB/s", limit);
        report.add(&format!("{what}: from the buffer, freed"), "MB/s", ours);
        report.add(&format!("{what}: of the bare socket"), "", vec![ratio]);
    }
    listener.abort();
    messages(rounds, report).await
}

/// What a user has who lets mosquitto keep records: acknowledged before they are on the disk.
async fn messages(rounds: usize, report: &mut Report) -> Result<()> {
    let settings = "allow_anonymous true\npersistence true\nmax_queued_messages 0\nmax_inflight_messages 256\n";
    let port = fleet_tests::brokers::free_port()?;
    let broker = Broker::start_with(Kind::Mosquitto, port, settings).await?;
    let address = format!("127.0.0.1:{}", broker.port());
    let mut rates = Vec::new();
    for _ in 0..rounds {
        quiet::machine().await;
        let mut client = Bare::connect(&address, "device").await?;
        let begun = Instant::now();
        client.publish("records", 100, MESSAGES, 256).await?;
        rates.push(MESSAGES as f64 / begun.elapsed().as_secs_f64());
    }
    let what =
        "mosquitto with persistence, 100 B a message, QoS 1, not on the disk when acknowledged";
    report.add(what, "records/s", rates);
    Ok(())
}

fn middle(rates: &[f64]) -> f64 {
    let mut sorted = rates.to_vec();
    sorted.sort_by(f64::total_cmp);
    median(&sorted)
}

/// Megabytes of frames per second that a socket publishes and gets acknowledged.
async fn bare(address: &str, frame: usize) -> Result<f64> {
    let count = BACKLOG / frame as u64;
    let window = UplinkConfig::WINDOW.div_ceil(frame) as u64;
    let mut client = Bare::connect(address, "bare").await?;
    let begun = Instant::now();
    client
        .publish("edge/v1/bare/streams/records", frame, count, window)
        .await?;
    Ok(rate(count * frame as u64, begun))
}

/// The same of a backlog on the disk, until the last record is acknowledged and released.
async fn drain(port: u16, bytes: usize, per_append: usize) -> Result<f64> {
    let beside = std::env::current_exe()?;
    let dir = tempfile::Builder::new()
        .prefix("drain")
        .tempdir_in(beside.parent().context("a program lies in a folder")?)?;
    let config = BufferConfig {
        ballast_bytes: 0,
        max_bytes: Some(8 << 30),
        ..BufferConfig::default()
    };
    let folder = dir.path().to_owned();
    let streams = tokio::task::spawn_blocking(move || Streams::open(&folder, config)).await??;
    let mut spec = StreamSpec::named(StreamName::new(STREAM)?);
    spec.quota = ByteSize(4 << 30);
    spec.keep = Span::from_ms(0);
    spec.ack = Ack::Broker;
    streams.configure(&[spec]);
    let value = Bytes::from(vec![b'7'; bytes]);
    let mut left = BACKLOG / bytes as u64;
    while left > 0 {
        let count = left.min(per_append as u64);
        let records = (0..count)
            .map(|_| NewRecord::new(Encoding::Bytes, value.clone()))
            .collect();
        streams.append(STREAM, records).await?;
        left -= count;
    }
    let backlog = streams.health().iter().map(|s| s.bytes).sum();
    let config = UplinkConfig {
        node: NodeId::new("n1")?,
        broker: fleet_mqtt::Broker {
            host: "127.0.0.1".to_owned(),
            port,
            tls: None,
            protocol: None,
            credentials: None,
        },
        rate: None,
        window: UplinkConfig::WINDOW,
    };
    let stop = CancellationToken::new();
    let begun = Instant::now();
    let task = tokio::spawn(uplink::run(
        config,
        streams.clone(),
        UplinkHandle::default(),
        stop.clone(),
    ));
    until("the buffer is empty", PATIENCE, async || {
        let left: u64 = streams.health().iter().map(|s| s.depth).sum();
        (left == 0)
            .then_some(())
            .ok_or(format!("{left} records left"))
    })
    .await?;
    let took = rate(backlog, begun);
    stop.cancel();
    task.await?;
    tokio::task::spawn_blocking(move || streams.close()).await?;
    ensure!(backlog > BACKLOG / 2, "the backlog is too small to tell");
    Ok(took)
}

fn rate(bytes: u64, begun: Instant) -> f64 {
    bytes as f64 / 1e6 / begun.elapsed().as_secs_f64()
}
