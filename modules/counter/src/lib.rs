//! Counts what passes the gates of a line. The counts are kept on the node:
//! they outlive the request, the handler's version and the node's process.

use guest_sdk::http::{Handler, Method, Request, Response};
use guest_sdk::keyvalue::{Bucket, KeyValueError};
use guest_sdk::log;
use guest_sdk::router::{Params, Refusal, Router};
use serde_json::json;

struct Counter;

impl Handler for Counter {
    fn handle(request: Request) -> Response {
        Router::new()
            .get("/", |_, _| all())
            .post("/:gate", |_, params| passed(params))
            .on(Method::Delete, "/:gate", |_, params| reset(params))
            .answer(&request)
    }
}

guest_sdk::http_handler!(Counter);

fn all() -> Result<Response, Refusal> {
    let gates = gates()?;
    let mut counts = serde_json::Map::new();
    for gate in gates.keys().map_err(refused)? {
        let count = gates.get(&gate).map_err(refused)?.unwrap_or_default();
        let count = String::from_utf8_lossy(&count).parse::<u64>();
        counts.insert(gate, count.unwrap_or_default().into());
    }
    Ok(Response::json(200, &counts))
}

fn passed(params: &Params) -> Result<Response, Refusal> {
    let gate: String = params.get("gate")?;
    let count = gates()?.increment(&gate, 1).map_err(refused)?;
    Ok(Response::json(
        200,
        &json!({ "gate": gate, "count": count }),
    ))
}

fn reset(params: &Params) -> Result<Response, Refusal> {
    let gate: String = params.get("gate")?;
    gates()?.delete(&gate).map_err(refused)?;
    log::warn("reset", &format!("gate {gate} counts from 0 again"));
    Ok(Response::json(200, &json!({ "gate": gate, "count": 0 })))
}

fn gates() -> Result<Bucket, Refusal> {
    Bucket::open("gates").map_err(refused)
}

fn refused(error: KeyValueError) -> Refusal {
    let status = match error {
        KeyValueError::Denied => 403,
        KeyValueError::Name => 500,
        KeyValueError::Other(_) => 507,
    };
    Refusal::new(status, "not-kept", error)
}
