use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use fleet_api::frame::{Encoding, Record};
use serde::Serialize;
use serde_json::value::RawValue;

/// A record with its sequence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// Position in the stream.
    pub seq: u64,
    /// The record.
    pub record: Record,
}

#[derive(Serialize)]
struct JsonRow<'a> {
    seq: u64,
    time: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    clock: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    encoding: Option<&'static str>,
    value: JsonValue<'a>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum JsonValue<'a> {
    Raw(&'a RawValue),
    Owned(serde_json::Value),
    Base64(String),
}

impl Row {
    /// `{"seq", "time", "value"}` on one line; time is in milliseconds since the
    /// Unix epoch. What is not JSON, nor CBOR that JSON can express, is base64
    /// and has an `encoding` beside it. A time by a clock that was never set has
    /// `"clock": "unset"` beside it.
    pub fn to_json(&self) -> String {
        let record = &self.record;
        let (encoding, value) = match json_value(record) {
            Some(value) => (None, value),
            None => (
                Some(record.encoding.as_str()),
                JsonValue::Base64(STANDARD.encode(&record.value)),
            ),
        };
        let row = JsonRow {
            seq: self.seq,
            time: record.time_ms,
            clock: (!record.clock_is_set()).then_some("unset"),
            encoding,
            value,
        };
        serde_json::to_string(&row).expect("a row has only string keys")
    }
}

fn json_value(record: &Record) -> Option<JsonValue<'_>> {
    match record.encoding {
        Encoding::Json => {
            let raw: &RawValue = serde_json::from_slice(&record.value).ok()?;
            // A row is one line, but a value may have been sent over several.
            if raw.get().contains('\n') {
                return serde_json::from_str(raw.get()).ok().map(JsonValue::Owned);
            }
            Some(JsonValue::Raw(raw))
        }
        Encoding::Cbor => ciborium::from_reader(&record.value[..])
            .ok()
            .map(JsonValue::Owned),
        Encoding::Bytes => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(encoding: Encoding, value: &[u8]) -> String {
        let record = Record {
            time_ms: 1_704_067_200_005,
            encoding,
            value: bytes::Bytes::copy_from_slice(value),
        };
        Row { seq: 3, record }.to_json()
    }

    #[test]
    fn rows_are_one_line_whatever_the_encoding() {
        assert_eq!(
            row(Encoding::Json, b"{\"a\": 1.50}"),
            r#"{"seq":3,"time":1704067200005,"value":{"a": 1.50}}"#
        );
        assert_eq!(
            row(Encoding::Json, b"{\n\"a\": 1}"),
            r#"{"seq":3,"time":1704067200005,"value":{"a":1}}"#
        );
        assert_eq!(
            row(Encoding::Cbor, b"\xa1\x61a\x01"),
            r#"{"seq":3,"time":1704067200005,"value":{"a":1}}"#
        );
        assert_eq!(
            row(Encoding::Bytes, b"\x00\xff"),
            r#"{"seq":3,"time":1704067200005,"encoding":"bytes","value":"AP8="}"#
        );
    }

    #[test]
    fn a_clock_that_was_never_set_shows() {
        let record = Record {
            time_ms: 60_000,
            encoding: Encoding::Json,
            value: bytes::Bytes::from_static(b"1"),
        };
        assert_eq!(
            Row { seq: 3, record }.to_json(),
            r#"{"seq":3,"time":60000,"clock":"unset","value":1}"#
        );
    }
}
