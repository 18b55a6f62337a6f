use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use comfy_table::{Table, presets};
use indicatif::{ProgressBar, ProgressStyle};

/// Tells the story: a line per step with its figure.
#[derive(Debug)]
pub(crate) struct Report {
    check: bool,
    steps: u32,
    begun: Instant,
}

impl Report {
    /// A report for a terminal, or for a log if `check`.
    pub(crate) fn new(check: bool) -> Self {
        Self {
            check,
            steps: 0,
            begun: Instant::now(),
        }
    }

    /// Runs a step and tells its figure; a miss ends the story.
    pub(crate) async fn step(
        &mut self,
        title: &str,
        work: impl Future<Output = Result<String>>,
    ) -> Result<()> {
        self.steps += 1;
        let (number, start) = (self.steps, Instant::now());
        let spinner = self.spinner(format!("{number:>2}. {title}"));
        let outcome = work.await;
        spinner.finish_and_clear();
        let took = start.elapsed().as_secs_f64();
        match outcome {
            Ok(figure) => {
                println!("{number:>2}. {title}: {figure} ({took:.1} s)");
                Ok(())
            }
            Err(error) => {
                println!("{number:>2}. {title}: MISSED after {took:.1} s");
                Err(error).with_context(|| format!("step {number}, {title}"))
            }
        }
    }

    /// Shows a table.
    pub(crate) fn table<const N: usize>(&self, header: [&str; N], rows: Vec<[String; N]>) {
        let mut table = Table::new();
        table.load_preset(if self.check {
            presets::NOTHING
        } else {
            presets::UTF8_BORDERS_ONLY
        });
        table.set_header(header).add_rows(rows);
        println!("{}", table.trim_fmt());
    }

    /// Tells the end.
    pub(crate) fn end(&self) {
        println!(
            "all {} steps as promised, in {:.0} s",
            self.steps,
            self.begun.elapsed().as_secs_f64()
        );
    }

    fn spinner(&self, message: String) -> ProgressBar {
        if self.check {
            return ProgressBar::hidden();
        }
        let style = ProgressStyle::with_template("{spinner} {msg} {elapsed}")
            .expect("the template is valid");
        let spinner = ProgressBar::new_spinner()
            .with_style(style)
            .with_message(message);
        spinner.enable_steady_tick(Duration::from_millis(100));
        spinner
    }
}
