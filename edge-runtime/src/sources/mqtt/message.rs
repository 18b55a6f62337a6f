use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use fleet_api::frame::Encoding;
use serde::Serialize;
use serde_json::value::RawValue;

use crate::streams::NewRecord;

/// A message's record: its payload, beside where it came from.
#[derive(Serialize)]
struct Message<'a> {
    source: &'a str,
    topic: &'a str,
    /// How `value` stands for the payload, unless it is the payload's own JSON.
    #[serde(skip_serializing_if = "Option::is_none")]
    encoding: Option<&'static str>,
    /// Whether the broker had kept it from earlier.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    retained: bool,
    value: Payload<'a>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Payload<'a> {
    Json(&'a RawValue),
    Text(&'a str),
    Base64(String),
}

/// The record of a message. A JSON payload is the value itself, other UTF-8
/// text is a string with `"encoding": "text"` beside it, all else base64 with
/// `"encoding": "base64"`. With `raw` the payload alone is the record.
pub(super) fn record(
    source: &str,
    topic: &str,
    retained: bool,
    raw: bool,
    payload: &Bytes,
) -> NewRecord {
    let json = serde_json::from_slice::<&RawValue>(payload).ok();
    if raw {
        let encoding = json.map_or(Encoding::Bytes, |_| Encoding::Json);
        return NewRecord::new(encoding, payload.clone());
    }
    let (encoding, value) = match (json, std::str::from_utf8(payload)) {
        (Some(json), _) => (None, Payload::Json(json)),
        (None, Ok(text)) => (Some("text"), Payload::Text(text)),
        (None, Err(_)) => (Some("base64"), Payload::Base64(STANDARD.encode(payload))),
    };
    let message = Message {
        source,
        topic,
        encoding,
        retained,
        value,
    };
    let text = serde_json::to_vec(&message).expect("a message has only string keys");
    NewRecord::new(Encoding::Json, text)
}

/// Whether a topic falls under a filter (MQTT 5, 4.7). Topics that begin with a
/// dollar sign fall under no filter that begins with a wildcard.
pub(super) fn matches(filter: &str, topic: &str) -> bool {
    if topic.starts_with('$') && filter.starts_with(['+', '#']) {
        return false;
    }
    let mut levels = topic.split('/');
    for wanted in filter.split('/') {
        if wanted == "#" {
            return true;
        }
        match levels.next() {
            Some(level) if wanted == "+" || wanted == level => {}
            _ => return false,
        }
    }
    levels.next().is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(raw: bool, payload: &'static [u8]) -> (Encoding, String) {
        let record = record("plant", "a/b", false, raw, &Bytes::from_static(payload));
        let text = String::from_utf8_lossy(&record.value).into_owned();
        (record.encoding, text)
    }

    #[test]
    fn payloads_keep_what_they_are() {
        for (payload, record) in [
            (
                &b"21.50"[..],
                r#"{"source":"plant","topic":"a/b","value":21.50}"#,
            ),
            (
                b"{\"t\": 1}",
                r#"{"source":"plant","topic":"a/b","value":{"t": 1}}"#,
            ),
            (
                b"on",
                r#"{"source":"plant","topic":"a/b","encoding":"text","value":"on"}"#,
            ),
            (
                b"",
                r#"{"source":"plant","topic":"a/b","encoding":"text","value":""}"#,
            ),
            (
                b"\x00\xff",
                r#"{"source":"plant","topic":"a/b","encoding":"base64","value":"AP8="}"#,
            ),
        ] {
            assert_eq!(text(false, payload), (Encoding::Json, record.to_owned()));
        }
        assert_eq!(text(true, b"21.50"), (Encoding::Json, "21.50".to_owned()));
        assert_eq!(text(true, b"on"), (Encoding::Bytes, "on".to_owned()));
    }

    #[test]
    fn filters_match_as_the_standard_says() {
        for (filter, topic) in [
            ("#", "a/b"),
            ("a/#", "a"),
            ("a/#", "a/b/c"),
            ("a/+/c", "a/b/c"),
            ("a/+", "a/"),
            ("+/+", "/a"),
            ("$SYS/#", "$SYS/x"),
        ] {
            assert!(matches(filter, topic), "{filter} {topic}");
        }
        for (filter, topic) in [
            ("a/+", "a"),
            ("a/+", "a/b/c"),
            ("a", "a/b"),
            ("a/b", "a"),
            ("#", "$SYS/x"),
            ("+/x", "$SYS/x"),
        ] {
            assert!(!matches(filter, topic), "{filter} {topic}");
        }
    }
}
