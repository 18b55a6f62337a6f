//! Bodies of the fuzz targets of this folder; see fuzz/README.md.

use std::time::Duration;

use fleet_api::deployment::{Allow, Isolation, Limits, Route};
use fleet_api::ids::{Digest, Name, Version};
use fleet_api::units::{ByteSize, Span};
use tokio::runtime::Runtime;

use super::capabilities::outbound::Origins;
use super::routes::{Found, RouteTable};
use super::{HandlerSpec, Handlers, HandlersConfig};
use crate::models::{Models, ModelsConfig};

/// Longest time that a component may take to be refused or to come up.
const PREPARED: Duration = Duration::from_secs(60);

/// A node that prepares whatever it is given.
pub struct Preparation {
    runtime: Runtime,
    handlers: Handlers,
    dir: std::path::PathBuf,
}

impl Preparation {
    /// Files of components go to `dir`.
    #[expect(clippy::unwrap_used, reason = "a target that cannot start has to stop")]
    pub fn new(dir: std::path::PathBuf) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let handlers = runtime.block_on(async {
            let config = HandlersConfig {
                max_instances: 4,
                ..HandlersConfig::default()
            };
            let models = Models::start(ModelsConfig::default());
            Handlers::start(config, models).unwrap()
        });
        Self {
            runtime,
            handlers,
            dir,
        }
    }

    /// Prepares a component within small limits; true if it came up. It must
    /// neither panic nor hang.
    #[expect(clippy::unwrap_used, reason = "what fails here fails the target")]
    pub fn prepare(&self, component: &[u8]) -> bool {
        let path = self.dir.join("component.wasm");
        std::fs::write(&path, component).unwrap();
        let spec = HandlerSpec {
            name: Name::new("fuzzed").unwrap(),
            version: Version::new("1").unwrap(),
            digest: Digest::of(component),
            path,
            route: None,
            limits: Limits {
                memory: ByteSize(8 << 20),
                cpu: Span::from_ms(100),
                timeout: Span::from_ms(1_000),
                ..Limits::default()
            },
            allow: Allow::default(),
            config: Default::default(),
            secrets: Default::default(),
            isolation: Isolation::PerRequest,
            env: Vec::new(),
        };
        let prepare = async {
            tokio::time::timeout(PREPARED, self.handlers.prepare(spec))
                .await
                .expect("a component is refused or comes up in time")
                .is_ok()
        };
        self.runtime.block_on(prepare)
    }
}

/// Lines are routes, the last one a path. A table of the routes leads each path
/// that a route names somewhere.
pub fn routes(text: &str) {
    let (lines, path) = text.rsplit_once('\n').unwrap_or((text, "/"));
    let mut routes: Vec<(Route, usize)> = Vec::new();
    for line in lines.lines() {
        let Ok(route) = line.parse::<Route>() else {
            continue;
        };
        let again = route.to_string().parse::<Route>();
        assert_eq!(
            again.as_ref(),
            Ok(&route),
            "{line:?} changes when it is written"
        );
        if !routes.iter().any(|(other, _)| other.collides(&route)) {
            routes.push((route, routes.len()));
        }
    }
    let table = RouteTable::new(&routes);
    let table = table.unwrap_or_else(|taken| panic!("{taken:?} collide in {routes:?}"));
    table.find("GET", Some("host"), path);
    for (route, _) in &routes {
        let method = route.methods().next().unwrap_or("GET");
        let found = table.find(method, route.host(), &route.path().replace('*', "rest"));
        assert!(!matches!(found, Found::Nothing), "{route} leads nowhere");
        super::matched::headers(route, path);
    }
}

/// An origin of a deployment and a URI that a guest asks for.
pub fn origins(text: &str) {
    let (origin, uri) = text.split_once('\n').unwrap_or((text, "http://a/"));
    let Ok(origins) = Origins::parse([origin]) else {
        return;
    };
    if let Ok(uri) = uri.parse() {
        let allowed = origins.allow(&uri);
        assert!(
            !allowed || uri.authority().is_some_and(|a| !a.as_str().contains('@')),
            "{origin:?} allows {uri}"
        );
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::super::tests::fixture;
    use super::*;

    /// What a change does to a component: at a place, to so many bytes.
    fn changed(whole: &[u8], changes: &[(prop::sample::Index, u8, usize)]) -> Vec<u8> {
        let mut bytes = whole.to_vec();
        for (place, value, length) in changes {
            let at = place.index(bytes.len());
            let end = (at + length).min(bytes.len());
            match value % 4 {
                0 => bytes[at] = *value,
                1 => bytes[at] ^= 1 << (value % 8),
                2 => drop(bytes.drain(at..end)),
                _ => bytes
                    .splice(
                        at..at,
                        whole[at.min(whole.len())..end.min(whole.len())].to_vec(),
                    )
                    .for_each(drop),
            }
            if bytes.is_empty() {
                return bytes;
            }
        }
        bytes
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(60))]

        #[test]
        fn damaged_components_are_refused_or_come_up(
            changes in vec((any::<prop::sample::Index>(), any::<u8>(), 1..200_usize), 1..8),
        ) {
            thread_local! {
                static NODE: (tempfile::TempDir, Preparation) = {
                    let dir = tempfile::tempdir().unwrap();
                    let preparation = Preparation::new(dir.path().to_owned());
                    (dir, preparation)
                };
            }
            let whole = fixture::component(fixture::HELLO);
            NODE.with(|(_, node)| node.prepare(&changed(&whole, &changes)));
        }
    }

    #[test]
    fn a_whole_component_comes_up() {
        let dir = tempfile::tempdir().unwrap();
        let node = Preparation::new(dir.path().to_owned());
        assert!(node.prepare(&fixture::component(fixture::HELLO)));
        assert!(!node.prepare(b"\0asm\x0d\0\x01\0"));
    }

    proptest! {
        #[test]
        fn tables_hold_every_set_of_routes(
            lines in vec(
                r"(((GET|HEAD|PUT),)*(POST|GET) )?(a\.b|host:81|Host)?(/(a|b|:x|:y|\*|v2|[a-z]{0,3})){0,4}/?",
                0..8,
            ),
            path in r"(/(a|b|x|\*|[^\n]{0,4})){0,5}",
        ) {
            routes(&format!("{}\n{path}", lines.join("\n")));
        }

        #[test]
        fn origins_stand_what_is_written(
            origin in r"((http|https|ftp)?://)?([a-z0-9.@:\[\]]{0,12})(:[0-9]{0,6})?(/[a-z]?)?|\PC{0,20}",
            uri in r"(http|https)://[a-z0-9.@:\[\]%]{0,16}(:[0-9]{0,6})?(/\PC{0,4})?",
        ) {
            origins(&format!("{origin}\n{uri}"));
        }
    }
}
