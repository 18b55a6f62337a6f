//! What is pushed with a model: named on the command line, or found beside it.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use fleet_api::external_data;
use fleet_api::model_files::{FileName, FileRole};

use super::{Layer, ONNX_LAYER, read};
use crate::cli::PushArgs;

/// The model and everything beside it. Titles are such that a pull into a folder gives files that are found again.
pub(super) fn layers(args: &PushArgs, model: Bytes) -> Result<Vec<Layer>> {
    let name = &args.reference.name;
    let references = external_data::references(&model)
        .with_context(|| format!("{} cannot be pushed", args.file.display()))?;
    let mut layers = vec![Layer {
        media_type: ONNX_LAYER,
        title: format!("{name}.onnx"),
        content: model,
    }];
    for (role, given) in [
        (FileRole::Card, &args.card),
        (FileRole::Labels, &args.labels),
        (FileRole::Golden, &args.golden),
    ] {
        let found = role.beside(&args.file).filter(|file| file.is_file());
        let (Some(file), Some(extension)) = (given.clone().or(found), role.extension()) else {
            continue;
        };
        layers.push(Layer {
            media_type: role.media_type(),
            title: format!("{name}.{extension}"),
            content: read(&file)?,
        });
    }
    let mut given = args.data.clone();
    for wanted in references.into_keys() {
        let file = data_file(&wanted, &mut given, &args.file)?;
        layers.push(Layer {
            media_type: FileRole::Data.media_type(),
            title: wanted.into(),
            content: read(&file)?,
        });
    }
    if let Some(stranger) = given.first() {
        bail!(
            "{} refers to no file {}: leave --data {} out",
            args.file.display(),
            stranger.file_name().unwrap_or_default().display(),
            stranger.display()
        );
    }
    Ok(layers)
}

/// Takes the file of that name out of those `given`, or looks for it beside the model.
fn data_file(wanted: &FileName, given: &mut Vec<PathBuf>, model: &Path) -> Result<PathBuf> {
    let is_it = |file: &PathBuf| file.file_name().is_some_and(|name| name == wanted.base());
    if let Some(at) = given.iter().position(is_it) {
        return Ok(given.remove(at));
    }
    let beside = model.with_file_name(wanted.as_str());
    if !beside.is_file() {
        bail!(
            "{} keeps weights in {wanted}, which is not beside it: put it there, or name it with --data",
            model.display()
        );
    }
    Ok(beside)
}

/// Refuses what goes with models alone.
pub(super) fn refuse(args: &PushArgs) -> Result<()> {
    let given = [&args.card, &args.labels, &args.golden];
    if given.into_iter().any(Option::is_some) || !args.data.is_empty() {
        bail!("--card, --labels, --golden and --data go with models, this is a handler");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use fleet_api::artifact::ArtifactKind;

    use super::*;

    fn args(folder: &Path) -> PushArgs {
        PushArgs {
            kind: ArtifactKind::Model,
            reference: "part:1".parse().expect("valid"),
            file: folder.join("net.onnx"),
            card: None,
            labels: None,
            golden: None,
            data: Vec::new(),
        }
    }

    /// A model with a tensor in `location`.
    fn model(location: &str) -> Bytes {
        let field = |number: u8, content: &[u8]| {
            let len = u8::try_from(content.len()).expect("short");
            [&[number << 3 | 2, len], content].concat()
        };
        let entry = [field(1, b"location"), field(2, location.as_bytes())].concat();
        let tensor = [&field(13, &entry)[..], &[14 << 3, 1]].concat();
        field(7, &field(5, &tensor)).into()
    }

    fn titles(layers: &[Layer]) -> Vec<&str> {
        layers.iter().map(|layer| layer.title.as_str()).collect()
    }

    #[test]
    fn neighbours_go_along_under_the_name_of_the_model() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        for name in ["net.labels.txt", "net.card.toml", "other.golden.json"] {
            std::fs::write(folder.path().join(name), "x").expect("written");
        }
        std::fs::create_dir(folder.path().join("w")).expect("created");
        std::fs::write(folder.path().join("w/a.bin"), "x").expect("written");
        let mut args = args(folder.path());
        let found = layers(&args, model("w/a.bin")).expect("all there");
        assert_eq!(
            titles(&found),
            ["part.onnx", "part.card.toml", "part.labels.txt", "w/a.bin"]
        );
        args.golden = Some(folder.path().join("other.golden.json"));
        args.data = vec![folder.path().join("w/a.bin")];
        let found = layers(&args, model("elsewhere/a.bin")).expect("all there");
        assert_eq!(titles(&found)[3..], ["part.golden.json", "elsewhere/a.bin"]);
    }

    #[test]
    fn says_which_data_is_missing_and_which_is_not_wanted() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let mut args = args(folder.path());
        let refusal = |args: &PushArgs, model| {
            let refused = layers(args, model).expect_err("refused").to_string();
            refused.replace(&folder.path().display().to_string(), "")
        };
        assert_eq!(
            refusal(&args, model("w.bin")),
            "/net.onnx keeps weights in w.bin, which is not beside it: put it there, or name it with --data"
        );
        std::fs::write(folder.path().join("w.bin"), "x").expect("written");
        args.data = vec!["x.bin".into()];
        assert_eq!(
            refusal(&args, model("w.bin")),
            "/net.onnx refers to no file x.bin: leave --data x.bin out"
        );
    }
}
