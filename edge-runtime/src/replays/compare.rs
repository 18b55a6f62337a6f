//! How the outputs of two versions differ. Pure.

use std::collections::BTreeMap;

use fleet_api::frame::Encoding;
use fleet_api::replay::{EXAMPLE_BYTES, Example, StreamDifference};

use crate::handlers::ProcessOutput;

/// Pairs of outputs that one batch may compare; beyond, outputs are paired in order.
const MOST_PAIRS: usize = 1 << 20;

/// The differences that were seen so far.
#[derive(Debug)]
pub(super) struct Comparison {
    tolerance: f64,
    most_examples: usize,
    pub(super) streams: BTreeMap<String, StreamDifference>,
    pub(super) examples: Vec<Example>,
}

/// An output as it is compared.
enum Value {
    Json(serde_json::Value),
    Raw(Vec<u8>),
}

/// What became of an output, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Equal(usize, usize),
    Missing(usize),
    Extra(usize),
}

impl Comparison {
    pub(super) fn new(tolerance: f64, most_examples: usize) -> Self {
        Self {
            tolerance,
            most_examples,
            streams: BTreeMap::new(),
            examples: Vec::new(),
        }
    }

    /// Takes in what both sides made of the batch that begins at `batch`.
    pub(super) fn add(
        &mut self,
        batch: u64,
        baseline: &[ProcessOutput],
        candidate: &[ProcessOutput],
    ) {
        let mut by_stream: BTreeMap<&str, [Vec<&ProcessOutput>; 2]> = BTreeMap::new();
        for (side, outputs) in [baseline, candidate].into_iter().enumerate() {
            for output in outputs {
                by_stream.entry(&output.stream).or_default()[side].push(output);
            }
        }
        for (stream, [old, new]) in by_stream {
            self.stream(batch, stream, &old, &new);
        }
    }

    fn stream(&mut self, batch: u64, stream: &str, old: &[&ProcessOutput], new: &[&ProcessOutput]) {
        let values = |outputs: &[&ProcessOutput]| -> Vec<Value> {
            outputs.iter().map(|output| Value::of(output)).collect()
        };
        let (before, after) = (values(old), values(new));
        let steps = align(before.len(), after.len(), |i, j| {
            distance(&before[i], &after[j], self.tolerance).is_some()
        });
        let entry = self.streams.entry(stream.to_owned()).or_insert_with(|| {
            let stream = stream.to_owned();
            StreamDifference {
                stream,
                ..StreamDifference::default()
            }
        });
        entry.baseline += old.len() as u64;
        entry.candidate += new.len() as u64;
        let mut at = 0;
        while at < steps.len() {
            if let Step::Equal(i, j) = steps[at] {
                let far = distance(&before[i], &after[j], self.tolerance).unwrap_or(0.0);
                entry.equal += 1;
                entry.largest_distance = entry.largest_distance.max(far);
                at += 1;
                continue;
            }
            // What both have between two equal outputs stands in each other's place.
            let end = steps[at..]
                .iter()
                .position(|step| matches!(step, Step::Equal(..)))
                .map_or(steps.len(), |equal| at + equal);
            let hunk = &steps[at..end];
            let missing: Vec<_> = hunk
                .iter()
                .filter_map(|s| {
                    if let Step::Missing(i) = s {
                        Some(*i)
                    } else {
                        None
                    }
                })
                .collect();
            let extra: Vec<_> = hunk
                .iter()
                .filter_map(|s| {
                    if let Step::Extra(j) = s {
                        Some(*j)
                    } else {
                        None
                    }
                })
                .collect();
            let both = missing.len().min(extra.len());
            entry.differing += both as u64;
            entry.missing += (missing.len() - both) as u64;
            entry.extra += (extra.len() - both) as u64;
            for place in 0..missing.len().max(extra.len()) {
                let (i, j) = (missing.get(place), extra.get(place));
                if let (Some(i), Some(j)) = (i, j) {
                    let far = numbers_apart(&before[*i], &after[*j]);
                    entry.largest_distance = entry.largest_distance.max(far);
                }
                if self.examples.len() < self.most_examples {
                    self.examples.push(Example {
                        stream: stream.to_owned(),
                        batch,
                        baseline: i.map(|i| text(old[*i])),
                        candidate: j.map(|j| text(new[*j])),
                    });
                }
            }
            at = end;
        }
    }
}

/// A longest common subsequence under `equal`, as steps through both lists.
fn align(old: usize, new: usize, equal: impl Fn(usize, usize) -> bool) -> Vec<Step> {
    let mut head = 0;
    while head < old.min(new) && equal(head, head) {
        head += 1;
    }
    let mut tail = 0;
    while tail < old.min(new) - head && equal(old - 1 - tail, new - 1 - tail) {
        tail += 1;
    }
    let mut steps: Vec<_> = (0..head).map(|i| Step::Equal(i, i)).collect();
    let (rows, columns) = (old - head - tail, new - head - tail);
    if rows * columns > MOST_PAIRS {
        for at in head..head + rows.max(columns) {
            let (has_old, has_new) = (at < head + rows, at < head + columns);
            if has_old && has_new && equal(at, at) {
                steps.push(Step::Equal(at, at));
                continue;
            }
            steps.extend(has_old.then_some(Step::Missing(at)));
            steps.extend(has_new.then_some(Step::Extra(at)));
        }
    } else {
        // longest[i][j]: of the lists from i and j on.
        let width = columns + 1;
        let mut longest = vec![0_u32; (rows + 1) * width];
        let mut same = vec![false; rows * columns];
        for i in (0..rows).rev() {
            for j in (0..columns).rev() {
                same[i * columns + j] = equal(head + i, head + j);
                longest[i * width + j] = if same[i * columns + j] {
                    longest[(i + 1) * width + j + 1] + 1
                } else {
                    longest[(i + 1) * width + j].max(longest[i * width + j + 1])
                };
            }
        }
        let (mut i, mut j) = (0, 0);
        while i < rows || j < columns {
            if i < rows && j < columns && same[i * columns + j] {
                steps.push(Step::Equal(head + i, head + j));
                (i, j) = (i + 1, j + 1);
            } else if j == columns
                || (i < rows && longest[(i + 1) * width + j] >= longest[i * width + j + 1])
            {
                steps.push(Step::Missing(head + i));
                i += 1;
            } else {
                steps.push(Step::Extra(head + j));
                j += 1;
            }
        }
    }
    steps.extend((0..tail).map(|k| Step::Equal(old - tail + k, new - tail + k)));
    steps
}

impl Value {
    fn of(output: &ProcessOutput) -> Self {
        let json = match output.encoding {
            Encoding::Json => serde_json::from_slice(&output.value).ok(),
            Encoding::Cbor => ciborium::from_reader(&output.value[..]).ok(),
            Encoding::Bytes => None,
        };
        json.map_or_else(|| Self::Raw(output.value.to_vec()), Self::Json)
    }
}

/// The largest distance of their numbers if the values are equal within the tolerance.
fn distance(a: &Value, b: &Value, tolerance: f64) -> Option<f64> {
    match (a, b) {
        (Value::Raw(a), Value::Raw(b)) => (a == b).then_some(0.0),
        (Value::Json(a), Value::Json(b)) => json_distance(a, b, tolerance),
        _ => None,
    }
}

fn json_distance(a: &serde_json::Value, b: &serde_json::Value, tolerance: f64) -> Option<f64> {
    use serde_json::Value::{Array, Number, Object};
    match (a, b) {
        (Number(x), Number(y)) => {
            if x == y {
                return Some(0.0);
            }
            let (x, y) = (x.as_f64()?, y.as_f64()?);
            let apart = (x - y).abs();
            (apart <= tolerance * x.abs().max(y.abs()).max(1.0)).then_some(apart)
        }
        (Array(a), Array(b)) if a.len() == b.len() => {
            a.iter().zip(b).try_fold(0.0, |far, (a, b)| {
                Some(json_distance(a, b, tolerance)?.max(far))
            })
        }
        (Object(a), Object(b)) if a.len() == b.len() => a.iter().try_fold(0.0, |far, (key, a)| {
            Some(json_distance(a, b.get(key)?, tolerance)?.max(far))
        }),
        (a, b) => (a == b).then_some(0.0),
    }
}

/// The largest distance of numbers that stand in the same place of two values that differ.
fn numbers_apart(a: &Value, b: &Value) -> f64 {
    fn of(a: &serde_json::Value, b: &serde_json::Value) -> f64 {
        use serde_json::Value::{Array, Number, Object};
        match (a, b) {
            (Number(x), Number(y)) => match (x.as_f64(), y.as_f64()) {
                (Some(x), Some(y)) => (x - y).abs(),
                _ => 0.0,
            },
            (Array(a), Array(b)) => a.iter().zip(b).map(|(a, b)| of(a, b)).fold(0.0, f64::max),
            (Object(a), Object(b)) => a
                .iter()
                .filter_map(|(key, a)| Some(of(a, b.get(key)?)))
                .fold(0.0, f64::max),
            _ => 0.0,
        }
    }
    match (a, b) {
        (Value::Json(a), Value::Json(b)) => of(a, b),
        _ => 0.0,
    }
}

/// An output for people, cut where it is long.
fn text(output: &ProcessOutput) -> String {
    let mut text = match Value::of(output) {
        Value::Json(value) if output.encoding == Encoding::Cbor => value.to_string(),
        Value::Json(_) => String::from_utf8_lossy(&output.value).into_owned(),
        Value::Raw(bytes) => format!("{} bytes: {}", bytes.len(), hex(&bytes)),
    };
    if text.len() > EXAMPLE_BYTES {
        let end = (0..=EXAMPLE_BYTES)
            .rev()
            .find(|at| text.is_char_boundary(*at));
        text.truncate(end.unwrap_or(0));
        text.push('…');
    }
    text
}

fn hex(bytes: &[u8]) -> String {
    let shown = bytes.iter().take(EXAMPLE_BYTES / 2);
    shown.map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outputs(texts: &[&str]) -> Vec<ProcessOutput> {
        let output = |text: &&str| ProcessOutput {
            stream: "alerts".to_owned(),
            encoding: Encoding::Json,
            value: text.as_bytes().to_vec().into(),
        };
        texts.iter().map(output).collect()
    }

    fn compare(old: &[&str], new: &[&str]) -> (StreamDifference, Vec<Example>) {
        let mut comparison = Comparison::new(1e-3, 10);
        comparison.add(7, &outputs(old), &outputs(new));
        let stream = comparison.streams.into_values().next().unwrap();
        (stream, comparison.examples)
    }

    fn counts(old: &[&str], new: &[&str]) -> [u64; 4] {
        let (s, _) = compare(old, new);
        [s.equal, s.differing, s.missing, s.extra]
    }

    #[test]
    fn an_output_that_is_gone_does_not_make_the_others_differ() {
        let all = ["1", "2", "3", "4", "5"];
        assert_eq!(counts(&all, &all), [5, 0, 0, 0]);
        assert_eq!(counts(&all, &["1", "3", "5"]), [3, 0, 2, 0]);
        assert_eq!(counts(&["1", "3", "5"], &all), [3, 0, 0, 2]);
        assert_eq!(counts(&all, &["1", "20", "3", "4", "5"]), [4, 1, 0, 0]);
        assert_eq!(counts(&all, &["1", "20", "21", "3", "5"]), [3, 1, 1, 1]);
        assert_eq!(counts(&all, &[]), [0, 0, 5, 0]);
    }

    #[test]
    fn numbers_are_equal_within_the_tolerance_wherever_they_stand() {
        let (stream, examples) = compare(
            &[r#"{"a":[1.0,{"b":2000.0}],"c":"x"}"#],
            &[r#"{"c":"x","a":[1.0005,{"b":2001.0}]}"#],
        );
        assert_eq!((stream.equal, examples.len()), (1, 0));
        assert!((stream.largest_distance - 1.0).abs() < 1e-9);
        let (stream, examples) = compare(&[r#"{"a":1.0}"#], &[r#"{"a":1.01}"#]);
        assert_eq!((stream.differing, examples[0].batch), (1, 7));
        assert!((stream.largest_distance - 0.01).abs() < 1e-9);
        assert_eq!(counts(&[r#"{"a":1}"#], &[r#"{"a":"1"}"#]), [0, 1, 0, 0]);
    }

    #[test]
    fn examples_are_bounded() {
        let long = format!("\"{}\"", "é".repeat(5_000));
        let (_, examples) = compare(&vec![&*long; 100], &[]);
        assert_eq!(examples.len(), 10);
        let text = examples[0].baseline.as_ref().unwrap();
        assert!(text.len() <= EXAMPLE_BYTES + 3 && text.ends_with('…'));
    }

    #[test]
    fn very_long_lists_are_compared_in_order() {
        let old: Vec<_> = (0..1_500).map(|n| n.to_string()).collect();
        let mut new = old.clone();
        new.swap(0, 1_499);
        let refs = |all: &[String]| outputs(&all.iter().map(String::as_str).collect::<Vec<_>>());
        let mut comparison = Comparison::new(0.0, 0);
        comparison.add(1, &refs(&old), &refs(&new));
        let stream = &comparison.streams["alerts"];
        assert_eq!((stream.equal, stream.differing), (1_498, 2));
    }
}
