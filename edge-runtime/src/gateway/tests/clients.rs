//! Clients that are slow, stand still or go away.

use std::time::{Duration, Instant};

use fleet_api::deployment::Limits;
use fleet_api::units::{ByteSize, Span};
use tokio::io::AsyncWriteExt as _;

use super::LOCAL;
use super::client::Served;
use crate::gateway::Gateway;
use crate::handlers::tests::eventually;
use crate::handlers::tests::fixture::{self, component, hostile, reflecting};

async fn impatient(code: &str, limits: Limits) -> Served {
    let mut gateway = Gateway::bind(LOCAL.parse().unwrap()).await.unwrap();
    gateway.listener.patience.head = Duration::from_millis(200);
    gateway.listener.patience.write = Duration::from_millis(1_000);
    Served::on(gateway, component(code), limits).await
}

#[tokio::test]
async fn a_head_that_comes_too_slowly_ends_the_connection() {
    let served = impatient(fixture::HELLO, Limits::default()).await;
    let mut raw = served.connect().await;
    raw.send("GET / HTTP/1.1\r\nhost: a\r\n").await;
    let begun = Instant::now();
    // One more field every now and then does not buy time.
    let mut pause = tokio::time::interval(Duration::from_millis(20));
    while raw.stream.write_all(b"x-more: 1\r\n").await.is_ok() {
        assert!(begun.elapsed() < Duration::from_secs(10));
        pause.tick().await;
    }
    assert_eq!(served.health().requests, 0);
}

#[tokio::test]
async fn a_body_that_comes_too_slowly_meets_the_handler_s_deadline() {
    let limits = Limits {
        timeout: Span::from_ms(100),
        ..Limits::default()
    };
    let served = impatient(reflecting::SINK, limits).await;
    let mut raw = served.connect().await;
    raw.send("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 100\r\n\r\nhalf")
        .await;
    let answer = raw.until("\"}}").await;
    assert!(answer.starts_with("HTTP/1.1 504 "), "{answer}");
    assert!(answer.contains("\"timeout\""), "{answer}");
    assert_eq!(served.health().in_flight, 0);
}

#[tokio::test]
async fn a_client_that_takes_nothing_holds_its_guest_to_the_deadline_and_then_loses_its_connection()
{
    let limits = Limits {
        timeout: Span::from_ms(300),
        response_body: ByteSize(1 << 40),
        cpu: Span::from_ms(60_000),
        ..Limits::default()
    };
    let served = impatient(BLOCKS, limits).await;
    let mut raw = served.connect().await;
    raw.send("GET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
    eventually(|| served.health().traps == 1 && served.health().in_flight == 0).await;
    let fault = served.handlers.last_faults().remove(0).fault;
    assert!(fault.contains("longer than its limit of 300 ms"), "{fault}");
    let answer = raw.rest().await;
    assert!(!answer.ends_with("0\r\n\r\n"), "{}", answer.len());
}

/// Answers without end in large parts.
const BLOCKS: &str = "(call $begin (local.get 1)) (loop $more (call $send-from (i32.const 8192) (i32.const 4096)) (br $more))";

#[tokio::test]
async fn a_client_that_goes_away_ends_its_guest_at_once() {
    for code in [
        reflecting::ECHO,
        fixture::SLEEP,
        hostile::ENDLESS,
        fixture::SPIN,
    ] {
        let limits = Limits {
            response_body: ByteSize(1 << 40),
            timeout: Span::from_ms(60_000),
            cpu: Span::from_ms(60_000),
            ..Limits::default()
        };
        let served = Served::guest(component(code), limits).await;
        let mut raw = served.connect().await;
        // Guests that read are in the middle of a body, those that do not get none.
        raw.send(if code == reflecting::ECHO {
            "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 100\r\n\r\nhalf"
        } else {
            "GET / HTTP/1.1\r\nhost: a\r\n\r\n"
        })
        .await;
        eventually(|| served.health().in_flight == 1).await;
        let gone = Instant::now();
        drop(raw);
        eventually(|| {
            let mut metrics = String::new();
            served.handlers.render_metrics(&mut metrics);
            metrics.contains("edge_handler_instances{handler=\"guest\",version=\"1\"} 0\n")
        })
        .await;
        assert!(
            gone.elapsed() < Duration::from_secs(2),
            "{:?}",
            gone.elapsed()
        );
        assert_eq!(served.health().in_flight, 0);
    }
}
