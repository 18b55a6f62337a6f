//! What a guest does wrong costs its own request, and the client is told.

use super::*;

fn limits(change: impl FnOnce(&mut Limits)) -> Limits {
    let mut limits = Limits::default();
    change(&mut limits);
    limits
}

#[tokio::test]
async fn a_fault_is_answered_counted_and_kept_with_its_stack() {
    let node = Node::serving(fixture::TRAP, Limits::default()).await;
    let (status, body) = node.get().await;
    assert_eq!(status, StatusCode::INTERNAL_SERVER_ERROR);
    assert_eq!(code(&body), "handler-fault");
    assert!(body.contains("r-1"), "{body}");
    let health = node.health();
    assert_eq!((health.requests, health.errors, health.traps), (1, 1, 1));
    let fault = node.handlers.last_faults().remove(0).fault;
    assert!(
        fault.contains("unreachable") && fault.contains("backtrace"),
        "{fault}"
    );
}

#[tokio::test]
async fn a_loop_is_cut_at_its_cpu_limit() {
    let node = Node::serving(fixture::SPIN, limits(|l| l.cpu = Span::from_ms(40))).await;
    let begun = Instant::now();
    let (status, body) = node.get().await;
    assert_eq!(
        (status, &*code(&body)),
        (StatusCode::GATEWAY_TIMEOUT, "cpu-limit")
    );
    assert!(begun.elapsed() < Duration::from_secs(10));
    assert_eq!(node.health().traps, 1);
}

#[tokio::test]
async fn a_wait_is_cut_at_the_deadline() {
    let node = Node::serving(fixture::SLEEP, limits(|l| l.timeout = Span::from_ms(60))).await;
    let (status, body) = node.get().await;
    assert_eq!(
        (status, &*code(&body)),
        (StatusCode::GATEWAY_TIMEOUT, "timeout")
    );
}

#[tokio::test]
async fn memory_stops_at_its_limit() {
    let node = Node::serving(fixture::HOG, limits(|l| l.memory = ByteSize(8 << 20))).await;
    let (status, body) = node.get().await;
    assert_eq!(
        (status, &*code(&body)),
        (StatusCode::INTERNAL_SERVER_ERROR, "memory-limit")
    );
    let bytes = node.health().memory_bytes;
    assert!((6 << 20..=8 << 20).contains(&bytes), "{bytes}");
}

#[tokio::test]
async fn a_guest_without_an_answer_is_a_bad_gateway() {
    let node = Node::serving(fixture::SILENT, Limits::default()).await;
    let (status, body) = node.get().await;
    assert_eq!(
        (status, &*code(&body)),
        (StatusCode::BAD_GATEWAY, "no-response")
    );
}

#[tokio::test]
async fn a_fault_after_the_answer_leaves_the_answer() {
    let node = Node::serving(fixture::LATE_TRAP, Limits::default()).await;
    let answer = node.get().await;
    assert_eq!(
        answer,
        (StatusCode::OK, "hello from a component".to_owned())
    );
    assert_eq!((node.health().errors, node.health().traps), (0, 1));
}

#[tokio::test]
async fn work_after_the_answer_goes_on_within_its_limits() {
    let node = Node::serving(
        fixture::AFTERWORK,
        limits(|l| l.timeout = Span::from_ms(50)),
    )
    .await;
    let (status, _) = node.get().await;
    assert_eq!((status, node.health().traps), (StatusCode::OK, 0));
    eventually(|| node.health().traps == 1).await;
}

#[tokio::test]
async fn a_fault_in_the_answer_is_told_while_nothing_is_out() {
    let node = Node::serving(fixture::CUT_EARLY, Limits::default()).await;
    let (status, body) = node.get().await;
    assert_eq!(status, StatusCode::INTERNAL_SERVER_ERROR);
    assert_eq!(code(&body), "handler-fault");
}

#[tokio::test]
async fn a_fault_in_a_streaming_answer_breaks_the_body_off() {
    let node = Node::serving(fixture::CUT, Limits::default()).await;
    let response = node.handlers.serve(request("/")).await;
    assert_eq!(response.status(), StatusCode::OK);
    let mut body = response.into_body();
    let first = body.frame().await.unwrap().unwrap().into_data().unwrap();
    assert_eq!(first, "hello");
    assert!(body.frame().await.unwrap().is_err());
    drop(body);
    assert_eq!((node.health().errors, node.health().traps), (1, 1));
}

#[tokio::test]
async fn a_client_that_goes_away_ends_its_guest() {
    let node = Node::serving(fixture::SLEEP, Limits::default()).await;
    let handlers = node.handlers.clone();
    let pending = tokio::spawn(async move { handlers.serve(request("/")).await.status() });
    eventually(|| node.health().in_flight == 1).await;
    pending.abort();
    eventually(|| node.health().in_flight == 0).await;
    let mut metrics = String::new();
    node.handlers.render_metrics(&mut metrics);
    assert!(metrics.contains("kind=\"cancelled\"} 1"), "{metrics}");
}

#[tokio::test]
async fn more_than_a_handler_may_do_is_turned_away_after_a_short_wait() {
    let one = limits(|l| {
        l.concurrency = 1;
        l.timeout = Span::from_ms(20_000);
    });
    let node = Node::serving(fixture::SLEEP, one).await;
    let handlers = node.handlers.clone();
    let pending = tokio::spawn(async move { handlers.serve(request("/")).await.status() });
    eventually(|| node.health().in_flight == 1).await;
    let response = node.handlers.serve(request("/")).await;
    assert_eq!(response.headers()["retry-after"], "1");
    let (status, body) = read(response).await;
    assert_eq!(
        (status, &*code(&body)),
        (StatusCode::SERVICE_UNAVAILABLE, "busy")
    );
    pending.abort();
}

#[tokio::test]
async fn a_body_over_the_limit_is_refused_by_its_declared_length() {
    let node = Node::serving(fixture::HELLO, limits(|l| l.request_body = ByteSize(3))).await;
    let post = |body: &'static str| {
        Request::post("/")
            .header("host", "gateway")
            .header("content-length", body.len())
            .body(Full::from(body))
            .unwrap()
    };
    let (status, body) = read(node.handlers.serve(post("four")).await).await;
    assert_eq!(
        (status, &*code(&body)),
        (StatusCode::PAYLOAD_TOO_LARGE, "body-too-large")
    );
    let (status, _) = read(node.handlers.serve(post("yes")).await).await;
    assert_eq!(status, StatusCode::OK);
}

#[tokio::test]
async fn one_handler_s_fault_leaves_the_others_alone() {
    let node = Node::new();
    let mut spinning = node.spec(&component(fixture::SPIN));
    spinning.name = Name::new("spinning").unwrap();
    spinning.route = Some("/spin".parse().unwrap());
    spinning.limits.cpu = Span::from_ms(2_000);
    let spinning = node.prepare(spinning).await.unwrap();
    let hello = node.prepare(node.spec(&component(fixture::HELLO))).await;
    node.handlers
        .switch(vec![spinning, hello.unwrap()])
        .unwrap();
    let handlers = node.handlers.clone();
    let spin = tokio::spawn(async move { handlers.serve(request("/spin")).await.status() });
    eventually(|| node.health().in_flight == 1).await;
    // One thread serves both here: the loop has to give way.
    assert_eq!(node.get().await.0, StatusCode::OK);
    assert!(!spin.is_finished());
    assert_eq!(spin.await.unwrap(), StatusCode::GATEWAY_TIMEOUT);
}

#[tokio::test]
async fn upgrades_are_refused() {
    let node = Node::serving(fixture::HELLO, Limits::default()).await;
    let mut upgrade = request("/");
    let websocket = http::HeaderValue::from_static("websocket");
    upgrade.headers_mut().insert("upgrade", websocket);
    let (status, body) = read(node.handlers.serve(upgrade).await).await;
    assert_eq!(
        (status, &*code(&body)),
        (StatusCode::NOT_IMPLEMENTED, "upgrade-unsupported")
    );
}
