//! Runs the buffer's job on another embedded store: `store-peers STORE DIR BYTES PER_COMMIT SECONDS`, an outcome as
//! JSON on stdout.

mod job;
mod stores;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use crate::job::{Job, Store};

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [store, dir, bytes, per_commit, seconds] = &arguments[..] else {
        bail!("usage: store-peers sqlite|redb|fjall DIR BYTES PER_COMMIT SECONDS");
    };
    let dir = PathBuf::from(dir);
    let job = Job {
        bytes: bytes.parse().context("BYTES")?,
        per_commit: per_commit.parse().context("PER_COMMIT")?,
        length: Duration::from_secs_f64(seconds.parse().context("SECONDS")?),
    };
    let mut store: Box<dyn Store> = match store.as_str() {
        "sqlite" => Box::new(stores::Sqlite::open(&dir)?),
        "redb" => Box::new(stores::Redb::open(&dir)?),
        "fjall" => Box::new(stores::Fjall::open(&dir)?),
        other => bail!("{other:?} is no store: use sqlite, redb or fjall"),
    };
    let outcome = job::run(job, &dir, store.as_mut())?;
    println!("{}", serde_json::to_string(&outcome)?);
    Ok(())
}
