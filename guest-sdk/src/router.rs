//! Typed routes within a handler.
//!
//! A router works on what the deployment's route left open: a handler that is
//! deployed on `/lines/*` gets the request for `/lines/7/temperature` as
//! `/7/temperature`, so it need not know where it is deployed.
//!
//! ```
//! use guest_sdk::http::{Method, Request, Response};
//! use guest_sdk::router::{Params, Refusal, Router};
//! use serde::{Deserialize, Serialize};
//!
//! #[derive(Deserialize)]
//! struct Reading {
//!     celsius: f64,
//! }
//!
//! #[derive(Serialize)]
//! struct Verdict {
//!     line: u32,
//!     hot: bool,
//! }
//!
//! fn judge(reading: Reading, params: &Params) -> Result<Verdict, Refusal> {
//!     Ok(Verdict { line: params.get("line")?, hot: reading.celsius > 80.0 })
//! }
//!
//! let router = Router::new()
//!     .get("/", |_, _| Ok(Response::text(200, "judges temperatures")))
//!     .post_json("/:line/temperature", judge);
//!
//! let request = Request::new(Method::Post, "/7/temperature").with_body(br#"{"celsius": 90}"#);
//! let response = router.answer(&request);
//! assert_eq!(response.status(), 200);
//! assert_eq!(response.body(), br#"{"line":7,"hot":true}"#);
//! ```

use std::fmt::Display;
use std::str::FromStr;

use serde::{Serialize, de::DeserializeOwned};

use crate::http::{Method, Request, Response};

type Answer = Box<dyn Fn(&Request, &Params) -> Result<Response, Refusal>>;

/// Routes of a handler, the first that fits is taken.
#[derive(Default)]
pub struct Router {
    routes: Vec<Route>,
}

struct Route {
    method: Method,
    segments: Vec<Segment>,
    answer: Answer,
}

enum Segment {
    Word(&'static str),
    Parameter(&'static str),
    Rest,
}

/// The parameters of the route that a request took.
#[derive(Debug, Default)]
pub struct Params(Vec<(&'static str, String)>);

/// Why a request is not answered as it wishes; goes out as JSON
/// `{"code", "error"}`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The HTTP status.
    pub status: u16,
    /// A stable word for programs.
    pub code: &'static str,
    /// A sentence for people, which says what to do.
    pub message: String,
}

impl Refusal {
    /// A refusal with its status, code and sentence.
    pub fn new(status: u16, code: &'static str, message: impl Display) -> Self {
        Self {
            status,
            code,
            message: message.to_string(),
        }
    }

    /// 400: the client sent what cannot be used.
    pub fn bad_request(message: impl Display) -> Self {
        Self::new(400, "bad-request", message)
    }

    /// 404: there is no such thing.
    pub fn not_found(message: impl Display) -> Self {
        Self::new(404, "not-found", message)
    }
}

impl Params {
    /// The parameter `name` as a `T`.
    ///
    /// # Errors
    /// 400 if it is none; 500 if the route has no such parameter.
    pub fn get<T>(&self, name: &str) -> Result<T, Refusal>
    where
        T: FromStr,
        T::Err: Display,
    {
        let found = self.0.iter().find(|(own, _)| *own == name);
        let (_, text) = found.ok_or_else(|| {
            Refusal::new(500, "no-parameter", format!("the route has no :{name}"))
        })?;
        text.parse()
            .map_err(|error| Refusal::bad_request(format!("{name} is {text:?}: {error}")))
    }
}

impl Router {
    /// A router without routes.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Answers `method` on `path`: words, `:name` for one segment, and `*` last for the rest.
    #[must_use]
    pub fn on(
        mut self,
        method: Method,
        path: &'static str,
        answer: impl Fn(&Request, &Params) -> Result<Response, Refusal> + 'static,
    ) -> Self {
        let segments = segments(path).map(|segment| match segment.strip_prefix(':') {
            Some(name) => Segment::Parameter(name),
            None if segment == "*" => Segment::Rest,
            None => Segment::Word(segment),
        });
        self.routes.push(Route {
            method,
            segments: segments.collect(),
            answer: Box::new(answer),
        });
        self
    }

    /// Answers GET and HEAD on `path`.
    #[must_use]
    pub fn get(
        self,
        path: &'static str,
        answer: impl Fn(&Request, &Params) -> Result<Response, Refusal> + 'static,
    ) -> Self {
        self.on(Method::Get, path, answer)
    }

    /// Answers POST on `path`.
    #[must_use]
    pub fn post(
        self,
        path: &'static str,
        answer: impl Fn(&Request, &Params) -> Result<Response, Refusal> + 'static,
    ) -> Self {
        self.on(Method::Post, path, answer)
    }

    /// Answers POST on `path` with JSON in and JSON out. A body that is not
    /// what is asked for is answered 400 with the place of the fault.
    #[must_use]
    pub fn post_json<T, R>(
        self,
        path: &'static str,
        answer: impl Fn(T, &Params) -> Result<R, Refusal> + 'static,
    ) -> Self
    where
        T: DeserializeOwned,
        R: Serialize,
    {
        self.post(path, move |request, params| {
            let value = request.json().map_err(|error| {
                Refusal::new(
                    400,
                    "bad-json",
                    format!("the body is not what is asked for: {error}"),
                )
            })?;
            Ok(Response::json(200, &answer(value, params)?))
        })
    }

    /// The answer of the first route that fits; else 404, or 405 with the
    /// methods that the path takes.
    #[must_use]
    pub fn answer(&self, request: &Request) -> Response {
        let path = request.relative_path();
        let mut others = Vec::new();
        for route in &self.routes {
            let Some(params) = matched(&route.segments, &path) else {
                continue;
            };
            if route.takes(&request.method) {
                return (route.answer)(request, &params).unwrap_or_else(Into::into);
            }
            others.push(name(&route.method));
        }
        if others.is_empty() {
            return Refusal::not_found(format!("nothing is served on {path}")).into();
        }
        let others = others.join(", ");
        Response::error(405, "method-not-allowed", &format!("{path} takes {others}"))
            .with_header("allow", others)
    }
}

impl Route {
    fn takes(&self, method: &Method) -> bool {
        let get = matches!((&self.method, method), (Method::Get, Method::Head));
        get || name(&self.method) == name(method)
    }
}

impl From<Refusal> for Response {
    fn from(refusal: Refusal) -> Self {
        Self::error(refusal.status, refusal.code, &refusal.message)
    }
}

fn name(method: &Method) -> String {
    match method {
        Method::Get => "GET",
        Method::Head => "HEAD",
        Method::Post => "POST",
        Method::Put => "PUT",
        Method::Delete => "DELETE",
        Method::Connect => "CONNECT",
        Method::Options => "OPTIONS",
        Method::Trace => "TRACE",
        Method::Patch => "PATCH",
        Method::Other(name) => name,
    }
    .to_owned()
}

fn segments(path: &str) -> impl Iterator<Item = &str> {
    path.split('/').filter(|segment| !segment.is_empty())
}

fn matched(route: &[Segment], path: &str) -> Option<Params> {
    let mut params = Params::default();
    let mut given = segments(path);
    for segment in route {
        match segment {
            Segment::Rest => return Some(params),
            Segment::Word(word) if given.next() == Some(word) => {}
            Segment::Word(_) => return None,
            Segment::Parameter(name) => {
                let value = percent_encoding::percent_decode_str(given.next()?);
                params
                    .0
                    .push((name, value.decode_utf8().ok()?.into_owned()));
            }
        }
    }
    given.next().is_none().then_some(params)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn router() -> Router {
        Router::new()
            .get("/", |_, _| Ok(Response::text(200, "root")))
            .get("/items/:id", |_, params| {
                let id: u32 = params.get("id")?;
                Ok(Response::text(200, format!("item {id}")))
            })
            .post_json("/items/:id", |value: u32, params: &Params| {
                Ok(value + params.get::<u32>("id")?)
            })
            .get("/files/*", |request, _| {
                Ok(Response::text(200, request.relative_path()))
            })
    }

    fn answer(method: Method, path: &str, body: &[u8]) -> (u16, String) {
        let response = router().answer(&Request::new(method, path).with_body(body));
        let body = String::from_utf8(response.body().to_vec()).unwrap();
        (response.status(), body)
    }

    #[test]
    fn the_first_route_that_fits_answers() {
        assert_eq!(answer(Method::Get, "/", b""), (200, "root".into()));
        assert_eq!(
            answer(Method::Head, "/items/7", b""),
            (200, "item 7".into())
        );
        assert_eq!(answer(Method::Post, "/items/7", b"5"), (200, "12".into()));
        assert_eq!(
            answer(Method::Get, "/files/a/b?c", b""),
            (200, "/files/a/b".into())
        );
    }

    #[test]
    fn what_does_not_fit_is_told() {
        let (status, body) = answer(Method::Get, "/items/x%20y", b"");
        assert_eq!(status, 400);
        assert!(body.contains(r#"id is \"x y\": invalid digit"#), "{body}");
        let (status, body) = answer(Method::Post, "/items/7", b"{");
        assert_eq!(status, 400);
        assert!(
            body.contains("bad-json") && body.contains("line 1"),
            "{body}"
        );
        assert_eq!(answer(Method::Get, "/items", b"").0, 404);
        assert_eq!(answer(Method::Get, "/items/7/8", b"").0, 404);
        let (status, body) = answer(Method::Delete, "/items/7", b"");
        assert_eq!(status, 405);
        assert!(body.contains("/items/7 takes GET, POST"), "{body}");
    }

    #[test]
    fn the_deployed_route_is_left_out() {
        let request = Request::new(Method::Get, "/lines/items/7")
            .with_header("x-edge-route", "/lines/*")
            .with_header("x-edge-rest", "items/7");
        assert_eq!(router().answer(&request).body(), b"item 7");
    }
}
