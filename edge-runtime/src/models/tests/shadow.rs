//! Candidates beside the version that serves.

use fleet_api::model::Shadow;

use super::*;

fn candidate(file: &str, cpu: f64) -> ModelSpec {
    let shadow = Some(Shadow {
        cpu,
        ..Shadow::default()
    });
    ModelSpec {
        options: ModelOptions {
            shadow,
            ..ModelOptions::default()
        },
        ..spec("m", "2", file)
    }
}

async fn beside(serving: &str, other: ModelSpec) -> Models {
    let models = start(ModelsConfig::default());
    let one = models.prepare(spec("m", "1", serving)).await.unwrap();
    let two = models.prepare(other).await.unwrap();
    models.switch(vec![one, two]);
    models
}

fn figures(models: &Models) -> fleet_api::health::ShadowHealth {
    let health = models.health();
    assert!(health[0].default && !health[1].default && health[0].shadow.is_none());
    health[1].shadow.clone().expect("version 2 is a candidate")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_candidate_sees_live_requests_and_never_answers_them() {
    let models = beside("mlp", candidate("mlp", 1.0)).await;
    for n in 1..=20_u64 {
        let x = vec![n as f32; 64];
        let response = models
            .infer("m", None, request(vec![f32s("x", &[1, 64], &x)]))
            .await
            .unwrap();
        assert_eq!(
            (response.version.as_str(), &response.outputs[..]),
            ("1", &[f32s("y", &[1, 8], &mlp(&x))][..])
        );
        eventually("it was copied", || {
            figures(&models).mirrored + figures(&models).skipped == n
        })
        .await;
    }
    let same = figures(&models);
    assert!(same.mirrored > 0 && same.of.as_str() == "1", "{same:?}");
    assert_eq!(
        (
            same.exact,
            same.within_tolerance,
            same.top1_agree,
            same.failed
        ),
        (same.mirrored, same.mirrored, same.mirrored, 0)
    );
    assert_eq!((same.max_abs_diff, same.drift), (0.0, 0.0));
    assert_eq!(models.health()[1].requests, 0, "copies are no requests");
    // The same pair handed in again goes on counting.
    let versions = models.all().into_iter().map(PreparedModel).collect();
    models.switch(versions);
    assert_eq!(figures(&models), same);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_candidate_that_differs_is_found_out() {
    let models = beside("identity_fp32", candidate("positive", 1.0)).await;
    let ask = |values: Vec<f32>| {
        let models = models.clone();
        let shape = [i64::try_from(values.len()).unwrap()];
        async move {
            models
                .infer("m", None, request(vec![f32s("x", &shape, &values)]))
                .await
                .unwrap()
        }
    };
    // As long as nothing is negative both give the same; then the candidate leaves numbers out.
    let mut asked = 0;
    for (values, differs) in [(vec![1.0, 2.0], false), (vec![3.0, -1.0], true)] {
        loop {
            let before = figures(&models);
            ask(values.clone()).await;
            asked += 1;
            eventually("it was copied or skipped", || {
                figures(&models).mirrored + figures(&models).skipped == asked
            })
            .await;
            let after = figures(&models);
            if after.mirrored > before.mirrored {
                assert_eq!(after.exact - before.exact, u64::from(!differs), "{after:?}");
                assert_eq!(
                    after.within_tolerance - before.within_tolerance,
                    u64::from(!differs)
                );
                break;
            }
        }
    }
    let mut metrics = String::new();
    models.render_metrics(&mut metrics);
    assert!(
        metrics.contains("edge_inference_shadow_requests_total{model=\"m\",version=\"2\",of=\"1\",outcome=\"mirrored\"} 2\n"),
        "{metrics}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_candidate_keeps_to_its_share_and_holds_nobody_up() {
    let models = beside("slow", candidate("slow", 0.01)).await;
    let begun = Instant::now();
    let mut longest = Duration::ZERO;
    for _ in 0..30 {
        let asked = Instant::now();
        models.infer("m", None, slow(50)).await.unwrap();
        longest = longest.max(asked.elapsed());
    }
    let shown = || {
        let mut metrics = String::new();
        models.render_metrics(&mut metrics);
        let name = "edge_inference_shadow_cpu_seconds_total{";
        let line = metrics
            .lines()
            .find(|line| line.starts_with(name))
            .expect("it is shown")
            .to_owned();
        line.rsplit_once(' ')
            .expect("a value")
            .1
            .parse::<f64>()
            .expect("a number")
    };
    eventually("what was copied has run", || {
        let figures = figures(&models);
        figures.mirrored + figures.skipped == 30 && figures.mirrored > 0
    })
    .await;
    // A share of 1 % of the time that passed, and the run that the last of it was spent on.
    let (used, most) = (shown(), begun.elapsed().as_secs_f64() * 0.01 + 1.0);
    assert!(used <= most, "{used} s of processor time, at most {most} s");
    assert!(figures(&models).skipped > 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_candidate_serves_whoever_asks_for_its_version() {
    let models = beside("mlp", candidate("mlp", 0.1)).await;
    let x = request(vec![f32s("x", &[1, 64], &[1.0; 64])]);
    assert_eq!(
        models
            .infer("m", Some("2"), x.clone())
            .await
            .unwrap()
            .version,
        "2"
    );
    let only = models.find("m", Some("2")).unwrap();
    models.switch(vec![PreparedModel(only)]);
    assert!(
        matches!(
            models.infer("m", None, x).await,
            Err(ModelError::UnknownModel { .. })
        ),
        "nothing serves"
    );
}
