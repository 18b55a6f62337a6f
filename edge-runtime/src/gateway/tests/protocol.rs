//! HTTP as clients may send it, and what guests see of it.

use fleet_api::deployment::Limits;
use fleet_api::units::ByteSize;

use super::client::Served;
use super::{LOCAL, get};
use crate::gateway::{Gateway, TlsFiles};
use crate::handlers::tests::fixture::{
    self, component, component_of, hostile, reflecting, service,
};

const GREETING: &str = "hello from a component";

#[tokio::test]
async fn guests_see_method_scheme_authority_and_path() {
    let served = Served::code(reflecting::REFLECT).await;
    let address = served.address();
    for http2 in [false, true] {
        let (status, _, body) = get(&format!("{}/a/b?c=d", served.gateway.url), http2).await;
        assert_eq!((status, body), (200, format!("00 {address}/a/b?c=d")));
    }
}

#[tokio::test]
async fn over_tls_guests_of_both_worlds_see_https() {
    let dir = tempfile::tempdir().unwrap();
    let key = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let files = TlsFiles {
        cert: dir.path().join("cert.pem"),
        key: dir.path().join("key.pem"),
    };
    std::fs::write(&files.cert, key.cert.pem()).unwrap();
    std::fs::write(&files.key, key.signing_key.serialize_pem()).unwrap();
    let _ = rustls::crypto::ring::default_provider().install_default();
    let client = |http1_only| {
        let ca = reqwest::Certificate::from_pem(key.cert.pem().as_bytes()).unwrap();
        let mut client = reqwest::Client::builder().tls_certs_only([ca]);
        if http1_only {
            client = client.http1_only();
        }
        client.build().unwrap()
    };
    for (guest, seen) in [
        (component(reflecting::REFLECT), "01 localhost:"),
        (service::scheme(), "LoopDetected"),
    ] {
        let gateway = Gateway::bind(LOCAL.parse().unwrap()).await.unwrap();
        let gateway = gateway.with_tls(&files).unwrap();
        let served = Served::on(gateway, guest, Limits::default()).await;
        let port = served.address().rsplit_once(':').unwrap().1.to_owned();
        for http1_only in [false, true] {
            let url = format!("https://localhost:{port}/x");
            let answer = client(http1_only).get(url).send().await.unwrap();
            let told = answer.text().await.unwrap();
            assert!(told.contains(seen), "{told}");
        }
    }
    let plain = Served::guest(service::scheme(), Limits::default()).await;
    let (status, _, told) = get(&plain.gateway.url, false).await;
    assert_eq!(status, 502);
    assert!(told.contains("HttpRequestDenied"), "{told}");
}

#[tokio::test]
async fn a_target_with_a_host_goes_before_the_host_field() {
    let served = Served::code(reflecting::REFLECT).await;
    let answer = served
        .ask("GET http://other.plant:81/p?q HTTP/1.1\r\nhost: gateway\r\nconnection: close\r\n\r\n")
        .await;
    assert!(answer.ends_with("00 other.plant:81/p?q"), "{answer}");
}

#[tokio::test]
async fn a_request_of_http_1_0_needs_no_host_and_gets_no_chunks() {
    let served = Served::code(reflecting::REFLECT).await;
    let answer = served.ask("GET /x HTTP/1.0\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.0 200 OK\r\n"), "{answer}");
    assert!(answer.ends_with("\r\n\r\n00 localhost/x"), "{answer}");
    let streaming = Served::code(fixture::STREAM).await;
    let answer = streaming.ask("GET /x HTTP/1.0\r\n\r\n").await;
    assert!(!answer.contains("chunked"), "{answer}");
    assert!(
        answer.ends_with(&format!("\r\n\r\nhello{GREETING}")),
        "{answer}"
    );
}

#[tokio::test]
async fn a_request_without_one_valid_host_is_refused_and_not_put_down_to_the_handler() {
    let served = Served::code(reflecting::REFLECT).await;
    for hosts in [
        "",
        "host: a\r\nhost: b\r\n",
        "host:\r\n",
        "host: a b\r\n",
        "host: user@a\r\n",
        "host: a/b\r\n",
        "host: \u{e4}\r\n",
    ] {
        let answer = served
            .ask(&format!(
                "GET / HTTP/1.1\r\n{hosts}connection: close\r\n\r\n"
            ))
            .await;
        assert!(answer.starts_with("HTTP/1.1 400 "), "{hosts:?}: {answer}");
        assert!(answer.contains("bad-host"), "{hosts:?}: {answer}");
    }
    assert_eq!(served.health().requests, 0);
}

#[tokio::test]
async fn head_has_the_length_of_get_and_no_body() {
    let length = |length: u32| format!("content-length: {length}\r\n");
    let write = "(call $send (i32.const 22)) (call $end)";
    let unwritten = "(call $drop-stream (global.get $stream-h)) (call $finish (global.get $body-h) (i32.const 0) (i32.const 0) (i32.const 64))";
    for (guest, head) in [
        (component(fixture::HELLO), Some(length(22))),
        (
            component_of(hostile::declared("22", write)),
            Some(length(22)),
        ),
        (
            component_of(hostile::declared("700", unwritten)),
            Some(length(700)),
        ),
        (
            component_of(hostile::declared_without_body("700")),
            Some(length(700)),
        ),
        (component(fixture::STREAM), None),
    ] {
        let served = Served::guest(guest, Limits::default()).await;
        let head_then_get = "HEAD / HTTP/1.1\r\nhost: a\r\n\r\nGET /hello HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";
        let answers = served.ask(head_then_get).await;
        let (first, second) = answers.split_once("\r\n\r\n").unwrap();
        assert!(first.starts_with("HTTP/1.1 200 OK\r\n"), "{answers}");
        assert!(second.starts_with("HTTP/1.1 200 OK\r\n"), "{answers}");
        assert!(second.ends_with(GREETING), "{answers}");
        match head {
            Some(length) => assert!(format!("{first}\r\n").contains(&length), "{answers}"),
            None => assert!(!first.contains("content-length"), "{answers}"),
        }
        let served = &served;
        crate::handlers::tests::eventually(|| served.health().in_flight == 0).await;
        assert_eq!((served.health().requests, served.health().traps), (1, 0));
    }
}

#[tokio::test]
async fn every_method_but_connect_reaches_the_guest() {
    let served = Served::code(reflecting::METHOD).await;
    for (number, method) in [
        "GET", "HEAD", "POST", "PUT", "DELETE", "-", "OPTIONS", "TRACE", "PATCH", "PURGE",
    ]
    .into_iter()
    .enumerate()
    {
        if method == "-" {
            continue;
        }
        let answer = served
            .ask(&format!(
                "{method} / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n"
            ))
            .await;
        let status = format!("HTTP/1.1 {} ", 230 + number);
        assert!(answer.starts_with(&status), "{method}: {answer}");
    }
    let connect = "CONNECT a:1 HTTP/1.1\r\nhost: a:1\r\nconnection: close\r\n\r\n";
    let answer = served.ask(connect).await;
    assert!(answer.starts_with("HTTP/1.1 405 "), "{answer}");
    assert_eq!(served.health().requests, 9);
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_their_order() {
    let served = Served::code(reflecting::ECHO).await;
    let answers = served
        .ask(
            "POST /1 HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\n\r\none\
             GET /hello HTTP/1.1\r\nhost: a\r\n\r\n\
             POST /2 HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n3\r\ntwo\r\n0\r\n\r\n\
             GET /hello HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n",
        )
        .await;
    let places: Vec<_> = ["one", GREETING, "two", GREETING]
        .iter()
        .scan(0, |from, text| {
            *from += answers[*from..].find(text)? + text.len();
            Some(*from)
        })
        .collect();
    assert_eq!(places.len(), 4, "{answers}");
    assert_eq!(answers.matches("HTTP/1.1 200 OK").count(), 4, "{answers}");
}

#[tokio::test]
async fn heads_that_are_too_large_are_refused() {
    let served = Served::code(fixture::HELLO).await;
    let many: String = (0..200).map(|i| format!("x-{i}: 1\r\n")).collect();
    let long = "x".repeat(70 << 10);
    for (head, status) in [
        (format!("GET / HTTP/1.1\r\nhost: a\r\n{many}\r\n"), "431"),
        (
            format!("GET / HTTP/1.1\r\nhost: a\r\nx-long: {long}\r\n\r\n"),
            "431",
        ),
        (format!("GET /{long} HTTP/1.1\r\nhost: a\r\n\r\n"), "431"),
        ("GET / HTTP/9.9\r\nhost: a\r\n\r\n".to_owned(), "400"),
        ("no request at all\r\n\r\n".to_owned(), "400"),
        (
            "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\ncontent-length: 4\r\n\r\nabcd"
                .to_owned(),
            "400",
        ),
    ] {
        let answer = served.ask(&head).await;
        let line = answer.lines().next().unwrap_or_default();
        assert!(
            line.starts_with(&format!("HTTP/1.1 {status}")),
            "{status}: {line}"
        );
    }
    assert_eq!(served.health().requests, 0);
}

#[tokio::test]
async fn who_asks_before_sending_is_told_to_go_on_once_the_guest_reads() {
    let served = Served::guest(
        component(reflecting::SINK),
        Limits {
            request_body: ByteSize(10),
            ..Limits::default()
        },
    )
    .await;
    let head = |length: u32, path: &str| {
        format!(
            "POST {path} HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\ncontent-length: {length}\r\n\r\n"
        )
    };
    let mut asks = served.connect().await;
    asks.send(&head(4, "/")).await;
    assert_eq!(
        asks.until("\r\n\r\n").await,
        "HTTP/1.1 100 Continue\r\n\r\n"
    );
    asks.send("body").await;
    assert!(asks.until(GREETING).await.starts_with("HTTP/1.1 200 OK"));
    let refused = served.ask(&head(11, "/")).await;
    assert!(refused.starts_with("HTTP/1.1 413 "), "{refused}");
    // Nobody reads here, so nobody asks for the body either.
    let unread = served.ask(&head(4, "/hello")).await;
    assert!(unread.starts_with("HTTP/1.1 200 OK"), "{unread}");
}

#[tokio::test]
async fn a_websocket_is_refused_and_the_connection_serves_on() {
    let served = Served::code(fixture::HELLO).await;
    let answers = served
        .ask(
            "GET / HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
             sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n\
             GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n",
        )
        .await;
    assert!(answers.starts_with("HTTP/1.1 501 "), "{answers}");
    assert!(answers.contains("upgrade-unsupported"), "{answers}");
    assert!(answers.ends_with(GREETING), "{answers}");
}

#[tokio::test]
async fn a_guest_that_lies_about_its_length_leaves_the_connection_in_step() {
    for (length, code) in [
        ("5", "(call $send (i32.const 22))"),
        ("5", "(call $send (i32.const 22)) (call $end)"),
        ("60", "(call $send (i32.const 22))"),
        ("60", "(call $send (i32.const 22)) (call $end)"),
    ] {
        let guest = component_of(hostile::declared(length, code));
        let served = Served::guest(guest, Limits::default()).await;
        let answers = served
            .ask(
                "GET / HTTP/1.1\r\nhost: a\r\n\r\n\
                 GET /hello HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n",
            )
            .await;
        assert!(answers.starts_with("HTTP/1.1 500 "), "{answers}");
        assert_eq!(answers.matches("HTTP/1.1 ").count(), 2, "{answers}");
        assert!(answers.ends_with(GREETING), "{answers}");
    }
    let empty = component_of(hostile::declared_without_body("60"));
    let served = Served::guest(empty, Limits::default()).await;
    let answer = served
        .ask("GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")
        .await;
    assert!(answer.starts_with("HTTP/1.1 500 "), "{answer}");
}

#[tokio::test]
async fn an_answer_without_content_ends_with_its_head() {
    for status in [204, 304] {
        let guest = component_of(hostile::status(status));
        let served = Served::guest(guest, Limits::default()).await;
        let answers = served
            .ask(
                "GET / HTTP/1.1\r\nhost: a\r\n\r\n\
                 GET /hello HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n",
            )
            .await;
        let (first, second) = answers.split_once("\r\n\r\n").unwrap();
        assert!(
            first.starts_with(&format!("HTTP/1.1 {status} ")),
            "{answers}"
        );
        assert!(second.starts_with("HTTP/1.1 200 OK"), "{answers}");
    }
}
