use std::path::Path;

use anyhow::Result;
use comfy_table::{Table, presets};
use serde::Serialize;

/// The figures, in the order in which they were measured.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    cores: usize,
    figures: Vec<Figure>,
}

#[derive(Debug, Serialize)]
struct Figure {
    what: String,
    unit: &'static str,
    median: f64,
    lowest: f64,
    highest: f64,
    rounds: usize,
}

impl Report {
    /// An empty report.
    pub(crate) fn new() -> Self {
        let cores = std::thread::available_parallelism().map_or(0, usize::from);
        Self {
            cores,
            figures: Vec::new(),
        }
    }

    /// Adds the rounds of a measurement; tells its median at once.
    pub(crate) fn add(&mut self, what: &str, unit: &'static str, rounds: Vec<f64>) {
        self.add_quietly(what, unit, rounds);
        match self.figures.last() {
            Some(figure) if figure.what == what => {
                eprintln!("{what}: {} {unit}", short(figure.median));
            }
            _ => eprintln!("{what}: not measured"),
        }
    }

    /// Adds the rounds of a measurement that is told elsewhere.
    pub(crate) fn add_quietly(&mut self, what: &str, unit: &'static str, mut rounds: Vec<f64>) {
        if rounds.is_empty() {
            return;
        }
        rounds.sort_by(f64::total_cmp);
        let figure = Figure {
            what: what.to_owned(),
            unit,
            median: median(&rounds),
            lowest: rounds[0],
            highest: rounds[rounds.len() - 1],
            rounds: rounds.len(),
        };
        self.figures.push(figure);
    }

    /// Prints the table, and writes the figures where they are wanted.
    pub(crate) fn print(&self, json: Option<&Path>) -> Result<()> {
        let mut table = Table::new();
        table.load_preset(presets::ASCII_MARKDOWN);
        table.set_header(["what", "median", "lowest", "highest", "rounds"]);
        for f in &self.figures {
            table.add_row([
                f.what.clone(),
                format!("{} {}", short(f.median), f.unit),
                short(f.lowest),
                short(f.highest),
                f.rounds.to_string(),
            ]);
        }
        println!("{table}");
        if let Some(path) = json {
            std::fs::write(path, serde_json::to_vec_pretty(self)?)?;
        }
        Ok(())
    }
}

/// Three digits that count.
fn short(value: f64) -> String {
    match value {
        v if v >= 100.0 => format!("{v:.0}"),
        v if v >= 10.0 => format!("{v:.1}"),
        v => format!("{v:.2}"),
    }
}

/// The median of sorted numbers.
pub(crate) fn median(sorted: &[f64]) -> f64 {
    let middle = sorted.len() / 2;
    if sorted.len().is_multiple_of(2) {
        f64::midpoint(sorted[middle - 1], sorted[middle])
    } else {
        sorted[middle]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_lies_in_the_middle() {
        assert!((median(&[1.0, 2.0, 9.0]) - 2.0).abs() < 1e-9);
        assert!((median(&[1.0, 2.0, 4.0, 9.0]) - 3.0).abs() < 1e-9);
    }
}
