use bytes::Bytes;
use fleet_api::frame::Encoding;
use serde_json::value::RawValue;

use super::NewRecord;

/// Why a request's body is not a list of records.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum BodyError {
    #[error(
        "content type {0:?} is not known: send application/json, application/x-ndjson, application/cbor, application/cbor-seq or application/octet-stream"
    )]
    ContentType(String),
    #[error("the body is not JSON: {0}")]
    Json(String),
    #[error("line {line} is not JSON: {reason}")]
    Line { line: usize, reason: String },
    #[error("the body is not CBOR: {0}")]
    Cbor(String),
}

/// Takes a body apart: a JSON or CBOR array gives a record per element, NDJSON
/// one per line, everything else one.
pub(super) fn records(
    content_type: Option<&str>,
    body: &Bytes,
) -> Result<Vec<NewRecord>, BodyError> {
    let content_type = content_type.unwrap_or("application/json");
    let media = content_type.split(';').next().unwrap_or("").trim();
    match media.to_ascii_lowercase().as_str() {
        // The second is what curl says unless it is told otherwise.
        "application/json" | "application/x-www-form-urlencoded" => json(body),
        "application/x-ndjson"
        | "application/ndjson"
        | "application/jsonl"
        | "application/x-jsonlines" => lines(body),
        "application/cbor" => cbor(body),
        "application/cbor-seq" => cbor_sequence(body),
        "application/octet-stream" => Ok(vec![NewRecord::new(Encoding::Bytes, body.clone())]),
        _ => Err(BodyError::ContentType(content_type.to_owned())),
    }
}

fn json(body: &Bytes) -> Result<Vec<NewRecord>, BodyError> {
    let wrong = |error: serde_json::Error| BodyError::Json(error.to_string());
    let is_array = body.iter().find(|b| !b.is_ascii_whitespace()) == Some(&b'[');
    if is_array {
        let values: Vec<&RawValue> = serde_json::from_slice(body).map_err(wrong)?;
        return Ok(values
            .iter()
            .map(|value| json_record(body, value))
            .collect());
    }
    let value: &RawValue = serde_json::from_slice(body).map_err(wrong)?;
    Ok(vec![json_record(body, value)])
}

fn lines(body: &Bytes) -> Result<Vec<NewRecord>, BodyError> {
    let lines = body.split(|b| *b == b'\n').enumerate();
    lines
        .filter(|(_, line)| !line.trim_ascii().is_empty())
        .map(|(index, line)| {
            let value: &RawValue = serde_json::from_slice(line).map_err(|e| BodyError::Line {
                line: index + 1,
                reason: e.to_string(),
            })?;
            Ok(json_record(body, value))
        })
        .collect()
}

fn json_record(body: &Bytes, value: &RawValue) -> NewRecord {
    NewRecord::new(Encoding::Json, body.slice_ref(value.get().as_bytes()))
}

fn cbor(body: &Bytes) -> Result<Vec<NewRecord>, BodyError> {
    let mut rest = &body[..];
    let value: ciborium::Value =
        ciborium::from_reader(&mut rest).map_err(|e| BodyError::Cbor(e.to_string()))?;
    if !rest.is_empty() {
        let after = body.len() - rest.len();
        return Err(BodyError::Cbor(format!("something follows byte {after}")));
    }
    let ciborium::Value::Array(items) = value else {
        return Ok(vec![NewRecord::new(Encoding::Cbor, body.clone())]);
    };
    items
        .iter()
        .map(|item| {
            let mut bytes = Vec::new();
            ciborium::into_writer(item, &mut bytes).map_err(|e| BodyError::Cbor(e.to_string()))?;
            Ok(NewRecord::new(Encoding::Cbor, bytes))
        })
        .collect()
}

/// A record per item (RFC 8742), with the bytes it was sent with.
fn cbor_sequence(body: &Bytes) -> Result<Vec<NewRecord>, BodyError> {
    let mut rest = &body[..];
    let mut records = Vec::new();
    while !rest.is_empty() {
        let item = rest;
        let at = body.len() - item.len();
        let _: ciborium::Value = ciborium::from_reader(&mut rest)
            .map_err(|e| BodyError::Cbor(format!("the item at byte {at}: {e}")))?;
        let item = &item[..item.len() - rest.len()];
        records.push(NewRecord::new(Encoding::Cbor, body.slice_ref(item)));
    }
    Ok(records)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(content_type: &str, body: &'static [u8]) -> Vec<Vec<u8>> {
        records(Some(content_type), &Bytes::from_static(body))
            .unwrap()
            .into_iter()
            .map(|record| record.value.to_vec())
            .collect()
    }

    #[test]
    fn a_record_keeps_the_text_it_was_sent_with() {
        assert_eq!(
            values("application/json", b" {\"a\": 1.0} "),
            [b"{\"a\": 1.0}"]
        );
        assert_eq!(
            values("application/json; charset=utf-8", b"[1, \"x\"]"),
            [&b"1"[..], b"\"x\""]
        );
        assert_eq!(
            values("application/x-www-form-urlencoded", b"{\"a\": 1.0}"),
            [&b"{\"a\": 1.0}"[..]]
        );
        assert_eq!(
            values("application/x-ndjson", b"1\r\n\n{\"b\":2}\n"),
            [&b"1"[..], b"{\"b\":2}"]
        );
        assert_eq!(
            values("application/cbor", b"\x82\x01\x61x"),
            [&b"\x01"[..], b"\x61x"]
        );
        assert_eq!(
            values("application/cbor-seq", b"\x01\x82\x02\x03\x61x"),
            [&b"\x01"[..], b"\x82\x02\x03", b"\x61x"]
        );
        assert_eq!(values("application/octet-stream", b"\0\n"), [b"\0\n"]);
    }

    #[test]
    fn says_what_is_wrong_with_a_body() {
        let error = |content_type, body| {
            records(Some(content_type), &Bytes::from_static(body)).unwrap_err()
        };
        assert!(matches!(
            error("application/json", b"{"),
            BodyError::Json(_)
        ));
        assert!(matches!(
            error("application/json", b"[1,]"),
            BodyError::Json(_)
        ));
        assert!(matches!(
            error("application/x-ndjson", b"1\n\nnope\n"),
            BodyError::Line { line: 3, .. }
        ));
        assert!(matches!(
            error("application/cbor", b"\x01\x02"),
            BodyError::Cbor(_)
        ));
        assert!(matches!(
            error("application/cbor", b"\x82\x01"),
            BodyError::Cbor(_)
        ));
        assert!(matches!(
            error("application/cbor-seq", b"\x01\x61"),
            BodyError::Cbor(_)
        ));
        assert!(matches!(
            error("text/plain", b"x"),
            BodyError::ContentType(_)
        ));
    }
}
