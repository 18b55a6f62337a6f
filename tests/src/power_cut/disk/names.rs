use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

/// What a name stands for: a file by its number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Node {
    Folder,
    File(usize),
}

/// A change of names and sizes.
#[derive(Debug, Clone)]
pub(super) enum Meta {
    Put(PathBuf, Node),
    Rename(PathBuf, PathBuf),
    Remove(PathBuf),
    Resize(usize, usize),
}

pub(super) fn apply(names: &mut BTreeMap<PathBuf, Node>, meta: &Meta) {
    match meta {
        Meta::Put(path, node) => {
            names.insert(path.clone(), *node);
        }
        Meta::Remove(path) => {
            names.remove(path);
        }
        Meta::Rename(from, to) => {
            let moved: Vec<_> = names
                .keys()
                .filter(|path| path.starts_with(from))
                .cloned()
                .collect();
            for path in moved {
                let Some(node) = names.remove(&path) else {
                    continue;
                };
                let rest = path.strip_prefix(from).unwrap_or(&path);
                let target = if rest.as_os_str().is_empty() {
                    to.clone()
                } else {
                    to.join(rest)
                };
                names.insert(target, node);
            }
        }
        Meta::Resize(..) => {}
    }
}

/// Everything below a folder: `None` for a folder, else the content.
pub(super) fn tree(dir: &Path) -> Result<BTreeMap<PathBuf, Option<Vec<u8>>>> {
    let mut found = BTreeMap::new();
    let mut open = vec![PathBuf::new()];
    while let Some(folder) = open.pop() {
        let at = dir.join(&folder);
        for entry in std::fs::read_dir(&at).with_context(|| at.display().to_string())? {
            let entry = entry?;
            let path = folder.join(entry.file_name());
            if entry.file_type()?.is_dir() {
                open.push(path.clone());
                found.insert(path, None);
            } else {
                found.insert(path, Some(std::fs::read(entry.path())?));
            }
        }
    }
    Ok(found)
}

pub(super) fn write_tree(
    dir: &Path,
    names: &BTreeMap<PathBuf, Node>,
    files: &BTreeMap<usize, Vec<u8>>,
) -> Result<()> {
    std::fs::create_dir_all(dir)?;
    for (path, node) in names {
        let target = dir.join(path);
        match node {
            Node::Folder => std::fs::create_dir_all(&target)?,
            Node::File(number) => {
                if let Some(folder) = target.parent() {
                    std::fs::create_dir_all(folder)?;
                }
                let content = files.get(number).map_or(&[][..], Vec::as_slice);
                std::fs::write(&target, content).with_context(|| target.display().to_string())?;
            }
        }
    }
    Ok(())
}
