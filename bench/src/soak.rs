//! The proofs of the tests in their long form: power cuts, kills, damage, failing calls.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use clap::Args;
use comfy_table::{Table, presets};
use fleet_tests::trial::{self, Cuts, Tally};
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

/// Trials of each kind in one round; every round has a seed of its own.
const CUTS: u64 = 250;
const CHAINED: u64 = 25;
const FLIPS: u64 = 100;
const KILLS: u64 = 30;
/// Commands per stream in a run that is cut.
const COMMANDS: u64 = 150;

/// How much is to be tried.
#[derive(Debug, Clone, Args)]
pub(crate) struct SoakArgs {
    /// Go on for so long, with all kinds in turn; the counts are then not looked at.
    #[arg(long, value_name = "H")]
    hours: Option<f64>,
    /// Kills of a node in ingest, processing and drain.
    #[arg(long, default_value_t = 1_000)]
    kills: u64,
    /// Power cuts; a tenth as many again in a row, on what the one before has left.
    #[arg(long, default_value_t = 5_000)]
    cuts: u64,
    /// Files with damage.
    #[arg(long, default_value_t = 2_000)]
    flips: u64,
    /// Commands per stream in a run whose power is cut.
    #[arg(long, default_value_t = COMMANDS)]
    commands: u64,
    /// Leave out the run for each call to the disk in which that call fails.
    #[arg(long)]
    no_calls: bool,
    /// Seed of the first round; the next one has the next.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

/// One kind of trials.
#[derive(Debug, Default, Serialize)]
struct Line {
    kind: &'static str,
    trials: u64,
    unopenable: u64,
    lost: u64,
    wrong: u64,
    records: u64,
    set_aside: u64,
    seconds: f64,
    failures: Vec<String>,
}

impl Line {
    fn new(kind: &'static str) -> Self {
        Self {
            kind,
            ..Self::default()
        }
    }

    fn add(&mut self, tally: Tally, took: Duration) {
        self.trials += tally.trials;
        self.unopenable += tally.unopenable;
        self.lost += tally.lost;
        self.wrong += tally.wrong;
        self.records += tally.records;
        self.set_aside += tally.new_epochs;
        self.failures.extend(tally.failures);
        self.seconds += took.as_secs_f64();
    }

    /// Tells how far this kind is, as a round takes long.
    fn tell(&self) {
        let Self {
            kind,
            trials,
            unopenable,
            lost,
            wrong,
            ..
        } = self;
        eprintln!("  {kind}: {trials}, {unopenable} unopenable, {lost} lost, {wrong} wrong");
    }

    fn is_good(&self) -> bool {
        self.unopenable + self.lost + self.wrong == 0
    }
}

/// What is still to be done.
struct Left {
    until: Option<Instant>,
    cuts: u64,
    chained: u64,
    flips: u64,
    kills: u64,
    /// Whether every call was made to fail in turn.
    calls: bool,
}

impl Left {
    fn new(args: &SoakArgs) -> Self {
        let all = args.hours.is_some();
        let count = |count: u64| if all { u64::MAX } else { count };
        Self {
            until: args
                .hours
                .map(|hours| Instant::now() + Duration::from_secs_f64(hours * 3_600.0)),
            cuts: count(args.cuts),
            chained: count(args.cuts / 10),
            flips: count(args.flips),
            kills: count(args.kills),
            calls: !args.no_calls,
        }
    }

    fn is_over(&self) -> bool {
        match self.until {
            Some(until) => Instant::now() >= until,
            None => self.cuts + self.chained + self.flips + self.kills == 0 && !self.calls,
        }
    }
}

/// Takes a round's share of what is left.
fn share(left: &mut u64, most: u64) -> u64 {
    let now = most.min(*left);
    *left -= now;
    now
}

/// Tries all kinds in turn; tells the counts and fails if one trial was not good.
pub(crate) async fn run(args: &SoakArgs, json: Option<&Path>) -> Result<()> {
    let mut left = Left::new(args);
    let mut lines = [
        Line::new("power cuts"),
        Line::new("power cuts in a row"),
        Line::new("damaged files"),
        Line::new("kills"),
        Line::new("failing calls"),
    ];
    let mut seed = args.seed;
    while !left.is_over() {
        round(&mut left, (seed, args.commands), &mut lines).await?;
        seed += 1;
        eprintln!("{}", table(&lines));
        // What is known so far outlives a soak that is stopped.
        if let Some(path) = json {
            std::fs::write(path, serde_json::to_vec_pretty(&lines)?)?;
        }
    }
    println!("{}", table(&lines));
    for failure in lines.iter().flat_map(|line| &line.failures) {
        println!("{failure}");
    }
    ensure!(lines.iter().all(Line::is_good), "some trials were not good");
    Ok(())
}

async fn round(left: &mut Left, (seed, commands): (u64, u64), lines: &mut [Line; 5]) -> Result<()> {
    let [cuts, chained, flips, kills, calls] = lines;
    let wanted = move |cuts| Cuts {
        cuts,
        seed,
        swallow: None,
        commands,
    };
    let count = share(&mut left.cuts, CUTS);
    blocking(cuts, count, seed, move |tell| {
        trial::power_cuts(wanted(count), tell)
    })
    .await?;
    let count = share(&mut left.chained, CHAINED);
    blocking(chained, count, seed, move |tell| {
        trial::chained_cuts(wanted(count), tell)
    })
    .await?;
    let count = share(&mut left.flips, FLIPS);
    blocking(flips, count, seed, move |tell| {
        trial::damage(count, seed, tell)
    })
    .await?;
    let count = share(&mut left.kills, KILLS);
    if count > 0 {
        let (bar, started) = (bar("kills", count, seed), Instant::now());
        let done = trial::kills(count, seed, |now| bar.set_position(now)).await?;
        bar.finish_and_clear();
        let mut tally = Tally {
            trials: done.kills,
            lost: u64::from(done.audit.missing > 0 || done.without_output > 0),
            records: done.audit.archived as u64,
            ..Tally::default()
        };
        if !done.is_good() {
            tally.wrong = u64::from(tally.lost == 0);
            let failure = format!("seed {seed}: {done:?}");
            eprintln!("{failure}");
            tally.failures.push(failure);
        }
        kills.add(tally, started.elapsed());
        kills.tell();
    }
    if std::mem::take(&mut left.calls) {
        blocking(calls, 1_000, seed, move |tell| {
            trial::io_errors(true, seed, tell)
        })
        .await?;
    }
    Ok(())
}

/// Runs trials on a thread of their own and shows how far they are.
async fn blocking(
    line: &mut Line,
    count: u64,
    seed: u64,
    trials: impl FnOnce(&mut dyn FnMut(u64)) -> Result<Tally> + Send + 'static,
) -> Result<()> {
    if count == 0 {
        return Ok(());
    }
    let (bar, started) = (bar(line.kind, count, seed), Instant::now());
    let shown = bar.clone();
    let tally =
        tokio::task::spawn_blocking(move || trials(&mut |now| shown.set_position(now))).await??;
    bar.finish_and_clear();
    line.add(tally, started.elapsed());
    line.tell();
    Ok(())
}

fn bar(kind: &str, count: u64, seed: u64) -> ProgressBar {
    let bar = ProgressBar::new(count);
    if let Ok(style) = ProgressStyle::with_template("  {msg} {wide_bar} {pos}/{len} {elapsed}") {
        bar.set_style(style);
    }
    bar.set_message(format!("{kind}, seed {seed}"));
    if bar.is_hidden() {
        eprintln!("  {kind}, seed {seed} ...");
    }
    bar
}

fn table(lines: &[Line]) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::ASCII_MARKDOWN);
    table.set_header([
        "trials of",
        "trials",
        "unopenable",
        "lost",
        "wrong",
        "set aside",
        "records",
        "seconds",
    ]);
    for line in lines {
        table.add_row([
            line.kind.to_owned(),
            line.trials.to_string(),
            line.unopenable.to_string(),
            line.lost.to_string(),
            line.wrong.to_string(),
            line.set_aside.to_string(),
            line.records.to_string(),
            format!("{:.0}", line.seconds),
        ]);
    }
    table
}
