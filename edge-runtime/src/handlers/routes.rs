//! Which handler a request belongs to. The table is built whole and exchanged whole.

use std::collections::HashMap;

use fleet_api::deployment::Route;
use matchit::Router;

/// Routes of all handlers; `T` is what a route leads to.
pub(super) struct RouteTable<T> {
    hosts: HashMap<String, Router<T>>,
    any_host: Router<T>,
}

/// The table has this route already.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Taken(pub(super) Route);

impl<T: Clone> RouteTable<T> {
    /// # Errors
    /// [`Taken`] with the route that is there twice.
    pub(super) fn new(routes: &[(Route, T)]) -> Result<Self, Taken> {
        let mut table = Self {
            hosts: HashMap::new(),
            any_host: Router::new(),
        };
        for (route, target) in routes {
            let router = match route.host() {
                Some(host) => table.hosts.entry(host.to_owned()).or_default(),
                None => &mut table.any_host,
            };
            router
                .insert(pattern(route.path()), target.clone())
                .map_err(|_| Taken(route.clone()))?;
        }
        // `/tree/*` takes `/tree` and `/tree/` too, unless another route names them.
        for (route, target) in routes {
            let Some(tree) = route.path().strip_suffix("/*") else {
                continue;
            };
            let router = match route.host() {
                Some(host) => table.hosts.entry(host.to_owned()).or_default(),
                None => &mut table.any_host,
            };
            let tree = pattern(tree);
            let _ = router.insert(format!("{tree}/"), target.clone());
            if !tree.is_empty() {
                let _ = router.insert(tree, target.clone());
            }
        }
        Ok(table)
    }

    /// The target for a request; a route with the request's host goes first.
    pub(super) fn find(&self, host: Option<&str>, path: &str) -> Option<&T> {
        self.find_host(host, path)
            .or_else(|| self.any_host.at(path).ok().map(|m| m.value))
    }

    fn find_host(&self, host: Option<&str>, path: &str) -> Option<&T> {
        if self.hosts.is_empty() {
            return None;
        }
        let host = host?.to_ascii_lowercase();
        let name = host
            .rsplit_once(':')
            .map_or(host.as_str(), |(name, _)| name);
        let routers = [self.hosts.get(&host), self.hosts.get(name)];
        let mut routers = routers.into_iter().flatten();
        routers.find_map(|router| router.at(path).ok().map(|m| m.value))
    }
}

/// The router's notation: `:id` is `{id}`, a last `*` is `{*rest}`.
fn pattern(path: &str) -> String {
    let segments = path.split('/').enumerate();
    let segments = segments.map(|(i, segment)| match segment {
        "*" => "{*rest}".to_owned(),
        // Names count for nothing in a match, and two routes may differ in them.
        s if s.starts_with(':') => format!("{{p{i}}}"),
        s => s.to_owned(),
    });
    segments.collect::<Vec<_>>().join("/")
}

#[cfg(test)]
mod tests {
    use super::*;

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
            assert_eq!(table.find(None, path), Some(&want), "{path}");
        }
    }

    #[test]
    fn a_route_with_the_host_goes_first() {
        let table = table(&["/*", "line.plant/*", "line.plant:81/x"]);
        assert_eq!(
            table.find(Some("LINE.plant:80"), "/x"),
            Some(&"line.plant/*")
        );
        assert_eq!(
            table.find(Some("line.plant:81"), "/x"),
            Some(&"line.plant:81/x")
        );
        assert_eq!(table.find(Some("other"), "/x"), Some(&"/*"));
        assert_eq!(table.find(None, "/x"), Some(&"/*"));
    }

    #[test]
    fn nothing_matches_what_no_route_names() {
        let table = table(&["/a", "/b/:x"]);
        for path in ["/", "/a/", "/b", "/b/", "/b/1/2", "*", ""] {
            assert_eq!(table.find(None, path), None, "{path}");
        }
    }

    #[test]
    fn the_same_route_twice_is_refused() {
        let route = |s: &str| s.parse::<Route>().unwrap();
        let twice = RouteTable::new(&[(route("/a/:x"), 1), (route("/a/:y"), 2)]);
        assert_eq!(twice.err(), Some(Taken(route("/a/:y"))));
    }
}
