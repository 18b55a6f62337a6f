//! Sums up records by tumbling windows, for each machine: how many, mean,
//! lowest and highest value. Open windows are kept on the node: they outlive a
//! restart and the handler's version, and no record counts twice.
//!
//! Configuration: `field` (default `value`), `by` (the member that tells
//! machines apart, default `machine`), `count` (records in a window, default
//! 60), `samples` (`true` hands the values on too, for a model), `rate_hz`
//! (told beside the samples, default 1), `to` (default `windows`).

mod tumbling;

use std::collections::BTreeMap;

use guest_sdk::config;
use guest_sdk::keyvalue::Bucket;
use guest_sdk::stream::{Handler, Output, Record};
use serde::Serialize;
use serde_json::Value;

use tumbling::{Open, Sum};

struct Window;

/// A window that is full.
#[derive(Serialize)]
struct Closed<'a> {
    machine: &'a str,
    #[serde(flatten)]
    sum: Sum,
    #[serde(skip_serializing_if = "Option::is_none")]
    rate_hz: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    samples: Option<Vec<f64>>,
}

impl Handler for Window {
    fn process(_: &str, batch: Vec<Record>) -> Result<Vec<Output>, String> {
        let field = config::value_or("field", "value");
        let by = config::value_or("by", "machine");
        let count = config::parsed("count")?.unwrap_or(60).max(1);
        let with_samples = config::parsed("samples")?.unwrap_or(false);
        let rate_hz = config::parsed("rate_hz")?.unwrap_or(1.0);
        let to = config::value_or("to", "windows");
        let bucket = Bucket::open("open-windows").map_err(|error| error.to_string())?;
        let mut open: BTreeMap<String, Open> = BTreeMap::new();
        let mut outputs = Vec::new();
        for record in &batch {
            let bad = |what: String| format!("record {}: {what}", record.sequence);
            let value: Value = record.json().map_err(bad)?;
            let machine = value.get(&by).and_then(Value::as_str);
            let machine = machine.ok_or_else(|| bad(format!("it has no text {by:?}")))?;
            let number = value.get(&field).and_then(Value::as_f64);
            let number = number.ok_or_else(|| bad(format!("it has no number {field:?}")))?;
            if !open.contains_key(machine) {
                let kept = bucket
                    .get_json(machine)
                    .map_err(|error| error.to_string())?;
                open.insert(machine.to_owned(), kept.unwrap_or_default());
            }
            let Some(window) = open.get_mut(machine) else {
                continue;
            };
            window.add(record.time_ms, number);
            if window.len() >= count {
                let (sum, samples) = window.close();
                let closed = Closed {
                    machine,
                    sum,
                    rate_hz: with_samples.then_some(rate_hz),
                    samples: with_samples.then_some(samples),
                };
                outputs.push(Output::json(&to, &closed)?);
            }
        }
        for (machine, window) in &open {
            let kept = bucket.set_json(machine, window);
            kept.map_err(|error| error.to_string())?;
        }
        Ok(outputs)
    }
}

guest_sdk::stream_handler!(Window);
