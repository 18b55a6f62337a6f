//! Turns windows of a vibration signal into features, scores them with an
//! isolation forest and raises an alert for each window that stands out.
//!
//! ```text
//!   records ─► window::parse ─► features::extract ─► model (wasi:nn) ─► alert records
//! ```
//!
//! Configuration: `model` (default `vibration`), `alerts` (the stream that
//! alerts go to, default `alerts`), `threshold` (the score below which a window
//! stands out, default 0).

// Alerts are told apart from data by what they are: a record that is no window
// is reported in the alerts' stream too, never dropped in silence.
pub mod features;
mod window;

use guest_sdk::{
    config,
    model::{Model, Tensor},
    stream::{Handler, Output, Record},
};
use serde::Serialize;

use window::Window;

struct Vibration;

/// A window that stands out.
#[derive(Serialize)]
struct Alert<'a> {
    kind: &'static str,
    machine: &'a str,
    /// Score of the window: the lower, the stranger; below the threshold.
    score: f32,
    threshold: f32,
    /// Position of the window's record in its stream.
    stream: &'a str,
    sequence: u64,
    time_ms: u64,
    rms: f32,
}

/// A record that is no window.
#[derive(Serialize)]
struct BadRecord<'a> {
    kind: &'static str,
    stream: &'a str,
    sequence: u64,
    reason: String,
}

impl Handler for Vibration {
    fn process(stream: &str, batch: Vec<Record>) -> Result<Vec<Output>, String> {
        let alerts = config::value_or("alerts", "alerts");
        let threshold = threshold()?;
        let mut outputs = Vec::new();
        let mut windows: Vec<(Window, &Record)> = Vec::new();
        for record in &batch {
            match window::parse(record.encoding, &record.value) {
                Ok(window) => windows.push((window, record)),
                Err(error) => outputs.push(Output::json(
                    &alerts,
                    &BadRecord {
                        kind: "bad-record",
                        stream,
                        sequence: record.sequence,
                        reason: error.to_string(),
                    },
                )?),
            }
        }
        let rows: Vec<_> = windows
            .iter()
            .map(|(window, _)| features::extract(&window.samples, window.rate_hz))
            .collect();
        let scores = score(&rows)?;
        for ((window, record), (row, score)) in windows.iter().zip(rows.iter().zip(scores)) {
            if score < threshold {
                outputs.push(Output::json(
                    &alerts,
                    &Alert {
                        kind: "vibration",
                        machine: &window.machine,
                        score,
                        threshold,
                        stream,
                        sequence: record.sequence,
                        time_ms: record.time_ms,
                        rms: row[features::RMS],
                    },
                )?);
            }
        }
        Ok(outputs)
    }
}

guest_sdk::stream_handler!(Vibration);

fn threshold() -> Result<f32, String> {
    let text = config::value_or("threshold", "0");
    text.parse()
        .map_err(|_| format!("the configured threshold {text:?} is not a number"))
}

/// One score per row, by one run of the model for the whole batch.
fn score(rows: &[[f32; features::COUNT]]) -> Result<Vec<f32>, String> {
    if rows.is_empty() {
        return Ok(Vec::new());
    }
    let shape = vec![
        u32::try_from(rows.len()).map_err(|_| "the batch is too large")?,
        features::COUNT as u32,
    ];
    let model = Model::by_name(&config::value_or("model", "vibration"))
        .map_err(|error| error.to_string())?;
    let outputs = model
        .run(vec![(
            "X".to_owned(),
            Tensor::f32(shape, rows.as_flattened()),
        )])
        .map_err(|error| error.to_string())?;
    outputs
        .iter()
        .find(|(name, _)| name == "scores")
        .and_then(|(_, tensor)| tensor.to_f32())
        .filter(|scores| scores.len() == rows.len())
        .ok_or_else(|| {
            "the model does not answer one score per window; check which model is deployed"
                .to_owned()
        })
}
