//! Answers GET with a greeting and POST with what it was sent: the smallest
//! useful handler, and the one that benchmarks measure.

use guest_sdk::{
    config,
    http::{Handler, Method, Request, Response},
};
use serde_json::json;

struct Hello;

impl Handler for Hello {
    fn handle(request: Request) -> Response {
        match request.method {
            Method::Get | Method::Head => Response::json(
                200,
                &json!({
                    "greeting": config::value_or("greeting", "hello from the edge"),
                    "path": request.path,
                    "version": env!("CARGO_PKG_VERSION"),
                }),
            ),
            Method::Post => {
                let content_type = request.header("content-type");
                let content_type = content_type
                    .unwrap_or("application/octet-stream")
                    .to_owned();
                Response::bytes(200, &content_type, request.body)
            }
            _ => Response::error(
                405,
                "method-not-allowed",
                "use GET for a greeting, POST for an echo",
            )
            .with_header("allow", "GET, HEAD, POST"),
        }
    }
}

guest_sdk::http_handler!(Hello);
