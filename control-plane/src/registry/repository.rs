use std::fmt;

use fleet_api::artifact::ArtifactKind;
use fleet_api::ids::Name;

/// A repository: `handlers/<name>` or `models/<name>`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Repository {
    pub(crate) kind: ArtifactKind,
    pub(crate) name: Name,
}

impl Repository {
    /// Reads the two parts of a repository's path.
    pub(crate) fn from_parts(root: &str, name: &str) -> Option<Self> {
        let kind = [ArtifactKind::Handler, ArtifactKind::Model]
            .into_iter()
            .find(|kind| kind.repository_root() == root)?;
        let name = Name::new(name).ok()?;
        Some(Self { kind, name })
    }

    /// Reads `handlers/<name>` or `models/<name>`.
    pub(crate) fn parse(path: &str) -> Option<Self> {
        let (root, name) = path.split_once('/')?;
        Self::from_parts(root, name)
    }
}

impl fmt::Display for Repository {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.kind.repository(&self.name))
    }
}
