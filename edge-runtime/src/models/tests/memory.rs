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
