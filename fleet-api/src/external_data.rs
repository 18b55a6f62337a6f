//! The files that an ONNX model keeps its weights in, read from its protobuf (onnx.proto3) without decoding the rest.

use std::collections::BTreeMap;

use crate::model_files::{FileName, FileNameError};

/// Why a model's references cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ExternalDataError {
    /// The bytes are no ONNX model.
    #[error("this is not an ONNX model, or it is damaged")]
    Damaged,
    /// Graphs lie in each other too deeply.
    #[error("the model's graphs lie in each other more than {DEEPEST} levels deep")]
    Deep,
    /// A tensor lies outside of the model and does not say where.
    #[error("tensor {tensor:?} lies in a file that the model does not name")]
    NoLocation {
        /// The tensor.
        tensor: String,
    },
    /// A tensor lies where none may.
    #[error("tensor {tensor:?} lies where no file of the model may lie")]
    Location {
        /// The tensor.
        tensor: String,
        /// What is wrong with the file's name.
        source: FileNameError,
    },
    /// A place in a file is no number, or beyond all files.
    #[error("tensor {tensor:?} has {key} {value:?}, which is no place in a file")]
    Place {
        /// The tensor.
        tensor: String,
        /// `offset` or `length`.
        key: &'static str,
        /// What the model says.
        value: String,
    },
}

/// How deep graphs may lie in each other.
const DEEPEST: usize = 64;

/// The files that `model` refers to, and how many bytes each must have at least.
///
/// # Errors
/// [`ExternalDataError`], also for names that lead out of the model's folder.
pub fn references(model: &[u8]) -> Result<BTreeMap<FileName, u64>, ExternalDataError> {
    let mut files = BTreeMap::new();
    for part in fields(model) {
        match part? {
            (7, Value::Bytes(graph)) => in_graph(graph, DEEPEST, &mut files)?,
            // A function's nodes have number 7; its attributes' defaults number 11.
            (25, Value::Bytes(function)) => {
                for part in fields(function) {
                    match part? {
                        (7, Value::Bytes(node)) => in_node(node, DEEPEST, &mut files)?,
                        (11, Value::Bytes(attribute)) => {
                            in_attribute(attribute, DEEPEST, &mut files)?;
                        }
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    Ok(files)
}

type Files = BTreeMap<FileName, u64>;

fn in_graph(graph: &[u8], depth: usize, files: &mut Files) -> Result<(), ExternalDataError> {
    let depth = depth.checked_sub(1).ok_or(ExternalDataError::Deep)?;
    for part in fields(graph) {
        match part? {
            (1, Value::Bytes(node)) => in_node(node, depth, files)?,
            (5, Value::Bytes(tensor)) => in_tensor(tensor, files)?,
            (15, Value::Bytes(sparse)) => in_sparse(sparse, files)?,
            _ => {}
        }
    }
    Ok(())
}

fn in_node(node: &[u8], depth: usize, files: &mut Files) -> Result<(), ExternalDataError> {
    for part in fields(node) {
        if let (5, Value::Bytes(attribute)) = part? {
            in_attribute(attribute, depth, files)?;
        }
    }
    Ok(())
}

fn in_attribute(
    attribute: &[u8],
    depth: usize,
    files: &mut Files,
) -> Result<(), ExternalDataError> {
    for part in fields(attribute) {
        match part? {
            (5 | 10, Value::Bytes(tensor)) => in_tensor(tensor, files)?,
            (6 | 11, Value::Bytes(graph)) => in_graph(graph, depth, files)?,
            (22 | 23, Value::Bytes(sparse)) => in_sparse(sparse, files)?,
            _ => {}
        }
    }
    Ok(())
}

fn in_sparse(sparse: &[u8], files: &mut Files) -> Result<(), ExternalDataError> {
    for part in fields(sparse) {
        if let (1 | 2, Value::Bytes(tensor)) = part? {
            in_tensor(tensor, files)?;
        }
    }
    Ok(())
}

/// TensorProto.DataLocation.EXTERNAL
const EXTERNAL: u64 = 1;

fn in_tensor(tensor: &[u8], files: &mut Files) -> Result<(), ExternalDataError> {
    let (mut external, mut name) = (false, "");
    let (mut location, mut offset, mut length) = (None, None, None);
    for part in fields(tensor) {
        match part? {
            (8, Value::Bytes(text)) => name = utf8(text)?,
            (13, Value::Bytes(entry)) => {
                let (key, value) = entry_of(entry)?;
                match key {
                    "location" => location = Some(value),
                    "offset" => offset = Some(value),
                    "length" => length = Some(value),
                    _ => {}
                }
            }
            (14, Value::Number(place)) => external = place == EXTERNAL,
            _ => {}
        }
    }
    if !external {
        return Ok(());
    }
    let tensor = || name.to_owned();
    let mut location =
        location.ok_or_else(|| ExternalDataError::NoLocation { tensor: tensor() })?;
    while let Some(rest) = location.strip_prefix("./") {
        location = rest;
    }
    let file = FileName::new(location).map_err(|source| ExternalDataError::Location {
        tensor: tensor(),
        source,
    })?;
    let number = |key, value: Option<&str>| {
        let value = value.unwrap_or("0");
        value.parse::<u64>().map_err(|_| ExternalDataError::Place {
            tensor: tensor(),
            key,
            value: value.to_owned(),
        })
    };
    let (start, bytes) = (number("offset", offset)?, number("length", length)?);
    let end = start
        .checked_add(bytes)
        .ok_or_else(|| ExternalDataError::Place {
            tensor: tensor(),
            key: "offset",
            value: start.to_string(),
        })?;
    let least = files.entry(file).or_default();
    *least = (*least).max(end);
    Ok(())
}

/// StringStringEntryProto.
fn entry_of(entry: &[u8]) -> Result<(&str, &str), ExternalDataError> {
    let (mut key, mut value) = ("", "");
    for part in fields(entry) {
        match part? {
            (1, Value::Bytes(text)) => key = utf8(text)?,
            (2, Value::Bytes(text)) => value = utf8(text)?,
            _ => {}
        }
    }
    Ok((key, value))
}

fn utf8(bytes: &[u8]) -> Result<&str, ExternalDataError> {
    std::str::from_utf8(bytes).map_err(|_| ExternalDataError::Damaged)
}

enum Value<'a> {
    Number(u64),
    Bytes(&'a [u8]),
    Other,
}

/// The fields of a protobuf message, in their order; ends after the first error.
fn fields(message: &[u8]) -> impl Iterator<Item = Result<(u64, Value<'_>), ExternalDataError>> {
    let mut rest = message;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let field = field(&mut rest).ok_or(ExternalDataError::Damaged);
        if field.is_err() {
            rest = &[];
        }
        Some(field)
    })
}

fn field<'a>(rest: &mut &'a [u8]) -> Option<(u64, Value<'a>)> {
    let tag = varint(rest)?;
    let value = match tag & 7 {
        0 => Value::Number(varint(rest)?),
        1 => {
            take(rest, 8)?;
            Value::Other
        }
        2 => {
            let len = varint(rest)?;
            Value::Bytes(take(rest, usize::try_from(len).ok()?)?)
        }
        5 => {
            take(rest, 4)?;
            Value::Other
        }
        _ => return None,
    };
    Some((tag >> 3, value))
}

fn varint(rest: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let byte = take(rest, 1)?[0];
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

fn take<'a>(rest: &mut &'a [u8], len: usize) -> Option<&'a [u8]> {
    let (head, tail) = rest.split_at_checked(len)?;
    *rest = tail;
    Some(head)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn bytes(number: u8, content: &[u8]) -> Vec<u8> {
        let mut len = content.len();
        let mut field = vec![number << 3 | 2];
        while len >= 0x80 {
            field.push(u8::try_from(len & 0x7f).expect("seven bits") | 0x80);
            len >>= 7;
        }
        field.push(u8::try_from(len).expect("seven bits"));
        [&field, content].concat()
    }

    fn tensor(entries: &[(&str, &str)]) -> Vec<u8> {
        let entries = entries.iter().flat_map(|(key, value)| {
            let entry = [bytes(1, key.as_bytes()), bytes(2, value.as_bytes())].concat();
            bytes(13, &entry)
        });
        let mut tensor = bytes(8, b"w");
        tensor.extend(entries);
        tensor.extend([14 << 3, 1]);
        tensor
    }

    fn model(tensor: &[u8]) -> Vec<u8> {
        bytes(7, &bytes(5, tensor))
    }

    fn names(model: &[u8]) -> Vec<(String, u64)> {
        let files = references(model).expect("a model");
        files.into_iter().map(|(f, n)| (f.to_string(), n)).collect()
    }

    #[test]
    fn finds_weights_of_graphs_of_subgraphs_and_of_constants() {
        let outside = tensor(&[("location", "./a/w.bin"), ("offset", "64"), ("length", "8")]);
        let inner = tensor(&[("location", "b.bin")]);
        // If's branch is an attribute with a graph; Constant's value one with a tensor.
        let branch = bytes(1, &bytes(5, &bytes(6, &bytes(5, &inner))));
        let constant = bytes(1, &bytes(5, &bytes(5, &tensor(&[("location", "c.bin")]))));
        let graph = [bytes(5, &outside), branch, constant].concat();
        assert_eq!(
            names(&bytes(7, &graph)),
            [
                ("a/w.bin".to_owned(), 72),
                ("b.bin".to_owned(), 0),
                ("c.bin".to_owned(), 0)
            ]
        );
    }

    #[test]
    fn weights_within_the_model_refer_to_nothing() {
        assert!(names(&model(&bytes(9, b"1234"))).is_empty());
        assert!(names(b"").is_empty());
    }

    #[test]
    fn refuses_what_leads_out_of_the_folder() {
        let refusal = |entries: &[(&str, &str)]| {
            let error = references(&model(&tensor(entries))).expect_err("refused");
            match &error {
                ExternalDataError::Location { source, .. } => format!("{error}: {source}"),
                error => error.to_string(),
            }
        };
        insta::assert_snapshot!(refusal(&[("location", "../../etc/passwd")]), @r#"tensor "w" lies where no file of the model may lie: file name "../../etc/passwd" leaves the model's folder"#);
        insta::assert_snapshot!(refusal(&[("location", "/etc/passwd")]), @r#"tensor "w" lies where no file of the model may lie: file name "/etc/passwd" is absolute: only files of the model's own folder are taken"#);
        insta::assert_snapshot!(refusal(&[("offset", "0")]), @r#"tensor "w" lies in a file that the model does not name"#);
        insta::assert_snapshot!(refusal(&[("location", "a"), ("offset", "-1")]), @r#"tensor "w" has offset "-1", which is no place in a file"#);
        let huge = [
            ("location", "a"),
            ("offset", "18446744073709551615"),
            ("length", "1"),
        ];
        assert!(refusal(&huge).contains("no place in a file"));
    }

    #[test]
    fn graphs_that_lie_too_deep_are_refused() {
        let mut graph = bytes(5, &tensor(&[("location", "a")]));
        for _ in 0..DEEPEST {
            graph = bytes(1, &bytes(5, &bytes(6, &graph)));
        }
        let error = references(&bytes(7, &graph));
        assert_eq!(error, Err(ExternalDataError::Deep));
    }

    proptest! {
        #[test]
        fn no_bytes_bring_it_down(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = references(&bytes);
        }
    }
}
