use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};
use fleet_api::ids::Digest;
use fleet_api::model_files::FileRole;
use fleet_api::reported::Outcome;
use fleet_api::rest::ArtifactSummary;
use fleet_tests::{Edge, Fleet};
use serde_json::{Value, json};

use crate::fixtures::{identity_model, one_node, scaling_model, weights};

const LIMIT: Duration = Duration::from_secs(60);

/// Golden values of a model that multiplies by `factor`.
pub(crate) fn golden(factor: f32) -> Value {
    let tensor = |name: &str, factor: f32| {
        let data: Vec<_> = [1.0, 2.0, 3.0, 4.0].map(|n: f32| n * factor).into();
        json!({ "name": name, "datatype": "FP32", "shape": [4], "data": data })
    };
    json!({ "tolerance": 1e-6, "cases": [{ "inputs": [tensor("x", 1.0)], "outputs": [tensor("y", factor)] }] })
}

/// Writes a model that multiplies by `factor`, with everything beside it, into a folder; answers the ONNX file.
pub(crate) fn whole_model(fleet: &Fleet, folder: &str, factor: f32) -> Result<PathBuf> {
    let folder = fleet.dir().join(folder);
    std::fs::create_dir_all(folder.join("parts"))?;
    std::fs::write(folder.join("net.onnx"), scaling_model("parts/scale.bin"))?;
    std::fs::write(folder.join("parts/scale.bin"), weights(factor))?;
    std::fs::write(folder.join("net.labels.txt"), "one\ntwo\nthree\nfour\n")?;
    std::fs::write(folder.join("net.golden.json"), golden(factor).to_string())?;
    Ok(folder.join("net.onnx"))
}

/// What a node's model makes of 1, 2, 3, 4; `model` may name a version, as in `net/versions/1`.
pub(crate) async fn scaled(edge: &Edge, model: &str) -> Result<Vec<f64>> {
    let body = json!({ "inputs": [{ "name": "x", "datatype": "FP32", "shape": [4], "data": [1, 2, 3, 4] }] });
    let path = format!("/v2/models/{model}/infer");
    let (status, text) = edge
        .post(&path, "application/json", body.to_string().into())
        .await?;
    anyhow::ensure!(status == 200, "{status}: {text}");
    let answer: Value = serde_json::from_str(&text)?;
    let data = answer["outputs"][0]["data"].as_array();
    let data = data.with_context(|| text.clone())?;
    Ok(data.iter().filter_map(Value::as_f64).collect())
}

pub(crate) fn deployment(models: &str) -> String {
    format!("[deployment]\nname = \"models\"\nselect = \"*\"\n{models}")
}

pub(crate) fn entry(version: &str) -> String {
    format!("[[model]]\nname = \"net\"\nversion = \"{version}\"\n")
}

/// The blobs and folders that a node keeps.
fn kept(edge: &Edge) -> Result<Vec<String>> {
    let entries = std::fs::read_dir(edge.data_dir().join("artifacts"))?;
    let names = entries.map(|entry| Ok(entry?.file_name().display().to_string()));
    names.collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_goes_to_the_node_with_all_its_files() -> Result<()> {
    let mut fleet = one_node().await?;
    let net = whole_model(&fleet, "one", 2.0)?;
    let card = fleet.file("cards.toml", "# pictures do not go into this model\n")?;
    let file = net.display().to_string();
    let args = ["push", "model", "net:1", &file, "--card", &card];
    let said = fleet.edgectl.ok(args).await?;
    for word in ["x: f32[4] -> y: f32[4]", "net.card.toml", "parts/scale.bin"] {
        assert!(said.contains(word), "{word:?} is not told: {said}");
    }
    let list = fleet.edgectl.ok(["artifacts"]).await?;
    assert!(list.contains("card, labels, golden, 1 data file"), "{list}");
    let pushed: Vec<ArtifactSummary> = fleet.edgectl.json(&["artifacts"]).await?;
    let roles: Vec<_> = pushed[0].files.iter().map(|file| file.role).collect();
    assert_eq!(roles, FileRole::ALL);
    // The same again is no change.
    assert!(fleet.edgectl.ok(args).await?.contains("there already"));

    fleet.apply(&deployment(&entry("1"))).await?;
    fleet.committed().await?;
    let edge = fleet.edge("n1")?;
    assert_eq!(scaled(edge, "net").await?, [2.0, 4.0, 6.0, 8.0]);
    for file in &pushed[0].files {
        assert!(
            kept(edge)?.contains(&file.digest.hex().to_owned()),
            "{file:?}"
        );
    }

    // Without the control plane it comes back from the node's own disk.
    fleet.control.stop().await?;
    let edge = fleet.edge("n1")?;
    edge.kill()?;
    edge.start().await?;
    edge.serves("/v2/models/net/ready", LIMIT).await?;
    assert_eq!(scaled(edge, "net").await?, [2.0, 4.0, 6.0, 8.0]);
    fleet.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn changed_weights_on_the_node_are_fetched_again() -> Result<()> {
    let mut fleet = one_node().await?;
    let file = whole_model(&fleet, "one", 2.0)?.display().to_string();
    fleet.edgectl.ok(["push", "model", "net:1", &file]).await?;
    fleet.apply(&deployment(&entry("1"))).await?;
    fleet.committed().await?;
    let edge = fleet.edge("n1")?;
    edge.stop().await?;
    let digest = Digest::of(&weights(2.0));
    let blob = edge.data_dir().join("artifacts").join(digest.hex());
    std::fs::write(&blob, weights(5.0))?;
    edge.start().await?;
    edge.serves("/v2/models/net/ready", LIMIT).await?;
    assert_eq!(scaled(edge, "net").await?, [2.0, 4.0, 6.0, 8.0]);
    assert_eq!(std::fs::read(blob)?, weights(2.0));
    fleet.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn files_that_no_generation_needs_leave_the_node() -> Result<()> {
    let mut fleet = one_node().await?;
    for (version, factor) in [("1", 2.0), ("2", 3.0), ("3", 4.0)] {
        let file = whole_model(&fleet, version, factor)?.display().to_string();
        let reference = format!("net:{version}");
        fleet
            .edgectl
            .ok(["push", "model", &reference, &file])
            .await?;
        fleet.apply(&deployment(&entry(version))).await?;
        fleet.committed().await?;
        let edge = fleet.edge("n1")?;
        assert_eq!(scaled(edge, "net").await?[0], f64::from(factor));
    }
    // The generation before is kept with the one that serves: the ONNX file and the labels that all versions share,
    // weights, golden values and a folder of each.
    let edge = fleet.edge("n1")?;
    let names = kept(edge)?;
    let folders = names.iter().filter(|name| name.ends_with(".files"));
    assert_eq!((names.len(), folders.count()), (8, 2), "{names:?}");
    assert!(!names.contains(&Digest::of(&weights(2.0)).hex().to_owned()));
    fleet.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_that_breaks_its_golden_values_changes_nothing() -> Result<()> {
    let mut fleet = one_node().await?;
    let file = whole_model(&fleet, "one", 2.0)?.display().to_string();
    fleet.edgectl.ok(["push", "model", "net:1", &file]).await?;
    fleet.apply(&deployment(&entry("1"))).await?;
    fleet.committed().await?;

    // Whole in every part, and trained on something else.
    let net = whole_model(&fleet, "two", 3.0)?;
    std::fs::write(
        net.with_file_name("net.golden.json"),
        golden(5.0).to_string(),
    )?;
    let file = net.display().to_string();
    fleet.edgectl.ok(["push", "model", "net:2", &file]).await?;
    let both = format!("{}{}", entry("1"), entry("2"));
    fleet.apply(&deployment(&both)).await?;
    let node = fleet.reaches("n1", "failed").await?;
    let reason = node.reason.context("a failure has a reason")?;
    for word in ["net:2", "golden case 1", "'y'", "tolerance"] {
        assert!(reason.contains(word), "{word:?} is not told: {reason}");
    }
    let reported = fleet.api()?.node("n1").await?.reported;
    let reported = reported.context("the node has reported")?;
    assert_eq!(reported.result, Some(Outcome::FailedNoChange));
    let edge = fleet.edge("n1")?;
    assert_eq!(scaled(edge, "net").await?, [2.0, 4.0, 6.0, 8.0]);
    let (status, _) = edge.get("/v2/models/net/versions/2/ready").await?;
    assert!(status >= 400, "it never became ready: {status}");
    fleet.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn models_whose_files_do_not_fit_are_refused_with_the_reason() -> Result<()> {
    let fleet = Fleet::start().await?;
    let net = whole_model(&fleet, "net", 2.0)?;
    let folder = net.parent().context("a folder")?.to_owned();
    let write = |name: &str, content: &str| std::fs::write(folder.join(name), content);
    let refused = async |args: &[&str]| -> Result<String> {
        let file = net.display().to_string();
        let all = [&["push", "model", "net:1", &file], args].concat();
        let said = fleet.edgectl.refused(all).await?;
        Ok(without(&said, &folder))
    };
    let mut said = Vec::new();

    write(
        "net.golden.json",
        &golden(2.0).to_string().replace("\"y\"", "\"z\""),
    )?;
    said.push(refused(&[]).await?);
    write("net.golden.json", "{\"cases\": 7}")?;
    said.push(refused(&[]).await?);
    write("net.golden.json", &golden(2.0).to_string())?;
    write("net.labels.txt", "\n\n")?;
    said.push(refused(&[]).await?);
    write("net.labels.txt", "one\n")?;
    write("net.card.toml", "[image\n")?;
    said.push(refused(&[]).await?);
    write("net.card.toml", "")?;
    said.push(refused(&[]).await?);
    std::fs::remove_file(folder.join("net.card.toml"))?;
    std::fs::write(folder.join("parts/scale.bin"), [0; 8])?;
    said.push(refused(&[]).await?);
    std::fs::remove_file(folder.join("parts/scale.bin"))?;
    said.push(refused(&[]).await?);
    std::fs::write(&net, scaling_model("../scale.bin"))?;
    said.push(refused(&[]).await?);
    std::fs::write(&net, identity_model(17))?;
    said.push(refused(&["--data", "scale.bin"]).await?);

    let wanted = [
        "net.golden.json: case 1 has output \"z\", which the model does not have: it has y",
        "net.golden.json: it is not a JSON document of golden cases: invalid type: integer `7`, expected a sequence at line 1 column 11",
        "net.labels.txt names no class: write the name of one class a line",
        "net.card.toml is not valid TOML: line 1: unclosed table, expected `]`",
        "FOLDER/net.card.toml is empty",
        "parts/scale.bin has 8 bytes, and the model reads up to byte 16 of it",
        "FOLDER/net.onnx keeps weights in parts/scale.bin, which is not beside it: put it there, or name it with --data",
        "FOLDER/net.onnx cannot be pushed: tensor \"w\" lies where no file of the model may lie: file name \"../scale.bin\" leaves the model's folder",
        "FOLDER/net.onnx refers to no file scale.bin: leave --data scale.bin out",
    ];
    assert_eq!(said.len(), wanted.len());
    for (said, wanted) in said.iter().zip(wanted) {
        assert!(said.contains(wanted), "{wanted:?} is not told: {said}");
    }
    let pushed: Vec<ArtifactSummary> = fleet.edgectl.json(&["artifacts"]).await?;
    assert!(pushed.is_empty());
    fleet.finish().await
}

fn without(said: &str, folder: &Path) -> String {
    said.replace(&folder.display().to_string(), "FOLDER")
}
