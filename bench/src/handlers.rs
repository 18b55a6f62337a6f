//! Requests per second through handlers, beside `wasmtime serve` with the same
//! component and hyper without a guest as the limit. All take turns.

use std::path::{Path, PathBuf};

use anyhow::Result;
use clap::Args;
use comfy_table::{CellAlignment, Table, presets};
use fleet_tests::Checkout;
use indicatif::ProgressBar;

use crate::plot::{self, Bars};
use crate::program::Served;
use crate::report::{Report, median};
use crate::wrk::{self, Seen};

/// What of it, and for how long.
#[derive(Debug, Clone, Args)]
pub(crate) struct HandlersArgs {
    /// Seconds of each load.
    #[arg(long, default_value_t = 3)]
    pub(crate) seconds: u32,
    /// Connections of each load.
    #[arg(long, value_delimiter = ',', default_value = "1,8,32,128")]
    pub(crate) connections: Vec<u32>,
    /// Components that are measured.
    #[arg(long, value_delimiter = ',', default_value = "hello,wasi-0.3,python")]
    pub(crate) guests: Vec<String>,
    /// Also draw the rates as SVG.
    #[arg(long, value_name = "FILE")]
    pub(crate) plot: Option<PathBuf>,
}

/// A component, and what it is asked.
struct Guest {
    name: &'static str,
    module: &'static str,
    /// What is asked with GET.
    path: &'static str,
    /// What answers POST with the same body.
    echo: Option<&'static str>,
    /// Whether hyper alone answers the same.
    has_limit: bool,
}

const GUESTS: [Guest; 3] = [
    Guest {
        name: "hello",
        module: "hello",
        path: "/",
        echo: Some("/"),
        has_limit: true,
    },
    Guest {
        name: "wasi-0.3",
        module: "foreign-wasip3",
        path: "/",
        echo: Some("/echo"),
        has_limit: true,
    },
    Guest {
        name: "python",
        module: "foreign-python",
        path: "/",
        echo: None,
        has_limit: false,
    },
];

const LIMIT: &str = "hyper alone";
const ISOLATED: &str = "ours, isolated";
const REUSE: &str = "ours, reuse";
const OTHER_ISOLATED: &str = "wasmtime, isolated";
const OTHER_REUSE: &str = "wasmtime, reuse 128";

/// Ours beside theirs.
const RATIOS: [(&str, &str, &str); 3] = [
    ("isolated", ISOLATED, OTHER_ISOLATED),
    ("reuse", REUSE, OTHER_REUSE),
    ("reuse of limit", REUSE, LIMIT),
];

/// Requests of a kind.
struct Workload {
    name: &'static str,
    path: &'static str,
    /// Body that is posted and comes back; none asks with GET.
    body: Option<String>,
}

/// A server and what was seen of it under the load at hand.
struct Contender {
    name: &'static str,
    server: Served,
    seen: Vec<Seen>,
}

/// Measures every guest and workload at every number of connections.
pub(crate) async fn measure(rounds: usize, args: &HandlersArgs, report: &mut Report) -> Result<()> {
    let scripts = tempfile::tempdir()?;
    let mut bars = Bars::new("requests per second, more is better");
    let mut table = Table::new();
    table.load_preset(presets::ASCII_MARKDOWN);
    let contenders = [LIMIT, ISOLATED, OTHER_ISOLATED, REUSE, OTHER_REUSE];
    let head = ["requests/s (p99 ms)"].into_iter().chain(contenders);
    table.set_header(head.chain(RATIOS.map(|(what, ..)| what)));
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    for guest in GUESTS
        .iter()
        .filter(|guest| args.guests.iter().any(|g| g == guest.name))
    {
        let workloads = guest.workloads();
        let mut contenders = guest.contenders().await?;
        let loads = workloads.len() * args.connections.len() * rounds * contenders.len();
        let progress = ProgressBar::new(loads as u64);
        for workload in &workloads {
            let script = workload.script(scripts.path())?;
            for &connections in &args.connections {
                for _ in 0..rounds {
                    for contender in &mut contenders {
                        let url = format!("{}{}", contender.server.url, workload.path);
                        let script = script.as_deref();
                        let seen = wrk::load(&url, connections, args.seconds, script).await?;
                        contender.seen.push(seen);
                        progress.inc(1);
                    }
                }
                let what = format!("{} {}, {connections}", guest.name, workload.name);
                let medians = take_medians(&what, &mut contenders, report);
                progress.suspend(|| tell(&what, &medians, report, &mut bars, &mut table));
            }
        }
        progress.finish_and_clear();
    }
    println!("{table}\n");
    if let Some(file) = &args.plot {
        plot::write(file, &bars)?;
    }
    Ok(())
}

/// A contender's medians under one load.
struct Medians {
    name: &'static str,
    rate: f64,
    p99_ms: f64,
}

fn take_medians(what: &str, contenders: &mut [Contender], report: &mut Report) -> Vec<Medians> {
    let each = contenders.iter_mut().map(|contender| {
        let name = contender.name;
        let seen = std::mem::take(&mut contender.seen);
        let mut add = |unit, kind: &str, value: fn(&Seen) -> f64| {
            let mut values: Vec<_> = seen.iter().map(value).collect();
            values.sort_by(f64::total_cmp);
            let middle = median(&values);
            report.add_quietly(&format!("{what}: {name}{kind}"), unit, values);
            middle
        };
        let rate = add("requests/s", "", |s| s.rate);
        add("ms", ", p50", |s| s.p50_ms);
        let p99_ms = add("ms", ", p99", |s| s.p99_ms);
        Medians { name, rate, p99_ms }
    });
    each.collect()
}

fn tell(what: &str, medians: &[Medians], report: &mut Report, bars: &mut Bars, table: &mut Table) {
    let of = |name: &str| medians.iter().find(|m| m.name == name);
    let mut row = vec![what.to_owned()];
    for name in [LIMIT, ISOLATED, OTHER_ISOLATED, REUSE, OTHER_REUSE] {
        row.push(match of(name) {
            Some(m) => format!("{:.0} ({:.1})", m.rate, m.p99_ms),
            None => "-".to_owned(),
        });
    }
    for (kind, ours, theirs) in RATIOS {
        let ratio = match (of(ours), of(theirs)) {
            (Some(own), Some(other)) => {
                let ratio = own.rate / other.rate;
                report.add_quietly(&format!("{what}: {kind}"), "x", vec![ratio]);
                format!("{ratio:.2}x")
            }
            _ => "-".to_owned(),
        };
        row.push(ratio);
    }
    eprintln!("{}", row.join("  "));
    table.add_row(row);
    bars.group(what, medians.iter().map(|m| (m.name, m.rate)).collect());
}

impl Guest {
    fn workloads(&self) -> Vec<Workload> {
        let mut all = vec![Workload {
            name: "GET",
            path: self.path,
            body: None,
        }];
        if let Some(path) = self.echo {
            let json = r#"{"line":7,"celsius":21.5,"tags":["a","b"]}"#.to_owned();
            let echoes = [("JSON echo", json), ("64 KiB echo", "x".repeat(64 << 10))];
            all.extend(echoes.map(|(name, body)| Workload {
                name,
                path,
                body: Some(body),
            }));
        }
        all
    }

    async fn contenders(&self) -> Result<Vec<Contender>> {
        let file = Checkout::module(self.module)?.display().to_string();
        let contender = |name, server| Contender {
            name,
            server,
            seen: Vec::new(),
        };
        let mut all = Vec::new();
        if self.has_limit {
            all.push(contender(LIMIT, Served::native().await?));
        }
        let ours = Served::edge_runtime(&[&file], self.path).await?;
        all.push(contender(ISOLATED, ours));
        // Components of WASI 0.2 are isolated by default there, those of 0.3 are not.
        for (name, uses) in [(OTHER_ISOLATED, "1"), (OTHER_REUSE, "128")] {
            let args = ["--max-instance-reuse-count", uses, &file];
            if let Some(server) = Served::wasmtime(&args, self.path).await? {
                all.push(contender(name, server));
            }
            if name == OTHER_ISOLATED {
                let ours = Served::edge_runtime(&["--reuse", &file], self.path).await?;
                all.push(contender(REUSE, ours));
            }
        }
        Ok(all)
    }
}

impl Workload {
    /// A script for wrk that posts the body.
    fn script(&self, dir: &Path) -> Result<Option<PathBuf>> {
        let Some(body) = &self.body else {
            return Ok(None);
        };
        let file = dir.join(format!("{}.lua", self.name.replace(' ', "-")));
        let text = format!(
            "wrk.method = \"POST\"\nwrk.body = [[{body}]]\nwrk.headers[\"content-type\"] = \"application/json\"\n"
        );
        std::fs::write(&file, text)?;
        Ok(Some(file))
    }
}
