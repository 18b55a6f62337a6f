//! Runs the model `mlp` as often as `?runs=` says and answers how long a run
//! took from within the handler: what wasi:nn costs. With `?types` it hands
//! bytes through the models `identity-<type>` and answers which came back.

use std::time::{Duration, Instant};

use guest_sdk::{
    http::{Handler, Request, Response},
    model::{Model, ModelError, Tensor, TensorType},
};
use serde_json::json;

const MODEL: &str = "mlp";
const WIDTH: u32 = 64;
const MOST_RUNS: usize = 10_000;

struct InferTime;

impl Handler for InferTime {
    fn handle(request: Request) -> Response {
        if request.query("types").is_some() {
            return Response::json(200, &types());
        }
        let runs = request.query("runs").and_then(|runs| runs.parse().ok());
        let Some(runs) = runs.filter(|runs| (1..=MOST_RUNS).contains(runs)) else {
            let text = format!("ask with ?runs= and a number from 1 to {MOST_RUNS}");
            return Response::error(400, "runs", &text);
        };
        match time(runs) {
            Ok(times) => Response::json(200, &summary(times)),
            Err(error) => Response::error(502, "model", &error.to_string()),
        }
    }
}

guest_sdk::http_handler!(InferTime);

fn time(runs: usize) -> Result<Vec<Duration>, ModelError> {
    let model = Model::by_name(MODEL)?;
    let row = [0.5; WIDTH as usize];
    let mut times = Vec::with_capacity(runs);
    for _ in 0..runs {
        let begun = Instant::now();
        model.run(vec![("x".to_owned(), Tensor::f32(vec![1, WIDTH], &row))])?;
        times.push(begun.elapsed());
    }
    Ok(times)
}

/// For each type that wasi:nn has, and for BOOL, which goes as U8: "same", or
/// what came instead.
fn types() -> serde_json::Map<String, serde_json::Value> {
    let all = [
        ("fp16", TensorType::Fp16, 2),
        ("fp32", TensorType::Fp32, 4),
        ("fp64", TensorType::Fp64, 8),
        ("bf16", TensorType::Bf16, 2),
        ("uint8", TensorType::U8, 1),
        ("int32", TensorType::I32, 4),
        ("int64", TensorType::I64, 8),
        ("bool", TensorType::U8, 1),
    ];
    let pass = |(name, ty, size): (&str, TensorType, usize)| {
        // Ones and zeros are numbers in every type.
        let data: Vec<u8> = (0..3 * size).map(|at| u8::from(at % 2 == 0)).collect();
        let x = Tensor::new(ty, vec![3], data.clone());
        let ran = Model::by_name(&format!("identity-{name}"))
            .and_then(|model| model.run(vec![("x".to_owned(), x)]));
        let came = match ran {
            Ok(outputs) => {
                let y = &outputs[0].1;
                let same = y.ty() == ty && y.shape() == [3] && y.data() == data;
                if same {
                    "same".to_owned()
                } else {
                    format!("{y:?}")
                }
            }
            Err(error) => error.to_string(),
        };
        (name.to_owned(), came.into())
    };
    all.into_iter().map(pass).collect()
}

/// The median, and the time that 99 of 100 runs do not exceed.
fn summary(mut times: Vec<Duration>) -> serde_json::Value {
    times.sort();
    let micros = |at: usize| times[at].as_secs_f64() * 1e6;
    let runs = times.len();
    json!({ "runs": runs, "p50_us": micros(runs / 2), "p99_us": micros(runs * 99 / 100) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle_of_all_times() {
        let times = [9, 1, 5].map(Duration::from_micros).to_vec();
        let summary = summary(times);
        assert_eq!(summary["runs"], 3);
        assert!((summary["p50_us"].as_f64().unwrap() - 5.0).abs() < 1e-6);
        assert!((summary["p99_us"].as_f64().unwrap() - 9.0).abs() < 1e-6);
    }
}
