use std::collections::BTreeSet;
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::artifact::{MODEL_CARD_LAYER, MODEL_DATA_LAYER, MODEL_GOLDEN_LAYER, MODEL_LABELS_LAYER};
use crate::ids::Digest;

/// What a file beside a model is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "kebab-case")]
pub enum FileRole {
    /// How pictures become inputs, and which output has scores of classes (TOML).
    Card,
    /// The classes' names, one a line.
    Labels,
    /// Inputs and the outputs that they have to give (JSON).
    Golden,
    /// Weights that the ONNX file keeps outside of itself; there may be several.
    Data,
}

impl FileRole {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Card, Self::Labels, Self::Golden, Self::Data];

    /// Media type of its layer in an OCI manifest.
    pub fn media_type(self) -> &'static str {
        match self {
            Self::Card => MODEL_CARD_LAYER,
            Self::Labels => MODEL_LABELS_LAYER,
            Self::Golden => MODEL_GOLDEN_LAYER,
            Self::Data => MODEL_DATA_LAYER,
        }
    }

    /// The role of a layer of this media type.
    pub fn of_layer(media_type: &str) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|role| role.media_type() == media_type)
    }

    /// What the file's name ends in, after the stem of the model's; none for data, which the ONNX file names.
    pub fn extension(self) -> Option<&'static str> {
        match self {
            Self::Card => Some("card.toml"),
            Self::Labels => Some("labels.txt"),
            Self::Golden => Some("golden.json"),
            Self::Data => None,
        }
    }

    /// Where the file lies by convention: beside the model, `part.card.toml` for `part.onnx`.
    pub fn beside(self, model: &Path) -> Option<PathBuf> {
        Some(model.with_extension(self.extension()?))
    }
}

impl fmt::Display for FileRole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Card => "card",
            Self::Labels => "labels",
            Self::Golden => "golden",
            Self::Data => "data",
        })
    }
}

/// Name of a file beside a model: a relative path that stays in the model's folder.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct FileName(String);

/// Why a string cannot be the name of a file beside a model.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("file name {name:?} {rule}")]
pub struct FileNameError {
    name: String,
    rule: &'static str,
}

/// Longest name, and longest part of one, in bytes (Linux' `NAME_MAX` is 255).
const NAME_BYTES: usize = 512;
const PART_BYTES: usize = 200;

impl FileName {
    /// Checks a name; it may have folders in it, separated by `/`.
    ///
    /// # Errors
    /// [`FileNameError`] if it could leave the model's folder or is no name for a file.
    pub fn new(name: impl Into<String>) -> Result<Self, FileNameError> {
        let name = name.into();
        match broken_rule(&name) {
            None => Ok(Self(name)),
            Some(rule) => Err(FileNameError { name, rule }),
        }
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name without its folders.
    pub fn base(&self) -> &str {
        self.0.rsplit('/').next().unwrap_or(&self.0)
    }
}

fn broken_rule(name: &str) -> Option<&'static str> {
    if name.is_empty() {
        return Some("is empty");
    }
    if name.starts_with('/') {
        return Some("is absolute: only files of the model's own folder are taken");
    }
    if name.len() > NAME_BYTES || name.split('/').any(|part| part.len() > PART_BYTES) {
        return Some("is too long: use up to 200 bytes for each part and 512 in all");
    }
    if name.split('/').any(|part| part == "..") {
        return Some("leaves the model's folder");
    }
    if name.split('/').any(|part| part.is_empty() || part == ".") {
        return Some("has a part without a name");
    }
    if name
        .chars()
        .any(|c| c.is_control() || c == '\\' || c == ':')
    {
        return Some("has a character that file names may not have here");
    }
    None
}

impl TryFrom<String> for FileName {
    type Error = FileNameError;
    fn try_from(name: String) -> Result<Self, FileNameError> {
        Self::new(name)
    }
}

impl From<FileName> for String {
    fn from(name: FileName) -> String {
        name.0
    }
}

impl FromStr for FileName {
    type Err = FileNameError;
    fn from_str(name: &str) -> Result<Self, FileNameError> {
        Self::new(name)
    }
}

impl fmt::Display for FileName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A file beside a model, pinned to its content.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct PinnedFile {
    /// What it is for.
    pub role: FileRole,
    /// Its name; for data the one that the ONNX file refers to.
    pub name: FileName,
    /// Digest of its blob, in the repository of the model.
    pub digest: Digest,
    /// Size of that blob in bytes.
    pub size: u64,
}

/// What files a model has, in a few words, such as `card, labels, 2 data files`; empty if it has none.
pub fn in_words(files: &[PinnedFile]) -> String {
    let roles: BTreeSet<_> = files.iter().map(|file| file.role).collect();
    let words = roles.into_iter().map(|role| {
        let count = files.iter().filter(|file| file.role == role).count();
        match (role, count) {
            (FileRole::Data, 1) => "1 data file".to_owned(),
            (FileRole::Data, n) => format!("{n} data files"),
            (role, _) => role.to_string(),
        }
    });
    words.collect::<Vec<_>>().join(", ")
}

crate::text_schema!(FileName);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_have_the_stem_of_the_model() {
        let model = Path::new("/m/part.v2.onnx");
        let beside = |role: FileRole| role.beside(model).map(|p| p.display().to_string());
        assert_eq!(
            beside(FileRole::Card).as_deref(),
            Some("/m/part.v2.card.toml")
        );
        assert_eq!(
            beside(FileRole::Labels).as_deref(),
            Some("/m/part.v2.labels.txt")
        );
        assert_eq!(
            beside(FileRole::Golden).as_deref(),
            Some("/m/part.v2.golden.json")
        );
        assert_eq!(beside(FileRole::Data), None);
    }

    #[test]
    fn a_layer_tells_its_role_by_its_type() {
        for role in FileRole::ALL {
            assert_eq!(FileRole::of_layer(role.media_type()), Some(role));
        }
        assert_eq!(FileRole::of_layer("text/plain"), None);
    }

    #[test]
    fn names_stay_in_the_folder() {
        for good in [
            "a",
            "model.onnx.data",
            "weights/layer 0.bin",
            "gewichte-ä",
            "..a",
        ] {
            assert!(FileName::new(good).is_ok(), "{good:?}");
        }
        for bad in [
            "",
            "/etc/passwd",
            "../a",
            "a/../b",
            "a/..",
            ".",
            "./a",
            "a//b",
            "a/",
            "a\\b",
            "C:a",
            "a\nb",
            "a\0b",
        ] {
            assert!(FileName::new(bad).is_err(), "{bad:?}");
        }
        assert!(FileName::new("a".repeat(201)).is_err());
    }

    #[test]
    fn files_are_told_in_words() {
        let file = |role| PinnedFile {
            role,
            name: FileName::new("f").expect("valid"),
            digest: Digest::of(b""),
            size: 0,
        };
        assert_eq!(in_words(&[]), "");
        let files = [
            file(FileRole::Data),
            file(FileRole::Golden),
            file(FileRole::Data),
        ];
        assert_eq!(in_words(&files), "golden, 2 data files");
    }
}
