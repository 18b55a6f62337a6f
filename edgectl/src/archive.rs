use anyhow::Result;
use fleet_api::rest::{ArchiveGap, ArchiveStream};

use crate::cli::ArchiveArgs;
use crate::client::Client;
use crate::output::{self, Format, ago, bytes};

/// Shows what is archived, or what is missing there.
pub(crate) async fn run(client: &Client, args: &ArchiveArgs, format: Format) -> Result<()> {
    if args.gaps {
        let mut path = format!("/api/v1/archive/gaps?limit={}", args.limit);
        if let Some(node) = &args.node {
            path.push_str(&format!("&node={node}"));
        }
        if let Some(stream) = &args.stream {
            path.push_str(&format!("&stream={stream}"));
        }
        return gaps(&client.get::<Vec<ArchiveGap>>(&path).await?, format);
    }
    let mut streams: Vec<ArchiveStream> = client.get("/api/v1/archive").await?;
    streams.retain(|s| args.node.as_ref().is_none_or(|node| s.node == *node));
    streams.retain(|s| {
        args.stream
            .as_ref()
            .is_none_or(|stream| s.stream == *stream)
    });
    list(&streams, format)
}

fn list(streams: &[ArchiveStream], format: Format) -> Result<()> {
    if format == Format::Json {
        return output::print_json(&streams);
    }
    let mut table = output::table([
        "NODE", "STREAM", "UP TO", "FILES", "SIZE", "MISSING", "GAPS", "BUFFERS", "WRITTEN",
    ]);
    for stream in streams {
        let written = stream.epochs.iter().map(|epoch| epoch.written_ms).max();
        table.add_row([
            stream.node.to_string(),
            stream.stream.to_string(),
            stream.watermark.to_string(),
            stream.files.to_string(),
            bytes(stream.bytes),
            stream.missing.to_string(),
            stream.gap_count.to_string(),
            stream.epochs.len().to_string(),
            written.map_or_else(|| "-".to_owned(), ago),
        ]);
    }
    output::print_table(&table, "nothing is archived yet")
}

fn gaps(gaps: &[ArchiveGap], format: Format) -> Result<()> {
    if format == Format::Json {
        return output::print_json(&gaps);
    }
    let mut table = output::table([
        "NODE",
        "STREAM",
        "EPOCH",
        "MISSING",
        "RECORDS",
        "WHY",
        "LAST BEFORE",
        "NOTED",
    ]);
    for gap in gaps {
        let sequences = match gap.last {
            Some(last) => format!("{}-{last}", gap.first),
            None => format!("from {}", gap.first),
        };
        table.add_row([
            gap.node.to_string(),
            gap.stream.to_string(),
            gap.epoch.to_string(),
            sequences,
            gap.lost
                .map_or_else(|| "unknown".to_owned(), |lost| lost.to_string()),
            why(&gap.reason).to_owned(),
            gap.after_ms.map_or_else(|| "-".to_owned(), ago),
            ago(gap.noted_ms),
        ]);
    }
    output::print_table(&table, "nothing is missing")
}

/// A gap's reason in words.
fn why(reason: &str) -> &str {
    match reason {
        "quota" => "evicted: the stream's quota was reached",
        "expired" => "evicted: older than the stream's time to live",
        "damaged" => "damaged on the node's disk",
        "too-large" => "too large for the receiver",
        "missing" => "never came, and the node says no reason",
        "new-buffer" => "the node's buffer was made anew; what it still had is lost",
        other => other,
    }
}
