use anyhow::Result;
use fleet_tests::{Checkout, Serve, http};
use serde_json::{Value, json};

#[tokio::test(flavor = "multi_thread")]
async fn a_classifier_takes_pictures_and_names_what_it_sees() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let beside = Checkout::root().join("models/orientation");
    let model = dir.path().join("orientation.onnx");
    std::fs::copy(Checkout::model("orientation")?, &model)?;
    for name in ["card.toml", "labels.txt"] {
        let to = dir.path().join(format!("orientation.{name}"));
        std::fs::copy(beside.join(name), to)?;
    }
    let model = format!("orientation={}", model.display());
    let serve = Serve::start(&["--model", &model]).await?;
    let (client, url) = (
        http::plain()?,
        format!("{}/v2/models/orientation", serve.url),
    );
    let post = async |query: &str, kind: &str, body: Vec<u8>| {
        let request = client.post(format!("{url}/infer{query}"));
        let answer = request.header("content-type", kind).body(body);
        let answer = answer.send().await?;
        let status = answer.status().as_u16();
        anyhow::Ok((status, answer.json::<Value>().await?))
    };
    for (file, kind, seen) in [
        ("page.png", "image/png", "0 degrees"),
        ("page.jpg", "image/jpeg", "0 degrees"),
        ("page-90.png", "image/png", "90 degrees"),
        ("page-180.png", "image/*", "180 degrees"),
        ("page-270.png", "image/png", "270 degrees"),
    ] {
        let picture = std::fs::read(Checkout::artifact(&format!("data/{file}"))?)?;
        let (status, told) = post("?classification=1", kind, picture.clone()).await?;
        assert_eq!(status, 200, "{told}");
        let best = told["outputs"][0]["data"][0].as_str().unwrap();
        let (score, name) = best.split_once(':').unwrap();
        assert!(name.ends_with(seen), "{file}: {best}");
        assert!(score.parse::<f32>()? > 0.9, "{file}: {best}");
        let (_, two) = post("?classification", kind, picture.clone()).await?;
        assert_eq!(two["outputs"][0]["shape"], json!([1, 2]));
        let (_, scores) = post("", kind, picture).await?;
        assert_eq!(scores["outputs"][0]["shape"], json!([1, 4]));
    }
    let jpeg = std::fs::read(Checkout::artifact("data/page.jpg")?)?;
    let (status, told) = post("", "image/jpeg", jpeg[..9000].to_vec()).await?;
    assert_eq!(status, 400, "{told}");
    let (status, told) = post("", "image/jpeg", b"no picture".to_vec()).await?;
    assert_eq!(status, 415, "{told}");
    Ok(())
}
