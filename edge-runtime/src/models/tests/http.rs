//! The protocol, from request to answer.

use super::super::compression::Coding;
use super::*;

const JSON_LENGTH: &str = "inference-header-content-length";

/// A body of JSON and what follows it, posted to `path`.
async fn post_binary(
    models: &Models,
    path: &str,
    json: &str,
    blobs: &[u8],
) -> Response<Full<Bytes>> {
    let body = [json.as_bytes(), blobs].concat();
    let request = Request::builder()
        .method(Method::POST)
        .uri(path)
        .header(JSON_LENGTH, json.len());
    models
        .handle(request.body(Full::new(Bytes::from(body))).unwrap())
        .await
}

/// Takes an answer with binary data apart.
async fn split(answer: Response<Full<Bytes>>) -> (Value, Bytes) {
    assert_eq!(answer.headers()["content-type"], "application/octet-stream");
    let length: usize = answer.headers()[JSON_LENGTH]
        .to_str()
        .unwrap()
        .parse()
        .unwrap();
    let body = body(answer).await;
    (
        serde_json::from_slice(&body[..length]).unwrap(),
        body.slice(length..),
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn json_goes_in_and_comes_out() {
    let models = serving(ModelsConfig::default(), &["pair"]).await;
    let body_in = json!({
        "id": "42",
        "inputs": [
            {"name": "a", "shape": [2, 2], "datatype": "FP32", "data": [[1, 2.5], [-3e0, 4]]},
            {"name": "b", "shape": [], "datatype": "FP32", "data": [2]},
        ],
        "outputs": [{"name": "product"}],
    });
    let answer = call(
        &models,
        Method::POST,
        "/v2/models/pair/versions/1/infer",
        body_in.to_string(),
    )
    .await;
    assert_eq!(answer.status(), StatusCode::OK);
    assert_eq!(answer.headers()["content-type"], "application/json");
    insta::assert_snapshot!(
        String::from_utf8_lossy(&body(answer).await),
        @r#"{"model_name":"pair","model_version":"1","id":"42","outputs":[{"name":"product","datatype":"FP32","shape":[2,2],"data":[2.0,5.0,-6.0,8.0]}]}"#
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn binary_and_json_mix_both_ways() {
    let models = serving(ModelsConfig::default(), &["pair"]).await;
    let a = f32s("a", &[2, 2], &[1.0, 2.0, 3.0, 4.0]).data;
    let json = json!({
        "inputs": [
            {"name": "a", "shape": [2, 2], "datatype": "FP32", "parameters": {"binary_data_size": 16}},
            {"name": "b", "shape": [], "datatype": "FP32", "data": [10]},
        ],
        "outputs": [{"name": "sum", "parameters": {"binary_data": true}}, {"name": "product"}],
    });
    let (told, blobs) =
        split(post_binary(&models, "/v2/models/pair/infer", &json.to_string(), &a).await).await;
    assert_eq!(
        told["outputs"][0],
        json!({"name": "sum", "datatype": "FP32", "shape": [2, 2], "parameters": {"binary_data_size": 16}})
    );
    assert_eq!(told["outputs"][1]["data"], json!([10.0, 20.0, 30.0, 40.0]));
    assert_eq!(blobs, f32s("sum", &[2, 2], &[11.0, 12.0, 13.0, 14.0]).data);
}

#[tokio::test(flavor = "multi_thread")]
async fn binary_for_all_outputs_may_be_overridden_for_one() {
    let models = serving(ModelsConfig::default(), &["pair"]).await;
    let json = json!({
        "parameters": {"binary_data_output": true},
        "inputs": [
            {"name": "a", "shape": [2, 2], "datatype": "FP32", "data": [1, 2, 3, 4]},
            {"name": "b", "shape": [], "datatype": "FP32", "data": [10]},
        ],
        "outputs": [{"name": "sum", "parameters": {"binary_data": false}}, {"name": "product"}],
    });
    let (told, blobs) = split(
        call(
            &models,
            Method::POST,
            "/v2/models/pair/infer",
            json.to_string(),
        )
        .await,
    )
    .await;
    assert_eq!(told["outputs"][0]["data"], json!([11.0, 12.0, 13.0, 14.0]));
    assert_eq!(
        blobs,
        f32s("product", &[2, 2], &[10.0, 20.0, 30.0, 40.0]).data
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn every_type_passes_through_json_and_binary() {
    let files: Vec<String> = DataType::ALL
        .iter()
        .map(|t| format!("identity_{}", t.name().to_lowercase()))
        .collect();
    let files: Vec<&str> = files.iter().map(String::as_str).collect();
    let models = serving(ModelsConfig::default(), &files).await;
    for datatype in DataType::ALL {
        let path = format!(
            "/v2/models/identity-{}/infer",
            datatype.name().to_lowercase()
        );
        let values = match datatype {
            DataType::Bool => json!([true, false, true]),
            DataType::Bytes => json!([
                "",
                "ä,\"]",
                "long enough to be kept elsewhere than in place"
            ]),
            DataType::Fp32 | DataType::Fp64 => json!([0.1, -2.5e-7, 3.0]),
            DataType::Int8 | DataType::Int16 | DataType::Int32 | DataType::Int64 => {
                json!([-128, 0, 127])
            }
            _ => json!([0, 1, 255]),
        };
        if datatype.has_json_form() {
            let input = json!({"inputs": [{"name": "x", "shape": [3], "datatype": datatype.name(), "data": values}]});
            let (status, told) =
                as_json(call(&models, Method::POST, &path, input.to_string()).await).await;
            assert_eq!(status, StatusCode::OK, "{datatype}: {told}");
            assert_eq!(
                told["outputs"][0],
                json!({"name": "y", "shape": [3], "datatype": datatype.name(), "data": values})
            );
        }
        for count in [0_usize, 3] {
            let mut blob = vec![1_u8; count * datatype.size().unwrap_or(0)];
            if datatype == DataType::Bytes {
                (0..count).for_each(|n| push_string(&mut blob, "x".repeat(n).as_bytes()));
            }
            let json = json!({
                "parameters": {"binary_data_output": true},
                "inputs": [{"name": "x", "shape": [count], "datatype": datatype.name(), "parameters": {"binary_data_size": blob.len()}}],
            });
            let answer = post_binary(&models, &path, &json.to_string(), &blob).await;
            assert_eq!(
                answer.status(),
                StatusCode::OK,
                "{datatype}: {:?}",
                body(answer).await
            );
            let answer = post_binary(&models, &path, &json.to_string(), &blob).await;
            let (told, blobs) = split(answer).await;
            assert_eq!(told["outputs"][0]["shape"], json!([count]), "{datatype}");
            assert_eq!(
                told["outputs"][0]["parameters"]["binary_data_size"],
                json!(blob.len())
            );
            assert_eq!(blobs, blob, "{datatype}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_raw_body_is_the_only_input() {
    let models = serving(
        ModelsConfig::default(),
        &["mlp", "identity_fp32", "identity_bytes", "pair"],
    )
    .await;
    let x = f32s("x", &[1, 64], &[1.0; 64]).data;
    let (told, blobs) = split(post_binary(&models, "/v2/models/mlp/infer", "", &x).await).await;
    assert_eq!(told["outputs"][0]["shape"], json!([1, 8]));
    assert_eq!(blobs, f32s("y", &[1, 8], &mlp(&[1.0; 64])).data);
    let (_, blobs) =
        split(post_binary(&models, "/v2/models/identity-fp32/infer", "", &x).await).await;
    assert_eq!(blobs, x);
    let (_, blobs) =
        split(post_binary(&models, "/v2/models/identity-bytes/infer", "", b"hello").await).await;
    assert_eq!(&blobs[..], b"\x05\0\0\0hello");
    let (status, told) =
        as_json(post_binary(&models, "/v2/models/mlp/infer", "", &x[1..]).await).await;
    assert_eq!(status, StatusCode::BAD_REQUEST, "{told}");
    let (status, told) = as_json(post_binary(&models, "/v2/models/pair/infer", "", &x).await).await;
    assert_eq!(
        (status, told["error"].as_str().unwrap()),
        (
            StatusCode::BAD_REQUEST,
            "a raw binary body serves models with one input, this one has 2"
        )
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clients_mistake_is_named_with_what_was_expected_and_what_came() {
    let models = serving(ModelsConfig::default(), &["pair", "identity_fp16"]).await;
    let b = json!({"name": "b", "shape": [], "datatype": "FP32", "data": [2]});
    let a = |shape: Value, datatype: &str, data: Value| json!({"name": "a", "shape": shape, "datatype": datatype, "data": data});
    let good = a(json!([2, 2]), "FP32", json!([1, 2, 3, 4]));
    let cases = [
        ("{".to_owned(), "the request body is not a valid inference request: expected ',' or '}' in an object, but the text ends at line 1 column 2"),
        ("{}".to_owned(), "the request body is not a valid inference request: it has no inputs"),
        (json!({"inputs": [b]}).to_string(), "input 'a' is missing, expected FP32 of shape [2, 2]"),
        (json!({"inputs": [b, good, b]}).to_string(), "input 'b' comes twice"),
        (json!({"inputs": [b, good, {"name": "c", "shape": [1], "datatype": "FP32", "data": [1]}]}).to_string(), "model 'pair' has no input 'c'; it takes 'a', 'b'"),
        (json!({"inputs": [b, a(json!([2, 3]), "FP32", json!([1, 2, 3, 4, 5, 6]))]}).to_string(), "input 'a' has shape [2, 3], expected [2, 2]"),
        (json!({"inputs": [b, a(json!([2, 2]), "FP32", json!([1, 2, 3]))]}).to_string(), "input 'a' has 3 elements, expected 4 for its shape"),
        (json!({"inputs": [b, a(json!([2, 2]), "INT32", json!([1, 2, 3, 4]))]}).to_string(), "input 'a' has datatype INT32, expected FP32"),
        (json!({"inputs": [b, a(json!([2, 2]), "FLOAT", json!([1, 2, 3, 4]))]}).to_string(), "input 'a' has datatype \"FLOAT\", expected one of BOOL, UINT8, UINT16, UINT32, UINT64, INT8, INT16, INT32, INT64, FP16, BF16, FP32, FP64, BYTES"),
        (json!({"inputs": [b, a(json!([2, 2]), "FP32", json!([1, "two", 3, 4]))]}).to_string(), "input 'a' has \"two\" as element 1, expected a number within FP32, \"NaN\", \"Infinity\" or \"-Infinity\""),
        (json!({"inputs": [b, a(json!([-1, 2]), "FP32", json!([1, 2]))]}).to_string(), "input 'a' has shape [-1, 2], which is not a size that can be served"),
        (json!({"inputs": [b, a(json!([2, 2]), "FP16", json!([1, 2, 3, 4]))]}).to_string(), "input 'a' has datatype FP16, which JSON cannot carry; send it as binary (parameters.binary_data_size)"),
        (json!({"inputs": [b, {"name": "a", "shape": [2, 2], "datatype": "FP32"}]}).to_string(), "input 'a' has no data, nor parameters.binary_data_size"),
        (json!({"inputs": [b, {"name": "a", "shape": [2, 2], "datatype": "FP32", "parameters": {"binary_data_size": 16}}]}).to_string(), "input 'a' has binary_data_size 16, but only 0 bytes are left behind the JSON; is Inference-Header-Content-Length set?"),
        (json!({"inputs": [b, good], "outputs": [{"name": "difference"}]}).to_string(), "model 'pair' has no output 'difference'; it gives 'sum', 'product'"),
    ];
    for (request, message) in cases {
        let (status, told) = as_json(
            call(
                &models,
                Method::POST,
                "/v2/models/pair/infer",
                request.clone(),
            )
            .await,
        )
        .await;
        assert_eq!(told["error"], message, "{request}");
        assert_eq!(status, StatusCode::BAD_REQUEST, "{request}");
    }
    let nan = r#"{"inputs":[{"name":"b","shape":[],"datatype":"FP32","data":[nan]}]}"#;
    assert_eq!(
        call(&models, Method::POST, "/v2/models/pair/infer", nan)
            .await
            .status(),
        StatusCode::BAD_REQUEST
    );
    let json = json!({"inputs": [{"name": "x", "shape": [1], "datatype": "FP16", "parameters": {"binary_data_size": 2}}]});
    let (status, told) = as_json(
        post_binary(
            &models,
            "/v2/models/identity-fp16/infer",
            &json.to_string(),
            &[0, 60],
        )
        .await,
    )
    .await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    assert_eq!(
        told["error"],
        "output 'y' has datatype FP16, which JSON cannot carry; ask for it with parameters.binary_data"
    );
    let (_, told) = as_json(
        post_binary(
            &models,
            "/v2/models/identity-fp16/infer",
            &json.to_string(),
            &[0, 60, 1],
        )
        .await,
    )
    .await;
    assert_eq!(
        told["error"],
        "1 bytes follow the last binary input; binary_data_size of an input is wrong"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_timeout_parameter_ends_a_run() {
    let models = serving(ModelsConfig::default(), &["slow"]).await;
    let json = json!({
        "parameters": {"timeout": 50_000},
        "inputs": [{"name": "times", "shape": [], "datatype": "INT64", "data": [ENDLESS]}],
    });
    let (status, told) = as_json(
        call(
            &models,
            Method::POST,
            "/v2/models/slow/infer",
            json.to_string(),
        )
        .await,
    )
    .await;
    assert_eq!(status, StatusCode::GATEWAY_TIMEOUT);
    assert_eq!(
        told["error"],
        "model 'slow' did not answer before the request's deadline"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn paths_and_methods_are_answered_as_the_protocol_says() {
    let models = serving(ModelsConfig::default(), &["mlp"]).await;
    let cases = [
        (Method::GET, "/v2", StatusCode::OK),
        (Method::GET, "/v2/health/live", StatusCode::OK),
        (Method::GET, "/v2/health/ready", StatusCode::OK),
        (Method::GET, "/v2/models/mlp", StatusCode::OK),
        (Method::GET, "/v2/models/ml%70/versions/1", StatusCode::OK),
        (Method::GET, "/v2/models/mlp/ready", StatusCode::OK),
        (
            Method::GET,
            "/v2/models/mlp/versions/1/ready",
            StatusCode::OK,
        ),
        (Method::GET, "/v2/models/mlp/config", StatusCode::OK),
        (Method::GET, "/v2/models/mlp/stats", StatusCode::OK),
        (Method::GET, "/v2/models/stats", StatusCode::OK),
        (Method::POST, "/v2/repository/index", StatusCode::OK),
        (
            Method::POST,
            "/v2/repository/models/mlp/unload",
            StatusCode::FORBIDDEN,
        ),
        (Method::GET, "/v2/models/other", StatusCode::NOT_FOUND),
        (Method::GET, "/v2/models/other/ready", StatusCode::NOT_FOUND),
        (
            Method::GET,
            "/v2/models/mlp/versions/2",
            StatusCode::NOT_FOUND,
        ),
        (
            Method::POST,
            "/v2/models/other/infer",
            StatusCode::NOT_FOUND,
        ),
        (Method::GET, "/v2/models/mlp/", StatusCode::NOT_FOUND),
        (Method::GET, "/v2/nothing", StatusCode::NOT_FOUND),
        (
            Method::GET,
            "/v2/models/mlp/infer",
            StatusCode::METHOD_NOT_ALLOWED,
        ),
        (
            Method::DELETE,
            "/v2/models/mlp",
            StatusCode::METHOD_NOT_ALLOWED,
        ),
    ];
    for (method, path, expected) in cases {
        let (status, told) = as_json(call(&models, method.clone(), path, "").await).await;
        assert_eq!(status, expected, "{method} {path}: {told}");
        assert_eq!(
            told.get("error").is_some(),
            status != StatusCode::OK,
            "{method} {path}: {told}"
        );
    }
    let answer = call(&models, Method::GET, "/v2/models/mlp/infer", "").await;
    assert_eq!(answer.headers()["allow"], "POST");
    let (_, told) = as_json(call(&models, Method::GET, "/v2/models/mlp", "").await).await;
    insta::assert_json_snapshot!(told, @r#"
    {
      "inputs": [
        {
          "datatype": "FP32",
          "name": "x",
          "shape": [
            -1,
            64
          ]
        }
      ],
      "name": "mlp",
      "outputs": [
        {
          "datatype": "FP32",
          "name": "y",
          "shape": [
            -1,
            8
          ]
        }
      ],
      "platform": "onnx_onnxv1",
      "versions": [
        "1"
      ]
    }
    "#);
    let (_, told) = as_json(call(&models, Method::POST, "/v2/repository/index", "").await).await;
    assert_eq!(
        told,
        json!([{"name": "mlp", "version": "1", "state": "READY", "reason": ""}])
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_that_are_too_large_or_in_a_coding_not_known_are_refused() {
    let models = serving(
        ModelsConfig {
            max_body_bytes: 1000,
            ..ModelsConfig::default()
        },
        &["mlp"],
    )
    .await;
    let (status, told) = as_json(
        call(
            &models,
            Method::POST,
            "/v2/models/mlp/infer",
            vec![b' '; 1001],
        )
        .await,
    )
    .await;
    assert_eq!(status, StatusCode::PAYLOAD_TOO_LARGE);
    assert_eq!(
        told["error"],
        "the request body is larger than 1000 bytes, the most that is taken"
    );
    let request = Request::post("/v2/models/mlp/infer").header("content-encoding", "br");
    let answer = models
        .handle(request.body(Full::new(Bytes::new())).unwrap())
        .await;
    assert_eq!(answer.status(), StatusCode::UNSUPPORTED_MEDIA_TYPE);
    let bomb = Coding::Gzip.deflate(&vec![b' '; 100_000]).unwrap();
    assert!(bomb.len() < 1000);
    let request = Request::post("/v2/models/mlp/infer").header("content-encoding", "gzip");
    let answer = models.handle(request.body(Full::new(bomb)).unwrap()).await;
    assert_eq!(answer.status(), StatusCode::PAYLOAD_TOO_LARGE);
    let request = Request::post("/v2/models/mlp/infer").header("content-encoding", "deflate");
    let answer = models
        .handle(request.body(Full::new(Bytes::from("{}"))).unwrap())
        .await;
    assert_eq!(answer.status(), StatusCode::BAD_REQUEST);
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_are_compressed_both_ways() {
    let models = serving(
        ModelsConfig::default(),
        &["identity_fp32", "identity_bytes"],
    )
    .await;
    let values: Vec<f32> = (0..1000_u16).map(f32::from).collect();
    let x = f32s("x", &[1000], &values);
    let json = json!({
        "parameters": {"binary_data_output": true},
        "inputs": [{"name": "x", "shape": [1000], "datatype": "FP32", "parameters": {"binary_data_size": 4000}}],
    })
    .to_string();
    for coding in [Coding::Gzip, Coding::Deflate] {
        let body_in = coding
            .deflate(&[json.as_bytes(), &x.data].concat())
            .unwrap();
        let request = Request::post("/v2/models/identity-fp32/infer")
            .header(JSON_LENGTH, json.len())
            .header("content-encoding", coding.name())
            .header("accept-encoding", coding.name());
        let answer = models
            .handle(request.body(Full::new(body_in)).unwrap())
            .await;
        assert_eq!(answer.status(), StatusCode::OK);
        assert_eq!(answer.headers()["content-encoding"], coding.name());
        let length: usize = answer.headers()[JSON_LENGTH]
            .to_str()
            .unwrap()
            .parse()
            .unwrap();
        let whole = coding.inflate(&body(answer).await, 1 << 20).unwrap();
        let told: Value = serde_json::from_slice(&whole[..length]).unwrap();
        assert_eq!(told["outputs"][0]["shape"], json!([1000]));
        assert_eq!(whole.slice(length..), x.data);
    }
    let small =
        json!({"inputs": [{"name": "x", "shape": [1], "datatype": "BYTES", "data": ["a"]}]});
    let request =
        Request::post("/v2/models/identity-bytes/infer").header("accept-encoding", "gzip");
    let answer = models
        .handle(request.body(Full::new(small.to_string().into())).unwrap())
        .await;
    assert_eq!(answer.headers().get("content-encoding"), None);
    assert_eq!(as_json(answer).await.1["outputs"][0]["data"], json!(["a"]));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_json_has_no_number_for_makes_a_round_trip() {
    let models = serving(ModelsConfig::default(), &["identity_fp32", "identity_fp64"]).await;
    for datatype in ["FP32", "FP64"] {
        let values = json!(["NaN", "Infinity", "-Infinity", 1.5]);
        let input =
            json!({"inputs": [{"name": "x", "shape": [4], "datatype": datatype, "data": values}]});
        let path = format!("/v2/models/identity-{}/infer", datatype.to_lowercase());
        let (status, told) =
            as_json(call(&models, Method::POST, &path, input.to_string()).await).await;
        assert_eq!(status, StatusCode::OK, "{told}");
        assert_eq!(told["outputs"][0]["data"], values);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_earlier_of_two_deadlines_counts() {
    let models = serving(ModelsConfig::default(), &["slow"]).await;
    let ask = async |header: &str, timeout: u64| {
        let json = json!({
            "parameters": {"timeout": timeout},
            "inputs": [{"name": "times", "shape": [], "datatype": "INT64", "data": [ENDLESS]}],
        });
        let request = Request::post("/v2/models/slow/infer").header("request-timeout", header);
        let began = Instant::now();
        let answer = models
            .handle(request.body(Full::new(json.to_string().into())).unwrap())
            .await;
        let (status, told) = as_json(answer).await;
        (status, told, began.elapsed())
    };
    for (header, timeout) in [("50ms", 0), ("50ms", 600_000_000), ("10m", 50_000)] {
        let (status, told, took) = ask(header, timeout).await;
        assert_eq!(status, StatusCode::GATEWAY_TIMEOUT, "{told}");
        assert!(took >= Duration::from_millis(50) && took < Duration::from_secs(20));
    }
    let (status, told, _) = ask("soon", 0).await;
    assert_eq!(
        (status, told["error"].as_str().unwrap()),
        (
            StatusCode::BAD_REQUEST,
            "Request-Timeout is \"soon\", expected a duration with its unit, such as 250ms"
        )
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_index_is_given_for_no_body_and_for_what_the_protocol_has() {
    let models = serving(ModelsConfig::default(), &["mlp"]).await;
    for body_in in ["", "{}", "{\"ready\":true}", " "] {
        for path in ["/v2/repository/index", "/v2/repository/local/index"] {
            let (status, told) = as_json(call(&models, Method::POST, path, body_in).await).await;
            assert_eq!(
                (status, told[0]["name"].as_str()),
                (StatusCode::OK, Some("mlp"))
            );
        }
    }
    for body_in in ["{\"ready\":1}", "[", "7"] {
        let answer = call(&models, Method::POST, "/v2/repository/index", body_in).await;
        let (status, told) = as_json(answer).await;
        assert_eq!(status, StatusCode::BAD_REQUEST);
        assert!(
            told["error"].as_str().unwrap().contains("no index request"),
            "{told}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_count_what_happened_under_tritons_names() {
    let models = serving(ModelsConfig::default(), &["mlp"]).await;
    for _ in 0..3 {
        models
            .infer("mlp", None, request(vec![f32s("x", &[1, 64], &[1.0; 64])]))
            .await
            .unwrap();
    }
    assert_eq!(
        call(&models, Method::POST, "/v2/models/mlp/infer", "{}")
            .await
            .status(),
        StatusCode::BAD_REQUEST
    );
    let mut metrics = String::new();
    models.render_metrics(&mut metrics);
    for line in [
        "# TYPE nv_inference_request_success counter",
        "nv_inference_request_success{model=\"mlp\",version=\"1\"} 3",
        "nv_inference_request_failure{model=\"mlp\",version=\"1\",reason=\"OTHER\"} 1",
        "nv_inference_request_failure{model=\"mlp\",version=\"1\",reason=\"BACKEND\"} 0",
        "nv_inference_exec_count{model=\"mlp\",version=\"1\"} 3",
        "nv_inference_pending_request_count{model=\"mlp\",version=\"1\"} 0",
        "edge_inference_requests_total{model=\"mlp\",version=\"1\",via=\"wasm\"} 3",
        "edge_inference_requests_total{model=\"mlp\",version=\"1\",via=\"http\"} 1",
        "edge_inference_request_duration_seconds_count{model=\"mlp\",version=\"1\"} 3",
        "edge_inference_stage_duration_seconds_bucket{model=\"mlp\",version=\"1\",stage=\"compute\",le=\"+Inf\"} 3",
    ] {
        assert!(
            metrics.lines().any(|found| found == line),
            "{line} is not in\n{metrics}"
        );
    }
    let health = models.health();
    assert_eq!(
        (health[0].requests, health[0].errors),
        (4, 0),
        "a client's mistake is not the model's error"
    );
    let (_, told) = as_json(call(&models, Method::GET, "/v2/models/mlp/stats", "").await).await;
    assert_eq!(
        told["model_stats"][0]["inference_stats"]["success"]["count"],
        3
    );
}
