//! The frames that examples/frames-python is checked against. `UPDATE_VECTORS=1` writes the file.

use serde_json::{Value, json};

use super::*;

const FILE: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../examples/frames-python/vectors.json"
);

fn record(time_ms: u64, encoding: Encoding, value: &[u8]) -> Record {
    Record {
        time_ms,
        encoding,
        value: Bytes::copy_from_slice(value),
    }
}

fn gap(last: u64, reason: GapReason, lost: u64) -> Body {
    Body::Gap(Gap { last, reason, lost })
}

/// Names, streams and frames.
fn frames() -> Vec<(&'static str, &'static str, Frame)> {
    let at = 1_764_028_800_123;
    let json = record(at, Encoding::Json, br#"{"t":21.5,"ok":true}"#);
    let all_kinds = vec![
        json.clone(),
        record(
            at + 1,
            Encoding::Cbor,
            &[0xa1, 0x61, b't', 0xf9, 0x4d, 0x60],
        ),
        record(at + 1, Encoding::Bytes, &[0, 0xff, 0x80]),
        record(0, Encoding::Json, "\"grün\"".as_bytes()),
        record(at + 2, Encoding::Bytes, b""),
    ];
    let many = (0..100).map(|n| record(at + n, Encoding::Json, n.to_string().as_bytes()));
    let mut frames = vec![
        ("one record", 1, 1, Body::Records(vec![json.clone()])),
        ("every encoding", 7, 41, Body::Records(all_kinds)),
        ("a hundred records", 7, 46, Body::Records(many.collect())),
        (
            "the last numbers",
            MAX_EPOCH,
            u64::MAX - 1,
            Body::Records(vec![json]),
        ),
        ("evicted", 7, 1, gap(40, GapReason::Quota, 40)),
        ("expired", 7, 9, gap(9, GapReason::Expired, 1)),
        ("damaged", 7, 10, gap(300, GapReason::Damaged, 291)),
        ("too large", 7, 301, gap(301, GapReason::TooLarge, 1)),
        (
            "fewer lost than the gap is long",
            7,
            302,
            gap(400, GapReason::Quota, 12),
        ),
    ];
    let with_stream = frames.drain(..).map(|(name, epoch, first, body)| {
        let stream = if epoch == 1 { "s" } else { "vibration" };
        (name, stream, Frame { epoch, first, body })
    });
    with_stream.collect()
}

fn told(frame: &Frame) -> Value {
    let body = match &frame.body {
        Body::Records(records) => {
            let told = records.iter().map(
                |r| json!({ "time_ms": r.time_ms, "encoding": r.encoding, "value": hex(&r.value) }),
            );
            ("records", told.collect())
        }
        Body::Gap(gap) => (
            "gap",
            json!({ "last": gap.last, "reason": gap.reason, "lost": gap.lost }),
        ),
    };
    json!({ "epoch": frame.epoch, "first": frame.first, body.0: body.1 })
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Bytes {
    let pairs = text.as_bytes().chunks(2);
    let byte = |pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
    pairs.map(byte).collect()
}

/// Bytes that are no frame, each made from a good one; with a true checksum where one is left.
fn bad() -> Vec<(&'static str, &'static str, Vec<u8>)> {
    let frames = frames();
    let good = frames[1].2.encode("vibration").unwrap().to_vec();
    let gap = frames[4].2.encode("vibration").unwrap().to_vec();
    let with = |base: &[u8], at: usize, byte: u8| {
        let mut bytes = base.to_vec();
        bytes[at] = byte;
        let crc = checksum("vibration", &bytes);
        bytes[4..8].copy_from_slice(&crc.to_be_bytes());
        bytes
    };
    let mut flipped = good.clone();
    flipped[40] ^= 1;
    let mut longer = good.clone();
    longer.push(0);
    vec![
        ("nothing", "vibration", Vec::new()),
        ("a header that ends early", "vibration", good[..31].to_vec()),
        (
            "a body that ends early",
            "vibration",
            good[..good.len() - 1].to_vec(),
        ),
        ("something after the body", "vibration", longer),
        ("a flipped bit", "vibration", flipped),
        ("another stream's name", "vibration2", good.clone()),
        ("other first bytes", "vibration", with(&good, 0, b'X')),
        (
            "a version that is not known",
            "vibration",
            with(&good, 2, 2),
        ),
        ("a kind that is not known", "vibration", with(&good, 3, 9)),
        (
            "an encoding that is not known",
            "vibration",
            with(&good, HEADER_BYTES + 8, 7),
        ),
        (
            "more records than the body has",
            "vibration",
            with(&good, 27, 6),
        ),
        (
            "fewer records than the body has",
            "vibration",
            with(&good, 27, 4),
        ),
        ("an epoch past the last", "vibration", with(&good, 8, 0xff)),
        (
            "a gap reason that is not known",
            "vibration",
            with(&gap, HEADER_BYTES + 8, 99),
        ),
        ("a gap that counts records", "vibration", with(&gap, 27, 1)),
    ]
}

fn vectors() -> Value {
    let good = frames().into_iter().map(|(name, stream, frame)| {
        let bytes = frame.encode(stream).unwrap();
        json!({ "name": name, "stream": stream, "frame": told(&frame), "bytes": hex(&bytes) })
    });
    let bad = bad().into_iter().map(
        |(name, stream, bytes)| json!({ "name": name, "stream": stream, "bytes": hex(&bytes) }),
    );
    json!({ "good": good.collect::<Value>(), "bad": bad.collect::<Value>() })
}

#[test]
fn the_vectors_of_other_decoders_are_ours() {
    let ours = vectors();
    if std::env::var_os("UPDATE_VECTORS").is_some() {
        let text = serde_json::to_string_pretty(&ours).unwrap();
        std::fs::write(FILE, text + "\n").unwrap();
    }
    let theirs: Value = serde_json::from_slice(&std::fs::read(FILE).unwrap()).unwrap();
    assert_eq!(ours, theirs, "UPDATE_VECTORS=1 writes them anew");
    for vector in theirs["good"].as_array().unwrap() {
        let bytes = unhex(vector["bytes"].as_str().unwrap());
        let frame = Frame::decode(vector["stream"].as_str().unwrap(), &bytes).unwrap();
        assert_eq!(told(&frame), vector["frame"], "{}", vector["name"]);
    }
    for vector in theirs["bad"].as_array().unwrap() {
        let bytes = unhex(vector["bytes"].as_str().unwrap());
        let read = Frame::decode(vector["stream"].as_str().unwrap(), &bytes);
        assert!(read.is_err(), "{}", vector["name"]);
    }
}
