//! Requests per second through a handler, beside `wasmtime serve` with the same
//! component and hyper without a guest as the limit. All take turns.

use std::path::{Path, PathBuf};

use anyhow::Result;
use clap::Args;
use indicatif::ProgressBar;

use crate::plot::{self, Bars};
use crate::program::{Served, hello};
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
    /// Also draw the rates as SVG.
    #[arg(long, value_name = "FILE")]
    pub(crate) plot: Option<PathBuf>,
}

/// Requests of a kind.
struct Workload {
    name: &'static str,
    /// Body that is posted and comes back; none asks for a greeting.
    echo: Option<String>,
}

/// A server and the rates that it reached.
struct Contender {
    name: &'static str,
    server: Served,
    seen: Vec<Seen>,
}

/// Measures every workload at every number of connections.
pub(crate) async fn measure(rounds: usize, args: &HandlersArgs, report: &mut Report) -> Result<()> {
    let workloads = [
        Workload {
            name: "hello",
            echo: None,
        },
        Workload {
            name: "JSON echo",
            echo: Some(r#"{"line":7,"celsius":21.5,"tags":["a","b"]}"#.to_owned()),
        },
        Workload {
            name: "64 KiB echo",
            echo: Some("x".repeat(64 << 10)),
        },
    ];
    let scripts = tempfile::tempdir()?;
    let mut contenders = contenders().await?;
    let loads = workloads.len() * args.connections.len() * rounds * contenders.len();
    let progress = ProgressBar::new(loads as u64);
    let mut bars = Bars::new("requests per second, more is better");
    for workload in &workloads {
        let script = workload.script(scripts.path())?;
        for &connections in &args.connections {
            for _ in 0..rounds {
                for contender in &mut contenders {
                    let url = format!("{}/", contender.server.url);
                    let seen =
                        wrk::load(&url, connections, args.seconds, script.as_deref()).await?;
                    contender.seen.push(seen);
                    progress.inc(1);
                }
            }
            let what = format!("{}, {connections} connections", workload.name);
            progress.suspend(|| tell(&what, &mut contenders, report, &mut bars));
        }
    }
    progress.finish_and_clear();
    if let Some(file) = &args.plot {
        plot::write(file, &bars)?;
    }
    Ok(())
}

async fn contenders() -> Result<Vec<Contender>> {
    let hello = hello()?;
    let contender = |name, server| Contender {
        name,
        server,
        seen: Vec::new(),
    };
    let mut all = vec![
        contender("hyper alone", Served::native().await?),
        contender(
            "edge-runtime, isolated",
            Served::edge_runtime(&[&hello], "/").await?,
        ),
        contender(
            "edge-runtime, reuse",
            Served::edge_runtime(&["--reuse", &hello], "/").await?,
        ),
    ];
    if let Some(server) = Served::wasmtime(&[&hello], "/").await? {
        all.push(contender("wasmtime serve, isolated", server));
    }
    let reuse = ["--max-instance-reuse-count", "128", &hello];
    if let Some(server) = Served::wasmtime(&reuse, "/").await? {
        all.push(contender("wasmtime serve, reuse 128", server));
    }
    Ok(all)
}

fn tell(what: &str, contenders: &mut [Contender], report: &mut Report, bars: &mut Bars) {
    let mut group = Vec::new();
    for contender in contenders {
        let seen = std::mem::take(&mut contender.seen);
        let of = |value: fn(&Seen) -> f64| seen.iter().map(value).collect::<Vec<_>>();
        let what = format!("{what}: {}", contender.name);
        let mut rates = of(|s| s.rate);
        rates.sort_by(f64::total_cmp);
        group.push((contender.name, median(&rates)));
        report.add(&what, "requests/s", rates);
        report.add(&format!("{what}, p50"), "ms", of(|s| s.p50_ms));
        report.add(&format!("{what}, p99"), "ms", of(|s| s.p99_ms));
    }
    let rate = |name: &str| {
        group
            .iter()
            .find(|(own, _)| *own == name)
            .map(|(_, rate)| *rate)
    };
    for (ours, theirs) in [
        ("edge-runtime, isolated", "wasmtime serve, isolated"),
        ("edge-runtime, reuse", "wasmtime serve, reuse 128"),
        ("edge-runtime, isolated", "hyper alone"),
        ("edge-runtime, reuse", "hyper alone"),
    ] {
        if let (Some(own), Some(other)) = (rate(ours), rate(theirs)) {
            report.add(
                &format!("{what}: {ours} to {theirs}"),
                "x",
                vec![own / other],
            );
        }
    }
    bars.group(what, group);
}

impl Workload {
    /// A script for wrk that posts the body.
    fn script(&self, dir: &Path) -> Result<Option<PathBuf>> {
        let Some(body) = &self.echo else {
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
