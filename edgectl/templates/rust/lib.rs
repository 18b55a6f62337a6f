//! {{name}}: an HTTP handler for the edge runtime.

use guest_sdk::http::{Handler, Request, Response};
use guest_sdk::router::{Params, Refusal, Router};
use serde::{Deserialize, Serialize};

struct Service;

impl Handler for Service {
    fn handle(request: Request) -> Response {
        routes().answer(&request)
    }
}

guest_sdk::http_handler!(Service);

/// Paths are counted from the route that the handler is deployed on.
fn routes() -> Router {
    Router::new()
        .get("/greet/:name", greet)
        .post_json("/mean", mean)
}

fn greet(_: &Request, params: &Params) -> Result<Response, Refusal> {
    let name: String = params.get("name")?;
    Ok(Response::text(200, format!("Hello, {name}\n")))
}

#[derive(Deserialize)]
struct Series {
    values: Vec<f64>,
}

#[derive(Serialize)]
struct Summary {
    count: usize,
    mean: f64,
}

fn mean(series: Series, _: &Params) -> Result<Summary, Refusal> {
    let count = series.values.len();
    if count == 0 {
        return Err(Refusal::bad_request("values is empty: send one at least"));
    }
    let mean = series.values.iter().sum::<f64>() / count as f64;
    Ok(Summary { count, mean })
}

#[cfg(test)]
mod tests {
    use guest_sdk::http::Method;

    use super::*;

    fn answer(method: Method, path: &str, body: &str) -> (u16, String) {
        let response = routes().answer(&Request::new(method, path).with_body(body.as_bytes()));
        let body = String::from_utf8_lossy(response.body()).into_owned();
        (response.status(), body)
    }

    #[test]
    fn greets_by_name() {
        let (status, body) = answer(Method::Get, "/greet/Ada", "");
        assert_eq!(status, 200);
        assert!(body.ends_with("Ada\n"));
    }

    #[test]
    fn tells_the_mean() {
        let (status, body) = answer(Method::Post, "/mean", r#"{"values": [1, 2, 6]}"#);
        assert_eq!((status, body.as_str()), (200, r#"{"count":3,"mean":3.0}"#));
        assert_eq!(answer(Method::Post, "/mean", r#"{"values": []}"#).0, 400);
    }
}
