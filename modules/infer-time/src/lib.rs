//! Runs the model `mlp` as often as `?runs=` says and answers how long a run
//! took from within the handler: what wasi:nn costs.

use std::time::{Duration, Instant};

use guest_sdk::{
    http::{Handler, Request, Response},
    model::{Model, ModelError, Tensor},
};
use serde_json::json;

const MODEL: &str = "mlp";
const WIDTH: u32 = 64;
const MOST_RUNS: usize = 10_000;

struct InferTime;

impl Handler for InferTime {
    fn handle(request: Request) -> Response {
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
