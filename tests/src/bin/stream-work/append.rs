use std::fs::File;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Result, ensure};
use edge_runtime::data_dir::DataDir;
use edge_runtime::keyvalue::KeyValue;
use edge_runtime::streams::{NewRecord, Streams};
use fleet_api::frame::Encoding;
use fleet_tests::Dice;
use fleet_tests::power_cut::acknowledge;
use fleet_tests::promise::{Ack, KEEPER, PROCESSED, PROCESSOR, record};
use serde_json::json;
use tokio::task::JoinSet;

use super::{config, specs};

/// Records that stay behind the watermark.
const LAG: u64 = 400;

/// Where acknowledgements go; clones share it.
#[derive(Clone)]
struct Acks(Arc<Mutex<File>>);

impl Acks {
    fn note(&self, ack: &Ack) -> Result<()> {
        let mut log = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        acknowledge(&mut log, &ack.text()?)
    }
}

pub(crate) async fn run(dir: &Path, log: File, commands: u64, seed: u64) -> Result<()> {
    let acks = Acks(Arc::new(Mutex::new(log)));
    let data = DataDir::open(dir)?;
    data.announce(&json!({ "pid": std::process::id() }))?;
    let streams = Streams::open(&data.buffer(), config())?;
    streams.configure(&specs()?);
    let values = KeyValue::open(streams.clone(), &data.keyvalue())?;

    let mut work = JoinSet::new();
    for (at, stream) in ["a", "b", PROCESSED[0]].into_iter().enumerate() {
        let dice = Dice::new(seed.wrapping_mul(31) + at as u64);
        work.spawn(fill(streams.clone(), acks.clone(), stream, commands, dice));
    }
    work.spawn(process(streams.clone(), acks.clone(), commands));
    work.spawn(keep(values.clone(), acks.clone(), commands / 2));
    let mut first = Ok(());
    while let Some(done) = work.join_next().await {
        let done = done?;
        if first.is_ok() {
            first = done;
        }
    }
    first?;
    // Half of the runs end in good order, the others as a kill would end them.
    if seed.is_multiple_of(2) {
        tokio::task::spawn_blocking(move || streams.close()).await?;
    } else {
        std::process::exit(0);
    }
    Ok(())
}

/// Appends numbered records and frees the oldest.
async fn fill(
    streams: Streams,
    acks: Acks,
    stream: &'static str,
    commands: u64,
    mut dice: Dice,
) -> Result<()> {
    let mut next = streams.held(stream)?.end;
    for command in 0..commands {
        let last = next + dice.below(if command % 9 == 0 { 120 } else { 12 });
        let records = (next..=last)
            .map(|seq| NewRecord::new(Encoding::Json, record(stream, seq)))
            .collect();
        let appended = streams.append(stream, records).await?;
        ensure!(
            (appended.first_seq, appended.last_seq) == (next, last),
            "{stream}: records {next}..={last} got the sequences {appended:?}"
        );
        let (stream, epoch) = (stream.to_owned(), appended.epoch);
        acks.note(&Ack::Stored {
            stream: stream.clone(),
            epoch,
            last,
        })?;
        next = last + 1;
        if dice.percent(15) && next > LAG {
            let last = next - LAG;
            acks.note(&Ack::Freed {
                stream: stream.clone(),
                last,
            })?;
            streams.release(&stream, epoch, last).await;
        }
    }
    Ok(())
}

/// Makes one record of each.
async fn process(streams: Streams, acks: Acks, batches: u64) -> Result<()> {
    let [input, output] = PROCESSED;
    let mut changed = streams.changed();
    for _ in 0..batches {
        let cursor = streams.cursor(PROCESSOR, input);
        let rows = loop {
            changed.borrow_and_update();
            if let Some(reason) = streams.failed() {
                anyhow::bail!("{reason}");
            }
            let rows = streams.read(input, cursor + 1, 30).await?;
            if !rows.is_empty() {
                break rows;
            }
            // The other tasks may have ended.
            let wait =
                tokio::time::timeout(std::time::Duration::from_millis(100), changed.changed());
            if wait.await.is_err() {
                return Ok(());
            }
        };
        let last = rows[rows.len() - 1].seq;
        let outputs = rows
            .iter()
            .map(|row| {
                let made = record(output, row.seq);
                (output.to_owned(), NewRecord::new(Encoding::Json, made))
            })
            .collect();
        streams
            .commit_processed(PROCESSOR, input, last, outputs)
            .await?;
        acks.note(&Ack::Processed { last })?;
    }
    Ok(())
}

/// Keeps growing numbers.
async fn keep(values: KeyValue, acks: Acks, writes: u64) -> Result<()> {
    for write in 0..writes {
        let key = format!("k{}", write % 7);
        let value = values
            .increment(KEEPER, 1 << 20, "counters", key.clone(), 1 + write % 3)
            .await?;
        acks.note(&Ack::Kept { key, value })?;
    }
    Ok(())
}
