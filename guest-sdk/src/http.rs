//! HTTP handlers: whole requests in, whole responses out.

use std::cell::OnceCell;
use std::io::{self, Read as _, Write as _};

use serde::{Serialize, de::DeserializeOwned};
use serde_json::json;
use wasip2::http::types::{
    Fields, IncomingBody, IncomingRequest, OutgoingBody, OutgoingResponse, ResponseOutparam,
};

pub use wasip2::http::types::Method;

/// Answers requests. Register it with [`http_handler!`](crate::http_handler).
pub trait Handler {
    /// The largest request body that is read; a larger one is answered 413.
    const MAX_BODY_BYTES: u64 = 16 << 20;

    /// Answers one request.
    fn handle(request: Request) -> Response;
}

/// A request with its whole body.
pub struct Request {
    /// The method.
    pub method: Method,
    /// Path and query as the client sent them.
    pub path: String,
    /// The body; empty if there was none.
    pub body: Vec<u8>,
    headers: Headers,
}

/// Headers, fetched from the host when one is asked for.
#[derive(Default)]
struct Headers {
    fetched: OnceCell<Vec<(String, Vec<u8>)>>,
    host: Option<Fields>,
}

impl Headers {
    fn all(&self) -> &[(String, Vec<u8>)] {
        let fetch = || self.host.as_ref().map(Fields::entries).unwrap_or_default();
        self.fetched.get_or_init(fetch)
    }
}

impl Request {
    /// A request without headers and body, for tests of handlers.
    #[must_use]
    pub fn new(method: Method, path: &str) -> Self {
        Self {
            method,
            path: path.to_owned(),
            body: Vec::new(),
            headers: Headers::default(),
        }
    }

    /// The same request with this body.
    #[must_use]
    pub fn with_body(mut self, body: &[u8]) -> Self {
        self.body = body.to_vec();
        self
    }

    /// The same request with one more header.
    #[must_use]
    pub fn with_header(mut self, name: &str, value: &str) -> Self {
        let mut all = self.headers.all().to_vec();
        all.push((name.to_owned(), value.into()));
        self.headers.fetched = OnceCell::from(all);
        self
    }

    /// The first header of this name, if it is text.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .all()
            .iter()
            .find(|(key, _)| key.eq_ignore_ascii_case(name))
            .and_then(|(_, value)| std::str::from_utf8(value).ok())
    }

    /// The route that led here, as it is deployed, such as `/lines/:line/*`.
    #[must_use]
    pub fn route(&self) -> Option<&str> {
        self.header("x-edge-route")
    }

    /// A parameter of the deployed route, decoded.
    #[must_use]
    pub fn route_param(&self, name: &str) -> Option<String> {
        let value = self.header(&format!("x-edge-param-{name}"))?;
        let value = percent_encoding::percent_decode_str(value).decode_utf8();
        value.ok().map(Into::into)
    }

    /// The path without query that the deployed route left open: what its
    /// last `*` took, else the whole path.
    #[must_use]
    pub fn relative_path(&self) -> String {
        match self.header("x-edge-rest") {
            Some(rest) => format!("/{rest}"),
            None => self.path.split('?').next().unwrap_or_default().to_owned(),
        }
    }

    /// The first value of `name` in the query, decoded.
    #[must_use]
    pub fn query(&self, name: &str) -> Option<String> {
        let (_, query) = self.path.split_once('?')?;
        form_urlencoded::parse(query.as_bytes())
            .find(|(key, _)| key == name)
            .map(|(_, value)| value.into_owned())
    }

    /// The body as JSON.
    ///
    /// # Errors
    /// What is wrong and where.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T, serde_json::Error> {
        serde_json::from_slice(&self.body)
    }
}

/// A response with its whole body.
pub struct Response {
    status: u16,
    headers: Vec<(&'static str, String)>,
    body: Vec<u8>,
}

impl Response {
    /// Bytes of the given content type.
    #[must_use]
    pub fn bytes(status: u16, content_type: &str, body: Vec<u8>) -> Self {
        let headers = vec![("content-type", content_type.to_owned())];
        Self {
            status,
            headers,
            body,
        }
    }

    /// Plain text.
    #[must_use]
    pub fn text(status: u16, text: impl Into<String>) -> Self {
        Self::bytes(
            status,
            "text/plain; charset=utf-8",
            text.into().into_bytes(),
        )
    }

    /// Its status.
    #[must_use]
    pub fn status(&self) -> u16 {
        self.status
    }

    /// Its body.
    #[must_use]
    pub fn body(&self) -> &[u8] {
        &self.body
    }

    /// A value as JSON.
    #[must_use]
    pub fn json(status: u16, value: &impl Serialize) -> Self {
        let body = serde_json::to_vec(value).unwrap_or_default();
        Self::bytes(status, "application/json", body)
    }

    /// An error as JSON: a stable code, and a sentence that says what to do.
    #[must_use]
    pub fn error(status: u16, code: &str, message: &str) -> Self {
        Self::json(status, &json!({ "code": code, "error": message }))
    }

    /// The same response with one more header.
    #[must_use]
    pub fn with_header(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }
}

/// Exports a type that implements [`Handler`] as `wasi:http/incoming-handler`.
#[macro_export]
macro_rules! http_handler {
    ($handler:ty) => {
        struct ExportedHandler;

        impl $crate::wasip2::exports::http::incoming_handler::Guest for ExportedHandler {
            fn handle(
                request: $crate::wasip2::http::types::IncomingRequest,
                response_out: $crate::wasip2::http::types::ResponseOutparam,
            ) {
                $crate::http::serve::<$handler>(request, response_out);
            }
        }

        $crate::wasip2::http::proxy::export!(ExportedHandler with_types_in $crate::wasip2);
    };
}

#[doc(hidden)]
pub fn serve<H: Handler>(request: IncomingRequest, response_out: ResponseOutparam) {
    let response = match read(&request, H::MAX_BODY_BYTES) {
        Ok(request) => H::handle(request),
        Err(response) => response,
    };
    write(response, response_out);
}

fn read(incoming: &IncomingRequest, max_bytes: u64) -> Result<Request, Response> {
    let body = match incoming.consume() {
        Ok(body) => read_body(&body, max_bytes)?,
        Err(()) => Vec::new(),
    };
    Ok(Request {
        method: incoming.method(),
        path: incoming.path_with_query().unwrap_or_else(|| "/".to_owned()),
        headers: Headers {
            fetched: OnceCell::new(),
            host: Some(incoming.headers()),
        },
        body,
    })
}

fn read_body(body: &IncomingBody, max_bytes: u64) -> Result<Vec<u8>, Response> {
    let Ok(mut stream) = body.stream() else {
        return Ok(Vec::new());
    };
    let mut bytes = Vec::new();
    match stream.by_ref().take(max_bytes + 1).read_to_end(&mut bytes) {
        Ok(n) if n as u64 > max_bytes => Err(Response::error(
            413,
            "too-large",
            &format!("the body is larger than the {max_bytes} bytes that this handler takes"),
        )),
        Ok(_) => Ok(bytes),
        Err(error) => Err(Response::error(
            400,
            "body-cut",
            &format!("the request body could not be read: {error}"),
        )),
    }
}

/// Sends the response. A client that has gone away is no fault of the handler,
/// so failures to write are dropped.
fn write(response: Response, response_out: ResponseOutparam) {
    let fields = Fields::new();
    for (name, value) in &response.headers {
        let _ = fields.append(name, value.as_bytes());
    }
    let length = response.body.len().to_string();
    let _ = fields.append("content-length", length.as_bytes());
    let outgoing = OutgoingResponse::new(fields);
    let _ = outgoing.set_status_code(response.status);
    let body = outgoing.body().expect("the body is taken once");
    ResponseOutparam::set(response_out, Ok(outgoing));
    let written = {
        let mut stream = body.write().expect("the stream is taken once");
        stream
            .write_all(&response.body)
            .and_then(|()| io::Write::flush(&mut stream))
    };
    if written.is_ok() {
        let _ = OutgoingBody::finish(body, None);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn route_parameters_and_query_are_decoded() {
        let request = Request::new(Method::Get, "/lines/7%20b?unit=deg%20C&x=1&unit=K")
            .with_header("x-edge-route", "/lines/:line")
            .with_header("x-edge-param-line", "7%20b");
        assert_eq!(request.route(), Some("/lines/:line"));
        assert_eq!(request.route_param("line").as_deref(), Some("7 b"));
        assert_eq!(request.route_param("other"), None);
        assert_eq!(request.query("unit").as_deref(), Some("deg C"));
        assert_eq!(request.query("y"), None);
        assert_eq!(request.relative_path(), "/lines/7%20b");
    }
}
