//! What a killed process has left behind in a folder: the store writes a file beside its place,
//! as `NAME#NUMBER`, and renames it when it is whole.

use std::path::Path;

/// Removes such files of the archive below a folder of objects. Nobody may write there yet.
pub(crate) fn remove(objects: &Path) {
    let mut folders = vec![objects.join("archive")];
    while let Some(folder) = folders.pop() {
        // A folder that is not there yet has nothing to remove.
        let Ok(entries) = std::fs::read_dir(&folder) else {
            continue;
        };
        for entry in entries.flatten() {
            let path = entry.path();
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                folders.push(path);
            } else if is_leftover(&path)
                && let Err(error) = std::fs::remove_file(&path)
            {
                tracing::warn!(path = %path.display(), %error, "could not remove half a file");
            }
        }
    }
}

fn is_leftover(path: &Path) -> bool {
    let name = path.file_name().and_then(|name| name.to_str());
    let number = name.and_then(|name| name.rsplit_once('#'));
    number.is_some_and(|(_, n)| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_half_files_go() {
        let dir = tempfile::tempdir().unwrap();
        let day = dir.path().join("archive/stream=s/node=n/day=2026-11-25");
        std::fs::create_dir_all(&day).unwrap();
        let names = [
            "1-1-3.parquet",
            "1-4-6.parquet#1",
            "_1-7-7.gap.json#12",
            "a#b",
        ];
        for name in names {
            std::fs::write(day.join(name), b"x").unwrap();
        }
        remove(dir.path());
        let left: Vec<_> = names
            .iter()
            .filter(|name| day.join(name).exists())
            .collect();
        assert_eq!(left, [&"1-1-3.parquet", &"a#b"]);
    }
}
