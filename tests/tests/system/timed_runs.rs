use anyhow::Result;
use fleet_tests::{Checkout, Serve, http};
use serde_json::Value;

/// The guest that the benchmark of wasi:nn asks.
#[tokio::test(flavor = "multi_thread")]
async fn a_handler_times_the_runs_of_a_model() -> Result<()> {
    let model = format!("mlp={}", Checkout::model("mlp")?.display());
    let module = Checkout::module("infer-time")?.display().to_string();
    let serve = Serve::start(&["--reuse", "--model", &model, &module]).await?;
    let http = http::plain()?;
    let times: Value = http
        .get(format!("{}/?runs=5", serve.url))
        .send()
        .await?
        .json()
        .await?;
    assert_eq!(times["runs"], 5);
    let (p50, p99) = (times["p50_us"].as_f64(), times["p99_us"].as_f64());
    assert!(p50 > Some(0.0) && p99 >= p50, "{times}");
    for runs in ["", "?runs=0", "?runs=1000000", "?runs=many"] {
        let answer = http.get(format!("{}/{runs}", serve.url)).send().await?;
        assert_eq!(answer.status(), 400, "{runs}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handler_hands_every_type_of_tensor_to_a_model() -> Result<()> {
    let names = [
        "fp16", "fp32", "fp64", "bf16", "uint8", "int32", "int64", "bool",
    ];
    let tiny = Checkout::root().join("models/tiny");
    let models = names.map(|name| {
        let file = tiny.join(format!("identity_{name}.onnx"));
        format!("identity-{name}={}", file.display())
    });
    let module = Checkout::module("infer-time")?.display().to_string();
    let flags = models.iter().flat_map(|model| ["--model", model]);
    let args: Vec<&str> = flags.chain([module.as_str()]).collect();
    let serve = Serve::start(&args).await?;
    let url = format!("{}/?types", serve.url);
    let came: Value = http::plain()?.get(url).send().await?.json().await?;
    for name in names {
        assert_eq!(came[name], "same", "{came}");
    }
    Ok(())
}
