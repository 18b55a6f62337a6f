//! A bar chart as SVG.

use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Context as _, Result};

/// Groups of bars with a common scale within each group.
#[derive(Debug)]
pub(crate) struct Bars {
    title: String,
    groups: Vec<(String, Vec<(&'static str, f64)>)>,
}

impl Bars {
    /// A chart without bars.
    pub(crate) fn new(title: &str) -> Self {
        Self {
            title: title.to_owned(),
            groups: Vec::new(),
        }
    }

    /// Adds a group of named bars.
    pub(crate) fn group(&mut self, name: &str, bars: Vec<(&'static str, f64)>) {
        self.groups.push((name.to_owned(), bars));
    }
}

const WIDTH: f64 = 960.0;
const LABELS: f64 = 230.0;
const VALUES: f64 = 90.0;
const BAR: f64 = 18.0;
/// One for each label, in the order in which the labels first appear.
const COLOURS: [&str; 5] = ["#9aa5b1", "#0b6e99", "#c2703d", "#3ba7d4", "#e3a778"];

/// Writes the chart to `file`.
pub(crate) fn write(file: &Path, bars: &Bars) -> Result<()> {
    std::fs::write(file, svg(bars)).with_context(|| format!("write {}", file.display()))
}

fn svg(chart: &Bars) -> String {
    let rows: usize = chart.groups.iter().map(|(_, bars)| bars.len() + 2).sum();
    let height = 60.0 + rows as f64 * BAR;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" \
         font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"{WIDTH}\" height=\"{height}\" fill=\"white\"/>\n\
         <text x=\"16\" y=\"28\" font-size=\"16\" font-weight=\"bold\">{}</text>\n",
        chart.title
    );
    let mut labels = Vec::new();
    let mut y = 56.0;
    for (name, bars) in &chart.groups {
        let _ = writeln!(
            svg,
            "<text x=\"16\" y=\"{y}\" font-weight=\"bold\">{name}</text>"
        );
        y += 6.0;
        let most = bars
            .iter()
            .map(|(_, value)| *value)
            .fold(f64::MIN_POSITIVE, f64::max);
        for (label, value) in bars {
            let length = value / most * (WIDTH - LABELS - VALUES);
            if !labels.contains(label) {
                labels.push(*label);
            }
            let place = labels.iter().position(|known| known == label);
            let colour = COLOURS[place.unwrap_or_default() % COLOURS.len()];
            let _ = writeln!(
                svg,
                "<text x=\"{x}\" y=\"{text}\" text-anchor=\"end\">{label}</text>\
                 <rect x=\"{LABELS}\" y=\"{y}\" width=\"{length:.1}\" height=\"{bar}\" fill=\"{colour}\"/>\
                 <text x=\"{end:.1}\" y=\"{text}\">{value:.0}</text>",
                x = LABELS - 8.0,
                text = y + BAR - 6.0,
                bar = BAR - 4.0,
                end = LABELS + length + 6.0,
            );
            y += BAR;
        }
        y += 2.0 * BAR - 6.0;
    }
    svg.push_str("</svg>\n");
    svg
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_bar_takes_the_width() {
        let mut bars = Bars::new("t");
        bars.group("g", vec![("a", 50.0), ("b", 200.0)]);
        let svg = svg(&bars);
        assert!(
            svg.contains("width=\"640.0\"") && svg.contains("width=\"160.0\""),
            "{svg}"
        );
    }
}
