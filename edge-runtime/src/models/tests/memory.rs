//! The memory budget, and models that come and go by it.

use fleet_api::health::ModelState;
use fleet_api::model::Load;

use super::super::memory;
use super::*;

fn on_demand(name: &str) -> ModelSpec {
    ModelSpec {
        options: ModelOptions {
            load: Load::OnDemand,
            ..ModelOptions::default()
        },
        ..spec(name, "1", name)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_evicted_model_comes_back_with_its_next_request() {
    let models = start(ModelsConfig::default());
    let prepared = models.prepare(on_demand("mlp")).await.unwrap();
    models.switch(vec![prepared.clone()]);
    assert!(
        models.health()[0].memory_bytes >= 16_000,
        "its weights alone are that large"
    );
    for round in 1..=3_u64 {
        assert!(memory::evict(&prepared.0));
        let health = &models.health()[0];
        assert_eq!(
            (health.state, health.memory_bytes),
            (ModelState::Evicted, 0)
        );
        let calls: Vec<_> = (0..8)
            .map(|_| {
                let models = models.clone();
                let x = vec![f32s("x", &[1, 64], &[1.0; 64])];
                tokio::spawn(async move { models.infer("mlp", None, request(x)).await })
            })
            .collect();
        for call in calls {
            let outputs = call.await.unwrap().unwrap().outputs;
            assert_eq!(outputs, [f32s("y", &[1, 8], &mlp(&[1.0; 64]))]);
        }
        let health = &models.health()[0];
        assert_eq!(
            (health.state, health.requests, health.errors),
            (ModelState::Ready, round * 8, 0)
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_at_work_is_not_evicted() {
    let models = start(ModelsConfig::default());
    let prepared = models.prepare(on_demand("slow")).await.unwrap();
    models.switch(vec![prepared.clone()]);
    prepared.0.forget_pace();
    let running = tokio::spawn({
        let models = models.clone();
        async move { models.infer("slow", None, slow(ENDLESS)).await }
    });
    eventually("it runs", || prepared.0.pending() == 1).await;
    assert!(!memory::evict(&prepared.0));
    running.abort();
    eventually("it is idle", || prepared.0.pending() == 0).await;
    assert!(memory::evict(&prepared.0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_whose_file_is_gone_says_so_and_the_next_request_tries_again() {
    let models = start(ModelsConfig::default());
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("mlp.onnx");
    std::fs::copy(tiny("mlp"), &path).unwrap();
    let prepared = models.prepare(ModelSpec {
        path: path.clone(),
        ..on_demand("mlp")
    });
    let prepared = prepared.await.unwrap();
    models.switch(vec![prepared.clone()]);
    assert!(memory::evict(&prepared.0));
    std::fs::remove_file(&path).unwrap();
    let x = || request(vec![f32s("x", &[1, 64], &[1.0; 64])]);
    let error = models.infer("mlp", None, x()).await.unwrap_err();
    assert!(
        matches!(error, ModelError::NotLoaded { .. }) && error.is_retryable(),
        "{error}"
    );
    std::fs::copy(tiny("mlp"), &path).unwrap();
    models.infer("mlp", None, x()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn models_that_do_not_fit_together_are_refused_with_the_figures() {
    let models = start(ModelsConfig {
        memory: Some(10_000),
        ..ModelsConfig::default()
    });
    let always = models.prepare(spec("mlp", "1", "mlp")).await.unwrap();
    let error = models.admit([&always]).unwrap_err();
    let ModelError::Memory {
        needed,
        taken,
        budget,
        ..
    } = &error
    else {
        panic!("{error}");
    };
    assert!(
        *needed >= 16_000 && (*taken, *budget) == (0, 10_000),
        "{error}"
    );
    let demand = models.prepare(on_demand("mlp")).await.unwrap();
    assert_eq!(
        demand.0.residence.held_bytes(),
        0,
        "there is no room for it yet"
    );
    assert!(models.admit([&demand]).is_err(), "it would never fit");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_optimised_graph_is_kept_used_and_not_trusted_when_changed() {
    let folder = tempfile::tempdir().unwrap();
    let models = || {
        start(ModelsConfig {
            cache: Some(folder.path().to_owned()),
            ..ModelsConfig::default()
        })
    };
    let kept = || {
        let files = std::fs::read_dir(folder.path())
            .unwrap()
            .map(|entry| entry.unwrap().path());
        let mut graphs: Vec<_> = files
            .filter(|path| path.extension().is_some_and(|e| e == "onnx"))
            .collect();
        assert_eq!(graphs.len(), 1);
        graphs.remove(0)
    };
    let check = async |models: Models| {
        let prepared = models.prepare(spec("mlp", "1", "mlp")).await.unwrap();
        models.switch(vec![prepared]);
        let x = request(vec![f32s("x", &[1, 64], &[1.0; 64])]);
        let outputs = models.infer("mlp", None, x).await.unwrap().outputs;
        assert_eq!(outputs, [f32s("y", &[1, 8], &mlp(&[1.0; 64]))]);
    };
    check(models()).await;
    let graph = kept();
    let used = || std::fs::metadata(&graph).unwrap().modified().unwrap();
    let made = std::fs::read(&graph).unwrap();
    let long_ago = std::time::SystemTime::now() - Duration::from_secs(3600);
    std::fs::File::options()
        .append(true)
        .open(&graph)
        .unwrap()
        .set_modified(long_ago)
        .unwrap();
    check(models()).await;
    assert!(used() > long_ago + Duration::from_secs(1800), "it was used");
    // Weights that somebody has changed are not run with.
    let mut changed = made.clone();
    let last = changed.len() - 100;
    changed[last] ^= 0x40;
    std::fs::write(&graph, &changed).unwrap();
    check(models()).await;
    assert_eq!(std::fs::read(&graph).unwrap(), made, "it was made again");
}
