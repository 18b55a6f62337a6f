//! Secrets of handlers. A deployment names them; their values lie on the node
//! alone, a file each, and reach a handler through wasi:config.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use fleet_api::ids::Name;

use super::HandlerError;

/// Most bytes of a secret: a certificate with its chain has room.
const MAX_BYTES: u64 = 64 << 10;

/// The secrets of one handler: the key that it asks for, and the file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Secrets(BTreeMap<String, PathBuf>);

impl Secrets {
    /// The secrets that a deployment names, as files in `folder`.
    pub fn in_folder(folder: &Path, names: &BTreeMap<String, Name>) -> Self {
        let file = |(key, name): (&String, &Name)| (key.clone(), folder.join(name.as_str()));
        Self(names.iter().map(file).collect())
    }

    /// Secrets by their files.
    pub fn from_files(files: impl IntoIterator<Item = (String, PathBuf)>) -> Self {
        Self(files.into_iter().collect())
    }

    /// Reads all of them once, so that a handler does not start without one.
    pub(super) fn check(&self, handler: &Name) -> Result<(), HandlerError> {
        for (key, path) in &self.0 {
            read(path).map_err(|source| HandlerError::Secret {
                handler: handler.clone(),
                key: key.clone(),
                path: path.clone(),
                source,
            })?;
        }
        Ok(())
    }

    /// The value under `key` as it is now, so that a changed one needs no new
    /// deployment; none if the handler has no such secret.
    pub(super) fn value(&self, key: &str) -> Option<io::Result<String>> {
        self.0.get(key).map(|path| read(path))
    }
}

/// The file's text without its last line break, which editors and `echo` add.
pub(crate) fn read(path: &Path) -> io::Result<String> {
    let bytes = std::fs::metadata(path)?.len();
    if bytes > MAX_BYTES {
        let reason = format!("it has {bytes} bytes, and a secret has at most {MAX_BYTES}");
        return Err(io::Error::new(io::ErrorKind::InvalidData, reason));
    }
    let mut text = std::fs::read_to_string(path)?;
    if text.ends_with('\n') {
        text.pop();
        if text.ends_with('\r') {
            text.pop();
        }
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_what_its_file_holds_now() {
        let folder = tempfile::tempdir().unwrap();
        let names = BTreeMap::from([("token".to_owned(), Name::new("plc").unwrap())]);
        let secrets = Secrets::in_folder(folder.path(), &names);
        let handler = Name::new("h").unwrap();
        let missing = secrets.check(&handler).unwrap_err().to_string();
        assert!(
            missing.contains("secret \"token\"") && missing.contains("plc"),
            "{missing}"
        );
        std::fs::write(folder.path().join("plc"), "one\r\n").unwrap();
        secrets.check(&handler).unwrap();
        assert_eq!(secrets.value("token").unwrap().unwrap(), "one");
        std::fs::write(folder.path().join("plc"), "two").unwrap();
        assert_eq!(secrets.value("token").unwrap().unwrap(), "two");
        assert!(secrets.value("other").is_none());
    }

    #[test]
    fn what_is_too_large_for_a_secret_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("large");
        std::fs::write(&file, vec![b'x'; MAX_BYTES as usize + 1]).unwrap();
        let secrets = Secrets::from_files([("k".to_owned(), file)]);
        assert!(secrets.check(&Name::new("h").unwrap()).is_err());
    }
}
