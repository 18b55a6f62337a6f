use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use super::*;

/// CONNACK without properties.
const CONNACK: [u8; 5] = [0x20, 3, 0, 0, 0];

/// A broker of one connection: answers CONNECT, then says `last`. It hangs up at once with
/// `rude`, without having read what was sent.
async fn broker(last: &'static [u8], rude: bool) -> (Connected, JoinHandle<Option<TcpStream>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let serve = tokio::spawn(async move {
        let (mut socket, _) = listener.accept().await.unwrap();
        let mut header = [0; 2];
        socket.read_exact(&mut header).await.unwrap();
        let mut connect = vec![0; usize::from(header[1])];
        socket.read_exact(&mut connect).await.unwrap();
        socket.write_all(&CONNACK).await.unwrap();
        if rude {
            // Something has come that nobody reads: the connection will end with a reset.
            socket.readable().await.unwrap();
        }
        socket.write_all(last).await.unwrap();
        (!rude && last.is_empty()).then_some(socket)
    });
    let broker = Broker {
        host: "127.0.0.1".to_owned(),
        port,
        tls: None,
        protocol: Some(Protocol::V5),
        credentials: None,
    };
    let session = Session {
        client_id: "a".to_owned(),
        keep_alive: Duration::from_millis(300),
        connect: Duration::from_secs(10),
        incoming_bytes: 1000,
        in_flight: 1000,
        will: None,
        kept: None,
    };
    (broker.connect(&session).await.unwrap(), serve)
}

async fn end(mut connected: Connected) -> Error {
    let end = async {
        loop {
            if let Err(error) = connected.events.poll().await {
                return error;
            }
        }
    };
    timeout(Duration::from_secs(10), end).await.unwrap()
}

async fn end_after(last: &'static [u8]) -> Error {
    let (connected, _) = broker(last, false).await;
    end(connected).await
}

#[tokio::test]
async fn a_takeover_is_recognised_in_every_form() {
    for last in [
        &[0xE0, 1, 0x8E][..],
        &[0xE0, 2, 0x8E, 0],
        &[0xE0, 7, 0x8E, 5, 0x1F, 0, 2, b'h', b'o'],
    ] {
        let error = end_after(last).await;
        assert!(matches!(error, Error::TakenOver), "{last:x?}: {error:?}");
    }
}

#[tokio::test]
async fn the_brokers_reason_says_whether_a_packet_is_to_blame() {
    for (last, text) in [
        (&[0xE0, 0][..], "NormalDisconnection"),
        (&[0xE0, 1, 0x8B], "ServerShuttingDown"),
        (&[0xE0, 1, 0x97], "QuotaExceeded"),
        // rumqttc does not know this one.
        (&[0xE0, 1, 0x8A], "reason 0x8a"),
        (
            &[0xE0, 7, 0x98, 5, 0x1F, 0, 2, b'h', b'o'],
            "AdministrativeAction (ho)",
        ),
    ] {
        let error = end_after(last).await;
        assert!(
            matches!(&error, Error::Ended(said) if said == text),
            "{last:x?}: {error:?}"
        );
    }
    for last in [
        &[0xE0, 1, 0x81][..],
        &[0xE0, 1, 0x82],
        &[0xE0, 1, 0x83],
        &[0xE0, 1, 0x90],
        &[0xE0, 1, 0x95],
        &[0xE0, 2, 0x99, 0],
    ] {
        let error = end_after(last).await;
        assert!(matches!(error, Error::Rejected(_)), "{last:x?}: {error:?}");
    }
}

#[tokio::test]
async fn nonsense_and_silence_are_told_from_a_break() {
    // A packet of no kind, and an acknowledgement of nothing.
    for last in [&[0, 0][..], &[0x40, 2, 0, 9]] {
        let error = end_after(last).await;
        assert!(matches!(error, Error::Garbled(_)), "{last:x?}: {error:?}");
    }
    let (connected, serve) = broker(&[], false).await;
    let silent = serve.await.unwrap();
    for _ in 0..900 {
        let payload = vec![0; 10_000].into();
        let client = &connected.client;
        client.publish("t".to_owned(), false, payload).unwrap();
    }
    let error = end(connected).await;
    assert!(matches!(error, Error::Silent), "{error:?}");
    drop(silent);
    let (connected, _) = broker(&[], true).await;
    let payload = vec![0; 10].into();
    let client = &connected.client;
    client.publish("t".to_owned(), false, payload).unwrap();
    let error = end(connected).await;
    assert!(matches!(error, Error::Broken(_)), "{error:?}");
}

#[tokio::test]
async fn hears_why_even_if_the_connection_ends_while_it_writes() {
    for _ in 0..20 {
        let (connected, _) = broker(&[0xE0, 1, 0x8E], true).await;
        for _ in 0..900 {
            let payload = vec![0; 10_000].into();
            let client = &connected.client;
            client.publish("t".to_owned(), false, payload).unwrap();
        }
        let error = end(connected).await;
        assert!(matches!(error, Error::TakenOver), "{error:?}");
    }
}
