use anyhow::{Context, Result, ensure};
use edge_runtime::streams::Streams;
use fleet_tests::promise::{PROCESSED, Promised, Verdict, record};
use http_body_util::{BodyExt as _, Empty};
use serde::Deserialize;

/// A line of `GET /streams/NAME?gaps=true`.
#[derive(Deserialize)]
#[serde(untagged)]
enum Line {
    Row { seq: u64, value: serde_json::Value },
    Gap { gap: Gap },
}

#[derive(Deserialize)]
struct Gap {
    first: u64,
    last: u64,
    reason: String,
}

/// Every promised sequence is there with its record, or a gap names it.
pub(crate) async fn check(
    streams: &Streams,
    promised: &Promised,
    verdict: &mut Verdict,
) -> Result<()> {
    for stream in ["a", "b"].into_iter().chain(PROCESSED) {
        let acked = promised.stored.get(stream).copied().unwrap_or(0);
        let freed = promised.freed.get(stream).copied().unwrap_or(0);
        let end = streams.held(stream)?.end.max(2) - 1;
        let mut next = 1;
        for line in lines(streams, stream, end).await? {
            let (first, last) = match &line {
                Line::Row { seq, .. } => (*seq, *seq),
                Line::Gap { gap } => (gap.first, gap.last),
            };
            if first > next && next <= acked {
                verdict
                    .lost
                    .push(format!("{stream}: no gap names {next}..{first}"));
            }
            if first < next {
                verdict.wrong.push(format!("{stream}: {first} again"));
            }
            match line {
                Line::Row { seq, value } => {
                    verdict.records += 1;
                    let sent: serde_json::Value = serde_json::from_str(&record(stream, seq))?;
                    if value != sent {
                        verdict.wrong.push(format!("{stream}: {seq} has changed"));
                    }
                }
                Line::Gap { gap } if gap.reason == "released" => {
                    if last.min(acked) > freed {
                        verdict
                            .lost
                            .push(format!("{stream}: {last} was not released, {freed} was"));
                    }
                }
                Line::Gap { .. } => verdict.gaps += last + 1 - first,
            }
            next = next.max(last + 1);
        }
        if next <= acked {
            verdict.lost.push(format!(
                "{stream}: no gap names {next}..={acked} at the end"
            ));
        }
    }
    Ok(())
}

async fn lines(streams: &Streams, stream: &str, to: u64) -> Result<Vec<Line>> {
    let request = http::Request::get(format!("/streams/{stream}?from=1&to={to}&gaps=true"))
        .body(Empty::<bytes::Bytes>::new())?;
    let response = streams.handle(request).await;
    let status = response.status();
    let body = response.into_body().collect().await;
    let body = body
        .map_err(|error| anyhow::anyhow!("{stream}: {error}"))?
        .to_bytes();
    ensure!(
        status.is_success(),
        "{stream}: {status} {}",
        String::from_utf8_lossy(&body)
    );
    body.split(|byte| *byte == b'\n')
        .filter(|line| !line.is_empty())
        .map(|line| {
            serde_json::from_slice(line).with_context(|| String::from_utf8_lossy(line).into_owned())
        })
        .collect()
}
