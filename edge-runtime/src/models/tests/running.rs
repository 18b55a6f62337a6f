//! Loading, switching, queueing, stopping.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_model_computes_what_its_formula_says() {
    let models = serving(ModelsConfig::default(), &["mlp"]).await;
    let x: Vec<f32> = (0..128).map(|i| ((i * 7) % 11) as f32 - 5.0).collect();
    let response = models
        .infer("mlp", None, request(vec![f32s("x", &[2, 64], &x)]))
        .await
        .unwrap();
    let expected: Vec<f32> = mlp(&x[..64]).into_iter().chain(mlp(&x[64..])).collect();
    assert_eq!(response.outputs, [f32s("y", &[2, 8], &expected)]);
    assert_eq!(
        (response.model.as_str(), response.version.as_str()),
        ("mlp", "1")
    );
}

#[tokio::test]
async fn a_quick_model_also_runs_on_a_runtime_of_one_thread() {
    let models = serving(ModelsConfig::default(), &["mlp"]).await;
    let response = models
        .infer("mlp", None, request(vec![f32s("x", &[1, 64], &[1.0; 64])]))
        .await
        .unwrap();
    assert_eq!(response.outputs, [f32s("y", &[1, 8], &mlp(&[1.0; 64]))]);
}

#[tokio::test(flavor = "multi_thread")]
async fn inputs_may_be_scalars_and_outputs_come_as_asked_for() {
    let models = serving(ModelsConfig::default(), &["pair"]).await;
    let inputs = vec![
        f32s("b", &[], &[10.0]),
        f32s("a", &[2, 2], &[1.0, 2.0, 3.0, 4.0]),
    ];
    let mut wanted = request(inputs.clone());
    let all = models
        .infer("pair", None, wanted.clone())
        .await
        .unwrap()
        .outputs;
    let sum = f32s("sum", &[2, 2], &[11.0, 12.0, 13.0, 14.0]);
    let product = f32s("product", &[2, 2], &[10.0, 20.0, 30.0, 40.0]);
    assert_eq!(all, [sum.clone(), product.clone()]);
    wanted.outputs = vec!["product".into()];
    assert_eq!(
        models
            .infer("pair", None, wanted.clone())
            .await
            .unwrap()
            .outputs,
        std::slice::from_ref(&product)
    );
    wanted.outputs = vec!["product".into(), "sum".into()];
    assert_eq!(
        models.infer("pair", None, wanted).await.unwrap().outputs,
        [product, sum]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn data_that_lies_unaligned_runs_the_same() {
    let models = serving(ModelsConfig::default(), &["identity_int64"]).await;
    let bytes: Vec<u8> = (0..25).collect();
    let unaligned = Bytes::from(bytes).slice(1..);
    let response = models.infer(
        "identity-int64",
        None,
        request(vec![tensor("x", DataType::Int64, &[3], unaligned.clone())]),
    );
    assert_eq!(response.await.unwrap().outputs[0].data, unaligned);
}

#[tokio::test(flavor = "multi_thread")]
async fn versions_serve_side_by_side_and_the_last_is_the_default() {
    let models = start(ModelsConfig::default());
    let one = models.prepare(spec("m", "1", "mlp")).await.unwrap();
    let two = models.prepare(spec("m", "2", "pair")).await.unwrap();
    assert!(
        matches!(models.info("m", None), Err(ModelError::UnknownModel { .. })),
        "not before the switch"
    );
    models.switch(vec![two.clone(), one.clone()]);
    assert_eq!(models.info("m", None).unwrap().version, "1");
    models.switch(vec![one, two]);
    let info = models.info("m", None).unwrap();
    assert_eq!(
        (info.version.as_str(), info.versions),
        ("2", vec!["1".to_owned(), "2".to_owned()])
    );
    assert_eq!(models.inputs("m", Some("1")).unwrap()[0].shape, [-1, 64]);
    let error = models
        .infer("m", Some("3"), request(vec![]))
        .await
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "model 'm' has no version '3'; deployed: 1, 2"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_that_is_switched_away_finishes_its_request() {
    let models = serving(ModelsConfig::default(), &["slow"]).await;
    let running = tokio::spawn({
        let models = models.clone();
        async move { models.infer("slow", None, slow(2000)).await }
    });
    let held = models.find("slow", None).unwrap();
    eventually("the run is under way", || held.pending() == 1).await;
    models.switch(Vec::new());
    assert!(matches!(
        models.infer("slow", None, slow(1)).await,
        Err(ModelError::UnknownModel { .. })
    ));
    let gone = Arc::downgrade(&held);
    drop(held);
    running.await.unwrap().unwrap();
    eventually("the old version is dropped", || gone.strong_count() == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_serves_under_the_same_digest_is_not_loaded_again() {
    let models = start(ModelsConfig::default());
    let with_digest = ModelSpec {
        digest: Some("sha256:1".into()),
        ..spec("m", "1", "mlp")
    };
    let first = models.prepare(with_digest.clone()).await.unwrap();
    models.switch(vec![first.clone()]);
    let again = models.prepare(with_digest.clone()).await.unwrap();
    assert!(Arc::ptr_eq(&first.0, &again.0));
    let other = ModelSpec {
        digest: Some("sha256:2".into()),
        ..with_digest
    };
    assert!(!Arc::ptr_eq(
        &first.0,
        &models.prepare(other).await.unwrap().0
    ));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_model_is_refused_with_its_reason_and_changes_nothing() {
    let models = serving(ModelsConfig::default(), &["mlp"]).await;
    let folder = tempfile::tempdir().unwrap();
    let corrupt = folder.path().join("corrupt.onnx");
    let half = std::fs::read(tiny("mlp")).unwrap();
    std::fs::write(&corrupt, &half[..half.len() / 2]).unwrap();
    let text = folder.path().join("text.onnx");
    std::fs::write(&text, "this is no model").unwrap();
    let cases = [
        (corrupt, "cannot be loaded"),
        (text, "cannot be loaded"),
        (folder.path().join("absent.onnx"), "does not exist"),
        (tiny("sequence"), "output 'y' is a "),
    ];
    for (path, message) in cases {
        let error = models
            .prepare(ModelSpec {
                path,
                ..spec("mlp", "2", "mlp")
            })
            .await
            .unwrap_err()
            .to_string();
        assert!(
            error.contains(message) && error.starts_with("model mlp:2 "),
            "{error}"
        );
    }
    let error = models
        .prepare(spec("Not a name", "1", "mlp"))
        .await
        .unwrap_err();
    assert!(matches!(error, ModelError::Id(_)), "{error}");
    assert_eq!(models.info("mlp", None).unwrap().versions, ["1"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_that_refuses_zeros_is_served_and_refuses_by_request() {
    let models = serving(ModelsConfig::default(), &["broken"]).await;
    let ones = request(vec![f32s("x", &[2], &[1.0, 1.0])]);
    let error = models.infer("broken", None, ones).await.unwrap_err();
    assert!(matches!(error, ModelError::Refused { .. }), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deadline_stops_the_run_and_leaves_the_session_usable() {
    let models = serving(ModelsConfig::default(), &["slow"]).await;
    let deadline = Instant::now() + Duration::from_millis(50);
    let error = models
        .infer(
            "slow",
            None,
            InferRequest {
                deadline: Some(deadline),
                ..slow(ENDLESS)
            },
        )
        .await
        .unwrap_err();
    assert!(matches!(error, ModelError::Deadline { .. }), "{error}");
    assert!(Instant::now() >= deadline);
    models.infer("slow", None, slow(1)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deadline_also_stops_a_run_on_the_callers_thread() {
    let models = serving(ModelsConfig::default(), &["slow"]).await;
    // Runs of a few steps teach the pace of a quick model.
    let model = models.find("slow", None).unwrap();
    while !model.is_quick() {
        models.infer("slow", None, slow(0)).await.unwrap();
    }
    let deadline = Some(Instant::now() + Duration::from_millis(50));
    let error = models
        .infer(
            "slow",
            None,
            InferRequest {
                deadline,
                ..slow(ENDLESS)
            },
        )
        .await
        .unwrap_err();
    assert!(matches!(error, ModelError::Deadline { .. }), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_run_that_proves_slow_gives_the_worker_back_and_ends_on_another_thread() {
    let models = serving(ModelsConfig::default(), &["slow"]).await;
    let model = models.find("slow", None).unwrap();
    while !model.is_quick() {
        models.infer("slow", None, slow(0)).await.unwrap();
    }
    let running = tokio::spawn({
        let models = models.clone();
        async move { models.infer("slow", None, slow(ENDLESS)).await }
    });
    // There is one worker: this goes on only if the run does not hold it.
    eventually("the pace is known", || !model.is_quick()).await;
    assert_eq!(model.pending(), 1);
    running.abort();
    eventually("the session is free", || model.pending() == 0).await;
    // One that takes longer than a worker waits has the same result as any other.
    while !model.is_quick() {
        models.infer("slow", None, slow(0)).await.unwrap();
    }
    let outputs = models
        .infer("slow", None, slow(1000))
        .await
        .unwrap()
        .outputs;
    assert_eq!(outputs[0].shape, [128, 128]);
    assert!(!model.is_quick());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_that_goes_away_stops_its_run() {
    let models = serving(ModelsConfig::default(), &["slow"]).await;
    models.infer("slow", None, slow(20)).await.unwrap();
    let model = models.find("slow", None).unwrap();
    model.forget_pace();
    let caller = tokio::spawn({
        let models = models.clone();
        async move { models.infer("slow", None, slow(ENDLESS)).await }
    });
    eventually("the run is under way", || model.pending() == 1).await;
    caller.abort();
    eventually("the session is free", || model.pending() == 0).await;
    models.infer("slow", None, slow(1)).await.unwrap();
    let mut metrics = String::new();
    models.render_metrics(&mut metrics);
    assert!(
        metrics.contains(
            "nv_inference_request_failure{model=\"slow\",version=\"1\",reason=\"CANCELED\"} 1\n"
        ),
        "{metrics}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_queue_turns_requests_away_and_a_deadline_leaves_it() {
    let models = start(ModelsConfig::default());
    let prepared = models.prepare(ModelSpec {
        options: ModelOptions {
            queue: 1,
            ..ModelOptions::default()
        },
        ..spec("slow", "1", "slow")
    });
    models.switch(vec![prepared.await.unwrap()]);
    let model = models.find("slow", None).unwrap();
    model.forget_pace();
    let call = |request: InferRequest| {
        let models = models.clone();
        tokio::spawn(async move { models.infer("slow", None, request).await })
    };
    let running = call(slow(ENDLESS));
    eventually("one runs", || model.pending() == 1).await;
    let deadline = Some(Instant::now() + Duration::from_millis(300));
    let waiting = call(InferRequest {
        deadline,
        ..slow(1)
    });
    eventually("one waits", || model.waiting() == 1).await;
    assert_eq!(models.health()[0].queue, 1);
    let error = call(slow(1)).await.unwrap().unwrap_err();
    assert_eq!(
        error.to_string(),
        "model 'slow' is busy: 1 requests wait already; try again later"
    );
    assert!(error.is_retryable());
    assert!(matches!(
        waiting.await.unwrap(),
        Err(ModelError::Deadline { .. })
    ));
    let waiting = call(slow(1));
    eventually("another waits", || model.waiting() == 1).await;
    running.abort();
    waiting.await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn many_requests_at_once_each_get_their_own_result() {
    let models = start(ModelsConfig {
        permits: 2,
        ..ModelsConfig::default()
    });
    let model = models
        .prepare(ModelSpec {
            options: ModelOptions {
                sessions: 2,
                ..ModelOptions::default()
            },
            ..spec("mlp", "1", "mlp")
        })
        .await
        .unwrap();
    models.switch(vec![model]);
    // From 1, because 0 gives sums of 0 and -0, whose sign depends on the order.
    let calls: Vec<_> = (1..=100)
        .map(|n| {
            let models = models.clone();
            tokio::spawn(async move {
                let x = vec![n as f32; 64];
                let response = models
                    .infer("mlp", None, request(vec![f32s("x", &[1, 64], &x)]))
                    .await
                    .unwrap();
                assert_eq!(response.outputs, [f32s("y", &[1, 8], &mlp(&x))]);
            })
        })
        .collect();
    for call in calls {
        call.await.unwrap();
    }
    let health = models.health();
    assert_eq!(
        (health[0].requests, health[0].errors, health[0].sessions),
        (100, 0, 2)
    );
    assert!(health[0].p50_us >= 1 && health[0].p99_us >= health[0].p50_us);
}

#[tokio::test(flavor = "multi_thread")]
async fn values_that_the_model_refuses_are_the_clients_fault() {
    let models = serving(ModelsConfig::default(), &["lookup", "identity_bytes"]).await;
    let index = tensor("index", DataType::Int64, &[1], 7_i64.to_le_bytes().to_vec());
    let error = models
        .infer("lookup", None, request(vec![index]))
        .await
        .unwrap_err();
    assert!(error.is_client_fault(), "{error}");
    assert!(
        error
            .to_string()
            .starts_with("model 'lookup' cannot run on this input: "),
        "{error}"
    );
    for bad in [&b"\xff"[..], b"a\0b"] {
        let mut data = Vec::new();
        push_string(&mut data, bad);
        let text = tensor("x", DataType::Bytes, &[1], data);
        let error = models
            .infer("identity-bytes", None, request(vec![text]))
            .await
            .unwrap_err();
        assert!(
            error.is_client_fault() && error.to_string().contains("element 0 of input 'x'"),
            "{error}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_library_everything_says_how_to_get_it() {
    let library = Some("/nowhere/libonnxruntime.so".into());
    let models = Models::start(ModelsConfig {
        library,
        ..ModelsConfig::default()
    });
    let reason = models.engine_error().unwrap();
    assert!(
        reason.contains("/nowhere/libonnxruntime.so") && reason.contains("cargo xtask setup"),
        "{reason}"
    );
    assert!(matches!(
        models.prepare(spec("m", "1", "mlp")).await,
        Err(ModelError::EngineUnavailable { .. })
    ));
    let answer = call(&models, Method::GET, "/v2/models/m", "").await;
    assert_eq!(answer.headers()["retry-after"], "1");
    let (status, told) = as_json(answer).await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(
        told["error"]
            .as_str()
            .unwrap()
            .contains("cargo xtask setup")
    );
    assert_eq!(
        call(&models, Method::GET, "/v2/health/ready", "")
            .await
            .status(),
        StatusCode::SERVICE_UNAVAILABLE
    );
    assert_eq!(
        call(&models, Method::GET, "/v2/health/live", "")
            .await
            .status(),
        StatusCode::OK
    );
}
