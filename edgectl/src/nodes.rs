use anyhow::Result;
use fleet_api::health::{BufferHealth, Health, ModelHealth};
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
        sections.extend([
            process(health),
            handlers(health),
            models(health),
            shadows(health),
            streams(&node, health),
            processors(health),
            sources(health),
        ]);
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
    if let Some(buffer) = &health.buffer {
        row("buffer", buffer_disk(buffer));
        row(
            "commits",
            format!(
                "p50 {}, p99 {}; opened in {}",
                millis(buffer.commit_p50_us),
                millis(buffer.commit_p99_us),
                millis(buffer.open_ms * 1000),
            ),
        );
        let alarms = buffer_alarms(buffer);
        if !alarms.is_empty() {
            row("alarm", alarms.join("; "));
        }
    }
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

fn buffer_disk(buffer: &BufferHealth) -> String {
    let ratio = match buffer.live_bytes {
        0 => String::new(),
        live => format!(
            " for {} of records ({:.1} : 1)",
            bytes(live),
            buffer.disk_ratio
        ),
    };
    let (disk, max) = (bytes(buffer.disk_bytes), bytes(buffer.max_bytes));
    format!("{disk} of {max}{ratio}")
}

/// What is wrong with a buffer, in words.
fn buffer_alarms(buffer: &BufferHealth) -> Vec<String> {
    let mut alarms: Vec<String> = buffer.failed.iter().cloned().collect();
    if buffer.blobs > 0 {
        alarms.push(format!(
            "{} values outside of the database's file",
            buffer.blobs
        ));
    }
    if buffer.quarantines > 0 {
        alarms.push(format!(
            "{} damaged databases are set aside on the node: `edge-runtime buffer salvage`",
            buffer.quarantines
        ));
    }
    alarms
}

fn handlers(health: &Health) -> String {
    if health.handlers.is_empty() {
        return String::new();
    }
    let mut table = output::table([
        "HANDLER", "VERSION", "REQUESTS", "ERRORS", "TRAPS", "P50", "P99", "MEMORY",
    ]);
    for h in &health.handlers {
        table.add_row([
            h.name.to_string(),
            h.version.to_string(),
            h.requests.to_string(),
            h.errors.to_string(),
            h.traps.to_string(),
            millis(h.p50_us),
            millis(h.p99_us),
            bytes(h.memory_bytes),
        ]);
    }
    table.trim_fmt()
}

fn models(health: &Health) -> String {
    if health.models.is_empty() {
        return String::new();
    }
    let mut table = output::table([
        "MODEL", "VERSION", "STATE", "REQUESTS", "ERRORS", "REJECTED", "CANCELED", "P50", "P99",
        "BATCH", "MEMORY",
    ]);
    for m in &health.models {
        table.add_row([
            m.name.to_string(),
            version(m),
            m.state.to_string(),
            m.requests.to_string(),
            m.errors.to_string(),
            m.rejected.to_string(),
            m.canceled.to_string(),
            millis(m.p50_us),
            millis(m.p99_us),
            format!("{:.1}", m.batch_mean),
            bytes(m.memory_bytes),
        ]);
    }
    table.trim_fmt()
}

/// A model's version with its part among the versions of its name.
fn version(model: &ModelHealth) -> String {
    let part = match (&model.shadow, model.default) {
        (Some(_), _) => " (shadow)",
        (None, true) => " (default)",
        (None, false) => "",
    };
    format!("{}{part}", model.version)
}

fn shadows(health: &Health) -> String {
    let mut table = output::table([
        "SHADOW", "VERSION", "OF", "RAN", "SKIPPED", "FAILED", "EXACT", "WITHIN", "TOP 1",
        "FURTHEST", "DRIFT",
    ]);
    for m in &health.models {
        let Some(shadow) = &m.shadow else { continue };
        let share = |count| share(count, shadow.compared());
        table.add_row([
            m.name.to_string(),
            m.version.to_string(),
            shadow.of.to_string(),
            shadow.mirrored.to_string(),
            shadow.skipped.to_string(),
            shadow.failed.to_string(),
            share(shadow.exact),
            share(shadow.within_tolerance),
            share(shadow.top1_agree),
            format!("{:.3e}", shadow.max_abs_diff),
            format!("{:.4}", shadow.drift),
        ]);
    }
    if table.row_count() == 0 {
        return String::new();
    }
    table.trim_fmt()
}

fn share(count: u64, of: u64) -> String {
    if of == 0 {
        return "-".to_owned();
    }
    format!("{:.1} %", count as f64 * 100.0 / of as f64)
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
        "RETAINED",
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
            s.retained.to_string(),
            s.evicted.to_string(),
            s.acked_seq
                .map_or_else(|| "-".to_owned(), |seq| format!("up to {seq}")),
            archived.map_or_else(|| "-".to_owned(), |a| format!("up to {}", a.watermark)),
        ]);
    }
    table.trim_fmt()
}

fn processors(health: &Health) -> String {
    if health.processors.is_empty() {
        return String::new();
    }
    let mut table = output::table([
        "PROCESSOR",
        "STREAM",
        "BEHIND",
        "BATCHES",
        "IN",
        "OUT",
        "FAILURES",
        "DEAD LETTERS",
        "WAITS FOR",
    ]);
    for p in &health.processors {
        table.add_row([
            p.processor.to_string(),
            p.stream.to_string(),
            p.lag.to_string(),
            p.batches.to_string(),
            p.records_in.to_string(),
            p.records_out.to_string(),
            p.failures.to_string(),
            p.dead_letters.to_string(),
            or_dash(p.waits_for.clone().unwrap_or_default()),
        ]);
    }
    table.trim_fmt()
}

fn sources(health: &Health) -> String {
    if health.sources.is_empty() {
        return String::new();
    }
    let mut table = output::table([
        "SOURCE", "KIND", "AT", "STREAM", "STATE", "SINCE", "RECORDS", "ERRORS", "LOST", "LAST",
    ]);
    for s in &health.sources {
        let ago = |ms: u64| span(health.time_ms.saturating_sub(ms));
        let state = match (s.connected, &s.reason) {
            (true, None) => "connected".to_owned(),
            (true, Some(reason)) => format!("waits: {reason}"),
            (false, Some(reason)) => format!("not connected: {reason}"),
            (false, None) => "connecting".to_owned(),
        };
        table.add_row([
            s.name.to_string(),
            s.kind.clone(),
            s.address.clone(),
            s.stream.to_string(),
            state,
            ago(s.since_ms),
            s.records.to_string(),
            s.errors.to_string(),
            s.lost.to_string(),
            s.last_record_ms.map_or_else(|| "-".to_owned(), ago),
        ]);
    }
    table.trim_fmt()
}

#[cfg(test)]
mod tests {
    use fleet_api::health::ShadowHealth;
    use serde_json::json;

    use super::*;

    fn health() -> Health {
        let model = |version: &str, default: bool| {
            json!({ "name": "net", "version": version, "requests": 40, "errors": 1, "p50_us": 250, "p99_us": 1900,
                "queue": 0, "sessions": 1, "batch_mean": 2.5, "default": default, "memory_bytes": 30 << 20 })
        };
        let health = json!({ "v": 1, "node": "n1", "uptime_s": 60, "cpu": 0.1, "rss_bytes": 1, "disk_free_bytes": 1,
            "not_ready": [], "handlers": [], "models": [model("1", true), model("2", false)], "streams": [],
            "uplink": { "connected": true, "since_ms": 0, "reason": null, "published": 0, "resent": 0 }, "time_ms": 0 });
        serde_json::from_value(health).expect("health of an older runtime is read too")
    }

    #[test]
    fn models_show_their_part_and_how_a_shadow_compares() {
        let mut health = health();
        assert_eq!(shadows(&health), "");
        health.models[1].shadow = Some(ShadowHealth {
            of: health.models[0].version.clone(),
            mirrored: 20,
            skipped: 20,
            failed: 4,
            exact: 8,
            within_tolerance: 12,
            top1_agree: 16,
            max_abs_diff: 0.012,
            drift: 0.05,
        });
        let table = [models(&health), shadows(&health)].join("\n\n");
        assert_eq!(
            table,
            "\
MODEL  VERSION      STATE  REQUESTS  ERRORS  REJECTED  CANCELED  P50      P99      BATCH  MEMORY
net    1 (default)  ready  40        1       0         0         0.25 ms  1.90 ms  2.5    30.00 MiB
net    2 (shadow)   ready  40        1       0         0         0.25 ms  1.90 ms  2.5    30.00 MiB

SHADOW  VERSION  OF  RAN  SKIPPED  FAILED  EXACT   WITHIN  TOP 1    FURTHEST  DRIFT
net     2        1   20   20       4       50.0 %  75.0 %  100.0 %  1.200e-2  0.0500"
        );
    }
}
