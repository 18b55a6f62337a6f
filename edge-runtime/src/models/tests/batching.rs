//! Requests put together, urgent ones first, and models that have to prove themselves.

use fleet_api::model::Batch;
use fleet_api::units::Span;

use super::*;

fn batched(name: &str, max: u32, window_ms: u64) -> ModelSpec {
    let window = Span::from_ms(window_ms);
    ModelSpec {
        options: ModelOptions {
            batch: Some(Batch { max, window }),
            ..ModelOptions::default()
        },
        ..spec(name, "1", name)
    }
}

async fn serve(spec: ModelSpec) -> (Models, Arc<LoadedModel>) {
    let models = start(ModelsConfig::default());
    let name = spec.name.clone();
    let prepared = models.prepare(spec).await.unwrap();
    models.switch(vec![prepared]);
    let model = models.find(&name, None).unwrap();
    (models, model)
}

fn ask(
    models: &Models,
    name: &str,
    inputs: Vec<Tensor>,
) -> tokio::task::JoinHandle<Result<Vec<Tensor>, ModelError>> {
    let (models, name) = (models.clone(), name.to_owned());
    tokio::spawn(async move {
        let response = models.infer(&name, None, request(inputs)).await?;
        Ok(response.outputs)
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_within_the_window_share_a_run_and_each_gets_its_own_rows() {
    let (models, model) = serve(batched("mlp", 8, 20_000)).await;
    let row = |n: i64| vec![n as f32; 64];
    // 1 + 2 + 1 + 4 rows fill the batch long before the window is over.
    let calls: Vec<_> = [(1, 1), (2, 2), (3, 1), (4, 4)]
        .into_iter()
        .map(|(n, rows)| {
            let x = row(n).repeat(usize::try_from(rows).unwrap());
            (
                n,
                rows,
                ask(&models, "mlp", vec![f32s("x", &[rows, 64], &x)]),
            )
        })
        .collect();
    for (n, rows, call) in calls {
        let y = mlp(&row(n)).repeat(usize::try_from(rows).unwrap());
        assert_eq!(call.await.unwrap().unwrap(), [f32s("y", &[rows, 8], &y)]);
    }
    let figures = model.stats.batches();
    assert_eq!(figures.keys().collect::<Vec<_>>(), [&8]);
    let mut metrics = String::new();
    models.render_metrics(&mut metrics);
    for line in [
        "nv_inference_request_success{model=\"mlp\",version=\"1\"} 4",
        "nv_inference_count{model=\"mlp\",version=\"1\"} 8",
        "nv_inference_exec_count{model=\"mlp\",version=\"1\"} 1",
        "edge_inference_batch_rows_bucket{model=\"mlp\",version=\"1\",le=\"4\"} 0",
        "edge_inference_batch_rows_bucket{model=\"mlp\",version=\"1\",le=\"8\"} 1",
        "edge_inference_batch_rows_sum{model=\"mlp\",version=\"1\"} 8",
    ] {
        assert!(
            metrics.contains(&format!("{line}\n")),
            "{line} is not in\n{metrics}"
        );
    }
    assert_eq!(models.health()[0].batch_mean, 8.0);
    let (_, config) = as_json(call(&models, Method::GET, "/v2/models/mlp/config", "").await).await;
    assert_eq!(
        (&config["max_batch_size"], &config["input"][0]["dims"]),
        (&json!(8), &json!([64]))
    );
    assert_eq!(
        config["dynamic_batching"]["max_queue_delay_microseconds"],
        20_000_000
    );
    let (_, stats) = as_json(call(&models, Method::GET, "/v2/models/mlp/stats", "").await).await;
    assert_eq!(stats["model_stats"][0]["batch_stats"][0]["batch_size"], 8);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lone_request_runs_when_its_window_is_over() {
    let (models, model) = serve(batched("mlp", 8, 30)).await;
    let begun = Instant::now();
    let outputs = ask(&models, "mlp", vec![f32s("x", &[1, 64], &[1.0; 64])])
        .await
        .unwrap()
        .unwrap();
    assert_eq!(outputs, [f32s("y", &[1, 8], &mlp(&[1.0; 64]))]);
    assert!(begun.elapsed() >= Duration::from_millis(30));
    assert_eq!(model.stats.batches().keys().collect::<Vec<_>>(), [&1]);
}

#[tokio::test(flavor = "multi_thread")]
async fn in_a_batch_only_the_request_at_fault_fails() {
    let (models, _) = serve(batched("lookup", 3, 20_000)).await;
    let index = |at: i64| {
        vec![tensor(
            "index",
            DataType::Int64,
            &[1],
            at.to_le_bytes().to_vec(),
        )]
    };
    let calls = [1, 9, 2].map(|at| ask(&models, "lookup", index(at)));
    let [first, bad, last] = calls;
    assert_eq!(
        first.await.unwrap().unwrap(),
        [f32s("row", &[1, 3], &[3.0, 4.0, 5.0])]
    );
    let error = bad.await.unwrap().unwrap_err();
    assert!(matches!(error, ModelError::Refused { .. }), "{error}");
    assert_eq!(
        last.await.unwrap().unwrap(),
        [f32s("row", &[1, 3], &[6.0, 7.0, 8.0])]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_that_drops_rows_is_not_batched_any_more() {
    let (models, model) = serve(batched("positive", 2, 20_000)).await;
    let pair = [[1.0], [-1.0]].map(|x| ask(&models, "positive", vec![f32s("x", &[1], &x)]));
    let [kept, dropped] = pair;
    assert_eq!(kept.await.unwrap().unwrap(), [f32s("y", &[1], &[1.0])]);
    assert_eq!(dropped.await.unwrap().unwrap(), [f32s("y", &[0], &[])]);
    assert!(!model.batches());
    let outputs = ask(&models, "positive", vec![f32s("x", &[2], &[3.0, 4.0])])
        .await
        .unwrap();
    assert_eq!(outputs.unwrap(), [f32s("y", &[2], &[3.0, 4.0])]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_that_leaves_a_batch_does_not_stop_the_others() {
    let (models, model) = serve(batched("mlp", 3, 20_000)).await;
    let x = || vec![f32s("x", &[1, 64], &[2.0; 64])];
    let leaves = ask(&models, "mlp", x());
    eventually("it waits", || model.waiting() == 1).await;
    leaves.abort();
    eventually("it has left", || model.waiting() == 0).await;
    for call in [x(), x(), x()].map(|x| ask(&models, "mlp", x)) {
        assert_eq!(
            call.await.unwrap().unwrap(),
            [f32s("y", &[1, 8], &mlp(&[2.0; 64]))]
        );
    }
    assert_eq!(model.stats.batches().keys().collect::<Vec<_>>(), [&3]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_batched_is_refused_with_the_reason() {
    let models = start(ModelsConfig::default());
    for (name, reason) in [
        (
            "pair",
            "cannot batch requests: input 'a' has shape [2, 2], its first dimension is not free",
        ),
        (
            "turned",
            "cannot batch requests: output 'y' has shape [1, 2] after a run on 2 rows",
        ),
    ] {
        let error = models
            .prepare(batched(name, 4, 1))
            .await
            .unwrap_err()
            .to_string();
        assert!(
            error.starts_with(&format!("model {name}:1 {reason}")),
            "{error}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn urgent_requests_overtake_those_that_wait() {
    let (models, model) = serve(spec("slow", "1", "slow")).await;
    model.forget_pace();
    let order = Arc::new(std::sync::Mutex::new(Vec::new()));
    let call = |priority: u32, steps: i64| {
        let (models, order) = (models.clone(), Arc::clone(&order));
        tokio::spawn(async move {
            let request = InferRequest {
                priority: Priority::new(priority),
                ..slow(steps)
            };
            let outcome = models.infer("slow", None, request).await;
            order.lock().unwrap().push(priority);
            outcome
        })
    };
    let running = call(0, ENDLESS);
    eventually("one runs", || model.pending() == 1).await;
    let mut waiting = Vec::new();
    for priority in [200, 0, 1] {
        waiting.push(call(priority, 300));
        let queued = waiting.len();
        eventually("it waits", || model.waiting() == queued).await;
    }
    running.abort();
    for call in waiting {
        call.await.unwrap().unwrap();
    }
    assert_eq!(*order.lock().unwrap(), [1, 0, 200]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_would_wait_in_vain_is_turned_away_at_once() {
    let (models, model) = serve(spec("slow", "1", "slow")).await;
    models.infer("slow", None, slow(500)).await.unwrap();
    model.forget_pace();
    model.learn_pace(Duration::from_secs(5));
    let call = |request: InferRequest| {
        let models = models.clone();
        tokio::spawn(async move { models.infer("slow", None, request).await })
    };
    let running = call(slow(ENDLESS));
    eventually("one runs", || model.pending() == 1).await;
    let waits = call(slow(1));
    eventually("one waits", || model.waiting() == 1).await;
    let hasty = InferRequest {
        deadline: Some(Instant::now() + Duration::from_secs(4)),
        ..slow(1)
    };
    let error = models.infer("slow", None, hasty).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "model 'slow' is busy: what waits takes 5000 ms, longer than the request's deadline; try again later"
    );
    assert!(error.is_retryable());
    let times = json!({"name": "times", "shape": [], "datatype": "INT64", "data": [1]});
    let body = json!({"parameters": {"timeout": 4_000_000}, "inputs": [times]});
    let answer = super::call(
        &models,
        Method::POST,
        "/v2/models/slow/infer",
        body.to_string(),
    )
    .await;
    assert_eq!(
        (answer.status(), &answer.headers()["retry-after"]),
        (StatusCode::SERVICE_UNAVAILABLE, &"5".parse().unwrap())
    );
    running.abort();
    waits.await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_models_own_timeout_ends_requests_that_name_none() {
    let timeout = Span::from_ms(50);
    let (models, _) = serve(ModelSpec {
        options: ModelOptions {
            timeout,
            ..ModelOptions::default()
        },
        ..spec("slow", "1", "slow")
    })
    .await;
    let error = models.infer("slow", None, slow(ENDLESS)).await.unwrap_err();
    assert!(matches!(error, ModelError::Deadline { .. }), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_becomes_ready_only_if_it_gives_its_golden_outputs() {
    let models = start(ModelsConfig::default());
    let folder = tempfile::tempdir().unwrap();
    let mut number = 0;
    let mut golden = |value: Value| {
        number += 1;
        let path = folder.path().join(format!("{number}.json"));
        std::fs::write(&path, value.to_string()).unwrap();
        ModelSpec {
            files: ModelFiles {
                golden: Some(path),
                ..ModelFiles::default()
            },
            ..spec("mlp", "1", "mlp")
        }
    };
    let x = json!({"name": "x", "datatype": "FP32", "shape": [1, 64], "data": vec![1.0; 64]});
    let y =
        |values: &[f32]| json!({"name": "y", "datatype": "FP32", "shape": [1, 8], "data": values});
    let case = |y: Value| json!({"cases": [{"inputs": [x], "outputs": [y]}]});
    let right = mlp(&[1.0; 64]);
    models.prepare(golden(case(y(&right)))).await.unwrap();
    let mut close = right.clone();
    close[3] += 0.5;
    let mut loose = case(y(&close));
    loose["cases"][0]["outputs"][0]["tolerance"] = json!(0.6);
    models.prepare(golden(loose)).await.unwrap();

    let mut unknown = case(y(&right));
    unknown["cases"][0]["outputs"][0]["name"] = json!("z");
    let mut other_input = case(y(&right));
    other_input["cases"][0]["inputs"][0]["shape"] = json!([1, 32]);
    other_input["cases"][0]["inputs"][0]["data"] = json!(vec![1.0; 32]);
    let refused = [
        (
            case(y(&close)),
            "golden case 1: output 'y' differs by up to 0.5 (element 3), more than the tolerance of 0.0001",
        ),
        (unknown, "golden case 1: "),
        (other_input, "golden case 1: "),
        (json!({"cases": []}), "it has no cases"),
        (json!({"case": []}), "unknown field `case`"),
        (
            case(json!({"name": "y", "datatype": "FP32", "shape": [1, 8]})),
            "output 'y' needs either data or base64",
        ),
    ];
    for (file, reason) in refused {
        let error = models.prepare(golden(file)).await.unwrap_err().to_string();
        assert!(
            error.starts_with("model mlp:1 failed its self-test: ") && error.contains(reason),
            "{error}"
        );
    }
}
