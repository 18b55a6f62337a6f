//! Lets records within a range through and raises an alert for each other one.
//!
//! Configuration: `field` (default `value`), `min` and `max` (each none by
//! default), `to` (the stream of what passes, default `filtered`), `alerts`
//! (default `alerts`).

mod range;

use guest_sdk::config;
use guest_sdk::stream::{Handler, Output, Record};
use serde::Serialize;

use range::{Range, Reading};

struct Filter;

/// Alerts are records of a stream of their own; the deployment gives it the
/// highest priority, so that they leave the node first.
#[derive(Serialize)]
struct Alert<'a> {
    kind: &'static str,
    /// Where the record is.
    stream: &'a str,
    sequence: u64,
    time_ms: u64,
    reason: String,
}

impl Handler for Filter {
    fn process(stream: &str, batch: Vec<Record>) -> Result<Vec<Output>, String> {
        let field = config::value_or("field", "value");
        let to = config::value_or("to", "filtered");
        let alerts = config::value_or("alerts", "alerts");
        let range = Range {
            min: config::parsed("min")?,
            max: config::parsed("max")?,
        };
        let judged = batch.into_iter().map(|record| {
            let (kind, reason) = match range.judge(&field, &record.json()) {
                Reading::Within => return Ok(Output::copy(&to, record)),
                Reading::Outside(reason) => ("out-of-range", reason),
                Reading::Unreadable(reason) => ("bad-record", reason),
            };
            let alert = Alert {
                kind,
                stream,
                sequence: record.sequence,
                time_ms: record.time_ms,
                reason,
            };
            Output::json(&alerts, &alert)
        });
        judged.collect()
    }
}

guest_sdk::stream_handler!(Filter);
