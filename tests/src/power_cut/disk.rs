use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use self::names::{Meta, Node, apply, tree, write_tree};
use super::log::{Call, Entry, How};
use crate::dice::Dice;

mod names;
#[cfg(test)]
mod tests;

const PAGE: usize = 4_096;

/// What makes content durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cache {
    /// Only fsync and fdatasync: the disk has a cache that a power cut empties.
    Volatile,
    /// sync_file_range too, within the size that is durable: the disk's cache has its own power.
    Protected,
}

/// A folder while a log is followed: as programs see it, and what of it is durable.
#[derive(Debug, Clone)]
pub struct Disk {
    cache: Cache,
    files: Vec<File>,
    /// File by inode number, the latest that had it.
    inodes: BTreeMap<u64, usize>,
    names: BTreeMap<PathBuf, Node>,
    durable_names: BTreeMap<PathBuf, Node>,
    /// Changes of names and sizes that are not durable yet, in their order.
    journal: Vec<Meta>,
    /// Changes that have become durable and left the journal.
    committed: usize,
    /// Syncs that have begun. Their ids say nothing about their order.
    begun: u64,
    syncs: BTreeMap<u64, Sync>,
}

#[derive(Debug, Clone, Default)]
struct File {
    content: Vec<u8>,
    durable: Vec<u8>,
    /// Pages that were written since they were last taken by a sync.
    dirty: BTreeSet<usize>,
    /// The sync that has found each durable page so, by the order in which they began.
    found_by: BTreeMap<usize, u64>,
}

/// A sync that has begun: the pages as they were then.
#[derive(Debug, Clone)]
struct Sync {
    file: Option<usize>,
    pages: BTreeMap<usize, Page>,
    /// How much of the journal it makes durable, counted from the start.
    journal: usize,
    /// Only pages within the durable size.
    inside_only: bool,
    counts: bool,
}

/// A page that a sync makes durable.
#[derive(Debug, Clone)]
struct Page {
    /// The sync that has found it so: an earlier one, if that is still under way.
    found_by: u64,
    bytes: Vec<u8>,
}

impl Disk {
    /// The folder as it lies there now, all of it durable.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn load(dir: &Path, cache: Cache) -> Result<Self> {
        let mut disk = Self {
            cache,
            files: Vec::new(),
            inodes: BTreeMap::new(),
            names: BTreeMap::new(),
            durable_names: BTreeMap::new(),
            journal: Vec::new(),
            committed: 0,
            begun: 0,
            syncs: BTreeMap::new(),
        };
        for (path, content) in tree(dir)? {
            let node = match content {
                None => Node::Folder,
                Some(content) => {
                    let inode = dir.join(&path).metadata()?.ino();
                    let durable = content.clone();
                    disk.new_file(
                        inode,
                        File {
                            content,
                            durable,
                            ..File::default()
                        },
                    )
                }
            };
            disk.names.insert(path, node);
        }
        disk.durable_names = disk.names.clone();
        Ok(disk)
    }

    /// What makes content durable on it.
    pub fn cache(&self) -> Cache {
        self.cache
    }

    fn new_file(&mut self, inode: u64, file: File) -> Node {
        self.files.push(file);
        let number = self.files.len() - 1;
        self.inodes.insert(inode, number);
        Node::File(number)
    }

    /// Follows one entry of the log.
    ///
    /// # Errors
    /// If it changes a file that nobody has made.
    pub fn follow(&mut self, entry: &Entry) -> Result<()> {
        match entry {
            Entry::Write {
                inode,
                offset,
                data,
            } => {
                let number = self.number(*inode)?;
                self.files[number].write(usize::try_from(*offset)?, data);
            }
            Entry::Resize { inode, size } => {
                let (number, size) = (self.number(*inode)?, usize::try_from(*size)?);
                let file = &mut self.files[number];
                file.content.resize(size, 0);
                file.dirty.retain(|page| page * PAGE < size);
                self.journal.push(Meta::Resize(number, size));
            }
            Entry::Create { inode, path } => {
                let node = self.new_file(*inode, File::default());
                self.rename_or_put(Meta::Put(path.clone(), node));
            }
            Entry::Folder { path } => {
                self.rename_or_put(Meta::Put(path.clone(), Node::Folder));
            }
            Entry::Rename { from, to } => {
                self.rename_or_put(Meta::Rename(from.clone(), to.clone()));
            }
            Entry::Remove { path } => self.rename_or_put(Meta::Remove(path.clone())),
            Entry::SyncBegin {
                id,
                inode,
                how,
                offset,
                bytes,
            } => self.begin(*id, *inode, *how, (*offset, *bytes))?,
            Entry::SyncEnd { id } => self.end(*id),
            Entry::Failed {
                call: Call::Sync,
                inode,
                ..
            } => {
                // The kernel forgets that these pages were to be written.
                if let Some(number) = self.inodes.get(inode) {
                    self.files[*number].dirty.clear();
                }
            }
            Entry::Ack(_) | Entry::Failed { .. } => {}
        }
        Ok(())
    }

    fn number(&self, inode: u64) -> Result<usize> {
        let number = self.inodes.get(&inode).copied();
        number.with_context(|| format!("the log knows no file with inode {inode}"))
    }

    fn rename_or_put(&mut self, meta: Meta) {
        apply(&mut self.names, &meta);
        self.journal.push(meta);
    }

    fn begin(&mut self, id: u64, inode: u64, how: How, range: (u64, u64)) -> Result<()> {
        let now = self.committed + self.journal.len();
        self.begun += 1;
        let mut sync = Sync {
            file: self.inodes.get(&inode).copied(),
            pages: BTreeMap::new(),
            journal: self.committed,
            inside_only: how == How::Range,
            counts: how != How::Range || self.cache == Cache::Protected,
        };
        let Some(number) = sync.file else {
            // A folder: its sync commits the journal.
            sync.journal = now;
            self.syncs.insert(id, sync);
            return Ok(());
        };
        let file = &mut self.files[number];
        sync.journal = match how {
            How::Fsync => now,
            How::Fdatasync if file.content.len() > file.durable.len() => now,
            How::Fdatasync => {
                let concerns = |meta: &Meta| match meta {
                    Meta::Put(_, node) => *node == Node::File(number),
                    Meta::Resize(resized, _) => *resized == number,
                    Meta::Rename(..) | Meta::Remove(_) => false,
                };
                let last = self.journal.iter().rposition(concerns);
                self.committed + last.map_or(0, |at| at + 1)
            }
            How::Range => self.committed,
        };
        if sync.counts {
            let (from, bytes) = (usize::try_from(range.0)?, usize::try_from(range.1)?);
            let wanted = |page: usize| {
                let (begin, end) = (page * PAGE, (page + 1) * PAGE);
                how != How::Range || (end > from && (bytes == 0 || begin < from + bytes))
            };
            let pages: Vec<_> = file.dirty.iter().copied().filter(|p| wanted(*p)).collect();
            // What another sync has under way is waited for by this one, too.
            let under_way = self.syncs.values().filter(|other| other.file == sync.file);
            for (number, page) in under_way.flat_map(|other| &other.pages) {
                let known = sync.pages.get(number).map_or(0, |page| page.found_by);
                if wanted(*number) && page.found_by > known {
                    sync.pages.insert(*number, page.clone());
                }
            }
            for number in pages {
                file.dirty.remove(&number);
                let page = Page {
                    found_by: self.begun,
                    bytes: file.page(number).to_vec(),
                };
                sync.pages.insert(number, page);
            }
        }
        self.syncs.insert(id, sync);
        Ok(())
    }

    fn end(&mut self, id: u64) {
        let Some(sync) = self.syncs.remove(&id) else {
            return;
        };
        if !sync.counts {
            return;
        }
        let count = sync.journal.saturating_sub(self.committed);
        for meta in self.journal.drain(..count) {
            apply(&mut self.durable_names, &meta);
            if let Meta::Resize(number, size) = meta {
                self.files[number].durable.resize(size, 0);
            }
        }
        self.committed += count;
        let Some(number) = sync.file else { return };
        let file = &mut self.files[number];
        for (number, page) in sync.pages {
            if file.is_newer(number, &page) {
                continue;
            }
            if sync.inside_only && number * PAGE + page.bytes.len() > file.durable.len() {
                // The size that would cover it is not durable.
                file.dirty.insert(number);
            } else {
                put_page(&mut file.durable, number, &page.bytes);
                file.found_by.insert(number, page.found_by);
            }
        }
    }

    /// Makes `dir` what a power cut at this moment leaves: `keep` percent of the pages that
    /// are not synced, and a random part of the last changes of names.
    ///
    /// # Errors
    /// If the folder cannot be written.
    pub fn cut(&self, dir: &Path, keep: u64, dice: &mut Dice) -> Result<()> {
        let survive = match dice.below(4) {
            0 => 0,
            1 => self.journal.len(),
            _ => usize::try_from(dice.below(self.journal.len() as u64 + 1))?,
        };
        let mut names = self.durable_names.clone();
        let mut files: BTreeMap<usize, Vec<u8>> = BTreeMap::new();
        let mut resized: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        for meta in &self.journal[..survive] {
            apply(&mut names, meta);
            if let Meta::Resize(number, size) = meta {
                resized.entry(*number).or_default().push(*size);
            }
        }
        for node in names.values() {
            let Node::File(number) = *node else { continue };
            let file = &self.files[number];
            let mut left = file.durable.clone();
            for size in resized.get(&number).into_iter().flatten() {
                left.resize(*size, 0);
            }
            for sync in self.syncs.values().filter(|s| s.file == Some(number)) {
                for (at, page) in &sync.pages {
                    if !file.is_newer(*at, page) && dice.percent(keep) {
                        put_page(&mut left, *at, &page.bytes);
                    }
                }
            }
            for page in &file.dirty {
                if dice.percent(keep) {
                    put_page(&mut left, *page, file.page(*page));
                }
            }
            files.insert(number, left);
        }
        write_tree(dir, &names, &files)
    }

    /// Compares the folder as programs see it with a real one, but for some files; an
    /// unnoticed call would make a difference.
    ///
    /// # Errors
    /// Says where they differ.
    pub fn compare(&self, dir: &Path, but_for: &[&str]) -> Result<()> {
        let mut real = tree(dir)?;
        real.retain(|path, _| !but_for.iter().any(|skipped| path.ends_with(skipped)));
        for (path, node) in &self.names {
            if but_for.iter().any(|skipped| path.ends_with(skipped)) {
                continue;
            }
            let found = real
                .remove(path)
                .with_context(|| format!("{} is not there", path.display()))?;
            let wanted = match node {
                Node::Folder => None,
                Node::File(number) => Some(&self.files[*number].content),
            };
            anyhow::ensure!(
                found.as_ref() == wanted,
                "{} differs: {:?} bytes, the log says {:?}",
                path.display(),
                found.as_ref().map(Vec::len),
                wanted.map(Vec::len)
            );
        }
        anyhow::ensure!(real.is_empty(), "unknown: {:?}", real.keys());
        Ok(())
    }
}

impl File {
    fn write(&mut self, offset: usize, data: &[u8]) {
        let end = offset + data.len();
        if end > self.content.len() {
            self.content.resize(end, 0);
        }
        self.content[offset..end].copy_from_slice(data);
        self.dirty.extend(offset / PAGE..end.div_ceil(PAGE));
    }

    /// Whether what is durable was found later than `page`.
    fn is_newer(&self, number: usize, page: &Page) -> bool {
        let durable = self.found_by.get(&number);
        durable.is_some_and(|by| *by > page.found_by)
    }

    fn page(&self, page: usize) -> &[u8] {
        let end = self.content.len().min((page + 1) * PAGE);
        &self.content[page * PAGE..end]
    }
}

fn put_page(content: &mut Vec<u8>, page: usize, bytes: &[u8]) {
    let begin = page * PAGE;
    if content.len() < begin + bytes.len() {
        content.resize(begin + bytes.len(), 0);
    }
    content[begin..begin + bytes.len()].copy_from_slice(bytes);
}
