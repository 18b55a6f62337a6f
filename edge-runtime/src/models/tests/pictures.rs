//! Pictures and labels, from the body to the answer.

use std::fs;

use super::*;

fn picture(name: &str) -> Vec<u8> {
    fs::read(tiny("").with_file_name("pictures").join(name)).unwrap()
}

/// The model of channel means, with a card and labels beside it.
async fn with_card(card: &str) -> (tempfile::TempDir, Models) {
    let dir = tempfile::tempdir().unwrap();
    let (card_file, labels) = (dir.path().join("card.toml"), dir.path().join("labels.txt"));
    fs::write(&card_file, card).unwrap();
    fs::write(&labels, "red\ngreen\nblue\n").unwrap();
    let models = start(ModelsConfig::default());
    let mut spec = spec("means", "1", "means");
    spec.files.card = Some(card_file);
    spec.files.labels = Some(labels);
    models.switch(vec![models.prepare(spec).await.unwrap()]);
    (dir, models)
}

const CARD: &str = r#"
[image]
size = [12, 8]
scale = 0.00392156862745098
[labels]
output = "scores"
top = 2
"#;

async fn post(
    models: &Models,
    path: &str,
    kind: &str,
    body: impl Into<Bytes>,
) -> (StatusCode, Value) {
    let request = Request::post(path).header("content-type", kind);
    as_json(
        models
            .handle(request.body(Full::new(body.into())).unwrap())
            .await,
    )
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_picture_becomes_the_models_input() {
    let (_dir, models) = with_card(CARD).await;
    let path = "/v2/models/means/infer";
    for (name, kind) in [
        ("scene.png", "image/png"),
        ("scene.jpg", "image/jpeg"),
        ("scene.jpg", "Image/*; q=1"),
    ] {
        let (status, told) = post(&models, path, kind, picture(name)).await;
        assert_eq!(status, StatusCode::OK, "{told}");
        assert_eq!(told["outputs"][0]["shape"], json!([1, 3]));
        assert_eq!(told["outputs"][1]["shape"], json!([1, 3, 8, 12]));
        let red = told["outputs"][0]["data"][0].as_f64().unwrap();
        assert!((red - 0.5).abs() < 0.01, "{red}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn classes_are_told_by_name_when_asked_for() {
    let (_dir, models) = with_card(CARD).await;
    let told = async |path: &str| {
        let (status, told) = post(&models, path, "image/png", picture("scene.png")).await;
        assert_eq!(status, StatusCode::OK, "{told}");
        told["outputs"][0].clone()
    };
    let two = told("/v2/models/means/infer?classification").await;
    assert_eq!(
        (&two["datatype"], &two["shape"]),
        (&json!("BYTES"), &json!([1, 2]))
    );
    let first = two["data"][0].as_str().unwrap();
    assert!(
        first.starts_with("0.49") || first.starts_with("0.5"),
        "{first}"
    );
    let three = told("/v2/models/means/infer?x=1&classification=3").await;
    let names: Vec<&str> = three["data"]
        .as_array()
        .unwrap()
        .iter()
        .map(|s| s.as_str().unwrap().rsplit(':').next().unwrap())
        .collect();
    assert_eq!((names.len(), names[2]), (3, "blue"));
    let (status, answer) = post(
        &models,
        "/v2/models/means/infer?classification=x",
        "image/png",
        picture("scene.png"),
    )
    .await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    assert_eq!(
        answer["error"],
        "classification in the query is 'x', expected a number of classes"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn classification_is_asked_for_as_in_other_servers() {
    let (_dir, models) = with_card(CARD).await;
    let mut input =
        json!({"name": "x", "shape": [2, 3, 1, 1], "datatype": "FP32", "data": [1, 5, 3, 9, 8, 7]});
    let ask = async |input: &Value, binary: bool| {
        let json = json!({"inputs": [input], "outputs": [{"name": "scores", "parameters": {"classification": 2, "binary_data": binary}}]});
        call(
            &models,
            Method::POST,
            "/v2/models/means/infer",
            json.to_string(),
        )
        .await
    };
    let (_, told) = as_json(ask(&input, false).await).await;
    assert_eq!(
        told["outputs"][0],
        json!({"name": "scores", "datatype": "BYTES", "shape": [2, 2], "data": ["5:1:green", "3:2:blue", "9:0:red", "8:1:green"]})
    );
    input["data"][0] = json!("NaN");
    let answer = ask(&input, true).await;
    let length: usize = answer.headers()["inference-header-content-length"]
        .to_str()
        .unwrap()
        .parse()
        .unwrap();
    let body = body(answer).await;
    let told: Value = serde_json::from_slice(&body[..length]).unwrap();
    assert_eq!(told["outputs"][0]["datatype"], "BYTES");
    assert_eq!(&body[length..length + 13], b"\x09\0\0\x005:1:green");
    // Not of a picture's pixels, which are no output with labels, but by index all the same.
    let json = json!({"inputs": [input], "outputs": [{"name": "pixels", "parameters": {"classification": 1}}]});
    let (status, told) = as_json(
        call(
            &models,
            Method::POST,
            "/v2/models/means/infer",
            json.to_string(),
        )
        .await,
    )
    .await;
    assert_eq!(
        (status, &told["outputs"][0]["shape"]),
        (StatusCode::OK, &json!([2, 3, 1, 1]))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn pictures_that_cannot_be_used_are_refused_with_a_reason() {
    let (_dir, models) = with_card(CARD).await;
    models.switch({
        let other = models.prepare(spec("pair", "1", "pair")).await.unwrap();
        let means = models.shared.table.load()["means"][0].clone();
        vec![PreparedModel(means), other]
    });
    let jpeg = picture("scene.jpg");
    let cases = [
        (
            "means",
            "image/jpeg",
            &jpeg[..500],
            400,
            "the picture is no complete JPEG",
        ),
        (
            "means",
            "image/jpeg",
            b"GIF89a",
            415,
            "the picture is neither JPEG nor PNG, by its first bytes",
        ),
        (
            "means",
            "image/webp",
            &jpeg,
            415,
            "image/webp is not decoded here; send image/jpeg or image/png",
        ),
        (
            "pair",
            "image/jpeg",
            &jpeg,
            415,
            "model 'pair' takes no pictures: no card beside it says how one becomes its input",
        ),
    ];
    for (model, kind, bytes, expected, message) in cases {
        let (status, told) = post(
            &models,
            &format!("/v2/models/{model}/infer"),
            kind,
            bytes.to_vec(),
        )
        .await;
        assert_eq!(status.as_u16(), expected, "{told}");
        assert!(
            told["error"].as_str().unwrap().starts_with(message),
            "{told}"
        );
    }
    let b = json!({"name": "b", "shape": [], "datatype": "FP32", "data": 2});
    let a = json!({"name": "a", "shape": [2, 2], "datatype": "FP32", "data": [1, 2, 3, 4]});
    let (status, told) = post(
        &models,
        "/v2/models/pair/infer?classification=1",
        "application/json",
        json!({"inputs": [a, b]}).to_string(),
    )
    .await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    assert_eq!(
        told["error"],
        "model 'pair' has 2 outputs and no card that says which one has scores of classes; name one by outputs[].parameters.classification"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_card_that_does_not_fit_keeps_the_model_from_loading() {
    let dir = tempfile::tempdir().unwrap();
    let card = dir.path().join("card.toml");
    fs::write(&card, "[image]\n").unwrap();
    let models = start(ModelsConfig::default());
    let mut spec = spec("means", "1", "means");
    spec.files.card = Some(card);
    let error = models.prepare(spec).await.unwrap_err().to_string();
    assert!(error.ends_with("card.toml does not fit the model: input 'x' leaves its width free, so that image.size has to say it"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn metadata_tell_what_the_card_says() {
    let (_dir, models) = with_card(CARD).await;
    let (_, told) = as_json(call(&models, Method::GET, "/v2/models/means", "").await).await;
    assert_eq!(
        told["parameters"],
        json!({
            "image.input": "x", "image.layout": "NCHW", "image.color": "rgb", "image.width": 12, "image.height": 8,
            "labels.output": "scores", "labels.top": 2, "labels.count": 3,
        })
    );
}
