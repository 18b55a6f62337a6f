//! Preparing, switching and keeping compiled components.

use std::os::unix::fs::PermissionsExt as _;

use super::*;

#[tokio::test]
async fn a_request_under_way_ends_on_the_version_that_it_began_on() {
    let node = Node::serving(fixture::SLOW, Limits::default()).await;
    let handlers = node.handlers.clone();
    let slow = tokio::spawn(async move { read(handlers.serve(request("/")).await).await });
    eventually(|| node.health().in_flight == 1).await;
    let mut next = node.spec(&component(fixture::COUNT));
    next.version = Version::new("2").unwrap();
    let next = node.prepare(next).await.unwrap();
    assert_eq!(node.health().version.as_str(), "1");
    node.handlers.switch(vec![next]).unwrap();
    assert_eq!(node.get().await.1, "A");
    assert!(!slow.is_finished());
    assert_eq!(slow.await.unwrap().1, "hello from a component");
}

#[tokio::test]
async fn an_old_version_goes_with_its_last_request_and_gives_its_memory_back() {
    let node = Node::new();
    let mut old = node.spec(&component(fixture::SLOW));
    old.isolation = Isolation::Reuse;
    let old = node.prepare(old).await.unwrap();
    let weak = std::sync::Arc::downgrade(&old.0);
    node.handlers.switch(vec![old]).unwrap();
    assert_eq!(node.get().await.0, StatusCode::OK);
    let memory = || node.handlers.0.node.memory.used();
    assert!(memory() > 0, "an instance is warm");
    let handlers = node.handlers.clone();
    let slow = tokio::spawn(async move { read(handlers.serve(request("/")).await).await });
    eventually(|| node.health().in_flight == 1).await;
    node.handlers.switch(Vec::new()).unwrap();
    assert!(weak.upgrade().is_some() && memory() > 0);
    assert_eq!(slow.await.unwrap().0, StatusCode::OK);
    assert!(weak.upgrade().is_none());
    assert_eq!(memory(), 0);
}

#[tokio::test]
async fn no_request_fails_while_versions_change() {
    let node = Node::serving(fixture::HELLO, Limits::default()).await;
    let handlers = node.handlers.clone();
    let (stop, mut stopped) = tokio::sync::oneshot::channel::<()>();
    let load = tokio::spawn(async move {
        let mut answers = 0;
        while stopped.try_recv().is_err() {
            let (status, body) = read(handlers.serve(request("/")).await).await;
            assert_eq!(status, StatusCode::OK, "{body}");
            answers += 1;
            tokio::task::yield_now().await;
        }
        answers
    });
    for version in 2..22 {
        let wasm = component(if version % 2 == 0 {
            fixture::COUNT
        } else {
            fixture::HELLO
        });
        let mut spec = node.spec(&wasm);
        spec.version = Version::new(version.to_string()).unwrap();
        let prepared = node.prepare(spec).await.unwrap();
        node.handlers.switch(vec![prepared]).unwrap();
        tokio::task::yield_now().await;
    }
    stop.send(()).unwrap();
    assert!(load.await.unwrap() > 20);
}

#[tokio::test]
async fn what_serves_already_is_not_prepared_again() {
    let node = Node::serving(fixture::HELLO, Limits::default()).await;
    assert_eq!(node.get().await.0, StatusCode::OK);
    let spec = node.spec(&component(fixture::HELLO));
    let same = node.prepare(spec).await.unwrap();
    node.handlers.switch(vec![same]).unwrap();
    assert_eq!(node.health().requests, 1);
}

#[tokio::test]
async fn two_handlers_on_one_route_change_nothing() {
    let node = Node::serving(fixture::HELLO, Limits::default()).await;
    let prepare = async |name: &str, route: &str| {
        let mut spec = node.spec(&component(fixture::COUNT));
        spec.name = Name::new(name).unwrap();
        spec.route = Some(route.parse().unwrap());
        node.prepare(spec).await.unwrap()
    };
    let both = vec![prepare("a", "/x/:one").await, prepare("b", "/x/:two").await];
    let error = node.handlers.switch(both).unwrap_err();
    assert_eq!(error.to_string(), "route /x/:two to b: a is there already");
    assert_eq!(node.get().await.1, "hello from a component");
}

#[tokio::test]
async fn a_path_without_a_handler_is_not_found() {
    let node = Node::new();
    let (status, body) = node.get().await;
    assert_eq!((status, &*code(&body)), (StatusCode::NOT_FOUND, "no-route"));
}

/// Compiles `HELLO` and `COUNT` into the cache, takes the sources away, and
/// lets `change` loose on the two compiled files.
async fn after_restart(change: impl FnOnce(PathBuf, PathBuf)) -> Result<(), HandlerError> {
    let node = Node::new();
    let specs = [fixture::HELLO, fixture::COUNT].map(|code| node.spec(&component(code)));
    let mut compiled = Vec::new();
    for spec in &specs {
        node.prepare(spec.clone()).await.unwrap();
        std::fs::remove_file(&spec.path).unwrap();
        let mut files = std::fs::read_dir(node.dir.path().join("compiled")).unwrap();
        let of_spec = |file: &PathBuf| {
            let name = file.file_name().unwrap().to_string_lossy().into_owned();
            name.starts_with(spec.digest.hex()) && name.ends_with(".cwasm")
        };
        let file = files.find_map(|f| Some(f.unwrap().path()).filter(of_spec));
        compiled.push(file.unwrap());
    }
    let key = node.dir.path().join("compiled/node.key");
    let mode = std::fs::metadata(key).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    change(compiled[0].clone(), compiled[1].clone());
    let restarted = start(&node.dir);
    restarted.prepare(specs[0].clone()).await.map(|_| ())
}

#[tokio::test]
async fn a_compiled_component_serves_the_next_start() {
    after_restart(|_, _| {}).await.unwrap();
}

#[tokio::test]
async fn a_compiled_component_that_was_changed_is_not_loaded() {
    let changed = after_restart(|hello, _| {
        let mut bytes = std::fs::read(&hello).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        std::fs::write(&hello, bytes).unwrap();
    });
    assert!(matches!(changed.await, Err(HandlerError::Read { .. })));
    let cut = after_restart(|hello, _| std::fs::write(&hello, b"short").unwrap());
    assert!(matches!(cut.await, Err(HandlerError::Read { .. })));
}

#[tokio::test]
async fn a_compiled_component_in_the_place_of_another_is_not_loaded() {
    let exchanged = after_restart(|hello, count| {
        std::fs::copy(&count, &hello).unwrap();
        std::fs::copy(count.with_extension("mac"), hello.with_extension("mac")).unwrap();
    });
    assert!(matches!(exchanged.await, Err(HandlerError::Read { .. })));
}

#[tokio::test]
async fn a_key_that_others_could_read_is_not_trusted_again() {
    let opened = after_restart(|hello, _| {
        let key = hello.with_file_name("node.key");
        let open = std::fs::Permissions::from_mode(0o644);
        std::fs::set_permissions(key, open).unwrap();
    });
    assert!(matches!(opened.await, Err(HandlerError::Read { .. })));
}
