use bytes::Bytes;

use super::*;

const NOW_MS: u64 = 1_764_028_800_000;

fn node() -> EdgeNode {
    EdgeNode::new("plant", NodeId::new("n1").unwrap())
}

fn stream() -> StreamName {
    StreamName::new("climate").unwrap()
}

fn record(time_ms: u64, text: &str) -> Record {
    Record {
        time_ms,
        encoding: Encoding::Json,
        value: Bytes::copy_from_slice(text.as_bytes()),
    }
}

fn read(message: &Message) -> (String, Payload) {
    let kind = message.topic.strip_prefix("spBv1.0/plant/").unwrap();
    (
        kind.to_owned(),
        Payload::decode(&message.payload[..]).unwrap(),
    )
}

fn kinds(messages: &[Message]) -> Vec<(String, Option<u64>)> {
    let read = messages.iter().map(read);
    read.map(|(kind, payload)| (kind, payload.seq)).collect()
}

fn expected(kinds: &[(&str, u64)]) -> Vec<(String, Option<u64>)> {
    let owned = kinds
        .iter()
        .map(|(kind, seq)| ((*kind).to_owned(), Some(*seq)));
    owned.collect()
}

#[test]
fn a_death_says_which_connection_and_nothing_else() {
    let mut node = node();
    node.next_connection();
    let (kind, death) = read(&node.death(NOW_MS));
    assert_eq!((kind.as_str(), death.seq), ("NDEATH/n1", None));
    let birth = read(&node.births(NOW_MS)[0]).1;
    assert_eq!(death.metrics, [birth.metrics[0].clone()]);
    assert_eq!(birth.metrics[0].value, Some(Value::Long(1)));
    assert_eq!(birth.metrics[1].name.as_deref(), Some(REBIRTH));
    for _ in 0..255 {
        node.next_connection();
    }
    let death = read(&node.death(NOW_MS)).1;
    assert_eq!(
        death.metrics[0].value,
        Some(Value::Long(0)),
        "after 255 comes 0"
    );
}

#[test]
fn births_come_before_data_and_again_when_a_metric_is_new_or_wider() {
    let mut node = node();
    assert_eq!(kinds(&node.births(NOW_MS)), expected(&[("NBIRTH/n1", 0)]));
    let texts = [
        r#"{"t":20,"line":{"id":3}}"#,
        r#"{"t":21}"#,
        r#"{"t":21.5}"#,
        r#"{"t":22}"#,
        r#"{"t":22,"ok":true}"#,
        r#"{"t":"n/a"}"#,
    ];
    let records: Vec<_> = texts.iter().map(|text| record(NOW_MS, text)).collect();
    let messages = node.data(&stream(), &records, NOW_MS);
    let kinds_expected = [
        ("DBIRTH/n1/climate", 1),
        ("DDATA/n1/climate", 2),
        ("DBIRTH/n1/climate", 3),
        ("DDATA/n1/climate", 4),
        ("DBIRTH/n1/climate", 5),
        ("DDATA/n1/climate", 6),
    ];
    assert_eq!(kinds(&messages), expected(&kinds_expected));
    let birth = read(&messages[4]).1;
    let told: Vec<_> = birth
        .metrics
        .iter()
        .map(|m| {
            (
                m.name.clone().unwrap(),
                m.datatype.unwrap(),
                m.value.clone().unwrap(),
            )
        })
        .collect();
    let told_expected = [
        ("line/id", INT64, Value::Long(3)),
        ("ok", BOOLEAN, Value::Boolean(true)),
        ("t", DOUBLE, Value::Double(22.0)),
    ];
    assert_eq!(
        told,
        told_expected.map(|(name, of, value)| (name.to_owned(), of, value))
    );
    let last = read(&messages[5]).1.metrics[0].clone();
    assert_eq!((last.is_null, last.value), (Some(true), None));
}

#[test]
fn a_rebirth_begins_the_count_anew_with_the_last_values() {
    let mut node = node();
    node.births(NOW_MS);
    node.data(&stream(), &[record(NOW_MS, r#"{"t":1}"#)], NOW_MS);
    node.note(&stream(), &[record(NOW_MS, r#"{"t":2}"#)], NOW_MS);
    let messages = node.births(NOW_MS);
    assert_eq!(
        kinds(&messages),
        expected(&[("NBIRTH/n1", 0), ("DBIRTH/n1/climate", 1)])
    );
    let birth = read(&messages[1]).1;
    assert_eq!(birth.metrics[0].value, Some(Value::Long(2)));
}

#[test]
fn what_comes_late_is_history_and_the_count_goes_round() {
    let mut node = node();
    node.births(NOW_MS);
    node.data(&stream(), &[record(NOW_MS, "1")], NOW_MS);
    for n in 2..=300_u64 {
        let late = [record(NOW_MS - HISTORY_MS - n, "1")];
        let messages = node.data(&stream(), &late, NOW_MS);
        let (kind, payload) = read(&messages[0]);
        assert_eq!(
            (kind.as_str(), payload.seq),
            ("DDATA/n1/climate", Some(n % 256))
        );
        let metric = &payload.metrics[0];
        assert_eq!(metric.is_historical, Some(true));
        assert_eq!(metric.timestamp, Some(NOW_MS - HISTORY_MS - n));
        assert_eq!(metric.name.as_deref(), Some("value"));
    }
}
