use std::time::Duration;

use anyhow::Result;
use fleet_api::rest::NodeEvent;
use jiff::Timestamp;
use jiff::tz::TimeZone;

use crate::cli::EventsArgs;
use crate::client::Client;
use crate::output::{self, Format, or_dash};

/// How often new events are asked for.
const EVERY: Duration = Duration::from_secs(1);

/// Shows what nodes tell; with `--follow` until it is interrupted.
pub(crate) async fn run(client: &Client, args: &EventsArgs, format: Format) -> Result<()> {
    let node = args.node.as_ref();
    let node = node.map_or_else(String::new, |node| format!("&node={node}"));
    let mut path = format!("/api/v1/events?limit={}{node}", args.last);
    let mut shown = 0;
    loop {
        let events: Vec<NodeEvent> = client.get(&path).await?;
        show(&events, args, format)?;
        if !args.follow {
            return Ok(());
        }
        shown = events.last().map_or(shown, |event| event.id);
        path = format!("/api/v1/events?after={shown}&limit=1000{node}");
        tokio::time::sleep(EVERY).await;
    }
}

fn show(events: &[NodeEvent], args: &EventsArgs, format: Format) -> Result<()> {
    match format {
        // One document a line, for what comes has no end.
        Format::Json if args.follow => events
            .iter()
            .try_for_each(|event| output::emit(&format!("{}\n", serde_json::to_string(event)?))),
        Format::Json => output::print_json(&events),
        Format::Table if args.follow => events
            .iter()
            .try_for_each(|event| output::emit(&format!("{}\n", columns(event).join("  ")))),
        Format::Table => {
            let mut table = output::table(["TIME", "NODE", "KIND", "STREAM", "COUNT", "EVENT"]);
            for event in events {
                table.add_row(columns(event));
            }
            output::print_table(&table, "no node has told anything")
        }
    }
}

fn columns(event: &NodeEvent) -> [String; 6] {
    let told = &event.event;
    [
        time(told.time_ms),
        event.node.to_string(),
        told.kind.clone(),
        or_dash(told.stream.clone().unwrap_or_default()),
        told.count.to_string(),
        told.text.clone(),
    ]
}

fn time(time_ms: u64) -> String {
    let time = i64::try_from(time_ms).ok();
    let time = time.and_then(|ms| Timestamp::from_millisecond(ms).ok());
    time.map_or_else(
        || "-".to_owned(),
        |time| {
            let time = time.to_zoned(TimeZone::UTC);
            time.strftime("%Y-%m-%d %H:%M:%SZ").to_string()
        },
    )
}
