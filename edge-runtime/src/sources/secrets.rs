use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;

use fleet_api::ids::Name;

use crate::handlers::read_secret;

/// Where the secrets lie that sources name.
#[derive(Debug, Clone)]
pub enum SourceSecrets {
    /// A file each in the node's folder of secrets.
    Folder(PathBuf),
    /// Files by name.
    Files(BTreeMap<String, PathBuf>),
}

/// A secret cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("secret {name} cannot be read from {place}")]
pub(super) struct SecretError {
    name: Name,
    place: String,
    source: io::Error,
}

impl SourceSecrets {
    /// The secret's value as it is now.
    pub(super) fn read(&self, name: &Name) -> Result<String, SecretError> {
        let path = match self {
            Self::Folder(folder) => Some(folder.join(name.as_str())),
            Self::Files(files) => files.get(name.as_str()).cloned(),
        };
        let (place, outcome) = match path {
            Some(path) => (path.display().to_string(), read_secret(&path)),
            None => (
                format!("--secret {name}=FILE"),
                Err(io::ErrorKind::NotFound.into()),
            ),
        };
        outcome.map_err(|source| SecretError {
            name: name.clone(),
            place,
            source,
        })
    }
}
