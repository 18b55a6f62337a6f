//! The layers of a model's manifest that are files beside the ONNX file.

use std::collections::BTreeSet;

use fleet_api::artifact::TITLE;
use fleet_api::model_files::{FileName, FileRole, PinnedFile};

use super::{Descriptor, RegistryError};

/// The files that `layers` name; layers of other types are nobody's concern here.
pub(super) fn files(layers: &[Descriptor]) -> Result<Vec<PinnedFile>, RegistryError> {
    let mut files = Vec::new();
    let mut seen = BTreeSet::new();
    for layer in layers {
        let Some(role) = FileRole::of_layer(&layer.media_type) else {
            continue;
        };
        let name = name(role, layer)?;
        // There may be many data files, but one of each name.
        let place = (role == FileRole::Data).then(|| name.clone());
        if !seen.insert((role, place)) {
            return Err(RegistryError::ManifestInvalid(match role {
                FileRole::Data => format!("the manifest has data file {name} twice"),
                role => {
                    format!("the manifest has several layers with {role}: {name} is one of them")
                }
            }));
        }
        files.push(PinnedFile {
            role,
            name,
            digest: layer.digest.clone(),
            size: layer.size,
        });
    }
    Ok(files)
}

fn name(role: FileRole, layer: &Descriptor) -> Result<FileName, RegistryError> {
    let titles = layer.annotations.as_ref();
    let title = titles.and_then(|titles| titles.get(TITLE)?.as_str());
    let usual = || {
        role.extension()
            .map(|extension| format!("model.{extension}"))
    };
    let Some(name) = title.map(str::to_owned).or_else(usual) else {
        return Err(RegistryError::ManifestInvalid(format!(
            "layer {} of type {} does not say which file it is: give it the annotation {TITLE}",
            layer.digest, layer.media_type
        )));
    };
    FileName::new(name)
        .map_err(|e| RegistryError::ManifestInvalid(format!("layer {}: {e}", layer.digest)))
}
