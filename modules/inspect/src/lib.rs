//! Takes a picture of a label and says whether it is the right way up.
//!
//! ```text
//!   PNG or JPEG ─► picture::decode ─► picture::to_tensor ─► model (wasi:nn) ─► verdict::judge ─► JSON
//! ```
//!
//! Configuration: `model` (default `orientation`), `threshold` (the score below
//! which a picture is rejected, default 0.5).

mod picture;
mod verdict;

use std::time::Instant;

use guest_sdk::{
    config,
    http::{Handler, Method, Request, Response},
    model::{Model, ModelError, ModelErrorKind, Tensor},
};

struct Inspect;

impl Handler for Inspect {
    fn handle(request: Request) -> Response {
        if !matches!(request.method, Method::Post) {
            return Response::error(405, "method-not-allowed", "POST a PNG or JPEG picture")
                .with_header("allow", "POST");
        }
        inspect(&request.body).unwrap_or_else(|response| response)
    }
}

guest_sdk::http_handler!(Inspect);

fn inspect(body: &[u8]) -> Result<Response, Response> {
    let threshold = threshold()?;
    let started = Instant::now();
    let picture = picture::decode(body)
        .map_err(|error| Response::error(error.status(), error.code(), &error.to_string()))?;
    let tensor = picture::to_tensor(&picture);
    let prepared = Instant::now();
    let scores = classify(tensor).map_err(|error| model_response(&error))?;
    let verdict = verdict::judge(&scores, threshold).ok_or_else(|| {
        Response::error(
            502,
            "model-mismatch",
            "the model does not answer one score for each of 0, 90, 180 and 270 degrees; check which model is deployed",
        )
    })?;
    Ok(Response::json(
        200,
        &verdict::Report {
            verdict,
            width: picture.width(),
            height: picture.height(),
            prepare_ms: millis(prepared - started),
            infer_ms: millis(prepared.elapsed()),
        },
    ))
}

fn threshold() -> Result<f32, Response> {
    let text = config::value_or("threshold", "0.5");
    text.parse().map_err(|_| {
        Response::error(
            500,
            "bad-config",
            &format!("the configured threshold {text:?} is not a number"),
        )
    })
}

fn classify(picture: Vec<f32>) -> Result<Vec<f32>, ModelError> {
    let side = picture::SIDE;
    let model = Model::by_name(&config::value_or("model", "orientation"))?;
    let input = Tensor::f32(vec![1, 3, side, side], &picture);
    let outputs = model.run(vec![("x".to_owned(), input)])?;
    Ok(outputs
        .first()
        .and_then(|(_, tensor)| tensor.to_f32())
        .unwrap_or_default())
}

fn model_response(error: &ModelError) -> Response {
    let (status, code) = match error.kind {
        ModelErrorKind::Unavailable => (503, "model-unavailable"),
        ModelErrorKind::Busy => (503, "model-busy"),
        ModelErrorKind::BadInput => (502, "model-mismatch"),
        ModelErrorKind::Failed => (502, "model-failed"),
    };
    let response = Response::error(status, code, &error.to_string());
    if status == 503 {
        response.with_header("retry-after", "1")
    } else {
        response
    }
}

fn millis(duration: std::time::Duration) -> f64 {
    (duration.as_secs_f64() * 1e5).round() / 1e2
}
