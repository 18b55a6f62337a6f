//! Models from files, with what lies beside each by convention.

use std::collections::BTreeSet;
use std::path::Path;

use fleet_api::ids::Name;
use fleet_api::model::ModelOptions;
use fleet_api::model_files::FileRole;

use super::Pair;
use crate::models::{ModelFiles, ModelSpec, Models};

/// Loads all models and lets them serve; of one name the last is the default.
pub(super) async fn load(models: &Models, wanted: &[Pair]) -> anyhow::Result<()> {
    let mut prepared = Vec::with_capacity(wanted.len());
    for Pair(reference, file) in wanted {
        let (name, version) = split(reference);
        let spec = ModelSpec {
            name: name.to_owned(),
            version: version.to_owned(),
            path: file.into(),
            digest: None,
            files: beside(file.as_ref()),
            options: ModelOptions::default(),
        };
        prepared.push(models.prepare(spec).await?);
        models.admit(&prepared)?;
    }
    models.switch(prepared);
    Ok(())
}

/// The names of all models.
pub(super) fn names(models: &[Pair]) -> anyhow::Result<BTreeSet<Name>> {
    let names = models
        .iter()
        .map(|Pair(reference, _)| Ok(Name::new(split(reference).0)?));
    names.collect()
}

fn split(reference: &str) -> (&str, &str) {
    reference.split_once(':').unwrap_or((reference, "1"))
}

/// What lies beside a model by convention.
fn beside(model: &Path) -> ModelFiles {
    let file = |role: FileRole| role.beside(model).filter(|path| path.is_file());
    ModelFiles {
        card: file(FileRole::Card),
        labels: file(FileRole::Labels),
        golden: file(FileRole::Golden),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_what_lies_beside_the_model_and_leaves_the_rest() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let file = |name: &str| folder.path().join(name);
        for name in ["part.onnx", "part.labels.txt", "other.card.toml"] {
            std::fs::write(file(name), "").expect("written");
        }
        let found = beside(&file("part.onnx"));
        assert_eq!(found.labels, Some(file("part.labels.txt")));
        assert_eq!((found.card, found.golden), (None, None));
    }
}
