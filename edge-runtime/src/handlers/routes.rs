//! Which handler a request belongs to. The table is built whole and exchanged whole.
//!
//! The route that names most segments of a path wins; among those that name as
//! many, words go before parameters.

use std::collections::{BTreeMap, HashMap};

use fleet_api::deployment::Route;
use matchit::Router;

/// Routes of all handlers; `T` is what a route leads to.
pub(super) struct RouteTable<T> {
    hosts: HashMap<String, Paths<T>>,
    any_host: Paths<T>,
}

/// Routes of one host. The router knows no `*` beside a parameter, so routes
/// that end in one are looked up by the segments before it.
struct Paths<T> {
    whole: Router<Place<T>>,
    /// By the number of segments before the `*`, most first.
    trees: Vec<(usize, Router<Place<T>>)>,
}

/// What serves on a path: more than one only if they differ in their methods.
type Place<T> = Vec<(Route, T)>;

/// The same while the table is built, as places in the list of routes.
type Places<'a> = BTreeMap<(Option<&'a str>, String), Vec<usize>>;

/// Two routes that a request could both belong to, by their places in the list.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Taken {
    pub(super) first: usize,
    pub(super) second: usize,
}

/// Where a request leads.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Found<'t, T> {
    /// To this target.
    Target(&'t Route, &'t T),
    /// The path is known, for these other methods only.
    OtherMethods(Vec<&'static str>),
    /// Nowhere.
    Nothing,
}

impl<T: Clone> RouteTable<T> {
    /// # Errors
    /// [`Taken`] with two routes that a request could both belong to.
    pub(super) fn new(routes: &[(Route, T)]) -> Result<Self, Taken> {
        let mut places = Places::new();
        for (second, (route, _)) in routes.iter().enumerate() {
            let place = (route.host(), pattern(route.path()));
            let place = places.entry(place).or_default();
            if let Some(first) = place.iter().find(|first| routes[**first].0.collides(route)) {
                let first = *first;
                return Err(Taken { first, second });
            }
            place.push(second);
        }
        // `/tree/*` takes `/tree` and `/tree/` too, unless another route names them.
        let trees = places.iter().filter_map(|((host, pattern), place)| {
            let tree = pattern.strip_suffix(REST)?;
            Some((*host, tree.to_owned(), place.clone()))
        });
        for (host, tree, place) in trees.collect::<Vec<_>>() {
            let bare = tree.strip_suffix('/').filter(|bare| !bare.is_empty());
            for path in [Some(tree.as_str()), bare].into_iter().flatten() {
                places
                    .entry((host, path.to_owned()))
                    .or_insert_with(|| place.clone());
            }
        }
        let mut table = Self {
            hosts: HashMap::new(),
            any_host: Paths::default(),
        };
        for ((host, pattern), place) in places {
            let paths = match host {
                Some(host) => table.hosts.entry(host.to_owned()).or_default(),
                None => &mut table.any_host,
            };
            let (router, pattern) = match pattern.strip_suffix(REST) {
                Some(tree) => (paths.tree(segments(tree)), tree),
                None => (&mut paths.whole, pattern.as_str()),
            };
            let (first, second) = (place[0], place[place.len() - 1]);
            let place = place.into_iter().map(|i| routes[i].clone()).collect();
            router
                .insert(pattern, place)
                .map_err(|_| Taken { first, second })?;
        }
        Ok(table)
    }

    /// The target for a request; a route with the request's host goes first.
    pub(super) fn find(&self, method: &str, host: Option<&str>, path: &str) -> Found<'_, T> {
        let place = self
            .find_host(host, path)
            .or_else(|| self.any_host.find(path));
        let Some(place) = place else {
            return Found::Nothing;
        };
        match place.iter().find(|(route, _)| route.takes(method)) {
            Some((route, target)) => Found::Target(route, target),
            None => {
                let methods = place.iter().flat_map(|(route, _)| route.methods());
                Found::OtherMethods(methods.collect())
            }
        }
    }

    fn find_host(&self, host: Option<&str>, path: &str) -> Option<&Place<T>> {
        if self.hosts.is_empty() {
            return None;
        }
        let host = host?.to_ascii_lowercase();
        let name = host
            .rsplit_once(':')
            .map_or(host.as_str(), |(name, _)| name);
        let routers = [self.hosts.get(&host), self.hosts.get(name)];
        routers.into_iter().flatten().find_map(|of| of.find(path))
    }
}

impl<T> Paths<T> {
    fn tree(&mut self, segments: usize) -> &mut Router<Place<T>> {
        let at = self.trees.partition_point(|(other, _)| *other > segments);
        if self
            .trees
            .get(at)
            .is_none_or(|(found, _)| *found != segments)
        {
            self.trees.insert(at, (segments, Router::new()));
        }
        &mut self.trees[at].1
    }

    fn find(&self, path: &str) -> Option<&Place<T>> {
        if let Ok(found) = self.whole.at(path) {
            return Some(found.value);
        }
        let mut trees = self.trees.iter();
        trees.find_map(|(segments, router)| {
            let tree = first_segments(path, *segments)?;
            router.at(tree).ok().map(|found| found.value)
        })
    }
}

impl<T> Default for Paths<T> {
    fn default() -> Self {
        Self {
            whole: Router::new(),
            trees: Vec::new(),
        }
    }
}

/// Segments of a path up to a last slash, 2 in `/a/b/`.
fn segments(tree: &str) -> usize {
    tree.matches('/').count() - 1
}

/// The beginning of `path` with so many segments and the slash after them.
fn first_segments(path: &str, segments: usize) -> Option<&str> {
    let mut slashes = path.match_indices('/');
    let (at, _) = slashes.nth(segments)?;
    path.starts_with('/').then(|| &path[..=at])
}

/// The parameters of `path` under the route that it matched, as the client
/// sent them (percent-encoded); what a last `*` took is named `*`.
pub(super) fn parameters<'a>(
    route: &'a Route,
    path: &'a str,
) -> impl Iterator<Item = (&'a str, &'a str)> {
    let mut rest = Some(path.strip_prefix('/').unwrap_or(path));
    let pattern = route.path().strip_prefix('/').unwrap_or_default();
    pattern.split('/').filter_map(move |segment| {
        let whole = rest.unwrap_or_default();
        if segment == "*" {
            rest = None;
            return Some(("*", whole));
        }
        let (value, after) = match whole.split_once('/') {
            Some((value, after)) => (value, Some(after)),
            None => (whole, None),
        };
        rest = after;
        Some((segment.strip_prefix(':')?, value))
    })
}

const REST: &str = "{*rest}";

/// The router's notation: `:id` is `{id}`, a last `*` is `{*rest}`.
fn pattern(path: &str) -> String {
    let segments = path.split('/').enumerate();
    let segments = segments.map(|(i, segment)| match segment {
        "*" => REST.to_owned(),
        // Names count for nothing in a match, and two routes may differ in them.
        s if s.starts_with(':') => format!("{{p{i}}}"),
        s => s.to_owned(),
    });
    segments.collect::<Vec<_>>().join("/")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(
        table: &RouteTable<&'static str>,
        host: Option<&str>,
        path: &str,
    ) -> Option<&'static str> {
        match table.find("GET", host, path) {
            Found::Target(_, target) => Some(*target),
            _ => None,
        }
    }

    fn table(routes: &[&'static str]) -> RouteTable<&'static str> {
        let routes: Vec<_> = routes.iter().map(|r| (r.parse().unwrap(), *r)).collect();
        RouteTable::new(&routes).unwrap()
    }

    #[test]
    fn the_longest_match_wins() {
        let table = table(&["/*", "/a", "/a/*", "/a/b/*", "/items/:id", "/items/new"]);
        for (path, want) in [
            ("/", "/*"),
            ("/x/y", "/*"),
            ("/a", "/a"),
            ("/a/", "/a/*"),
            ("/a/c", "/a/*"),
            ("/a/b", "/a/b/*"),
            ("/a/b/c/d", "/a/b/*"),
            ("/items/7", "/items/:id"),
            ("/items/new", "/items/new"),
            ("/items/7/parts", "/*"),
        ] {
            assert_eq!(target(&table, None, path), Some(want), "{path}");
        }
    }

    #[test]
    fn trees_stand_beside_parameters() {
        let table = table(&["/a/*", "/a/:x", "/a/:x/*", "/a/b/*", "/:y/c/d", "/*"]);
        for (path, want) in [
            ("/a", "/a/*"),
            ("/a/", "/a/*"),
            ("/a/1", "/a/:x"),
            ("/a/1/", "/a/:x/*"),
            ("/a/1/2", "/a/:x/*"),
            ("/a/b", "/a/b/*"),
            ("/a/b/2", "/a/b/*"),
            ("/a/c/d", "/:y/c/d"),
            ("/b/c/e", "/*"),
        ] {
            assert_eq!(target(&table, None, path), Some(want), "{path}");
        }
        for path in ["", "*", "a/b"] {
            assert_eq!(target(&table, None, path), None, "{path}");
        }
    }

    #[test]
    fn a_route_with_the_host_goes_first() {
        let table = table(&["/*", "line.plant/*", "line.plant:81/x"]);
        for (host, want) in [
            (Some("LINE.plant:80"), "line.plant/*"),
            (Some("line.plant:81"), "line.plant:81/x"),
            (Some("other"), "/*"),
            (None, "/*"),
        ] {
            assert_eq!(target(&table, host, "/x"), Some(want), "{host:?}");
        }
    }

    #[test]
    fn nothing_matches_what_no_route_names() {
        let table = table(&["/a", "/b/:x"]);
        for path in ["/", "/a/", "/b", "/b/", "/b/1/2", "*", ""] {
            assert_eq!(target(&table, None, path), None, "{path}");
        }
    }

    #[test]
    fn the_same_route_twice_is_refused() {
        let route = |s: &str| s.parse::<Route>().unwrap();
        let twice = RouteTable::new(&[(route("/a/:x"), 1), (route("/a/:y"), 2)]);
        let taken = Taken {
            first: 0,
            second: 1,
        };
        assert_eq!(twice.err(), Some(taken));
    }

    #[test]
    fn methods_share_a_path() {
        let table = table(&["GET /a/*", "POST,PUT /a/*", "/*"]);
        for (method, path, want) in [
            ("GET", "/a/b", "GET /a/*"),
            ("HEAD", "/a", "GET /a/*"),
            ("PUT", "/a/", "POST,PUT /a/*"),
            ("DELETE", "/b", "/*"),
        ] {
            match table.find(method, None, path) {
                Found::Target(_, target) => assert_eq!(*target, want),
                other => panic!("{method} {path} leads to {other:?}"),
            }
        }
        let other = table.find("DELETE", None, "/a/b");
        assert_eq!(other, Found::OtherMethods(vec!["GET", "POST", "PUT"]));
    }

    #[test]
    fn parameters_are_what_stands_in_their_place() {
        let parameters = |route: &str, path: &str| {
            let route = route.parse::<Route>().unwrap();
            super::parameters(&route, path)
                .map(|(name, value)| format!("{name}={value}"))
                .collect::<Vec<_>>()
                .join("&")
        };
        assert_eq!(parameters("/a", "/a"), "");
        assert_eq!(
            parameters("/lines/:line/:part", "/lines/7/x%2Fy"),
            "line=7&part=x%2Fy"
        );
        assert_eq!(parameters("host/:line/*", "/7/a/b"), "line=7&*=a/b");
        assert_eq!(parameters("/tree/*", "/tree"), "*=");
        assert_eq!(parameters("/*", "/"), "*=");
    }
}
