//! What `/metrics` shows, gathered at the moment it is asked for.

use std::sync::atomic::{AtomicI64, AtomicU64};

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use super::Api;
use crate::fleet::StoreError;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct State {
    state: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Stream {
    node: String,
    stream: String,
}

type Counts = Family<Stream, Counter<u64, AtomicU64>>;
type Levels = Family<Stream, Gauge<i64, AtomicI64>>;

pub(super) async fn write(api: &Api) -> Result<String, StoreError> {
    let mut registry = Registry::with_prefix("control_plane");
    let nodes: Family<State, Gauge<i64, AtomicI64>> = Family::default();
    for node in api.fleet.nodes().await? {
        nodes.get_or_create(&State { state: node.state }).inc();
    }
    registry.register("nodes", "Nodes by state", nodes);
    let connections: Gauge = Gauge::default();
    connections.set(i64::try_from(api.broker.connections()).unwrap_or(i64::MAX));
    registry.register(
        "mqtt_connections",
        "MQTT connections that stand",
        connections,
    );
    let artifacts: Gauge = Gauge::default();
    artifacts.set(i64::try_from(api.fleet.artifacts().await?.len()).unwrap_or(i64::MAX));
    registry.register("artifacts", "Artifacts in the registry", artifacts);
    let [records, duplicates, gaps] = [Counts::default(), Counts::default(), Counts::default()];
    let [missing, files, bytes] = [Levels::default(), Levels::default(), Levels::default()];
    for entry in api.archive.all() {
        let labels = Stream {
            node: entry.node.to_string(),
            stream: entry.stream.to_string(),
        };
        records.get_or_create(&labels).inc_by(entry.records);
        duplicates.get_or_create(&labels).inc_by(entry.duplicates);
        gaps.get_or_create(&labels).inc_by(entry.gaps);
        for (family, value) in [
            (&missing, entry.missing),
            (&files, entry.files),
            (&bytes, entry.bytes),
        ] {
            let level = i64::try_from(value).unwrap_or(i64::MAX);
            family.get_or_create(&labels).set(level);
        }
    }
    registry.register(
        "archive_records",
        "Records archived since the start",
        records,
    );
    registry.register(
        "archive_duplicates",
        "Records that came again since the start",
        duplicates,
    );
    registry.register(
        "archive_evicted",
        "Records that nodes evicted since the start",
        gaps,
    );
    registry.register(
        "archive_missing_records",
        "Sequences in the archive that have no record, in all gaps",
        missing,
    );
    registry.register("archive_files", "Files of records in the archive", files);
    registry.register("archive_bytes", "Bytes of the archive's files", bytes);
    let mut text = String::new();
    encode(&mut text, &registry).expect("writing to a String cannot fail");
    Ok(text)
}
