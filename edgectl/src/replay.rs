mod page;

use std::io::IsTerminal as _;
use std::time::Duration;

use anyhow::{Result, bail};
use clap::Args;
use fleet_api::artifact::Reference;
use fleet_api::ids::{NodeId, StreamName};
use fleet_api::replay::{ReplayOptions, ReplayRange, ReplayRequest, ReplayState, ReplayStatus};
use indicatif::{ProgressBar, ProgressStyle};
use jiff::{Span as Since, Timestamp};
use reqwest::Method;

use self::page::{page, per_cent};
use crate::client::{self, Client};
use crate::output::{self, Format, ago, or_dash};

/// How often the control plane is asked for progress.
const ASK_EVERY: Duration = Duration::from_millis(500);

#[derive(Debug, Args)]
pub(crate) struct ReplayArgs {
    /// The node whose records are run.
    pub(crate) node: NodeId,
    /// The stream whose records are run.
    #[arg(long, value_name = "NAME", required_unless_present_any = ["list", "id", "cancel"])]
    stream: Option<StreamName>,
    /// First sequence.
    #[arg(long, value_name = "SEQ")]
    from: Option<u64>,
    /// Last sequence.
    #[arg(long, value_name = "SEQ")]
    to: Option<u64>,
    /// Earliest time: 2026-11-25T14:00:00Z, or how long ago, as in 24h.
    #[arg(long, value_name = "TIME", value_parser = moment)]
    since: Option<u64>,
    /// Latest time, in the same form.
    #[arg(long, value_name = "TIME", value_parser = moment)]
    until: Option<u64>,
    /// The processor to try; it has to be pushed, not deployed.
    #[arg(long, value_name = "NAME:VERSION")]
    handler: Option<Reference>,
    /// A model version to try under the processor; may be given several times.
    #[arg(long = "model", value_name = "NAME:VERSION")]
    models: Vec<Reference>,
    /// A value of the processor's configuration to try; may be given several times.
    #[arg(long = "config", value_name = "KEY=VALUE", value_parser = pair)]
    config: Vec<(String, String)>,
    /// Compare with this version instead of the one in production.
    #[arg(long, value_name = "NAME:VERSION")]
    against: Option<Reference>,
    /// Numbers no further apart than this, or this part of the larger one, are equal.
    #[arg(long, value_name = "NUMBER", default_value_t = 1e-6)]
    tolerance: f64,
    /// Differences to show.
    #[arg(long = "show", visible_alias = "examples", value_name = "N", default_value_t = 5,
        value_parser = clap::value_parser!(u32).range(0..=20))]
    examples: u32,
    /// Begin with a copy of what the processor keeps in production, not with nothing.
    #[arg(long)]
    copy_state: bool,
    /// Records at most.
    #[arg(long, value_name = "N", default_value_t = 1_000_000)]
    max_records: u64,
    /// Seconds at most.
    #[arg(long, value_name = "N", default_value_t = 600)]
    max_seconds: u32,
    /// Fail if a smaller part of the outputs agrees, as in 0.99.
    #[arg(long, value_name = "PART")]
    min_agreement: Option<f64>,
    /// Print the replay's id and do not wait for it.
    #[arg(long)]
    no_wait: bool,
    /// List the node's replays.
    #[arg(long, conflicts_with_all = ["id", "cancel", "stream"])]
    list: bool,
    /// Show a replay that was begun before.
    #[arg(long, value_name = "ID", conflicts_with_all = ["cancel", "stream"])]
    id: Option<String>,
    /// Take a replay back.
    #[arg(long, value_name = "ID", conflicts_with = "stream")]
    cancel: Option<String>,
}

/// Has a node run recorded records through another version, and shows the difference.
pub(crate) async fn run(client: &Client, args: ReplayArgs, format: Format) -> Result<()> {
    let path = format!("/api/v1/nodes/{}/replays", args.node);
    if args.list {
        return list(client, &path, format).await;
    }
    if let Some(id) = &args.cancel {
        let request = client.request(Method::DELETE, &format!("{path}/{id}"));
        let status: ReplayStatus = client::json(client.send(request).await?).await?;
        if format == Format::Json {
            return output::print_json(&status);
        }
        return output::emit(&format!("replay {id} is {}\n", status.report.state));
    }
    let status = match (&args.id, request(&args)) {
        (Some(id), _) => client.get(&format!("{path}/{id}")).await?,
        (None, Some(request)) => {
            let status: ReplayStatus = client.post(&path, &request).await?;
            if args.no_wait {
                if format == Format::Json {
                    return output::print_json(&status);
                }
                return output::emit(&format!("{}\n", status.report.id));
            }
            wait(client, &path, status).await?
        }
        (None, None) => bail!("say which stream with --stream NAME"),
    };
    if format == Format::Json {
        output::print_json(&status)?;
    } else {
        output::emit(&format!("{}\n", page(&status)))?;
    }
    judge(&status, args.min_agreement)
}

fn request(args: &ReplayArgs) -> Option<ReplayRequest> {
    Some(ReplayRequest {
        stream: args.stream.clone()?,
        range: ReplayRange {
            from: args.from,
            to: args.to,
            since_ms: args.since,
            until_ms: args.until,
        },
        handler: args.handler.clone(),
        models: args.models.clone(),
        config: args.config.iter().cloned().collect(),
        against: args.against.clone(),
        options: Some(ReplayOptions {
            tolerance: args.tolerance,
            examples: args.examples,
            copy_state: args.copy_state,
            max_records: args.max_records,
            max_seconds: args.max_seconds,
        }),
    })
}

async fn wait(client: &Client, path: &str, begun: ReplayStatus) -> Result<ReplayStatus> {
    let bar = if std::io::stderr().is_terminal() {
        ProgressBar::new(0)
    } else {
        ProgressBar::hidden()
    };
    let style =
        ProgressStyle::with_template("{msg:10} {wide_bar} {human_pos}/{human_len} records")?;
    bar.set_style(style);
    let mut status = begun;
    let path = format!("{path}/{}", status.report.id);
    while !status.report.state.is_final() {
        bar.set_message(status.report.state.to_string());
        if let Some(result) = &status.report.result {
            bar.set_length(result.of);
            bar.set_position(result.records);
        }
        tokio::time::sleep(ASK_EVERY).await;
        status = client.get(&path).await?;
    }
    bar.finish_and_clear();
    Ok(status)
}

/// A replay that was not done is a failure, and so is one that agrees too little.
fn judge(status: &ReplayStatus, least: Option<f64>) -> Result<()> {
    let report = &status.report;
    match (&report.result, report.state) {
        (_, ReplayState::Failed) => {
            let reason = report.reason.as_deref().unwrap_or("no reason was given");
            bail!("the replay has failed: {reason}")
        }
        (_, ReplayState::Cancelled) => bail!("the replay was cancelled"),
        (Some(result), ReplayState::Done) => match least {
            Some(least) if result.agreement() < least => bail!(
                "{} of the outputs agree, less than {}",
                per_cent(result.agreement()),
                per_cent(least)
            ),
            _ => Ok(()),
        },
        _ => Ok(()),
    }
}

async fn list(client: &Client, path: &str, format: Format) -> Result<()> {
    let replays: Vec<ReplayStatus> = client.get(path).await?;
    if format == Format::Json {
        return output::print_json(&replays);
    }
    let mut table = output::table([
        "REPLAY",
        "STREAM",
        "CANDIDATE",
        "BASELINE",
        "STATE",
        "RECORDS",
        "AGREEMENT",
        "ASKED",
        "REASON",
    ]);
    for replay in &replays {
        let report = &replay.report;
        let result = report.result.as_ref();
        table.add_row([
            report.id.to_string(),
            replay.stream.to_string(),
            replay.candidate.to_string(),
            or_dash(
                replay
                    .baseline
                    .as_ref()
                    .map(ToString::to_string)
                    .unwrap_or_default(),
            ),
            report.state.to_string(),
            or_dash(result.map(|r| r.records.to_string()).unwrap_or_default()),
            or_dash(result.map(|r| per_cent(r.agreement())).unwrap_or_default()),
            ago(replay.created_ms),
            or_dash(report.reason.clone().unwrap_or_default()),
        ]);
    }
    output::print_table(&table, "the node has had no replay")
}

/// A time as such, or as the span that it lies in the past.
fn moment(text: &str) -> Result<u64, String> {
    let wrong = || format!("{text:?} is no time: write 2026-11-25T14:00:00Z, or 24h for a day ago");
    let time = match text.parse::<Timestamp>() {
        Ok(time) => time,
        Err(_) => {
            let ago: Since = text.parse().map_err(|_| wrong())?;
            let hours = ago.get_years() == 0 && ago.get_months() == 0;
            let day = jiff::SpanRelativeTo::days_are_24_hours();
            let ago = ago.to_duration(day).ok().filter(|_| hours);
            let ago = ago.ok_or_else(wrong)?;
            Timestamp::now()
                .checked_sub(ago.abs())
                .map_err(|_| wrong())?
        }
    };
    u64::try_from(time.as_millisecond()).map_err(|_| wrong())
}

fn pair(text: &str) -> Result<(String, String), String> {
    let (key, value) = text
        .split_once('=')
        .filter(|(key, _)| !key.is_empty())
        .ok_or_else(|| format!("{text:?} is no KEY=VALUE"))?;
    Ok((key.to_owned(), value.to_owned()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn status(result: serde_json::Value) -> ReplayStatus {
        let status = json!({ "node": "n1", "stream": "vibration", "candidate": "score:2", "baseline": "score:1",
            "created_ms": 0, "expires_ms": 0, "id": "r1", "state": "done", "attempt": 1, "result": result });
        serde_json::from_value(status).expect("a status")
    }

    #[test]
    fn a_result_reads_well_and_is_judged() {
        let side = |version: &str, outputs: u64| {
            json!({ "version": version, "outputs": outputs, "failed_batches": 0,
                "p50_us": 1500, "p99_us": 2500, "max_us": 9000 })
        };
        let status = status(
            json!({ "first_seq": 1, "last_seq": 300, "first_ms": 0, "last_ms": 60_000, "records": 300,
            "of": 300, "batches": 2, "lost": 0, "took_ms": 3_000,
            "candidate": side("score:2", 3), "baseline": side("score:1", 4),
            "streams": [{ "stream": "alerts", "baseline": 4, "candidate": 3, "equal": 2, "differing": 1,
                "missing": 1, "extra": 0, "largest_distance": 0.5 }],
            "examples": [{ "stream": "alerts", "batch": 1, "baseline": "{\"a\":1}", "candidate": "{\"a\":1.5}" }] }),
        );
        let text = page(&status);
        assert!(text.contains("agreement  50.00 %"), "{text}");
        assert!(
            text.contains("recorded   1970-01-01T00:00:00Z to 1970-01-01T00:01:00Z"),
            "{text}"
        );
        assert!(
            text.contains(
                "alerts         4         3          2      1          1        0      5.000e-1"
            ),
            "{text}"
        );
        assert!(
            text.contains("alerts, batch from 1\n  - {\"a\":1}\n  + {\"a\":1.5}"),
            "{text}"
        );
        assert!(judge(&status, None).is_ok());
        let error = judge(&status, Some(0.99))
            .expect_err("too little")
            .to_string();
        assert_eq!(error, "50.00 % of the outputs agree, less than 99.00 %");
    }

    #[test]
    fn times_are_given_as_such_or_as_spans_in_the_past() {
        assert_eq!(moment("2025-11-25T14:00:00Z"), Ok(1_764_079_200_000));
        let day = moment("24h").expect("a span");
        let now = u64::try_from(Timestamp::now().as_millisecond()).expect("after 1970");
        assert!((now - day).abs_diff(86_400_000) < 10_000);
        assert!(moment("1d").is_ok() && moment("90m").is_ok());
        assert!(moment("yesterday").is_err() && moment("1 month").is_err());
        assert_eq!(pair("a=b=c"), Ok(("a".into(), "b=c".into())));
        assert!(pair("=b").is_err() && pair("a").is_err());
    }
}
