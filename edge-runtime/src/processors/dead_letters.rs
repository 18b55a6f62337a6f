//! Records that cannot be processed: where they go, and what is said of them.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use fleet_api::artifact::Reference;
use fleet_api::desired::StreamSpec;
use fleet_api::frame::{Encoding, MAX_VALUE_BYTES};
use fleet_api::ids::StreamName;
use fleet_api::units::{ByteSize, Span};
use serde::Serialize;
use serde_json::value::RawValue;

use crate::streams::{NewRecord, Row};

/// What a stream of dead letters may hold.
const QUOTA: ByteSize = ByteSize(16 << 20);
/// How long a letter stays readable on the node once its receiver has it.
const KEEP: Span = Span::from_ms(7 * 24 * 3_600_000);
/// Longest reason in bytes.
const REASON_BYTES: usize = 2 << 10;

/// A record that was set aside, as it lies in `<stream>.dead`.
#[derive(Serialize)]
struct DeadLetter<'a> {
    /// Where the record was.
    stream: &'a StreamName,
    seq: u64,
    /// When it was accepted, in milliseconds since the Unix epoch.
    time: u64,
    /// Name and version.
    processor: &'a Reference,
    reason: &'a str,
    attempts: u32,
    /// Encoding of the record; what is no JSON is base64 here.
    encoding: &'static str,
    /// None if it would be too large with all this beside it.
    value: Option<Value<'a>>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Value<'a> {
    Json(&'a RawValue),
    Base64(String),
}

/// The streams as desired and, for each with a processor, the stream of its dead letters.
pub(crate) fn with_dead_letters(streams: &[StreamSpec]) -> Vec<StreamSpec> {
    let mut all = streams.to_vec();
    for stream in streams.iter().filter(|stream| stream.processor.is_some()) {
        let Some(name) = stream.name.dead_letters() else {
            continue;
        };
        if !all.iter().any(|known| known.name == name) {
            all.push(StreamSpec {
                quota: QUOTA,
                keep: KEEP,
                ..StreamSpec::named(name)
            });
        }
    }
    all
}

/// What is put into `<stream>.dead` for `row`.
pub(super) fn letter(
    stream: &StreamName,
    row: &Row,
    processor: &Reference,
    reason: &str,
    attempts: u32,
) -> NewRecord {
    let value = &row.record.value;
    let raw = match row.record.encoding {
        Encoding::Json => serde_json::from_slice::<&RawValue>(value).ok(),
        Encoding::Cbor | Encoding::Bytes => None,
    };
    let encoding = match (raw, row.record.encoding) {
        // What is called JSON and is none can only be told as bytes.
        (None, Encoding::Json) => Encoding::Bytes,
        (_, encoding) => encoding,
    };
    let whole = DeadLetter {
        stream,
        seq: row.seq,
        time: row.record.time_ms,
        processor,
        reason: &reason[..reason.floor_char_boundary(REASON_BYTES)],
        attempts,
        encoding: encoding.as_str(),
        value: Some(raw.map_or_else(|| Value::Base64(STANDARD.encode(value)), Value::Json)),
    };
    let mut text = to_json(&whole);
    if text.len() > MAX_VALUE_BYTES {
        text = to_json(&DeadLetter {
            value: None,
            ..whole
        });
    }
    NewRecord::new(Encoding::Json, text)
}

fn to_json(letter: &DeadLetter<'_>) -> Vec<u8> {
    serde_json::to_vec(letter).expect("a letter has only string keys")
}

#[cfg(test)]
mod tests {
    use fleet_api::frame::Record;
    use serde_json::json;

    use super::*;

    fn name(text: &str) -> StreamName {
        StreamName::new(text).expect("valid")
    }

    fn letter_of(encoding: Encoding, value: &[u8]) -> serde_json::Value {
        let record = Record {
            time_ms: 5,
            encoding,
            value: bytes::Bytes::copy_from_slice(value),
        };
        let row = Row { seq: 3, record };
        let processor = "score:1.0.0".parse().expect("valid");
        let letter = letter(&name("raw"), &row, &processor, "it trapped", 6);
        assert!(letter.value.len() <= MAX_VALUE_BYTES);
        serde_json::from_slice(&letter.value).expect("JSON")
    }

    #[test]
    fn a_letter_says_what_failed_where_and_why_and_holds_the_record() {
        assert_eq!(
            letter_of(Encoding::Json, b"{\"a\": 1}"),
            json!({
                "stream": "raw", "seq": 3, "time": 5, "processor": "score:1.0.0",
                "reason": "it trapped", "attempts": 6, "encoding": "json", "value": { "a": 1 },
            })
        );
        let bytes = letter_of(Encoding::Bytes, b"\x00\xff");
        assert_eq!(
            (&bytes["encoding"], &bytes["value"]),
            (&json!("bytes"), &json!("AP8="))
        );
        let wrong = letter_of(Encoding::Json, b"{");
        assert_eq!(
            (&wrong["encoding"], &wrong["value"]),
            (&json!("bytes"), &json!("ew=="))
        );
        let large = letter_of(Encoding::Bytes, &vec![0; MAX_VALUE_BYTES]);
        assert_eq!((&large["seq"], &large["value"]), (&json!(3), &json!(null)));
    }

    #[test]
    fn a_processed_stream_has_a_place_for_its_dead_letters() {
        let mut processed = StreamSpec::named(name("vibration"));
        processed.processor = Some("score:1".parse().expect("valid"));
        let streams = [processed, StreamSpec::named(name("plain"))];
        let all: Vec<_> = with_dead_letters(&streams)
            .into_iter()
            .map(|s| s.name)
            .collect();
        assert_eq!(
            all,
            [name("vibration"), name("plain"), name("vibration.dead")]
        );
    }
}
