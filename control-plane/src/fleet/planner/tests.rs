use fleet_api::artifact::PinnedArtifact;
use fleet_api::ids::Digest;
use proptest::prelude::*;

use super::*;

fn deployment(text: &str) -> Deployment {
    Deployment::from_toml(text, "test.toml").unwrap()
}

fn artifacts() -> Catalogue {
    let artifact = |kind, name: &str, version: &str| PinnedArtifact {
        kind,
        name: Name::new(name).unwrap(),
        version: Version::new(version).unwrap(),
        digest: Digest::of(format!("{name}{version}").as_bytes()),
        size: 1,
        files: Vec::new(),
    };
    let handlers = ["a", "b", "c"]
        .into_iter()
        .flat_map(|name| ["1", "2"].map(|version| artifact(ArtifactKind::Handler, name, version)));
    let models = ["1", "2", "3"].map(|version| artifact(ArtifactKind::Model, "m", version));
    Catalogue::new(handlers.chain(models))
}

fn nodes(list: &[(&str, &str)]) -> BTreeMap<NodeId, Labels> {
    list.iter()
        .map(|(id, site)| {
            let labels = Labels::from([("site".to_owned(), (*site).to_owned())]);
            (NodeId::new(*id).unwrap(), labels)
        })
        .collect()
}

#[test]
fn a_stream_brings_its_processor_along() {
    let spec = deployment(
        "[deployment]\nname = \"d\"\nselect = \"*\"\n[[stream]]\nname = \"s\"\nprocessor = \"a:1\"\n",
    );
    let plan = plan(&[&spec], &nodes(&[("n1", "x")]), &artifacts());
    let node = NodeId::new("n1").unwrap();
    let desired = plan.nodes[&node].desired(&node, 3, 1);
    assert_eq!(desired.handlers.len(), 1);
    assert_eq!(desired.handlers[0].route, None);
    assert_eq!(desired.generation, 3);
}

#[test]
fn the_older_deployment_keeps_the_place() {
    let old = deployment(
        "[deployment]\nname = \"old\"\nselect = \"*\"\n[[handler]]\nname = \"a\"\nversion = \"1\"\nroute = \"/x/:id\"\n",
    );
    let new = deployment(
        "[deployment]\nname = \"new\"\nselect = \"site=x\"\n[[handler]]\nname = \"b\"\nversion = \"1\"\nroute = \"/x/:key\"\n[[model]]\nname = \"m\"\nversion = \"1\"\n",
    );
    let plan = plan(
        &[&old, &new],
        &nodes(&[("n1", "x"), ("n2", "y")]),
        &artifacts(),
    );
    assert_eq!(
        plan.conflicts
            .iter()
            .map(Conflict::to_string)
            .collect::<Vec<_>>(),
        [
            "deployments old and new both have route /x/:key on node n1: change a selector or take it out of one of them"
        ]
    );
    let node = NodeId::new("n1").unwrap();
    let desired = plan.nodes[&node].desired(&node, 1, 1);
    assert_eq!(desired.handlers.len(), 1, "the newer one is left out whole");
    assert!(desired.models.is_empty());
}

/// Versions of models as a node gets them; the default is marked.
fn versions(models: &str) -> Vec<String> {
    let spec = deployment(&format!(
        "[deployment]\nname = \"d\"\nselect = \"*\"\n{models}"
    ));
    let plan = plan(&[&spec], &nodes(&[("n1", "x")]), &artifacts());
    let node = NodeId::new("n1").unwrap();
    let models = plan.nodes[&node].desired(&node, 1, 1).models;
    let marked = models.iter().map(|m| {
        let mark = if m.default { "*" } else { "" };
        format!("{}{mark}", m.artifact.version)
    });
    marked.collect()
}

#[test]
fn the_default_version_comes_last_and_says_so() {
    let entry = |version: &str| format!("[[model]]\nname = \"m\"\nversion = \"{version}\"\n");
    let (one, two, three) = (entry("1"), entry("2"), entry("3"));
    assert_eq!(versions(&one), ["1*"]);
    assert_eq!(versions(&format!("{one}{three}{two}")), ["1", "3", "2*"]);
    let said = format!("{one}{three}default = true\n{two}");
    assert_eq!(versions(&said), ["1", "2", "3*"]);
    let shadow = format!("{one}{three}{two}shadow = {{}}\n");
    assert_eq!(versions(&shadow), ["1", "2", "3*"]);
}

#[test]
fn one_deployment_owns_all_versions_of_a_model() {
    let spec = |name: &str, version: &str| {
        deployment(&format!(
            "[deployment]\nname = \"{name}\"\nselect = \"*\"\n[[model]]\nname = \"m\"\nversion = \"{version}\"\n"
        ))
    };
    let (old, new) = (spec("old", "1"), spec("new", "2"));
    let plan = plan(&[&old, &new], &nodes(&[("n1", "x")]), &artifacts());
    assert_eq!(
        plan.conflicts[0].place,
        Place::Model(Name::new("m").unwrap())
    );
}

#[test]
fn names_what_was_never_pushed() {
    let spec = deployment(
        "[deployment]\nname = \"d\"\nselect = \"*\"\n[[model]]\nname = \"m\"\nversion = \"9\"\n[[stream]]\nname = \"s\"\nprocessor = \"zz:1\"\n",
    );
    let missing = missing(&spec, &artifacts());
    let names: Vec<_> = missing
        .iter()
        .map(|m| format!("{} {}:{}", m.kind, m.name, m.version))
        .collect();
    assert_eq!(names, ["handler zz:1", "model m:9"]);
}

fn any_deployments() -> impl Strategy<Value = Vec<Deployment>> {
    let one = (
        0..4usize,
        prop::sample::subsequence(vec!["a", "b", "c"], 1..=3),
        1..3u8,
        any::<bool>(),
    );
    prop::collection::vec(one, 0..5).prop_map(|list| {
        list.into_iter()
            .enumerate()
            .map(|(i, (site, handlers, version, model))| {
                let select = ["*", "site=x", "site=y", "site!=x"][site];
                let mut text = format!("[deployment]\nname = \"d{i}\"\nselect = \"{select}\"\n");
                for name in handlers {
                    text += &format!("[[handler]]\nname = \"{name}\"\nversion = \"{version}\"\nroute = \"/{name}\"\n");
                }
                if model {
                    text += "[[model]]\nname = \"m\"\nversion = \"1\"\n";
                }
                deployment(&text)
            })
            .collect()
    })
}

#[test]
fn processors_of_two_deployments_do_not_feed_each_other_in_a_circle() {
    let part = |name: &str, handler: &str, from: &str, to: &str| {
        deployment(&format!(
            "[deployment]\nname = \"{name}\"\nselect = \"*\"\n\
             [[handler]]\nname = \"{handler}\"\nversion = \"1\"\nallow = {{ streams = [\"{to}\"] }}\n\
             [[stream]]\nname = \"{from}\"\nprocessor = \"{handler}:1\"\n"
        ))
    };
    let (first, chained) = (part("d1", "a", "x", "y"), part("d2", "b", "y", "z"));
    let back = part("d2", "b", "y", "x");
    let nodes = nodes(&[("n1", "x")]);
    let together = plan(&[&first, &chained], &nodes, &artifacts());
    assert!(together.conflicts.is_empty(), "{:?}", together.conflicts);
    let circle = plan(&[&first, &back], &nodes, &artifacts());
    assert_eq!(
        circle.conflicts[0].to_string(),
        "deployments d1 and d2 both have a part of the circle of processors x → (a) → y → (b) → x on node n1: change a selector or take it out of one of them"
    );
}

proptest! {
    #[test]
    fn every_place_has_one_owner_who_selects_the_node(deployments in any_deployments()) {
        let nodes = nodes(&[("n1", "x"), ("n2", "y"), ("n3", "z")]);
        let specs: Vec<_> = deployments.iter().collect();
        let plan = plan(&specs, &nodes, &artifacts());
        prop_assert_eq!(plan.nodes.len(), nodes.len());
        for (node, content) in &plan.nodes {
            let desired = content.desired(node, 1, 1);
            let mut routes: Vec<_> = desired.handlers.iter().filter_map(|h| h.route.as_ref()).flat_map(Route::claims).collect();
            let count = routes.len();
            routes.sort();
            routes.dedup();
            prop_assert_eq!(routes.len(), count);
            let owners = desired.handlers.iter().map(|h| &h.deployment)
                .chain(desired.models.iter().map(|m| &m.deployment));
            for owner in owners {
                let spec = specs.iter().find(|d| d.deployment.name == *owner).unwrap();
                prop_assert!(spec.deployment.select.matches(&nodes[node]));
            }
            // A deployment is on a node as a whole, or left out and named.
            for spec in specs.iter().filter(|d| d.deployment.select.matches(&nodes[node])) {
                let there = desired.handlers.iter().filter(|h| h.deployment == spec.deployment.name).count();
                let named = plan.conflicts.iter().any(|c| c.node == *node && c.second == spec.deployment.name);
                prop_assert_eq!(there, if named { 0 } else { spec.handlers.len() });
            }
        }
    }

    #[test]
    fn the_same_input_gives_the_same_plan(deployments in any_deployments()) {
        let nodes = nodes(&[("n1", "x"), ("n2", "y")]);
        let specs: Vec<_> = deployments.iter().collect();
        prop_assert_eq!(plan(&specs, &nodes, &artifacts()), plan(&specs, &nodes, &artifacts()));
    }
}
