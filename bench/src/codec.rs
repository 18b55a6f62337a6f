use std::fmt::Write as _;
use std::hint::black_box;
use std::time::Instant;

use anyhow::Result;
use bytes::Bytes;
use edge_runtime::models::read_request;

use crate::report::Report;

/// What a classifier of pictures takes.
const SHAPE: [usize; 4] = [1, 3, 224, 224];
const TIMES: usize = 30;

/// How quickly the body of an inference request becomes tensors. Of each round the quickest reading counts: what else
/// the machine does only adds to it.
pub(crate) fn measure(rounds: usize, report: &mut Report) -> Result<()> {
    let elements: usize = SHAPE.iter().product();
    let floats: Vec<f32> = numbers(elements).collect();
    let wide: Vec<String> = floats.iter().map(|f| f64::from(*f).to_string()).collect();
    let short: Vec<String> = floats.iter().map(f32::to_string).collect();
    let pixels: Vec<String> = floats
        .iter()
        .map(|f| (*f * 40.0 + 100.0) as u8)
        .map(|p| p.to_string())
        .collect();
    let cases = [
        ("FP32, as Python writes it", "FP32", nested(&wide)),
        ("FP32, shortest digits, flat", "FP32", flat(&short)),
        ("FP64", "FP64", flat(&wide)),
        ("UINT8", "UINT8", flat(&pixels)),
    ];
    for (what, datatype, data) in cases {
        let body = json(datatype, &format!(r#""data":{data}"#));
        let rates = read(&body, None, rounds)?;
        report.add(&format!("JSON of 3x224x224 read: {what}"), "MB/s", rates);
    }
    let head = json(
        "FP32",
        &format!(r#""parameters":{{"binary_data_size":{}}}"#, elements * 4),
    );
    let data = floats.iter().flat_map(|f| f.to_le_bytes());
    let body: Bytes = head.iter().copied().chain(data).collect();
    let rates = read(&body, Some(head.len()), rounds)?;
    let us = rates.iter().map(|rate| body.len() as f64 / rate).collect();
    report.add("binary of 3x224x224 read", "us", us);
    Ok(())
}

fn read(body: &Bytes, json_length: Option<usize>, rounds: usize) -> Result<Vec<f64>> {
    let mut rates = Vec::new();
    for _ in 0..rounds {
        let mut quickest = f64::MAX;
        for _ in 0..TIMES {
            let begun = Instant::now();
            black_box(read_request(black_box(body), json_length)?);
            quickest = quickest.min(begun.elapsed().as_secs_f64());
        }
        rates.push(body.len() as f64 / quickest / 1e6);
    }
    Ok(rates)
}

fn json(datatype: &str, data: &str) -> Bytes {
    let text = format!(
        r#"{{"inputs":[{{"name":"x","shape":{SHAPE:?},"datatype":"{datatype}",{data}}}]}}"#
    );
    text.into()
}

/// Values as a normalized picture has them, always the same.
fn numbers(count: usize) -> impl Iterator<Item = f32> {
    let mut state = 1_u64;
    (0..count).map(move |_| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        let share = (state >> 40) as f32 / (1 << 24) as f32;
        (share - 0.45) / 0.225
    })
}

fn flat(values: &[String]) -> String {
    format!("[{}]", values.join(","))
}

fn nested(values: &[String]) -> String {
    let mut text = String::from("[[");
    let [_, _, high, wide] = SHAPE;
    for (plane, rows) in values.chunks(high * wide).enumerate() {
        text.push_str(if plane == 0 { "[" } else { ", [" });
        for (row, pixels) in rows.chunks(wide).enumerate() {
            let comma = if row == 0 { "" } else { ", " };
            let _ = write!(text, "{comma}[{}]", pixels.join(", "));
        }
        text.push(']');
    }
    text.push_str("]]");
    text
}
