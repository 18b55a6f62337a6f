use anyhow::Result;
use fleet_api::health::StreamHealth;
use fleet_api::ids::NodeId;
use fleet_api::rest::{ArchiveStream, NodeDetail, NodeSummary};
use serde::Serialize;

use crate::client::Client;
use crate::output::{self, Format, bytes, or_dash, span};

/// A stream of a node, with what the archive has of it.
#[derive(Debug, Serialize)]
struct NodeStream {
    node: NodeId,
    /// How old the node's figures are, in milliseconds since the Unix epoch, by its clock.
    as_of_ms: u64,
    #[serde(flatten)]
    health: StreamHealth,
    archive: Option<ArchiveStream>,
}

/// Lists the streams of one node, or of all.
pub(crate) async fn list(client: &Client, node: Option<&NodeId>, format: Format) -> Result<()> {
    let nodes = match node {
        Some(node) => vec![node.clone()],
        None => {
            let nodes: Vec<NodeSummary> = client.get("/api/v1/nodes").await?;
            nodes.into_iter().map(|node| node.id).collect()
        }
    };
    let mut streams = Vec::new();
    let mut silent = Vec::new();
    for node in nodes {
        let detail: NodeDetail = client.get(&format!("/api/v1/nodes/{node}")).await?;
        if detail.health.is_none() {
            silent.push(node.to_string());
        }
        streams.extend(of(detail));
    }
    if format == Format::Json {
        return output::print_json(&streams);
    }
    let mut table = output::table([
        "NODE",
        "STREAM",
        "BUFFERED",
        "SIZE",
        "OLDEST",
        "RETAINED",
        "SIZE",
        "NEXT",
        "EVICTED",
        "ACKNOWLEDGED",
        "ARCHIVED",
        "GAPS",
    ]);
    let up_to = |seq: Option<u64>| or_dash(seq.map(|s| s.to_string()).unwrap_or_default());
    for NodeStream {
        node,
        health: s,
        archive,
        ..
    } in &streams
    {
        table.add_row([
            node.to_string(),
            s.name.to_string(),
            s.depth.to_string(),
            bytes(s.bytes),
            or_dash(s.oldest_age_ms.map(span).unwrap_or_default()),
            s.retained.to_string(),
            bytes(s.retained_bytes),
            s.next_seq.to_string(),
            s.evicted.to_string(),
            up_to(s.acked_seq),
            up_to(archive.as_ref().map(|a| a.watermark)),
            up_to(archive.as_ref().map(|a| a.gaps)),
        ]);
    }
    if !silent.is_empty() {
        eprintln!("no figures yet of {}", silent.join(", "));
    }
    output::print_table(
        &table,
        "no node has a stream yet: a deployment's [[stream]] makes one",
    )
}

fn of(detail: NodeDetail) -> impl Iterator<Item = NodeStream> {
    let node = detail.summary.id;
    let archive = detail.archive;
    let health = detail.health.into_iter();
    let streams = health.flat_map(|h| h.streams.into_iter().map(move |s| (h.time_ms, s)));
    streams.map(move |(as_of_ms, health)| NodeStream {
        node: node.clone(),
        as_of_ms,
        archive: archive.iter().find(|a| a.stream == health.name).cloned(),
        health,
    })
}
