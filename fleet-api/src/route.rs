//! Where a handler serves.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The methods that a route can name (RFC 9110, RFC 5789).
const METHODS: [&str; 8] = [
    "GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "TRACE", "PATCH",
];

/// Where a handler serves: `/exact`, `/tree/*`, `/items/:id`, with a host before it and
/// methods before both if wanted, as in `GET,POST line.plant/items/:id`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Route {
    /// One bit for each of [`METHODS`]; every method if there is none.
    methods: u8,
    host: Option<String>,
    path: String,
}

/// Why a route is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RouteError {
    /// The pattern is not of a known form.
    #[error(
        "route {0:?} is not valid: write /exact, /tree/* or /items/:id, with a host before it if wanted"
    )]
    Pattern(String),
    /// What stands before the path are no methods.
    #[error(
        "route {route:?} names method {method:?}: use {}, with commas between them", METHODS.join(", ")
    )]
    Method {
        /// The route.
        route: String,
        /// What is no method.
        method: String,
    },
    /// A parameter's name stands in the pattern twice.
    #[error("route {route:?} has parameter :{name} twice: give each its own name")]
    ParameterTwice {
        /// The route.
        route: String,
        /// The parameter.
        name: String,
    },
    /// The pattern lies in the runtime's own paths.
    #[error("route {0:?} is reserved: /v2 and /streams belong to the runtime")]
    Reserved(String),
}

impl Route {
    /// The methods that it takes; every one if there are none.
    pub fn methods(&self) -> impl Iterator<Item = &'static str> {
        let bits = METHODS.into_iter().enumerate();
        bits.filter_map(|(i, method)| (self.methods & (1 << i) != 0).then_some(method))
    }

    /// Whether it takes requests of this method; HEAD goes where GET goes.
    pub fn takes(&self, method: &str) -> bool {
        self.methods == 0
            || self.methods().any(|own| own == method)
            || (method == "HEAD" && self.takes("GET"))
    }

    /// The host it is bound to, if any.
    pub fn host(&self) -> Option<&str> {
        self.host.as_deref()
    }

    /// The path pattern.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// What it claims, one text for each method: two routes collide if they
    /// share one. Parameters lose their names in it.
    pub fn claims(&self) -> impl Iterator<Item = String> {
        let path: Vec<_> = self
            .path
            .split('/')
            .map(|s| if s.starts_with(':') { ":" } else { s })
            .collect();
        let host = self.host.as_deref().unwrap_or_default();
        let place = format!("{host}{}", path.join("/"));
        METHODS
            .into_iter()
            .filter(|method| self.takes(method))
            .map(move |method| format!("{method} {place}"))
    }

    /// Whether a request can belong to both.
    pub fn collides(&self, other: &Self) -> bool {
        let mine: BTreeSet<_> = self.claims().collect();
        other.claims().any(|claim| mine.contains(&claim))
    }
}

impl FromStr for Route {
    type Err = RouteError;
    fn from_str(text: &str) -> Result<Self, RouteError> {
        let bad = || RouteError::Pattern(text.to_owned());
        let (methods, place) = match text.split_once(' ') {
            Some((methods, place)) => (self::methods(text, methods)?, place),
            None => (0, text),
        };
        let slash = place.find('/').ok_or_else(bad)?;
        let (host, path) = place.split_at(slash);
        let host_ok = host
            .bytes()
            .all(|c| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'.' | b':'));
        let segments: Vec<_> = path[1..].split('/').collect();
        let segment_ok = |(i, s): (usize, &&str)| match *s {
            "*" => i + 1 == segments.len(),
            "" => segments.len() == 1,
            "." | ".." => false,
            s => {
                let word = s.strip_prefix(':').unwrap_or(s);
                !word.is_empty()
                    && word.bytes().all(|c| {
                        c.is_ascii_alphanumeric() || matches!(c, b'-' | b'_' | b'.' | b'~')
                    })
            }
        };
        if !host_ok || !segments.iter().enumerate().all(segment_ok) {
            return Err(bad());
        }
        let mut names = BTreeSet::new();
        for name in segments.iter().filter_map(|s| s.strip_prefix(':')) {
            if !names.insert(name.to_ascii_lowercase()) {
                return Err(RouteError::ParameterTwice {
                    route: text.to_owned(),
                    name: name.to_owned(),
                });
            }
        }
        if host.is_empty() && matches!(segments[0], "v2" | "streams") {
            return Err(RouteError::Reserved(text.to_owned()));
        }
        Ok(Self {
            methods,
            host: (!host.is_empty()).then(|| host.to_ascii_lowercase()),
            path: path.to_owned(),
        })
    }
}

fn methods(route: &str, methods: &str) -> Result<u8, RouteError> {
    let bit = |method: &str| {
        let found = METHODS.into_iter().position(|known| known == method);
        found.map(|i| 1 << i).ok_or_else(|| RouteError::Method {
            route: route.to_owned(),
            method: method.to_owned(),
        })
    };
    let mut bits = methods.split(',').map(bit);
    bits.try_fold(0, |all, bit| Ok(all | bit?))
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, method) in self.methods().enumerate() {
            let before = if i == 0 { "" } else { "," };
            write!(f, "{before}{method}")?;
        }
        if self.methods != 0 {
            f.write_str(" ")?;
        }
        let host = self.host.as_deref().unwrap_or_default();
        write!(f, "{host}{}", self.path)
    }
}

impl TryFrom<String> for Route {
    type Error = RouteError;
    fn try_from(text: String) -> Result<Self, RouteError> {
        text.parse()
    }
}

impl From<Route> for String {
    fn from(route: Route) -> String {
        route.to_string()
    }
}

crate::text_schema!(Route);

#[cfg(test)]
mod tests {
    use super::*;

    fn route(text: &str) -> Route {
        text.parse().expect("valid")
    }

    #[test]
    fn keeps_what_it_is_given() {
        for good in [
            "/",
            "/*",
            "/exact",
            "/tree/*",
            "/items/:id",
            "line.plant:8080/a/:b/*",
            "GET /items/:id",
            "GET,POST line.plant/x",
        ] {
            assert_eq!(route(good).to_string(), good);
        }
    }

    #[test]
    fn refuses_what_has_another_form() {
        for bad in ["", "a", "/a//b", "/*/a", "/:", "/a/../b", "/a b", "/a/"] {
            assert!(bad.parse::<Route>().is_err(), "{bad:?}");
        }
        let refusal = |text: &str| text.parse::<Route>().expect_err("refused").to_string();
        assert!(refusal("GET,FETCH /x").contains("names method \"FETCH\": use GET, HEAD"));
        assert!(refusal("/a/:x/:X").contains(":X twice"));
        assert!(refusal("POST /v2/models").contains("reserved"));
    }

    #[test]
    fn routes_collide_if_a_request_could_belong_to_both() {
        assert!(route("/a/:x").collides(&route("/a/:y")));
        assert!(route("/a").collides(&route("GET /a")));
        assert!(route("GET /a").collides(&route("HEAD /a")));
        assert!(!route("GET /a").collides(&route("POST,PUT /a")));
        assert!(!route("/a").collides(&route("host/a")));
    }

    #[test]
    fn head_goes_where_get_goes() {
        assert!(route("GET /a").takes("HEAD"));
        assert!(!route("POST /a").takes("HEAD"));
        assert!(route("/a").takes("PURGE"));
    }
}
