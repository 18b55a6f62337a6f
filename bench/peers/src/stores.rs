//! The stores, each with a key for every record and the settings under which a commit survives a power cut.

use std::ops::Range;
use std::path::Path;

use anyhow::Result;
use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode};
use redb::{ReadableDatabase as _, TableDefinition};
use rusqlite::Connection;

use crate::job::Store;

/// SQLite with a write-ahead log that is synced at each commit.
pub(crate) struct Sqlite(Connection);

impl Sqlite {
    pub(crate) fn open(dir: &Path) -> Result<Self> {
        let db = Connection::open(dir.join("db"))?;
        db.pragma_update(None, "journal_mode", "WAL")?;
        db.pragma_update(None, "synchronous", "FULL")?;
        db.execute("CREATE TABLE q (seq INTEGER PRIMARY KEY, value BLOB NOT NULL)", [])?;
        Ok(Self(db))
    }
}

impl Store for Sqlite {
    fn commit(&mut self, first: u64, records: &[Vec<u8>], old: Range<u64>) -> Result<()> {
        let change = self.0.transaction()?;
        {
            let mut insert = change.prepare_cached("INSERT INTO q VALUES (?1, ?2)")?;
            for (seq, record) in (first..).zip(records) {
                insert.execute((seq as i64, record))?;
            }
            if !old.is_empty() {
                let mut delete = change.prepare_cached("DELETE FROM q WHERE seq < ?1")?;
                delete.execute((old.end as i64,))?;
            }
        }
        Ok(change.commit()?)
    }
}

const QUEUE: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("q");

/// redb as it comes.
pub(crate) struct Redb(redb::Database);

impl Redb {
    pub(crate) fn open(dir: &Path) -> Result<Self> {
        let db = redb::Database::builder()
            .set_cache_size(24 << 20)
            .create(dir.join("db"))?;
        db.begin_read()?;
        Ok(Self(db))
    }
}

impl Store for Redb {
    fn commit(&mut self, first: u64, records: &[Vec<u8>], old: Range<u64>) -> Result<()> {
        let change = self.0.begin_write()?;
        {
            let mut queue = change.open_table(QUEUE)?;
            for (seq, record) in (first..).zip(records) {
                queue.insert(seq, record.as_slice())?;
            }
            for seq in old {
                queue.remove(seq)?;
            }
        }
        Ok(change.commit()?)
    }
}

/// fjall, whose journal is synced at each commit.
pub(crate) struct Fjall {
    db: Database,
    queue: Keyspace,
}

impl Fjall {
    pub(crate) fn open(dir: &Path) -> Result<Self> {
        let db = Database::builder(dir).cache_size(24 << 20).open()?;
        let queue = db.keyspace("q", KeyspaceCreateOptions::default)?;
        Ok(Self { db, queue })
    }
}

impl Store for Fjall {
    fn commit(&mut self, first: u64, records: &[Vec<u8>], old: Range<u64>) -> Result<()> {
        let mut change = self.db.batch().durability(Some(PersistMode::SyncData));
        for (seq, record) in (first..).zip(records) {
            change.insert(&self.queue, seq.to_be_bytes(), record.as_slice());
        }
        for seq in old {
            change.remove(&self.queue, seq.to_be_bytes());
        }
        Ok(change.commit()?)
    }
}
