use anyhow::Result;
use fleet_api::rest::ArtifactSummary;
use fleet_tests::{Checkout, Fleet};

use crate::fixtures::{identity_model, renamed, variant};

/// Pushes `content`, which must be refused with all `words`, and leave the list as it was.
async fn refuses(
    fleet: &Fleet,
    kind: &str,
    reference: &str,
    content: Vec<u8>,
    words: &[&str],
) -> Result<()> {
    let before: Vec<ArtifactSummary> = fleet.edgectl.json(&["artifacts"]).await?;
    let file = fleet.file("refused", content)?;
    let said = fleet
        .edgectl
        .refused(["push", kind, reference, &file])
        .await?;
    for word in words {
        assert!(
            said.contains(word),
            "{kind} {reference} should be refused with {word:?}: {said}"
        );
    }
    let after: Vec<ArtifactSummary> = fleet.edgectl.json(&["artifacts"]).await?;
    assert_eq!(before, after);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn handlers_that_cannot_run_are_refused_with_the_reason() -> Result<()> {
    let fleet = Fleet::start().await?;
    fleet.push_handler("hello:1.0.0", "hello").await?;
    let text = b"<html>not found</html>".to_vec();
    refuses(&fleet, "handler", "x:1", text, &["WebAssembly"]).await?;
    let module = b"\0asm\x01\0\0\0".to_vec();
    refuses(
        &fleet,
        "handler",
        "x:1",
        module,
        &["core module", "component"],
    )
    .await?;
    let stranger = renamed("hello", "wasi:cli/stderr", "acme:plc/reader")?;
    refuses(&fleet, "handler", "x:1", stranger, &["acme:plc/reader"]).await?;
    let worldless = b"\0asm\x0d\0\x01\0".to_vec();
    refuses(&fleet, "handler", "x:1", worldless, &["wasi:http"]).await?;
    let mut torn = std::fs::read(Checkout::module("hello")?)?;
    torn.truncate(torn.len() / 2);
    refuses(&fleet, "handler", "x:1", torn, &["not valid WebAssembly"]).await?;
    let model = std::fs::read(Checkout::model("vibration")?)?;
    refuses(&fleet, "handler", "x:1", model, &["WebAssembly"]).await?;
    fleet.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn models_that_cannot_run_are_refused_with_the_reason() -> Result<()> {
    let fleet = Fleet::start().await?;
    let good = fleet.file("good.onnx", identity_model(17))?;
    fleet
        .edgectl
        .ok(["push", "model", "identity:1", &good])
        .await?;
    let mut torn = std::fs::read(Checkout::model("vibration")?)?;
    torn.truncate(torn.len() / 2);
    refuses(&fleet, "model", "x:1", torn, &["ONNX"]).await?;
    refuses(&fleet, "model", "x:1", b"no model".to_vec(), &["ONNX"]).await?;
    refuses(&fleet, "model", "x:1", identity_model(99), &["opset", "99"]).await?;
    let component = std::fs::read(Checkout::module("hello")?)?;
    refuses(&fleet, "model", "x:1", component, &["ONNX"]).await?;
    fleet.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_never_changes() -> Result<()> {
    let fleet = Fleet::start().await?;
    fleet.push_handler("hello:1.0.0", "hello").await?;
    let other = variant("hello", "other")?;
    refuses(
        &fleet,
        "handler",
        "hello:1.0.0",
        other,
        &["hello:1.0.0", "version"],
    )
    .await?;
    // The same again is no change.
    fleet.push_handler("hello:1.0.0", "hello").await?;
    fleet.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_usage_and_failures_have_different_exit_codes() -> Result<()> {
    let fleet = Fleet::start().await?;
    let file = fleet.file("x.wasm", b"x")?;
    for args in [
        &["push", "handler", "hello", &file][..],
        &["push", "gadget", "hello:1", &file],
        &["nodes", "-l", "a=="],
        &["frobnicate"],
    ] {
        assert_eq!(fleet.edgectl.run(args).await?.code, 2, "{args:?}");
    }
    for args in [
        &["push", "handler", "hello:1", "/nowhere"][..],
        &["node", "nobody"],
        &["apply", "-f", "/nowhere"],
    ] {
        assert_eq!(fleet.edgectl.run(args).await?.code, 1, "{args:?}");
    }
    fleet.finish().await
}
