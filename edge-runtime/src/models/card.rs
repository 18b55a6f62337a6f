//! What stands beside a model to describe it: its card, which says how a picture becomes its input, and its labels, the
//! names of its classes. docs/inference.md has the forms.

use std::fs;
use std::path::{Path, PathBuf};

use fleet_api::strict::{self, StrictError};
use serde::Deserialize;
use serde_json::{Map, Value};

use super::ModelFiles;
use super::tensor::{DataType, TensorInfo};

/// Why the files beside a model are refused.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DescriptionError {
    /// A file that cannot be read.
    #[error("{} cannot be read: {source}", path.display())]
    Read {
        path: PathBuf,
        source: std::io::Error,
    },
    /// A card that is no valid TOML, or has keys that mean nothing.
    #[error(transparent)]
    Form(#[from] StrictError),
    /// A card that does not fit the model.
    #[error("{} does not fit the model: {problem}", path.display())]
    Unfit { path: PathBuf, problem: String },
    /// Other labels than the model has classes.
    #[error(
        "{} has {labels} labels, but output '{output}' has {classes} classes",
        path.display()
    )]
    Labels {
        path: PathBuf,
        labels: usize,
        output: String,
        classes: i64,
    },
}

/// What the files beside a model say.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Description {
    /// How a picture becomes an input.
    pub(crate) image: Option<ImageCard>,
    /// Which output has scores of classes.
    pub(crate) scores: Option<ScoresCard>,
    /// The classes' names.
    pub(crate) labels: Vec<String>,
}

/// How a picture becomes an input.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct ImageCard {
    /// The input.
    pub(crate) input: String,
    pub(crate) datatype: DataType,
    /// Of the input, all dimensions known.
    pub(crate) shape: Vec<i64>,
    pub(crate) layout: Layout,
    pub(crate) color: Color,
    pub(crate) width: usize,
    pub(crate) height: usize,
    pub(crate) resize: Resize,
    /// The share of the picture's shorter side that a crop keeps.
    pub(crate) keep: f32,
    /// What stands beside a fitted picture.
    pub(crate) fill: u8,
    pub(crate) antialias: bool,
    pub(crate) normalize: Normalize,
}

/// `(pixel * scale - mean) / std`, channel by channel in the model's order.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Normalize {
    pub(crate) scale: f32,
    pub(crate) mean: Vec<f32>,
    pub(crate) std: Vec<f32>,
}

/// Whether the channels stand before or behind height and width.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub(crate) enum Layout {
    #[serde(rename = "NCHW")]
    Nchw,
    #[serde(rename = "NHWC")]
    Nhwc,
}

/// The channels and their order.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Color {
    #[default]
    Rgb,
    Bgr,
    Gray,
}

/// What becomes of a picture of another shape.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Resize {
    /// Both sides are made to fit, each on its own.
    #[default]
    Stretch,
    /// The middle is cut out.
    Crop,
    /// The whole picture, with borders.
    Fit,
}

/// Which output has scores of classes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ScoresCard {
    pub(crate) output: String,
    pub(crate) top: usize,
    pub(crate) softmax: bool,
}

#[derive(Default, Deserialize)]
struct RawCard {
    image: Option<RawImage>,
    labels: Option<RawLabels>,
}

#[derive(Deserialize)]
struct RawImage {
    input: Option<String>,
    layout: Option<Layout>,
    #[serde(default)]
    color: Color,
    size: Option<[u16; 2]>,
    #[serde(default)]
    resize: Resize,
    keep: Option<f32>,
    fill: Option<u8>,
    antialias: Option<bool>,
    scale: Option<f32>,
    mean: Option<Channels>,
    std: Option<Channels>,
}

/// One number for all channels, or one for each.
#[derive(Deserialize)]
#[serde(
    untagged,
    expecting = "a number, or a list of one number for each channel"
)]
enum Channels {
    All(f32),
    Each(Vec<f32>),
}

#[derive(Deserialize)]
struct RawLabels {
    output: Option<String>,
    top: Option<usize>,
    #[serde(default)]
    softmax: bool,
}

/// The best classes that are told if nobody says how many.
const TOP: usize = 5;

impl Description {
    /// Reads what stands beside a model, and checks it against the model's inputs and outputs.
    pub(crate) fn read(
        files: &ModelFiles,
        inputs: &[TensorInfo],
        outputs: &[TensorInfo],
    ) -> Result<Description, DescriptionError> {
        let mut description = Description::default();
        if let Some(path) = &files.card {
            let unfit = |problem| DescriptionError::Unfit {
                path: path.clone(),
                problem,
            };
            let raw: RawCard = strict::from_toml(&text(path)?, &path.display().to_string())?;
            let image = raw.image.map(|raw| ImageCard::checked(raw, inputs));
            description.image = image.transpose().map_err(unfit)?;
            let scores = raw.labels.map(|raw| ScoresCard::checked(raw, outputs));
            description.scores = scores.transpose().map_err(unfit)?;
        }
        if let Some(path) = &files.labels {
            description.labels = text(path)?.lines().map(|l| l.trim().to_owned()).collect();
            description.check_labels(path, outputs)?;
        }
        Ok(description)
    }

    /// The output whose classes are meant if a request names none: the card's, or the only one.
    pub(crate) fn scores_of<'o>(&'o self, outputs: &'o [TensorInfo]) -> Option<&'o str> {
        match (&self.scores, outputs) {
            (Some(scores), _) => Some(&scores.output),
            (None, [only]) => Some(&only.name),
            (None, _) => None,
        }
    }

    /// How many classes are told if nobody says how many.
    pub(crate) fn top(&self) -> usize {
        self.scores.as_ref().map_or(TOP, |scores| scores.top)
    }

    /// What a client may want to know of it, as parameters of the model's metadata.
    pub(crate) fn parameters(&self) -> Map<String, Value> {
        let mut told = Map::new();
        let mut tell = |name: &str, value: Value| told.insert(name.to_owned(), value);
        if let Some(image) = &self.image {
            let layout = match image.layout {
                Layout::Nchw => "NCHW",
                Layout::Nhwc => "NHWC",
            };
            let color = match image.color {
                Color::Rgb => "rgb",
                Color::Bgr => "bgr",
                Color::Gray => "gray",
            };
            tell("image.input", image.input.clone().into());
            tell("image.layout", layout.into());
            tell("image.color", color.into());
            tell("image.width", image.width.into());
            tell("image.height", image.height.into());
        }
        if let Some(scores) = &self.scores {
            tell("labels.output", scores.output.clone().into());
            tell("labels.top", scores.top.into());
        }
        if !self.labels.is_empty() {
            tell("labels.count", self.labels.len().into());
        }
        told
    }

    fn check_labels(&self, path: &Path, outputs: &[TensorInfo]) -> Result<(), DescriptionError> {
        let labels = self.labels.len();
        let scores = self.scores_of(outputs);
        let Some(output) = outputs.iter().find(|o| Some(o.name.as_str()) == scores) else {
            return Ok(());
        };
        match output.shape.last() {
            Some(classes) if *classes >= 0 && usize::try_from(*classes) != Ok(labels) => {
                Err(DescriptionError::Labels {
                    path: path.to_owned(),
                    labels,
                    output: output.name.clone(),
                    classes: *classes,
                })
            }
            _ => Ok(()),
        }
    }
}

fn text(path: &Path) -> Result<String, DescriptionError> {
    fs::read_to_string(path).map_err(|source| DescriptionError::Read {
        path: path.to_owned(),
        source,
    })
}

impl ImageCard {
    fn checked(raw: RawImage, inputs: &[TensorInfo]) -> Result<ImageCard, String> {
        let input = named(raw.input.as_deref(), inputs, "input")?;
        let name = &input.name;
        let shown = &input.shape;
        if !matches!(input.datatype, DataType::Fp32 | DataType::Uint8) {
            return Err(format!(
                "input '{name}' has datatype {}, and pictures become FP32 or UINT8",
                input.datatype
            ));
        }
        let (batch, sides) = match input.shape.as_slice() {
            [batch @ (1 | -1), rest @ ..] if rest.len() == 3 => (Some(batch), rest),
            rest @ [_, _, _] => (None, rest),
            _ => {
                return Err(format!(
                    "input '{name}' has shape {shown:?}, and a picture has three dimensions, with or without a batch of 1 before them"
                ));
            }
        };
        let channels = raw.color.channels();
        let count = i64::try_from(channels).unwrap_or(i64::MAX);
        let layout = match (raw.layout, sides) {
            (Some(layout), _) => layout,
            (None, [first, ..]) if *first == count => Layout::Nchw,
            (None, [.., last]) if *last == count => Layout::Nhwc,
            (None, [-1, ..]) => Layout::Nchw,
            (None, [.., -1]) => Layout::Nhwc,
            (None, _) => {
                return Err(format!(
                    "input '{name}' has shape {shown:?}, and the card's color has {channels} channels"
                ));
            }
        };
        let (channel, high, wide) = match layout {
            Layout::Nchw => (sides[0], sides[1], sides[2]),
            Layout::Nhwc => (sides[2], sides[0], sides[1]),
        };
        if channel != count && channel >= 0 {
            return Err(format!(
                "input '{name}' has {channel} channels in this layout, and the card's color has {channels}"
            ));
        }
        let side = |declared: i64, given: Option<u16>, which: &str| match given {
            Some(0) => Err(format!("image.size has a {which} of 0")),
            Some(given) if declared < 0 || declared == i64::from(given) => Ok(i64::from(given)),
            Some(given) => Err(format!(
                "input '{name}' has shape {shown:?}, and image.size a {which} of {given}"
            )),
            None if declared < 1 => Err(format!(
                "input '{name}' leaves its {which} free, so that image.size has to say it"
            )),
            None => Ok(declared),
        };
        let width = side(wide, raw.size.map(|size| size[0]), "width")?;
        let height = side(high, raw.size.map(|size| size[1]), "height")?;
        let shape = match layout {
            Layout::Nchw => [count, height, width],
            Layout::Nhwc => [height, width, count],
        };
        let keep = raw.keep.unwrap_or(1.0);
        if !(keep > 0.0 && keep <= 1.0) {
            return Err(format!(
                "image.keep is {keep}, expected more than 0 and at most 1"
            ));
        }
        let normalizes = raw.scale.is_some() || raw.mean.is_some() || raw.std.is_some();
        if input.datatype == DataType::Uint8 && normalizes {
            return Err(format!(
                "input '{name}' takes pixels as they are (UINT8), so that scale, mean and std have no place"
            ));
        }
        let normalize = Normalize {
            scale: raw.scale.unwrap_or(1.0),
            mean: each(raw.mean, channels, 0.0, "mean")?,
            std: each(raw.std, channels, 1.0, "std")?,
        };
        if normalize.std.contains(&0.0) {
            return Err("image.std has a 0, by which nothing can be divided".into());
        }
        Ok(ImageCard {
            input: name.clone(),
            datatype: input.datatype,
            shape: batch.map(|_| 1).into_iter().chain(shape).collect(),
            layout,
            color: raw.color,
            width: usize::try_from(width).unwrap_or(usize::MAX),
            height: usize::try_from(height).unwrap_or(usize::MAX),
            resize: raw.resize,
            keep,
            fill: raw.fill.unwrap_or(0),
            antialias: raw.antialias.unwrap_or(true),
            normalize,
        })
    }
}

impl Color {
    pub(crate) fn channels(self) -> usize {
        match self {
            Color::Rgb | Color::Bgr => 3,
            Color::Gray => 1,
        }
    }
}

impl ScoresCard {
    fn checked(raw: RawLabels, outputs: &[TensorInfo]) -> Result<ScoresCard, String> {
        let output = named(raw.output.as_deref(), outputs, "output")?;
        if output.shape.is_empty() || matches!(output.datatype, DataType::Bytes | DataType::Bool) {
            return Err(format!(
                "output '{}' has datatype {} and shape {:?}, which are no scores of classes",
                output.name, output.datatype, output.shape
            ));
        }
        let top = raw.top.unwrap_or(TOP);
        if top == 0 {
            return Err("labels.top is 0, expected at least 1".into());
        }
        Ok(ScoresCard {
            output: output.name.clone(),
            top,
            softmax: raw.softmax,
        })
    }
}

fn named<'t>(
    name: Option<&str>,
    tensors: &'t [TensorInfo],
    kind: &str,
) -> Result<&'t TensorInfo, String> {
    let all = || {
        let names: Vec<String> = tensors.iter().map(|t| format!("'{}'", t.name)).collect();
        names.join(", ")
    };
    match (name, tensors) {
        (Some(name), _) => tensors
            .iter()
            .find(|tensor| tensor.name == name)
            .ok_or_else(|| format!("it has no {kind} '{name}'; it has {}", all())),
        (None, [only]) => Ok(only),
        (None, _) => Err(format!(
            "the card has to name one of its {kind}s: {}",
            all()
        )),
    }
}

fn each(
    given: Option<Channels>,
    channels: usize,
    default: f32,
    key: &str,
) -> Result<Vec<f32>, String> {
    let values = match given {
        None => vec![default; channels],
        Some(Channels::All(value)) => vec![value; channels],
        Some(Channels::Each(values)) => values,
    };
    if values.len() != channels {
        return Err(format!(
            "image.{key} has {} numbers for {channels} channels",
            values.len()
        ));
    }
    Ok(values)
}

#[cfg(test)]
mod tests;
