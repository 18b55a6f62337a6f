use std::path::{Path, PathBuf};

use anyhow::Context as _;
use fleet_api::ids::StreamName;
use fleet_api::source::{Source, SourcesFile};

use crate::sources::{SourceSecrets, SourcesConfig};

/// The sources of a file; none without one.
pub(super) fn load(file: Option<&Path>) -> anyhow::Result<Vec<Source>> {
    let Some(file) = file else {
        return Ok(Vec::new());
    };
    let name = file.display().to_string();
    let text = std::fs::read_to_string(file).with_context(|| format!("read {name}"))?;
    Ok(SourcesFile::from_toml(&text, &name)?.sources)
}

/// The streams named on the command line, and those that sources append to.
pub(super) fn streams(named: &[StreamName], sources: &[Source]) -> Vec<StreamName> {
    let mut all = named.to_vec();
    for source in sources {
        if !all.contains(&source.stream) {
            all.push(source.stream.clone());
        }
    }
    all
}

/// What sources work with where no control plane is.
pub(super) fn config(
    secrets: impl Iterator<Item = (String, String)>,
    data_dir: Option<&Path>,
) -> SourcesConfig {
    let files = secrets.map(|(name, file)| (name, PathBuf::from(file)));
    SourcesConfig {
        node: "edge-runtime".to_owned(),
        secrets: SourceSecrets::Files(files.collect()),
        keys: data_dir.unwrap_or(Path::new(".")).join("opcua"),
    }
}
