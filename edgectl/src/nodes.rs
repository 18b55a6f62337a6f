use anyhow::Result;
use fleet_api::health::Health;
use fleet_api::ids::NodeId;
use fleet_api::labels::Selector;
use fleet_api::rest::{NodeDetail, NodeSummary};
use reqwest::Method;
use serde_json::json;

use crate::client::Client;
use crate::output::{self, Format, ago, bytes, labels, millis, or_dash, span};

/// Lists nodes.
pub(crate) async fn list(
    client: &Client,
    selector: Option<&Selector>,
    format: Format,
) -> Result<()> {
    let mut nodes: Vec<NodeSummary> = client.get("/api/v1/nodes").await?;
    nodes.retain(|node| selector.is_none_or(|s| s.matches(&node.labels)));
    if format == Format::Json {
        return output::print_json(&nodes);
    }
    let mut table = output::table([
        "NODE",
        "STATE",
        "GENERATION",
        "LABELS",
        "LAST SEEN",
        "VERSION",
        "REASON",
    ]);
    for node in &nodes {
        table.add_row([
            node.id.to_string(),
            node.state.clone(),
            generations(node),
            labels(&node.labels),
            node.last_seen_ms.map_or_else(|| "never".to_owned(), ago),
            or_dash(node.version.clone().unwrap_or_default()),
            or_dash(node.reason.clone().unwrap_or_default()),
        ]);
    }
    let empty = match selector {
        Some(selector) => format!("no node matches {selector}"),
        None => "no node has joined yet: `edgectl token create`, then `edge-runtime enroll` on the gateway".to_owned(),
    };
    output::print_table(&table, &empty)
}

/// Shows all that is known of a node.
pub(crate) async fn show(client: &Client, id: &NodeId, format: Format) -> Result<()> {
    let node: NodeDetail = client.get(&format!("/api/v1/nodes/{id}")).await?;
    if format == Format::Json {
        return output::print_json(&node);
    }
    let mut sections = vec![identity(&node), artifacts(&node)];
    if let Some(health) = &node.health {
        sections.extend([process(health), work(health), streams(&node, health)]);
    }
    sections.retain(|s| !s.is_empty());
    output::emit(&format!("{}\n", sections.join("\n\n")))
}

/// Forgets a node.
pub(crate) async fn delete(client: &Client, id: &NodeId, format: Format) -> Result<()> {
    let request = client.request(Method::DELETE, &format!("/api/v1/nodes/{id}"));
    client.send(request).await?;
    if format == Format::Json {
        return output::print_json(&json!({ "deleted": id }));
    }
    output::emit(&format!("node {id} is forgotten\n"))
}

fn generations(node: &NodeSummary) -> String {
    if node.serving_generation == node.desired_generation {
        node.serving_generation.to_string()
    } else {
        format!("{} of {}", node.serving_generation, node.desired_generation)
    }
}

fn identity(node: &NodeDetail) -> String {
    let s = &node.summary;
    let mut table = output::table(["NODE", s.id.as_str()]);
    let mut row = |key: &str, value: String| {
        table.add_row([key.to_owned(), value]);
    };
    row("state", s.state.clone());
    if let Some(reason) = &s.reason {
        row("reason", reason.clone());
    }
    row("labels", labels(&s.labels));
    row("generation", generations(s));
    row(
        "last seen",
        s.last_seen_ms.map_or_else(|| "never".to_owned(), ago),
    );
    row("joined", ago(node.enrolled_ms));
    if let Some(presence) = &node.presence {
        let can = &presence.capabilities;
        row("version", presence.version.clone());
        row("machine", format!("{}, {} cores", can.arch, can.cores));
        row(
            "inference",
            if can.inference { "yes" } else { "no" }.to_owned(),
        );
        row("worlds", or_dash(can.worlds.join(", ")));
        row(
            "listens at",
            or_dash(presence.listen.clone().unwrap_or_default()),
        );
    }
    if let Some(reported) = &node.reported {
        let result = reported
            .result
            .map_or_else(String::new, |r| format!(", {r}"));
        row(
            "last change",
            format!(
                "generation {}: {}{result}",
                reported.generation, reported.phase
            ),
        );
    }
    table.trim_fmt()
}

fn artifacts(node: &NodeDetail) -> String {
    let Some(reported) = node.reported.as_ref().filter(|r| !r.artifacts.is_empty()) else {
        return String::new();
    };
    let mut table = output::table(["ARTIFACT", "VERSION", "STATE", "SIZE", "DIGEST", "REASON"]);
    for entry in &reported.artifacts {
        let a = &entry.artifact;
        table.add_row([
            format!("{} {}", a.kind, a.name),
            a.version.to_string(),
            entry.state.to_string(),
            bytes(a.total_size()),
            a.digest.hex()[..12].to_owned(),
            or_dash(entry.reason.clone().unwrap_or_default()),
        ]);
    }
    table.trim_fmt()
}

fn process(health: &Health) -> String {
    let mut table = output::table(["HEALTH", &ago(health.time_ms)]);
    let mut row = |key: &str, value: String| {
        table.add_row([key.to_owned(), value]);
    };
    row("up for", span(health.uptime_s * 1000));
    row(
        "processor",
        format!("{:.1} % of a core", health.cpu * 100.0),
    );
    row("memory", bytes(health.rss_bytes));
    row("disk free", bytes(health.disk_free_bytes));
    if !health.not_ready.is_empty() {
        row("not ready", health.not_ready.join("; "));
    }
    let uplink = &health.uplink;
    let link = match &uplink.reason {
        _ if uplink.connected => format!("up since {}", ago(uplink.since_ms)),
        Some(reason) => format!("down: {reason}"),
        None => "down".to_owned(),
    };
    row(
        "uplink",
        format!(
            "{link}; {} frames sent, {} again",
            uplink.published, uplink.resent
        ),
    );
    table.trim_fmt()
}

fn work(health: &Health) -> String {
    if health.handlers.is_empty() && health.models.is_empty() {
        return String::new();
    }
    let mut table = output::table([
        "SERVES", "VERSION", "REQUESTS", "ERRORS", "TRAPS", "P50", "P99",
    ]);
    for h in &health.handlers {
        table.add_row([
            format!("handler {}", h.name),
            h.version.to_string(),
            h.requests.to_string(),
            h.errors.to_string(),
            h.traps.to_string(),
            millis(h.p50_us),
            millis(h.p99_us),
        ]);
    }
    for m in &health.models {
        table.add_row([
            format!("model {}", m.name),
            m.version.to_string(),
            m.requests.to_string(),
            m.errors.to_string(),
            "-".to_owned(),
            millis(m.p50_us),
            millis(m.p99_us),
        ]);
    }
    table.trim_fmt()
}

fn streams(node: &NodeDetail, health: &Health) -> String {
    if health.streams.is_empty() {
        return String::new();
    }
    let mut table = output::table([
        "STREAM",
        "BUFFERED",
        "SIZE",
        "OLDEST",
        "EVICTED",
        "ACKNOWLEDGED",
        "ARCHIVED",
    ]);
    for s in &health.streams {
        let archived = node.archive.iter().find(|a| a.stream == s.name);
        table.add_row([
            s.name.to_string(),
            s.depth.to_string(),
            bytes(s.bytes),
            s.oldest_age_ms.map_or_else(|| "-".to_owned(), span),
            s.evicted.to_string(),
            s.acked_seq
                .map_or_else(|| "-".to_owned(), |seq| format!("up to {seq}")),
            archived.map_or_else(|| "-".to_owned(), |a| format!("up to {}", a.watermark)),
        ]);
    }
    table.trim_fmt()
}
