//! Inference over HTTP beside other servers with the same models: the naive one
//! as the limit, Triton, MLServer and KServe. All take turns. Then what a server
//! has to do besides: end what nobody waits for, exchange models, serve handlers.

use std::path::PathBuf;

use anyhow::{Context as _, Result, ensure};
use clap::{Args, ValueEnum};
use comfy_table::{CellAlignment, Table, presets};
use indicatif::ProgressBar;

use crate::plot::{self, Bars};
use crate::program::Served;
use crate::quiet;
use crate::report::{Report, median};
use crate::wrk::{self, Seen};

mod batching;
mod cancel;
mod handler;
mod node;
pub(crate) mod overhead;
mod overload;
mod parsing;
mod peers;
mod size;
mod swap;
mod workload;

use node::Node;
use peers::Peer;
use workload::{Body, Form, MODELS, Model};

/// What of it, and for how long.
#[derive(Debug, Clone, Args)]
pub(crate) struct InferenceArgs {
    /// Seconds of each load.
    #[arg(long, default_value_t = 2)]
    seconds: u32,
    /// Connections of each load.
    #[arg(long, value_delimiter = ',', default_value = "1,4,16")]
    connections: Vec<u32>,
    /// Parts that are measured.
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = Part::ALL)]
    parts: Vec<Part>,
    /// A round of a second each, at 1 and 4 connections.
    #[arg(long)]
    quick: bool,
    /// Install Triton, MLServer and KServe first where they are not there.
    #[arg(long)]
    with_peers: bool,
    /// Also draw the rates as SVG.
    #[arg(long, value_name = "FILE")]
    plot: Option<PathBuf>,
}

/// A part of the benchmark.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    /// Requests per second beside the other servers.
    Contest,
    /// Requests that are put together.
    Batching,
    /// What HTTP costs.
    Overhead,
    /// How quickly JSON is read.
    Parsing,
    /// Runs that nobody waits for.
    Cancel,
    /// More clients than can be served.
    Overload,
    /// Versions that are exchanged.
    Swap,
    /// Runs from a handler.
    Handler,
    /// Memory and disk.
    Size,
}

impl Part {
    const ALL: [Part; 9] = [
        Part::Contest,
        Part::Batching,
        Part::Overhead,
        Part::Parsing,
        Part::Cancel,
        Part::Overload,
        Part::Swap,
        Part::Handler,
        Part::Size,
    ];
}

const OURS: &str = "ours";

/// A server and what was seen of it under the load at hand.
struct Contender {
    name: &'static str,
    url: String,
    takes_binary: bool,
    seen: Vec<Seen>,
    _server: Option<Served>,
}

/// Measures the parts that are asked for.
pub(crate) async fn measure(
    rounds: usize,
    args: &InferenceArgs,
    report: &mut Report,
) -> Result<()> {
    if args.with_peers {
        peers::install().await?;
    }
    let (rounds, seconds) = if args.quick {
        (1, 1)
    } else {
        (rounds, args.seconds)
    };
    let has = |part| args.parts.contains(&part);
    if has(Part::Contest) || has(Part::Batching) {
        let node = Node::with_all_models().await?;
        if has(Part::Contest) {
            contest(rounds, seconds, args, &node, report).await?;
        }
        if has(Part::Batching) {
            batching::measure(rounds, seconds, &node, report).await?;
        }
        node.finish().await?;
    }
    if has(Part::Overhead) {
        overhead::measure(rounds, report).await?;
    }
    if has(Part::Parsing) {
        parsing::measure(rounds, report).await?;
    }
    if has(Part::Cancel) {
        cancel::measure(report).await?;
    }
    if has(Part::Overload) {
        overload::measure(report).await?;
    }
    if has(Part::Swap) {
        swap::measure(report).await?;
    }
    if has(Part::Handler) {
        handler::measure(rounds, report).await?;
    }
    if has(Part::Size) {
        size::measure(report).await?;
    }
    Ok(())
}

/// Every model in both forms at every number of connections, all servers in turns.
async fn contest(
    rounds: usize,
    seconds: u32,
    args: &InferenceArgs,
    node: &Node,
    report: &mut Report,
) -> Result<()> {
    let connections = match args.quick {
        true => &[1, 4][..],
        false => &args.connections,
    };
    let mut contenders = contenders(node).await?;
    let mut bars = Bars::new("inferences per second, more is better");
    let mut table = Table::new();
    table.load_preset(presets::ASCII_MARKDOWN);
    let names = contenders.iter().map(|contender| contender.name.to_owned());
    let ratios = others(&contenders).map(|name| format!("to {name}"));
    let head = ["requests/s (p50, p99 ms)".to_owned()].into_iter();
    table.set_header(head.chain(names).chain(ratios));
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    let scripts = tempfile::tempdir()?;
    let loads = MODELS.len() * Form::ALL.len() * connections.len() * rounds * contenders.len();
    let progress = ProgressBar::new(loads as u64);
    for model in &MODELS {
        for form in Form::ALL {
            let body = Body::new(model.shape, form);
            let name = format!("{}-{}", model.name, form.name());
            let script = body.script(scripts.path(), &name)?;
            all_answer_the_same(&contenders, model, form, &body).await?;
            for &connections in connections {
                for _ in 0..rounds {
                    for contender in &mut contenders {
                        progress.inc(1);
                        if !contender.takes(form) {
                            continue;
                        }
                        let url = contender.infer(model);
                        let script = Some(script.as_path());
                        let seconds = seconds * model.patience;
                        quiet::machine().await;
                        let seen = wrk::try_load(&url, connections, seconds, script).await?;
                        contender.seen.push(seen);
                    }
                }
                let what = format!("{} {}, {connections}", model.title, form.name());
                let row = row(&what, &mut contenders, report, &mut bars)?;
                progress.suspend(|| eprintln!("{}", row.join("  ")));
                table.add_row(row);
            }
        }
    }
    progress.finish_and_clear();
    println!("{table}\n");
    if let Some(file) = &args.plot {
        plot::write(file, &bars)?;
    }
    Ok(())
}

async fn contenders(node: &Node) -> Result<Vec<Contender>> {
    let mut all = vec![Contender {
        name: OURS,
        url: node.url(),
        takes_binary: true,
        seen: Vec::new(),
        _server: None,
    }];
    for peer in Peer::ALL {
        if let Some(server) = peer.start(&MODELS).await? {
            all.push(Contender {
                name: peer.name(),
                url: server.url.clone(),
                takes_binary: peer.takes_binary(),
                seen: Vec::new(),
                _server: Some(server),
            });
        }
    }
    Ok(all)
}

impl Contender {
    fn takes(&self, form: Form) -> bool {
        self.takes_binary || form == Form::Json
    }

    fn infer(&self, model: &Model) -> String {
        format!("{}/v2/models/{}/infer", self.url, model.name)
    }
}

/// The servers beside ours.
fn others(contenders: &[Contender]) -> impl Iterator<Item = &'static str> {
    contenders.iter().skip(1).map(|contender| contender.name)
}

async fn all_answer_the_same(
    contenders: &[Contender],
    model: &Model,
    form: Form,
    body: &Body,
) -> Result<()> {
    let (ours, others) = contenders.split_first().context("ours is the first")?;
    let expected = body.ask(&ours.infer(model)).await?;
    for other in others.iter().filter(|other| other.takes(form)) {
        let answer = body.ask(&other.infer(model)).await?;
        workload::ensure_equal(&expected, &answer)
            .with_context(|| format!("{} {} {}", other.name, model.title, form.name()))?;
    }
    Ok(())
}

/// Takes what was seen under one load into the report, and makes a line of it.
fn row(
    what: &str,
    contenders: &mut [Contender],
    report: &mut Report,
    bars: &mut Bars,
) -> Result<Vec<String>> {
    let mut row = vec![what.to_owned()];
    let mut rates = Vec::new();
    for contender in contenders {
        let name = contender.name;
        let seen = std::mem::take(&mut contender.seen);
        let errors: u64 = seen.iter().map(|s| s.errors).sum();
        ensure!(errors == 0, "{what}: {name} failed {errors} times");
        if seen.is_empty() {
            row.push("-".to_owned());
            rates.push((name, None));
            continue;
        }
        let mut add = |unit, kind: &str, value: fn(&Seen) -> f64| {
            let mut values: Vec<_> = seen.iter().map(value).collect();
            values.sort_by(f64::total_cmp);
            let middle = median(&values);
            report.add_quietly(&format!("{what}: {name}{kind}"), unit, values);
            middle
        };
        let rate = add("requests/s", "", |s| s.rate);
        let p50 = add("ms", ", p50", |s| s.p50_ms);
        let p99 = add("ms", ", p99", |s| s.p99_ms);
        row.push(format!("{rate:.0} ({p50:.3}, {p99:.1})"));
        rates.push((name, Some(rate)));
    }
    let ours = rates[0].1;
    for (name, rate) in &rates[1..] {
        row.push(match (ours, rate) {
            (Some(ours), Some(theirs)) if *theirs > 0.0 => {
                let ratio = ours / theirs;
                report.add_quietly(&format!("{what}: to {name}"), "x", vec![ratio]);
                format!("{ratio:.2}x")
            }
            _ => "-".to_owned(),
        });
    }
    let known = rates.iter().filter_map(|&(name, rate)| Some((name, rate?)));
    bars.group(what, known.collect());
    Ok(row)
}
