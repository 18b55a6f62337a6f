use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use super::kinds;

/// An entry of the shim's log.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "the fields are those of the system calls")]
pub enum Entry {
    /// Bytes were written.
    Write {
        inode: u64,
        offset: u64,
        data: Vec<u8>,
    },
    /// A file was cut off or made longer.
    Resize { inode: u64, size: u64 },
    /// A file was made.
    Create { inode: u64, path: PathBuf },
    /// A file or a folder got another name.
    Rename { from: PathBuf, to: PathBuf },
    /// A name was removed.
    Remove { path: PathBuf },
    /// A folder was made.
    Folder { path: PathBuf },
    /// A sync began.
    SyncBegin {
        id: u64,
        inode: u64,
        how: How,
        offset: u64,
        bytes: u64,
    },
    /// It succeeded.
    SyncEnd { id: u64 },
    /// Something was acknowledged: the text that [`acknowledge`] was given.
    Ack(String),
    /// A call was made to fail.
    Failed { call: Call, number: u64, inode: u64 },
}

/// The three ways to sync.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum How {
    /// fsync(2)
    Fsync,
    /// fdatasync(2)
    Fdatasync,
    /// sync_file_range(2)
    Range,
}

/// What was made to fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Call {
    /// A sync of any kind.
    Sync,
    /// Anything else.
    Other,
}

/// Notes behind everything that has happened so far that `text` was promised.
///
/// # Errors
/// If the log cannot be written.
pub fn acknowledge(log: &mut File, text: &str) -> Result<()> {
    let length = u32::try_from(1 + text.len())?;
    let mut entry = length.to_le_bytes().to_vec();
    entry.push(kinds::ACK);
    entry.extend_from_slice(text.as_bytes());
    // One write, as the shim may append at the same time.
    Ok(log.write_all(&entry)?)
}

/// Reads a log; paths are told relative to `dir`, which itself is "".
///
/// # Errors
/// If it cannot be read, or is not a log.
pub fn read(log: &Path, dir: &Path) -> Result<Vec<Entry>> {
    let bytes = std::fs::read(log).with_context(|| log.display().to_string())?;
    let mut fields = Fields {
        rest: &bytes,
        dir: dir.to_str().context("the folder has a plain name")?,
    };
    let mut entries = Vec::new();
    while fields.rest.len() >= 4 {
        let length = u32::from_le_bytes(fields.array()?);
        // A killed program's last entry may be cut off.
        let Some((entry, rest)) = fields.rest.split_at_checked(usize::try_from(length)?) else {
            break;
        };
        let own = Fields {
            rest: entry,
            dir: fields.dir,
        };
        entries.push(own.entry()?);
        fields.rest = rest;
    }
    Ok(entries)
}

struct Fields<'a> {
    rest: &'a [u8],
    dir: &'a str,
}

impl Fields<'_> {
    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let (field, rest) = self.rest.split_at_checked(N).context("a short entry")?;
        self.rest = rest;
        Ok(field.try_into()?)
    }

    fn number(&mut self) -> Result<u64> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    fn text(&self) -> Result<String> {
        Ok(std::str::from_utf8(self.rest)?.to_owned())
    }

    fn path(&self, text: &str) -> Result<PathBuf> {
        let inner = text.strip_prefix(self.dir).context("a path elsewhere")?;
        Ok(PathBuf::from(inner.trim_start_matches('/')))
    }

    fn entry(mut self) -> Result<Entry> {
        let [kind] = self.array()?;
        Ok(match kind {
            kinds::WRITE => Entry::Write {
                inode: self.number()?,
                offset: self.number()?,
                data: self.rest.to_vec(),
            },
            kinds::RESIZE => Entry::Resize {
                inode: self.number()?,
                size: self.number()?,
            },
            kinds::CREATE => Entry::Create {
                inode: self.number()?,
                path: self.path(&self.text()?)?,
            },
            kinds::RENAME => {
                let text = self.text()?;
                let (from, to) = text.split_once('\0').context("a rename has two names")?;
                Entry::Rename {
                    from: self.path(from)?,
                    to: self.path(to)?,
                }
            }
            kinds::UNLINK | kinds::RMDIR => Entry::Remove {
                path: self.path(&self.text()?)?,
            },
            kinds::MKDIR => Entry::Folder {
                path: self.path(&self.text()?)?,
            },
            kinds::SYNC_BEGIN => Entry::SyncBegin {
                id: self.number()?,
                inode: self.number()?,
                how: match self.array()? {
                    [kinds::HOW_FSYNC] => How::Fsync,
                    [kinds::HOW_FDATASYNC] => How::Fdatasync,
                    _ => How::Range,
                },
                offset: self.number()?,
                bytes: self.number()?,
            },
            kinds::SYNC_END => Entry::SyncEnd { id: self.number()? },
            kinds::ACK => Entry::Ack(self.text()?),
            kinds::FAILED => {
                let [call] = self.array()?;
                Entry::Failed {
                    call: if call == kinds::CALL_SYNC {
                        Call::Sync
                    } else {
                        Call::Other
                    },
                    number: self.number()?,
                    inode: self.number()?,
                }
            }
            other => bail!("there is no entry of kind {other}"),
        })
    }
}
