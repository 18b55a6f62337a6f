//! What cannot run is refused before anything changes, with the reason.

use super::*;
use fixture::component_with;

async fn refusal(wasm: &[u8]) -> String {
    let node = Node::new();
    let error = node.prepare(node.spec(wasm)).await.unwrap_err();
    let folder = node.dir.path().to_str().unwrap();
    let hex = Digest::of(wasm);
    error
        .to_string()
        .replace(folder, "DIR")
        .replace(hex.hex(), "DIGEST")
}

#[tokio::test]
async fn a_file_that_is_not_wasm_is_named() {
    insta::assert_snapshot!(
        refusal(b"#!/bin/sh").await,
        @"use DIR/DIGEST.wasm as a handler: it is not WebAssembly (it does not begin with the bytes 00 61 73 6d)"
    );
    let cut = &component(fixture::HELLO)[..500];
    assert!(refusal(cut).await.starts_with("compile DIR/DIGEST.wasm: "));
}

#[tokio::test]
async fn a_core_module_is_refused_with_the_way_out() {
    let module = wat::parse_str("(module)").unwrap();
    insta::assert_snapshot!(
        refusal(&module).await,
        @"use DIR/DIGEST.wasm as a handler: it is a core WebAssembly module, and a handler must be a component; build it for the target wasm32-wasip2, or wrap it with `wasm-tools component new`"
    );
}

#[tokio::test]
async fn a_component_of_another_world_is_refused() {
    let other = wat::parse_str("(component)").unwrap();
    insta::assert_snapshot!(
        refusal(&other).await,
        @"use handler fixture: it exports nothing, but a handler exports wasi:http/incoming-handler@0.2, wasi:http/handler@0.3 or edge:runtime/process@0.1"
    );
}

#[tokio::test]
async fn all_missing_imports_are_named() {
    let more = r#"
        (import "fermyon:spin/key-value" (instance (export "open" (func (result u32)))))
        (import "wasi:blobstore/container@0.2.0-draft" (instance (export "open" (func (result u32)))))"#;
    insta::assert_snapshot!(
        refusal(&component_with(more, fixture::HELLO)).await,
        @"link handler fixture: this runtime does not offer fermyon:spin/key-value, wasi:blobstore/container@0.2.0-draft"
    );
}

#[tokio::test]
async fn a_component_that_needs_more_memory_than_its_limit_is_refused() {
    let node = Node::new();
    let mut spec = node.spec(&component(fixture::HELLO));
    spec.limits.memory = ByteSize(1000);
    let error = node.prepare(spec).await.unwrap_err();
    insta::assert_snapshot!(
        error,
        @"start handler fixture: it needs 65536 bytes of memory to start and its limit is 1000; raise limits.memory"
    );
}

#[tokio::test]
async fn a_component_that_faults_at_its_start_is_refused() {
    let more =
        "(core module $bad (func $f unreachable) (start $f)) (core instance (instantiate $bad))";
    let reason = refusal(&component_with(more, fixture::HELLO)).await;
    assert!(reason.starts_with("start handler fixture: "), "{reason}");
    let node = Node::new();
    let more = "(core module $bad (func $f (loop $l (br $l))) (start $f)) (core instance (instantiate $bad))";
    let mut spec = node.spec(&component_with(more, fixture::HELLO));
    spec.limits.cpu = Span::from_ms(30);
    let error = node.prepare(spec).await.unwrap_err().to_string();
    assert!(
        error.contains("more CPU time than its limit of 30 ms"),
        "{error}"
    );
}

#[tokio::test]
async fn a_file_with_another_digest_is_refused() {
    let node = Node::new();
    let mut spec = node.spec(&component(fixture::HELLO));
    spec.digest = Digest::of(b"what was asked for");
    let error = node.prepare(spec).await.unwrap_err();
    assert!(matches!(error, HandlerError::Digest { .. }), "{error}");
}

#[tokio::test]
async fn origins_that_mean_nothing_are_refused() {
    let node = Node::new();
    let mut spec = node.spec(&component(fixture::HELLO));
    spec.allow.http.insert("plc.local".to_owned());
    let error = node.prepare(spec).await.unwrap_err();
    insta::assert_snapshot!(
        error,
        @r#""plc.local" is not an origin: write scheme, host and port, as in http://10.0.0.5:8080, or "all""#
    );
}
