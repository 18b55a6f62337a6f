use std::io::BufRead as _;
use std::path::Path;

use anyhow::{Context, Result};
use edge_runtime::data_dir::DataDir;
use edge_runtime::keyvalue::KeyValue;
use edge_runtime::streams::{NewRecord, Streams};
use fleet_api::frame::Encoding;
use fleet_tests::promise::{KEEPER, PROCESSED, PROCESSOR, Promised, Verdict, record};

use super::{config, named, specs};

/// Records that one read asks for.
const PAGE: usize = 500;

/// Examines the folders that standard input names.
pub(crate) async fn serve(damaged: bool) -> Result<()> {
    for line in std::io::stdin().lock().lines() {
        let line = line?;
        let (dir, promised) = line.split_once('\t').context("FOLDER<TAB>FILE")?;
        let promised: Promised = serde_json::from_slice(&std::fs::read(promised)?)?;
        let mut verdict = Verdict::default();
        if let Err(error) = examine(Path::new(dir), &promised, damaged, &mut verdict).await {
            verdict.unopenable = Some(format!("{error:#}"));
        }
        println!("{}", serde_json::to_string(&verdict)?);
    }
    Ok(())
}

/// Opens the folder as a node does at its start; an error says why it cannot.
async fn examine(
    dir: &Path,
    promised: &Promised,
    damaged: bool,
    verdict: &mut Verdict,
) -> Result<()> {
    let data = DataDir::open(dir).context("the data folder")?;
    let buffer = data.buffer();
    let streams = tokio::task::spawn_blocking(move || Streams::open(&buffer, config()))
        .await
        .context("opening panicked")?
        .context("the buffer")?;
    streams.configure(&specs()?);
    let (keyvalue, buffer) = (data.keyvalue(), streams.clone());
    let values = tokio::task::spawn_blocking(move || KeyValue::open(buffer, &keyvalue))
        .await
        .context("opening panicked")?
        .context("handlers' values")?;

    verdict.failed_late = true;
    verdict.new_epoch = promised.epoch.is_some_and(|epoch| epoch != streams.epoch());
    if damaged {
        if !verdict.new_epoch {
            named::check(&streams, promised, verdict).await?;
        }
        takes_more(&streams, verdict).await?;
        tokio::task::spawn_blocking(move || streams.close()).await?;
        verdict.failed_late = false;
        return Ok(());
    }
    if verdict.new_epoch {
        verdict.lost.push("the buffer has another epoch".to_owned());
    } else {
        for stream in ["a", "b"].into_iter().chain(PROCESSED) {
            stored(&streams, stream, promised, verdict).await?;
        }
        processed(&streams, promised, verdict)?;
    }
    for (key, promised) in &promised.kept {
        let value = values.get(KEEPER, "counters", key)?;
        let value = value.as_deref().map(String::from_utf8_lossy);
        let number: u64 = value.map_or(Ok(0), |text| text.parse())?;
        if number < *promised {
            verdict
                .lost
                .push(format!("value {key} is {number}, {promised} was kept"));
        }
    }
    takes_more(&streams, verdict).await?;
    if std::fs::read_dir(data.buffer().join("sled/blobs"))?.count() > 0 {
        verdict.wrong.push("there are files in blobs/".to_owned());
    }
    tokio::task::spawn_blocking(move || streams.close()).await?;
    verdict.failed_late = false;
    Ok(())
}

/// Every record from the oldest to the last acknowledged one is there, unchanged and in order.
async fn stored(
    streams: &Streams,
    stream: &str,
    promised: &Promised,
    verdict: &mut Verdict,
) -> Result<()> {
    let acked = promised.stored.get(stream).copied().unwrap_or(0);
    let freed = promised.freed.get(stream).copied().unwrap_or(0);
    let held = streams.held(stream)?;
    let mut next = held.start.min(freed + 1);
    loop {
        let rows = streams.read(stream, next, PAGE).await?;
        let Some(last) = rows.last().map(|row| row.seq) else {
            break;
        };
        for row in rows {
            if row.seq > next && next <= acked {
                let until = (row.seq - 1).min(acked);
                let from = next.max(freed + 1);
                if from <= until {
                    verdict.lost.push(format!("{stream}: {from}..={until}"));
                }
            }
            if row.seq < next || row.record.value != record(stream, row.seq).as_bytes() {
                verdict.wrong.push(format!("{stream}: {}", row.seq));
            }
            verdict.gaps += row.seq.saturating_sub(next);
            next = row.seq + 1;
            verdict.records += 1;
        }
        next = last + 1;
    }
    if next <= acked && next.max(freed + 1) <= acked {
        let from = next.max(freed + 1);
        verdict
            .lost
            .push(format!("{stream}: {from}..={acked} at the end"));
    }
    Ok(())
}

/// The processor's cursor and its outputs are from one commit.
fn processed(streams: &Streams, promised: &Promised, verdict: &mut Verdict) -> Result<()> {
    let [input, output] = PROCESSED;
    let cursor = streams.cursor(PROCESSOR, input);
    if cursor < promised.processed {
        verdict.lost.push(format!(
            "the processor is at {cursor}, {} was finished",
            promised.processed
        ));
    }
    let made = streams.held(output)?.end - 1;
    if made != cursor {
        verdict
            .wrong
            .push(format!("{made} outputs of {cursor} inputs"));
    }
    Ok(())
}

/// A record can be stored and read again.
async fn takes_more(streams: &Streams, verdict: &mut Verdict) -> Result<()> {
    let next = streams.held("a")?.end;
    let value = record("a", next);
    let new = NewRecord::new(Encoding::Json, value.clone());
    let appended = streams.append("a", vec![new]).await?;
    let rows = streams.read("a", next, 1).await?;
    let there = rows.first().is_some_and(|row| row.record.value == value);
    if appended.first_seq != next || !there {
        verdict.wrong.push(format!("{appended:?} is not at {next}"));
    }
    Ok(())
}
