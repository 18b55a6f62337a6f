use std::collections::BTreeMap;

use fleet_api::artifact::{ArtifactKind, PinnedArtifact};
use fleet_api::ids::{Name, Version};

/// Every artifact that has been pushed, as far as planning needs it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Catalogue(BTreeMap<(ArtifactKind, Name), Vec<PinnedArtifact>>);

impl Catalogue {
    /// A catalogue of `artifacts`, which come in the order of their push.
    pub(crate) fn new(artifacts: impl IntoIterator<Item = PinnedArtifact>) -> Self {
        let mut catalogue: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for artifact in artifacts {
            catalogue
                .entry((artifact.kind, artifact.name.clone()))
                .or_default()
                .push(artifact);
        }
        Self(catalogue)
    }

    pub(crate) fn find(
        &self,
        kind: ArtifactKind,
        name: &Name,
        version: &Version,
    ) -> Option<&PinnedArtifact> {
        let versions = self.0.get(&(kind, name.clone()))?;
        versions.iter().find(|a| a.version == *version)
    }

    /// The versions of an artifact, or nothing if it was never pushed.
    pub(crate) fn versions(&self, kind: ArtifactKind, name: &Name) -> Vec<&Version> {
        self.0
            .get(&(kind, name.clone()))
            .map(|all| all.iter().map(|a| &a.version).collect())
            .unwrap_or_default()
    }

    /// The names of a kind.
    pub(crate) fn names(&self, kind: ArtifactKind) -> Vec<&Name> {
        self.0
            .keys()
            .filter(|(k, _)| *k == kind)
            .map(|(_, n)| n)
            .collect()
    }
}
