use fleet_api::replay::{ReplayResult, ReplayStatus};
use jiff::Timestamp;

use crate::output::{self, millis, or_dash, span};

/// All that is known of a replay, for people.
pub(super) fn page(status: &ReplayStatus) -> String {
    let report = &status.report;
    let mut head = output::table(["REPLAY", report.id.as_str()]);
    let mut row = |key: &str, value: String| {
        head.add_row([key.to_owned(), value]);
    };
    row("state", report.state.to_string());
    if report.attempt > 1 {
        row(
            "attempt",
            format!("{}: the node stopped on the way", report.attempt),
        );
    }
    row("stream", format!("{} on {}", status.stream, status.node));
    let Some(result) = &report.result else {
        row("candidate", status.candidate.to_string());
        return head.trim_fmt();
    };
    row("records", records(result));
    row(
        "recorded",
        format!("{} to {}", time(result.first_ms), time(result.last_ms)),
    );
    if result.lost > 0 {
        row(
            "not there",
            format!("{} records that the node no longer holds", result.lost),
        );
    }
    if let Some(reason) = &result.cut_short {
        row("cut short", reason.clone());
    }
    row(
        "took",
        format!("{}, {} batches", span(result.took_ms), result.batches),
    );
    if result.baseline.is_some() {
        row("agreement", per_cent(result.agreement()));
    }
    let mut sections = vec![head.trim_fmt(), sides(result), streams(result)];
    sections.extend(examples(result));
    sections.retain(|section| !section.is_empty());
    sections.join("\n\n")
}

fn records(result: &ReplayResult) -> String {
    format!(
        "{}, sequences {} to {}",
        result.records, result.first_seq, result.last_seq
    )
}

fn sides(result: &ReplayResult) -> String {
    let mut table = output::table([
        "SIDE",
        "VERSION",
        "OUTPUTS",
        "FAILED BATCHES",
        "P50",
        "P99",
        "LONGEST",
        "FIRST FAILURE",
    ]);
    let baseline = result.baseline.iter().map(|side| ("baseline", side));
    for (name, side) in baseline.chain([("candidate", &result.candidate)]) {
        table.add_row([
            name.to_owned(),
            side.version.clone(),
            side.outputs.to_string(),
            side.failed_batches.to_string(),
            millis(side.p50_us),
            millis(side.p99_us),
            millis(side.max_us),
            or_dash(side.first_failure.clone().unwrap_or_default()),
        ]);
    }
    table.trim_fmt()
}

fn streams(result: &ReplayResult) -> String {
    if result.streams.is_empty() {
        return "no version put anything out".to_owned();
    }
    if result.baseline.is_none() {
        let mut table = output::table(["OUTPUT STREAM", "CANDIDATE"]);
        for s in &result.streams {
            table.add_row([s.stream.clone(), s.candidate.to_string()]);
        }
        return table.trim_fmt();
    }
    let mut table = output::table([
        "OUTPUT STREAM",
        "BASELINE",
        "CANDIDATE",
        "EQUAL",
        "DIFFERING",
        "MISSING",
        "EXTRA",
        "FURTHEST",
    ]);
    for s in &result.streams {
        table.add_row([
            s.stream.clone(),
            s.baseline.to_string(),
            s.candidate.to_string(),
            s.equal.to_string(),
            s.differing.to_string(),
            s.missing.to_string(),
            s.extra.to_string(),
            format!("{:.3e}", s.largest_distance),
        ]);
    }
    table.trim_fmt()
}

fn examples(result: &ReplayResult) -> Option<String> {
    if result.examples.is_empty() {
        return None;
    }
    let mut text = "First differences (- baseline, + candidate):".to_owned();
    for example in &result.examples {
        text.push_str(&format!(
            "\n{}, batch from {}",
            example.stream, example.batch
        ));
        for (sign, value) in [('-', &example.baseline), ('+', &example.candidate)] {
            if let Some(value) = value {
                text.push_str(&format!("\n  {sign} {value}"));
            }
        }
    }
    Some(text)
}

pub(super) fn per_cent(part: f64) -> String {
    // Rounded down, so that only full agreement reads 100 %.
    format!("{:.2} %", (part * 10_000.0).floor() / 100.0)
}

fn time(ms: u64) -> String {
    i64::try_from(ms)
        .ok()
        .and_then(|ms| Timestamp::from_millisecond(ms).ok())
        .map_or_else(|| ms.to_string(), |time| time.to_string())
}
