//! The files beside a model: whether each is what it is called, and whether all fit the model.

use std::collections::BTreeMap;

use fleet_api::external_data::{self, ExternalDataError};
use fleet_api::model_files::{FileName, FileRole};
use fleet_api::units::ByteSize;

use super::Beside;
use super::golden::{self, GoldenRefusal};
use super::onnx::Outline;

/// Why a file beside a model is refused. Each sentence names the file.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BesideRefusal {
    #[error("{file} is larger than {}, the most for {role}", ByteSize(most_bytes(*.role)))]
    TooLarge { file: FileName, role: FileRole },
    #[error("{file} is not UTF-8 text")]
    NotText { file: FileName },
    #[error("{file} is not valid TOML: {reason}")]
    Card { file: FileName, reason: String },
    #[error("{file} names no class: write the name of one class a line")]
    NoLabels { file: FileName },
    #[error("{file}: {source}")]
    Golden {
        file: FileName,
        source: GoldenRefusal,
    },
    #[error(
        "the model's external data cannot be found: {reason}{}",
        because(reason)
    )]
    References { reason: ExternalDataError },
    #[error(
        "the model keeps weights in {}, which is not among the files that were pushed: push it with the model, as a layer of type {} with that title",
        list(.0), FileRole::Data.media_type()
    )]
    DataMissing(Vec<FileName>),
    #[error("{file} is pushed as the model's data, and the model does not refer to it: {}", refers(.wanted))]
    DataUnknown {
        file: FileName,
        wanted: Vec<FileName>,
    },
    #[error("{file} has {size} bytes, and the model reads up to byte {needed} of it")]
    DataShort {
        file: FileName,
        size: u64,
        needed: u64,
    },
    #[error("{0} cannot be a file and a folder: the model refers to both")]
    DataWithin(FileName),
}

/// The most bytes that a file of this role may have.
pub(crate) fn most_bytes(role: FileRole) -> u64 {
    match role {
        FileRole::Card => 64 << 10,
        FileRole::Labels => 4 << 20,
        FileRole::Golden => 64 << 20,
        FileRole::Data => u64::MAX,
    }
}

/// Checks `files` against the `model`, which has been read as `outline`.
pub(super) fn check(
    model: &[u8],
    outline: &Outline,
    files: &[Beside],
) -> Result<(), BesideRefusal> {
    for Beside { file, content } in files {
        let (name, role) = (&file.name, file.role);
        if file.size > most_bytes(role) {
            let file = name.clone();
            return Err(BesideRefusal::TooLarge { file, role });
        }
        if role == FileRole::Data {
            continue;
        }
        let text = std::str::from_utf8(content)
            .map_err(|_| BesideRefusal::NotText { file: name.clone() })?;
        match role {
            FileRole::Card => card(name, text)?,
            FileRole::Labels => labels(name, text)?,
            FileRole::Golden => {
                golden::check(text, outline).map_err(|source| BesideRefusal::Golden {
                    file: name.clone(),
                    source,
                })?;
            }
            FileRole::Data => {}
        }
    }
    let wanted =
        external_data::references(model).map_err(|reason| BesideRefusal::References { reason })?;
    let data = files.iter().map(|beside| &beside.file);
    let data: BTreeMap<_, _> = data
        .filter(|file| file.role == FileRole::Data)
        .map(|file| (&file.name, file.size))
        .collect();
    data_fits(&wanted, &data)
}

fn card(file: &FileName, text: &str) -> Result<(), BesideRefusal> {
    let parsed = text.parse::<toml::Table>();
    parsed.map(drop).map_err(|e| BesideRefusal::Card {
        file: file.clone(),
        reason: match e.span() {
            Some(span) => {
                let line = text[..span.start.min(text.len())].matches('\n').count() + 1;
                format!("line {line}: {}", e.message())
            }
            None => e.message().to_owned(),
        },
    })
}

fn labels(file: &FileName, text: &str) -> Result<(), BesideRefusal> {
    if text.lines().all(|line| line.trim().is_empty()) {
        return Err(BesideRefusal::NoLabels { file: file.clone() });
    }
    Ok(())
}

/// Every file that the model refers to is there in its length, and no other.
fn data_fits(
    wanted: &BTreeMap<FileName, u64>,
    data: &BTreeMap<&FileName, u64>,
) -> Result<(), BesideRefusal> {
    let missing: Vec<_> = wanted
        .keys()
        .filter(|name| !data.contains_key(name))
        .collect();
    if !missing.is_empty() {
        return Err(BesideRefusal::DataMissing(
            missing.into_iter().cloned().collect(),
        ));
    }
    for (name, size) in data {
        let Some(needed) = wanted.get(*name) else {
            return Err(BesideRefusal::DataUnknown {
                file: (*name).clone(),
                wanted: wanted.keys().cloned().collect(),
            });
        };
        if size < needed {
            return Err(BesideRefusal::DataShort {
                file: (*name).clone(),
                size: *size,
                needed: *needed,
            });
        }
        let within = format!("{name}/");
        if wanted
            .keys()
            .any(|other| other.as_str().starts_with(&within))
        {
            return Err(BesideRefusal::DataWithin((*name).clone()));
        }
    }
    Ok(())
}

fn list(names: &[FileName]) -> String {
    let names: Vec<_> = names.iter().map(FileName::as_str).collect();
    names.join(", ")
}

fn refers(wanted: &[FileName]) -> String {
    if wanted.is_empty() {
        "it has all its weights in the ONNX file".to_owned()
    } else {
        format!("it refers to {}", list(wanted))
    }
}

fn because(error: &ExternalDataError) -> String {
    let source = std::error::Error::source(error);
    source.map_or_else(String::new, |source| format!(": {source}"))
}

#[cfg(test)]
mod tests;
