//! Bodies that stream, in one direction and in both at once.

use std::time::Duration;

use bytes::Bytes;
use fleet_api::deployment::Limits;
use fleet_api::units::{ByteSize, Span};
use http::{HeaderMap, HeaderValue, Request};
use http_body::Frame;
use http_body_util::{BodyExt as _, StreamBody};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpSocket;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;

use super::client::Served;
use crate::handlers::tests::eventually;
use crate::handlers::tests::fixture::{self, component, hostile, reflecting};

const GREETING: &str = "hello from a component";

/// A body that comes as the test says.
type Sent = StreamBody<ReceiverStream<Result<Frame<Bytes>, std::io::Error>>>;

fn roomy() -> Limits {
    Limits {
        request_body: ByteSize(200 << 20),
        timeout: Span::from_ms(120_000),
        cpu: Span::from_ms(60_000),
        ..Limits::default()
    }
}

#[tokio::test]
async fn each_chunk_comes_back_before_the_next_is_sent() {
    let served = Served::code(reflecting::ECHO).await;
    let mut raw = served.connect().await;
    raw.send("POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n")
        .await;
    raw.until("\r\n\r\n").await;
    for i in 0..50 {
        raw.send(&format!("5\r\nno{i:03}\r\n")).await;
        assert_eq!(
            raw.until(&format!("no{i:03}\r\n")).await,
            format!("5\r\nno{i:03}\r\n")
        );
    }
    raw.send("0\r\n\r\n").await;
    assert_eq!(raw.until("0\r\n\r\n").await, "0\r\n\r\n");
    raw.send("GET /hello HTTP/1.1\r\nhost: a\r\n\r\n").await;
    raw.until(GREETING).await;
}

#[tokio::test]
async fn over_http_2_chunks_and_trailers_go_both_ways() {
    let served = Served::code(reflecting::ECHO).await;
    let client: Client<_, Sent> = Client::builder(TokioExecutor::new())
        .http2_only(true)
        .build_http();
    let (sender, frames) = mpsc::channel(1);
    let body = StreamBody::new(ReceiverStream::new(frames));
    let request = Request::post(&served.gateway.url).body(body).unwrap();
    let mut answer = client.request(request).await.unwrap().into_body();
    for i in 0..50 {
        let chunk = Bytes::from(format!("chunk {i}"));
        sender.send(Ok(Frame::data(chunk.clone()))).await.unwrap();
        let frame = answer.frame().await.unwrap().unwrap();
        assert_eq!(frame.into_data().unwrap(), chunk);
    }
    let mut trailers = HeaderMap::new();
    trailers.insert("x-sum", HeaderValue::from_static("50"));
    sender
        .send(Ok(Frame::trailers(trailers.clone())))
        .await
        .unwrap();
    drop(sender);
    let last = answer.frame().await.unwrap().unwrap();
    assert_eq!(last.into_trailers().unwrap(), trailers);
    assert!(answer.frame().await.is_none());
}

#[tokio::test]
async fn a_large_body_streams_through_a_small_guest() {
    const BYTES: usize = 100 << 20;
    let served = Served::guest(component(reflecting::ECHO), roomy()).await;
    let raw = served.connect().await;
    let (mut reader, mut writer) = raw.stream.into_split();
    let head = format!("POST / HTTP/1.0\r\ncontent-length: {BYTES}\r\n\r\n");
    writer.write_all(head.as_bytes()).await.unwrap();
    let sending = tokio::spawn(async move {
        let chunk: Vec<u8> = (0..1 << 20).map(|i| (i % 251) as u8).collect();
        for _ in 0..BYTES >> 20 {
            writer.write_all(&chunk).await.unwrap();
        }
        writer
    });
    let mut buffer = vec![0; 1 << 20];
    let mut read = reader.read(&mut buffer).await.unwrap();
    let head = buffer[..read].windows(4).position(|w| w == b"\r\n\r\n");
    buffer.copy_within(head.unwrap() + 4..read, 0);
    read -= head.unwrap() + 4;
    let mut position = 0;
    while read > 0 {
        for byte in &buffer[..read] {
            assert_eq!(
                usize::from(*byte),
                (position % (1 << 20)) % 251,
                "at {position}"
            );
            position += 1;
        }
        read = reader.read(&mut buffer).await.unwrap();
    }
    assert_eq!(position, BYTES);
    drop(sending.await.unwrap());
    assert_eq!(served.health().memory_bytes, 64 << 10);
}

#[tokio::test]
async fn a_client_that_does_not_read_is_held_back() {
    let served = Served::guest(component(reflecting::ECHO), roomy()).await;
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(64 << 10).unwrap();
    let address = served.address().parse().unwrap();
    let mut stream = socket.connect(address).await.unwrap();
    let head = b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 200000000\r\n\r\n";
    stream.write_all(head).await.unwrap();
    let chunk = vec![b'x'; 1 << 20];
    let mut taken = 0;
    // The system's buffers and two chunks on the way: far less than the body.
    while let Ok(written) = timeout(Duration::from_millis(500), stream.write(&chunk)).await {
        taken += written.unwrap();
        assert!(taken < 64 << 20, "{taken}");
    }
    assert_eq!(served.health().in_flight, 1);
    drop(stream);
    eventually(|| served.health().in_flight == 0).await;
}

#[tokio::test]
async fn a_large_upload_that_its_guest_ignores_is_answered_and_the_connection_serves_on() {
    let served = Served::code(fixture::HELLO).await;
    let mut raw = served.connect().await;
    for _ in 0..3 {
        raw.send(&format!(
            "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: {}\r\n\r\n",
            8 << 20
        ))
        .await;
        raw.stream.write_all(&vec![b'x'; 8 << 20]).await.unwrap();
        let answer = raw.until(GREETING).await;
        assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
    }
}

#[tokio::test]
async fn a_refused_upload_is_answered_also_when_it_is_all_sent_first() {
    let limits = Limits {
        request_body: ByteSize(1000),
        ..Limits::default()
    };
    let served = Served::guest(component(reflecting::SINK), limits).await;
    let mut raw = served.connect().await;
    for encoding in ["content-length: 4000000", "transfer-encoding: chunked"] {
        raw.send(&format!("POST / HTTP/1.1\r\nhost: a\r\n{encoding}\r\n\r\n"))
            .await;
        let body = "x".repeat(4_000_000);
        if encoding.ends_with("chunked") {
            raw.send(&format!("{:x}\r\n{body}\r\n0\r\n\r\n", body.len()))
                .await;
        } else {
            raw.send(&body).await;
        }
        let answer = raw.until("\"}}").await;
        assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
        assert!(answer.contains("body-too-large"), "{answer}");
    }
}

#[tokio::test]
async fn an_answer_that_is_cut_does_not_look_whole() {
    let served = Served::code(hostile::OPEN_END_LATE).await;
    let answer = served.ask("GET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
    assert!(answer.contains(GREETING), "{answer}");
    assert!(!answer.ends_with("0\r\n\r\n"), "{answer}");
}
