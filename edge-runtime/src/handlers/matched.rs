//! What a handler is told of the route that led to it, as request headers:
//! `x-edge-route` is the route as deployed, `x-edge-param-<name>` each of its
//! parameters and `x-edge-rest` what a last `*` took, percent-encoded as the
//! client sent them. A client's own headers of these names are taken away.

use fleet_api::deployment::Route;
use http::{HeaderMap, HeaderName, HeaderValue};

use super::routes;

const OURS: &str = "x-edge-";
const ROUTE: HeaderName = HeaderName::from_static("x-edge-route");
const REST: HeaderName = HeaderName::from_static("x-edge-rest");

pub(super) type Matched = Vec<(HeaderName, HeaderValue)>;

pub(super) fn headers(route: &Route, path: &str) -> Matched {
    let mut matched = Vec::with_capacity(2);
    if let Ok(route) = HeaderValue::try_from(route.to_string()) {
        matched.push((ROUTE, route));
    }
    for (name, value) in routes::parameters(route, path) {
        let name = match name {
            "*" => Ok(REST),
            name => HeaderName::try_from(format!("{OURS}param-{name}")),
        };
        // Both hold by the forms of routes and of URIs.
        if let (Ok(name), Ok(value)) = (name, HeaderValue::try_from(value)) {
            matched.push((name, value));
        }
    }
    matched
}

pub(super) fn replace(headers: &mut HeaderMap, matched: Matched) {
    let foreign: Vec<_> = headers
        .keys()
        .filter(|name| name.as_str().starts_with(OURS))
        .cloned()
        .collect();
    for name in foreign {
        headers.remove(name);
    }
    for (name, value) in matched {
        headers.insert(name, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_route_is_told_and_cannot_be_made_up() {
        let route = "GET /lines/:line/*".parse::<Route>().unwrap();
        let mut request = HeaderMap::new();
        request.insert("x-edge-param-admin", HeaderValue::from_static("yes"));
        request.insert("accept", HeaderValue::from_static("*/*"));
        replace(&mut request, headers(&route, "/lines/7%20b/a/b"));
        let mut told: Vec<_> = request
            .iter()
            .map(|(name, value)| format!("{name}: {}", value.to_str().unwrap()))
            .collect();
        told.sort();
        assert_eq!(
            told,
            [
                "accept: */*",
                "x-edge-param-line: 7%20b",
                "x-edge-rest: a/b",
                "x-edge-route: GET /lines/:line/*",
            ]
        );
    }
}
