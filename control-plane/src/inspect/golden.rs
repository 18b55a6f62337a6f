//! Golden inputs and outputs: whether a model could take and give them at all. That it does is seen on the node.

use std::collections::BTreeSet;
use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::de::{SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};

use super::onnx::{Dimension, Outline, ValueOutline};

/// Why golden values do not fit a model; reads well after the file's name and a colon.
#[derive(Debug, thiserror::Error)]
pub(crate) enum GoldenRefusal {
    #[error("it is not a JSON document of golden cases: {0}")]
    Json(serde_json::Error),
    #[error("it has no cases")]
    NoCases,
    #[error("case {case} expects no outputs")]
    NoOutputs { case: usize },
    #[error("tolerance {tolerance} is no number from 0 on")]
    Tolerance { tolerance: f64 },
    #[error("case {case} has {side} {name:?}, which the model does not have: it has {known}")]
    Unknown {
        case: usize,
        side: Side,
        name: String,
        known: String,
    },
    #[error("case {case} has {side} {name:?} twice")]
    Twice {
        case: usize,
        side: Side,
        name: String,
    },
    #[error("case {case} lacks input {name:?} of the model")]
    Lacks { case: usize, name: String },
    #[error("case {case}, {side} {name:?}: datatype {found} is not the model's {expected}")]
    Datatype {
        case: usize,
        side: Side,
        name: String,
        found: String,
        expected: &'static str,
    },
    #[error(
        "case {case}, {side} {name:?}: {expected} has no form in JSON, give its bytes as base64"
    )]
    NoJsonForm {
        case: usize,
        side: Side,
        name: String,
        expected: &'static str,
    },
    #[error("case {case}, {side} {name:?}: data is no array, and the shape is not []")]
    NoArray {
        case: usize,
        side: Side,
        name: String,
    },
    #[error("case {case}, {side} {name:?}: give either data or base64")]
    NoData {
        case: usize,
        side: Side,
        name: String,
    },
    #[error("case {case}, {side} {name:?}: base64 cannot be read: {reason}")]
    Base64 {
        case: usize,
        side: Side,
        name: String,
        reason: String,
    },
    #[error(
        "case {case}, {side} {name:?}: {found} bytes are given, shape {shape:?} of {datatype} has {expected}"
    )]
    Bytes {
        case: usize,
        side: Side,
        name: String,
        found: u64,
        expected: u64,
        datatype: &'static str,
        shape: Vec<i64>,
    },
    #[error("case {case}, {side} {name:?}: shape {found:?} does not fit the model's {expected}")]
    Shape {
        case: usize,
        side: Side,
        name: String,
        found: Vec<i64>,
        expected: String,
    },
    #[error(
        "case {case}, {side} {name:?}: {found} elements are given, shape {shape:?} has {expected}"
    )]
    Count {
        case: usize,
        side: Side,
        name: String,
        found: u64,
        expected: u64,
        shape: Vec<i64>,
    },
    #[error("case {case}, {side} {name:?}: {found} is no {expected}")]
    Element {
        case: usize,
        side: Side,
        name: String,
        found: &'static str,
        expected: &'static str,
    },
}

/// Where a tensor stands in a case.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    Input,
    Output,
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Input => "input",
            Self::Output => "output",
        })
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Golden {
    tolerance: Option<f64>,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    inputs: Vec<Tensor>,
    outputs: Vec<Tensor>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Tensor {
    name: String,
    datatype: String,
    shape: Vec<i64>,
    data: Option<Element>,
    /// The bytes of the binary form instead.
    base64: Option<String>,
    tolerance: Option<f64>,
}

/// Checks the text of a golden file against a model.
pub(super) fn check(text: &str, model: &Outline) -> Result<(), GoldenRefusal> {
    let golden: Golden = serde_json::from_str(text).map_err(GoldenRefusal::Json)?;
    if golden.cases.is_empty() {
        return Err(GoldenRefusal::NoCases);
    }
    let outputs = golden.cases.iter().flat_map(|case| &case.outputs);
    let own = outputs.filter_map(|output| output.tolerance);
    for tolerance in golden.tolerance.into_iter().chain(own) {
        if !(tolerance >= 0.0 && tolerance.is_finite()) {
            return Err(GoldenRefusal::Tolerance { tolerance });
        }
    }
    for (i, case) in golden.cases.iter().enumerate() {
        let number = i + 1;
        if case.outputs.is_empty() {
            return Err(GoldenRefusal::NoOutputs { case: number });
        }
        tensors(number, Side::Input, &case.inputs, &model.inputs)?;
        tensors(number, Side::Output, &case.outputs, &model.outputs)?;
        let given = |input: &&ValueOutline| case.inputs.iter().any(|t| t.name == input.name);
        if let Some(lacking) = model.inputs.iter().find(|input| !given(input)) {
            return Err(GoldenRefusal::Lacks {
                case: number,
                name: lacking.name.clone(),
            });
        }
    }
    Ok(())
}

fn tensors(
    case: usize,
    side: Side,
    given: &[Tensor],
    known: &[ValueOutline],
) -> Result<(), GoldenRefusal> {
    let mut seen = BTreeSet::new();
    for tensor in given {
        let name = tensor.name.clone();
        if !seen.insert(&tensor.name) {
            return Err(GoldenRefusal::Twice { case, side, name });
        }
        let Some(value) = known.iter().find(|value| value.name == name) else {
            let known: Vec<_> = known.iter().map(|value| value.name.as_str()).collect();
            return Err(GoldenRefusal::Unknown {
                case,
                side,
                name,
                known: known.join(", "),
            });
        };
        fits(case, side, tensor, value)?;
    }
    Ok(())
}

fn fits(
    case: usize,
    side: Side,
    tensor: &Tensor,
    value: &ValueOutline,
) -> Result<(), GoldenRefusal> {
    let name = || tensor.name.clone();
    let datatype = value.tensor.as_ref().and_then(|t| datatype(t.element));
    let (Some(expected), Some(model)) = (datatype, &value.tensor) else {
        // No tensor, or none of a kind that the protocol has: the node says why it cannot be served.
        return Ok(());
    };
    if tensor.datatype != expected {
        return Err(GoldenRefusal::Datatype {
            case,
            side,
            name: name(),
            found: tensor.datatype.clone(),
            expected,
        });
    }
    let shape = || tensor.shape.clone();
    let negative = tensor.shape.iter().any(|n| *n < 0);
    if negative
        || !model
            .shape
            .as_deref()
            .is_none_or(|dims| takes(dims, &tensor.shape))
    {
        return Err(GoldenRefusal::Shape {
            case,
            side,
            name: name(),
            found: shape(),
            expected: model.shape_in_words(),
        });
    }
    let sizes = tensor.shape.iter().map(|n| u64::try_from(*n).unwrap_or(0));
    let count = sizes.fold(1_u64, u64::saturating_mul);
    match (&tensor.data, &tensor.base64) {
        (Some(_), None) if matches!(expected, "FP16" | "BF16") => Err(GoldenRefusal::NoJsonForm {
            case,
            side,
            name: name(),
            expected,
        }),
        (Some(Element(data)), None) if !data.array && !tensor.shape.is_empty() => {
            Err(GoldenRefusal::NoArray {
                case,
                side,
                name: name(),
            })
        }
        (Some(Element(data)), None) if data.count != count => Err(GoldenRefusal::Count {
            case,
            side,
            name: name(),
            found: data.count,
            expected: count,
            shape: shape(),
        }),
        (Some(Element(data)), None) => match data.stranger(expected) {
            None => Ok(()),
            Some((found, expected)) => Err(GoldenRefusal::Element {
                case,
                side,
                name: name(),
                found,
                expected,
            }),
        },
        (None, Some(text)) => {
            let bytes = STANDARD.decode(text).map_err(|e| GoldenRefusal::Base64 {
                case,
                side,
                name: name(),
                reason: e.to_string(),
            })?;
            let found = bytes.len() as u64;
            match element_bytes(expected).map(|size| count.saturating_mul(size)) {
                Some(wanted) if wanted != found => Err(GoldenRefusal::Bytes {
                    case,
                    side,
                    name: name(),
                    found,
                    expected: wanted,
                    datatype: expected,
                    shape: shape(),
                }),
                _ => Ok(()),
            }
        }
        _ => Err(GoldenRefusal::NoData {
            case,
            side,
            name: name(),
        }),
    }
}

/// Bytes of an element; none for strings, whose lengths differ.
fn element_bytes(datatype: &str) -> Option<u64> {
    let bits = match datatype {
        "BYTES" => return None,
        "BOOL" => 8,
        name => name
            .trim_start_matches(|c: char| !c.is_ascii_digit())
            .parse()
            .ok()?,
    };
    Some(bits / 8)
}

fn takes(dims: &[Dimension], shape: &[i64]) -> bool {
    dims.len() == shape.len()
        && dims.iter().zip(shape).all(|(dim, n)| match dim {
            Dimension::Fixed(size) => size == n,
            Dimension::Free(_) => true,
        })
}

/// The protocol's name of an element of TensorProto.DataType.
fn datatype(element: i32) -> Option<&'static str> {
    Some(match element {
        1 => "FP32",
        2 => "UINT8",
        3 => "INT8",
        4 => "UINT16",
        5 => "INT16",
        6 => "INT32",
        7 => "INT64",
        8 => "BYTES",
        9 => "BOOL",
        10 => "FP16",
        11 => "FP64",
        12 => "UINT32",
        13 => "UINT64",
        16 => "BF16",
        _ => return None,
    })
}

/// Numbers that JSON does not have, as answers give them.
const WORDS: [&str; 3] = ["NaN", "Infinity", "-Infinity"];

/// What a tensor's data is made of, counted while it is read: flat or nested like the shape.
#[derive(Debug, Default, PartialEq, Eq)]
struct Elements {
    count: u64,
    /// Whether it stands in brackets; a scalar may go without.
    array: bool,
    fractions: bool,
    integers: bool,
    bools: bool,
    strings: bool,
    /// Strings that may stand for numbers.
    words: bool,
    nulls: bool,
}

impl Elements {
    /// A kind of element that the datatype does not have, and what it has.
    fn stranger(&self, datatype: &str) -> Option<(&'static str, &'static str)> {
        let (expected, float) = match datatype {
            "BYTES" => ("string", false),
            "BOOL" => ("truth value", false),
            "FP32" | "FP64" => ("number", true),
            _ => ("integer", false),
        };
        let strangers = [
            // 0 and 1 stand for truth values too.
            (self.integers && datatype == "BYTES", "a number"),
            (self.fractions && !float, "a fraction"),
            (self.bools && datatype != "BOOL", "a truth value"),
            (self.strings && datatype != "BYTES", "a string"),
            (self.words && datatype != "BYTES" && !float, "a string"),
            (self.nulls, "null"),
        ];
        let found = strangers.into_iter().find(|(is, _)| *is)?.1;
        Some((found, expected))
    }

    fn add(&mut self, other: &Self) {
        self.count = self.count.saturating_add(other.count);
        self.fractions |= other.fractions;
        self.integers |= other.integers;
        self.bools |= other.bools;
        self.strings |= other.strings;
        self.words |= other.words;
        self.nulls |= other.nulls;
    }
}

/// One element, or an array of them.
struct Element(Elements);

impl<'de> Deserialize<'de> for Element {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Any;
        fn one(mark: impl FnOnce(&mut Elements)) -> Element {
            let mut elements = Elements {
                count: 1,
                ..Elements::default()
            };
            mark(&mut elements);
            Element(elements)
        }
        impl<'de> Visitor<'de> for Any {
            type Value = Element;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number, true, false, a string or an array of them")
            }
            fn visit_bool<E>(self, _: bool) -> Result<Element, E> {
                Ok(one(|e| e.bools = true))
            }
            fn visit_i64<E>(self, _: i64) -> Result<Element, E> {
                Ok(one(|e| e.integers = true))
            }
            fn visit_u64<E>(self, _: u64) -> Result<Element, E> {
                Ok(one(|e| e.integers = true))
            }
            fn visit_f64<E>(self, _: f64) -> Result<Element, E> {
                Ok(one(|e| e.fractions = true))
            }
            fn visit_str<E>(self, text: &str) -> Result<Element, E> {
                Ok(one(|e| {
                    let word = WORDS.contains(&text);
                    (e.words, e.strings) = (word, !word);
                }))
            }
            fn visit_unit<E>(self) -> Result<Element, E> {
                Ok(one(|e| e.nulls = true))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Element, A::Error> {
                let mut all = Elements {
                    array: true,
                    ..Elements::default()
                };
                while let Some(Element(item)) = items.next_element()? {
                    all.add(&item);
                }
                Ok(Element(all))
            }
        }
        deserializer.deserialize_any(Any)
    }
}

#[cfg(test)]
mod tests;
