//! Says what is going on: a spinner on a terminal, plain lines without one.

use std::{
    io::IsTerminal as _,
    time::{Duration, Instant},
};

use anyhow::Result;
use indicatif::{ProgressBar, ProgressStyle};

/// Does one step, and says how it went and how long it took.
pub(crate) fn step<T>(what: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
    let started = Instant::now();
    let spinner = std::io::stderr().is_terminal().then(|| spinner(what));
    if spinner.is_none() {
        eprintln!("  {what} ...");
    }
    let result = work();
    let took = seconds(started.elapsed());
    if let Some(spinner) = spinner {
        spinner.finish_and_clear();
    }
    match &result {
        Ok(_) => eprintln!("  {what}: done in {took}"),
        Err(_) => eprintln!("  {what}: failed after {took}"),
    }
    result
}

/// Says that a step had nothing to do.
pub(crate) fn in_place(what: &str) {
    eprintln!("  {what}: in place");
}

/// Says that something cannot be had on this machine.
pub(crate) fn left_out(what: &str, why: &str) {
    eprintln!("  {what}: left out, {why}");
}

/// A heading for a chore.
pub(crate) fn heading(what: &str) {
    eprintln!("{what}");
}

/// A duration for people.
pub(crate) fn seconds(duration: Duration) -> String {
    let seconds = duration.as_secs();
    if seconds >= 60 {
        format!("{} min {:02} s", seconds / 60, seconds % 60)
    } else {
        format!("{:.1} s", duration.as_secs_f64())
    }
}

fn spinner(what: &str) -> ProgressBar {
    let style = ProgressStyle::with_template("  {spinner} {msg} ({elapsed})")
        .expect("the template is constant");
    let spinner = ProgressBar::new_spinner().with_style(style);
    spinner.set_message(what.to_owned());
    spinner.enable_steady_tick(Duration::from_millis(120));
    spinner
}
