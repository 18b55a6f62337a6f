use anyhow::{Context as _, Result};
use fleet_tests::Fleet;

use crate::fixtures::{HELLO, greeting};

const MODEL: &str = r#"
[deployment]
name = "model"
select = "*"
[[model]]
name = "vibration"
version = "1"
"#;

#[tokio::test(flavor = "multi_thread")]
async fn a_node_without_onnx_runtime_serves_handlers_and_says_what_is_missing() -> Result<()> {
    let mut fleet = Fleet::start().await?;
    let edge = fleet.join("n1", &[]).await?;
    edge.env("ORT_DYLIB_PATH", "/nowhere/libonnxruntime.so");
    edge.start().await?;
    fleet.push_handler("hello:1.0.0", "hello").await?;
    fleet.apply(HELLO).await?;
    fleet.committed().await?;
    assert_eq!(greeting(fleet.edge("n1")?).await?, "one");
    let (status, said) = fleet.edge("n1")?.admin("/readyz").await?;
    assert_eq!(status, 503, "{said}");
    assert!(
        said.contains("libonnxruntime.so") && said.contains("cargo xtask setup"),
        "{said}"
    );
    let (status, _) = fleet.edge("n1")?.admin("/healthz").await?;
    assert_eq!(status, 200);

    // A model cannot run there; the handler serves on.
    fleet.push_model("vibration:1", "vibration").await?;
    fleet.apply(MODEL).await?;
    let failed = fleet.reaches("n1", "failed").await?;
    let reason = failed.reason.context("a failure has a reason")?;
    assert!(reason.contains("libonnxruntime.so"), "{reason}");
    assert_eq!(greeting(fleet.edge("n1")?).await?, "one");
    fleet.finish().await
}
