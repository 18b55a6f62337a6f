//! Guests that do wrong on purpose: each costs its own request, the client and
//! the operator are told, and nothing of it is left behind.

use super::fixture::hostile::{self, Guest};
use super::fixture::{component_of, reflecting};
use super::*;

/// What came of one request to a hostile guest.
struct Outcome {
    status: StatusCode,
    headers: http::HeaderMap,
    body: String,
    /// Calls that were stopped, and what the last one was stopped for.
    faults: u64,
    fault: String,
}

impl Outcome {
    /// Status and code of an error answer.
    fn refusal(&self) -> (u16, String) {
        (self.status.as_u16(), code(&self.body))
    }
}

fn short() -> Limits {
    Limits {
        memory: ByteSize(8 << 20),
        cpu: Span::from_ms(60),
        timeout: Span::from_ms(2_000),
        ..Limits::default()
    }
}

fn plain(code: &str) -> Guest {
    (String::new(), code.to_owned())
}

/// A node with the guest on `/bad` and one that greets everywhere else.
async fn node_with(guest: Guest, limits: Limits) -> Node {
    let node = Node::new();
    let mut bad = node.spec(&component_of(guest));
    bad.name = Name::new("bad").unwrap();
    bad.route = Some("/bad".parse().unwrap());
    bad.limits = limits;
    let bad = node.prepare(bad).await.unwrap();
    let good = node.prepare(node.spec(&component(fixture::HELLO))).await;
    node.handlers.switch(vec![bad, good.unwrap()]).unwrap();
    node
}

/// One request to the guest, and one to its neighbour; then the node is as it was before.
async fn outcome_within(guest: Guest, limits: Limits) -> Outcome {
    let node = node_with(guest, limits).await;
    let response = node.handlers.serve(request("/bad")).await;
    let (parts, body) = response.into_parts();
    let body = body.collect().await.map(|b| b.to_bytes());
    let body = body.map_or_else(|_| "cut".to_owned(), |b| String::from_utf8_lossy(&b).into());
    let neighbour = read(node.handlers.serve(request("/")).await).await;
    assert_eq!(neighbour.1, "hello from a component");
    let health = node.health();
    assert_eq!((health.name.as_str(), health.requests), ("bad", 1));
    nothing_is_left(&node).await;
    let mut faults = node.handlers.last_faults();
    faults.retain(|fault| fault.handler.as_str() == "bad");
    Outcome {
        status: parts.status,
        headers: parts.headers,
        body,
        faults: node.health().traps,
        fault: faults.pop().map(|f| f.fault).unwrap_or_default(),
    }
}

async fn nothing_is_left(node: &Node) {
    let gone = [
        "edge_handler_in_flight{handler=\"bad\",version=\"1\"} 0\n",
        "edge_handler_instances{handler=\"bad\",version=\"1\"} 0\n",
        "edge_handlers_memory_bytes 0\n",
    ];
    eventually(|| {
        let mut metrics = String::new();
        node.handlers.render_metrics(&mut metrics);
        gone.iter().all(|line| metrics.contains(line))
    })
    .await;
}

async fn outcome(guest: Guest) -> Outcome {
    outcome_within(guest, short()).await
}

fn fault(status: u16, code: &str) -> (u16, String) {
    (status, code.to_owned())
}

#[tokio::test]
async fn tables_count_as_memory_and_stop_growing() {
    let outcome = outcome(hostile::table_hog()).await;
    assert_eq!(outcome.refusal(), fault(500, "handler-fault"));
    let limits = Limits {
        memory: ByteSize(1 << 20),
        ..short()
    };
    let outcome = outcome_within(hostile::table_hog(), limits).await;
    assert_eq!(outcome.refusal(), fault(500, "memory-limit"));
}

#[tokio::test]
async fn many_memories_have_one_limit_together() {
    let outcome = outcome(hostile::memories_hog()).await;
    assert_eq!(outcome.refusal(), fault(500, "memory-limit"));
    assert_eq!(outcome.faults, 1);
}

#[tokio::test]
async fn a_recursion_without_end_is_a_fault() {
    let outcome = outcome(hostile::recursion()).await;
    assert_eq!(outcome.refusal(), fault(500, "handler-fault"));
    assert!(
        outcome.fault.contains("call stack exhausted"),
        "{}",
        outcome.fault
    );
}

#[tokio::test]
async fn random_bytes_come_in_bounded_portions() {
    for bytes in [1 << 40, 5 << 20] {
        let outcome = outcome(hostile::random(bytes)).await;
        assert_eq!(outcome.refusal(), fault(500, "handler-fault"));
        assert!(
            outcome.fault.contains("exceeds limit 4194304"),
            "{}",
            outcome.fault
        );
    }
}

#[tokio::test]
async fn handles_and_header_fields_run_out() {
    for guest in [hostile::handle_hog(), hostile::field_hog()] {
        let limits = Limits {
            cpu: Span::from_ms(5_000),
            ..short()
        };
        let outcome = outcome_within(guest, limits).await;
        assert_eq!(outcome.refusal(), fault(500, "handler-fault"));
        assert_eq!(outcome.faults, 1);
    }
}

#[tokio::test]
async fn handles_that_a_guest_does_not_have_are_a_fault() {
    let outcome = outcome(plain(hostile::DROP_STRANGER)).await;
    assert_eq!(outcome.refusal(), fault(500, "handler-fault"));
}

#[tokio::test]
async fn who_drops_the_way_to_answer_has_given_no_answer() {
    for code in [hostile::DROP_OUT, hostile::DROP_ALL, fixture::SILENT] {
        let outcome = outcome(plain(code)).await;
        assert_eq!(outcome.refusal(), fault(502, "no-response"));
        assert_eq!(outcome.faults, 0);
    }
}

#[tokio::test]
async fn an_error_code_is_told_to_the_client() {
    let outcome = outcome(plain(hostile::GIVE_UP)).await;
    assert_eq!(outcome.refusal(), fault(502, "handler-error"));
    assert!(outcome.body.contains("InternalError"), "{}", outcome.body);
}

#[tokio::test]
async fn the_first_answer_counts() {
    let outcome = outcome(plain(hostile::TWICE)).await;
    assert_eq!(outcome.status, StatusCode::OK);
    assert_eq!(outcome.body, "hello from a component");
    assert_eq!(outcome.faults, 1);
}

#[tokio::test]
async fn header_fields_that_mean_something_to_the_connection_are_refused() {
    let mut names = vec![
        ("connection", "close"),
        ("keep-alive", "5"),
        ("transfer-encoding", "chunked"),
        ("host", "other"),
        ("upgrade", "websocket"),
        ("proxy-connection", "close"),
        ("http2-settings", "x"),
    ];
    let forbidden = outcome(hostile::fields(&names)).await;
    assert_eq!(forbidden.body, "2222222");
    for (name, _) in &names {
        assert!(!forbidden.headers.contains_key(*name), "{name}");
    }
    names = vec![
        ("a b", "x"),
        ("", "x"),
        ("x:y", "x"),
        ("x-a", "one\r\nx-b: two"),
        ("x-b", "a\0b"),
        ("content-length", "ten"),
        ("content-length", "-1"),
        ("x-good", "yes"),
    ];
    let malformed = outcome(hostile::fields(&names)).await;
    assert_eq!(malformed.body, "11111110");
    assert_eq!(malformed.headers["x-good"], "yes");
    assert_eq!(malformed.headers.len(), 1, "{:?}", malformed.headers);
}

#[tokio::test]
async fn a_long_header_field_is_taken_up_to_a_limit() {
    let long = outcome(hostile::long_field(60_000)).await;
    assert_eq!(long.status, StatusCode::OK);
    assert_eq!(long.headers["x-long"].len(), 60_000);
    let longer = outcome(hostile::long_field(200_000)).await;
    assert_eq!(longer.refusal(), fault(500, "handler-fault"));
    assert!(longer.fault.contains("size"), "{}", longer.fault);
}

#[tokio::test]
async fn a_declared_length_that_does_not_hold_is_a_fault() {
    let write = |bytes: u32, end: &str| format!("(call $send (i32.const {bytes})) {end}");
    for guest in [
        hostile::declared("5", &write(22, "(call $end)")),
        hostile::declared("5", &write(22, "")),
        hostile::declared("22", &write(5, "(call $end)")),
        hostile::declared("22", &write(5, "")),
        hostile::declared_without_body("22"),
    ] {
        let outcome = outcome(guest).await;
        assert_eq!(outcome.refusal(), fault(500, "handler-fault"));
        let told = ["content-length", "finished"].map(|word| outcome.fault.contains(word));
        assert!(told.contains(&true), "{}", outcome.fault);
        assert!(!outcome.headers.contains_key("content-length"));
    }
    let right = outcome(hostile::declared("22", &write(22, "(call $end)"))).await;
    assert_eq!(
        (right.status, &*right.body),
        (StatusCode::OK, "hello from a component")
    );
}

#[tokio::test]
async fn a_body_that_its_guest_never_finished_is_not_taken_for_whole() {
    let early = outcome(plain(hostile::OPEN_END)).await;
    assert_eq!(early.refusal(), fault(500, "handler-fault"));
    assert!(early.fault.contains("finished"), "{}", early.fault);
    let late = outcome(plain(hostile::OPEN_END_LATE)).await;
    assert_eq!((late.status, &*late.body), (StatusCode::OK, "cut"));
    assert_eq!(late.faults, 1);
}

#[tokio::test]
async fn statuses_that_are_none_are_refused_and_interim_ones_are_a_fault() {
    for out_of_range in [0, 99, 1000, 65535] {
        let outcome = outcome(hostile::status(out_of_range)).await;
        assert_eq!(outcome.status, StatusCode::OK);
    }
    for interim in [100, 101, 103] {
        let outcome = outcome(hostile::status(interim)).await;
        assert_eq!(outcome.refusal(), fault(500, "handler-fault"));
        assert!(outcome.fault.contains("interim"), "{}", outcome.fault);
    }
    let outcome = outcome(hostile::status(418)).await;
    assert_eq!(outcome.status.as_u16(), 418);
}

#[tokio::test]
async fn an_endless_answer_is_cut_at_its_limit() {
    let limits = Limits {
        response_body: ByteSize(1 << 20),
        cpu: Span::from_ms(20_000),
        timeout: Span::from_ms(20_000),
        ..short()
    };
    let outcome = outcome_within(plain(hostile::ENDLESS), limits).await;
    assert_eq!((outcome.status, &*outcome.body), (StatusCode::OK, "cut"));
    assert!(outcome.fault.contains("1MiB"), "{}", outcome.fault);
}

#[tokio::test]
async fn a_loop_in_the_answer_is_cut_at_the_cpu_limit() {
    let outcome = outcome(plain(hostile::SPIN_IN_BODY)).await;
    assert_eq!((outcome.status, &*outcome.body), (StatusCode::OK, "cut"));
    assert!(outcome.fault.contains("CPU"), "{}", outcome.fault);
}

#[tokio::test]
async fn an_answer_in_many_small_writes_arrives_whole() {
    for writes in [1, 20, 41, 42, 43, 63, 64, 65, 126, 127, 128, 129, 200, 1000] {
        let outcome = outcome(hostile::drops(writes)).await;
        let text = (outcome.status.as_u16(), outcome.body.len());
        assert_eq!(text, (200, writes as usize), "{}", outcome.fault);
    }
}

#[tokio::test]
async fn what_is_kept_of_a_fault_is_bounded() {
    let outcome = outcome(hostile::long_name(90_000)).await;
    assert_eq!(outcome.refusal(), fault(500, "handler-fault"));
    assert!(outcome.fault.len() <= 16 << 10, "{}", outcome.fault.len());
    assert!(outcome.fault.contains("nnnn"), "{}", outcome.fault);
}

#[tokio::test]
async fn a_flood_of_lines_ends_with_its_guest() {
    let outcome = outcome(hostile::log_flood()).await;
    assert_eq!(outcome.refusal(), fault(504, "cpu-limit"));
}

#[tokio::test]
async fn a_warm_instance_that_did_wrong_is_not_used_again() {
    for guest in [
        plain(fixture::TRAP),
        plain(hostile::OPEN_END),
        hostile::handle_hog(),
    ] {
        let node = Node::new();
        let mut spec = node.spec(&component_of(guest));
        spec.isolation = Isolation::Reuse;
        spec.name = Name::new("bad").unwrap();
        let bad = node.prepare(spec).await.unwrap();
        node.handlers.switch(vec![bad]).unwrap();
        for _ in 0..2 {
            assert_eq!(node.get().await.0, StatusCode::INTERNAL_SERVER_ERROR);
        }
        nothing_is_left(&node).await;
    }
}

#[tokio::test]
async fn start_functions_without_end_or_measure_are_refused() {
    let node = Node::new();
    let refusal = async |guest| {
        let mut spec = node.spec(&component_of(guest));
        spec.limits = short();
        node.prepare(spec).await.unwrap_err().to_string()
    };
    let begun = Instant::now();
    let endless = refusal(hostile::endless_start()).await;
    assert!(
        endless.contains("used more CPU time than its limit of 60 ms"),
        "{endless}"
    );
    assert!(begun.elapsed() < Duration::from_secs(20));
    let hungry = refusal(hostile::hungry_start()).await;
    assert!(hungry.starts_with("start handler fixture: "), "{hungry}");
    nothing_is_left_of_trials(&node).await;
}

async fn nothing_is_left_of_trials(node: &Node) {
    eventually(|| {
        let mut metrics = String::new();
        node.handlers.render_metrics(&mut metrics);
        metrics.contains("edge_handlers_memory_bytes 0\n")
    })
    .await;
}

#[tokio::test]
async fn a_large_body_that_its_guest_ignores_does_not_keep_the_answer() {
    let node = Node::serving(fixture::HELLO, Limits::default()).await;
    let body = Full::from(vec![b'x'; 8 << 20]);
    let post = Request::post("/").header("host", "gateway").body(body);
    let answer = read(node.handlers.serve(post.unwrap()).await).await;
    assert_eq!(answer.1, "hello from a component");
}

#[tokio::test]
async fn a_body_over_the_limit_ends_the_answer_while_nothing_is_out() {
    let limits = Limits {
        request_body: ByteSize(1000),
        ..Limits::default()
    };
    let node = Node::serving(reflecting::SINK, limits).await;
    let chunks = [
        Bytes::from_static(&[b'x'; 600]),
        Bytes::from_static(&[b'x'; 600]),
    ];
    let chunks = chunks.map(|c| Ok::<_, std::convert::Infallible>(http_body::Frame::data(c)));
    let body = http_body_util::StreamBody::new(futures_util::stream::iter(chunks));
    let post = Request::post("/").header("host", "gateway").body(body);
    let (status, body) = read(node.handlers.serve(post.unwrap()).await).await;
    assert_eq!(
        (status, &*code(&body)),
        (StatusCode::PAYLOAD_TOO_LARGE, "body-too-large")
    );
}
