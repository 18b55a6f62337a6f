//! Keeps reports on the node and hands each on to another system.
//!
//! ```text
//!   POST /reports ─► stream (on disk) ─► target, with the secret `token`
//!   GET /reports?from=SEQ ─► what of the stream is still on the node
//! ```
//!
//! Configuration: `target` (a URL), `stream` (default `reports`), and the secret
//! `token`, which the target sees as a bearer token.

use guest_sdk::config;
use guest_sdk::http::{Request, Response};
use guest_sdk::outbound;
use guest_sdk::router::{Refusal, Router};
use guest_sdk::stream::{self, StreamError};
use serde_json::{Value, json};

struct Relay;

impl guest_sdk::http::Handler for Relay {
    fn handle(request: Request) -> Response {
        Router::new()
            .post_json("/reports", |value, _| report(value))
            .get("/reports", |request, _| kept(request))
            .answer(&request)
    }
}

guest_sdk::http_handler!(Relay);

fn report(value: Value) -> Result<Value, Refusal> {
    let position = stream::append(&name(), &value).map_err(refused)?;
    let Some(target) = config::value("target") else {
        return Err(Refusal::new(
            500,
            "no-target",
            "set `target` in the deployment's config",
        ));
    };
    let mut request = outbound::post(target).json(&value);
    if let Some(token) = config::value("token") {
        request = request.header("authorization", &format!("Bearer {token}"));
    }
    let handed_on = match request.send() {
        Ok(answer) => json!(answer.status),
        Err(error) => json!(error.to_string()),
    };
    Ok(json!({ "sequence": position.first, "handed_on": handed_on }))
}

fn kept(request: &Request) -> Result<Response, Refusal> {
    let window = stream::held(&name()).map_err(refused)?;
    let from = match request.query("from") {
        Some(text) => text
            .parse()
            .map_err(|_| Refusal::bad_request("`from` is the number of a record"))?,
        None => window.first,
    };
    let records = stream::read(&name(), from, 100).map_err(refused)?;
    let records = records.iter().map(|record| {
        let value: Value = serde_json::from_slice(&record.value).unwrap_or_default();
        json!({ "sequence": record.sequence, "value": value })
    });
    let records: Vec<_> = records.collect();
    Ok(Response::json(
        200,
        &json!({ "next": window.next, "records": records }),
    ))
}

fn name() -> String {
    config::value_or("stream", "reports")
}

fn refused(error: StreamError) -> Refusal {
    let status = match error {
        StreamError::Denied(_) => 403,
        StreamError::Full(_) => 503,
        StreamError::TooLarge(_) => 413,
        StreamError::Unknown(_) | StreamError::Other(_) => 500,
    };
    Refusal::new(status, "not-kept", error)
}
