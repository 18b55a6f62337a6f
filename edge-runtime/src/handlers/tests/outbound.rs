//! What guests reach outside, and what not.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use super::fixture::{calling, component_of};
use super::*;

/// A server that answers every connection with the same text, or never.
struct Server {
    authority: String,
    open: Arc<AtomicUsize>,
    peak: Arc<AtomicUsize>,
}

impl Server {
    async fn new(answer: &str) -> Self {
        let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let authority = socket.local_addr().unwrap().to_string();
        let (open, peak) = (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
        let counters = (Arc::clone(&open), Arc::clone(&peak));
        let answer = answer.to_owned();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = socket.accept().await {
                let (answer, (open, peak)) = (answer.clone(), counters.clone());
                tokio::spawn(async move {
                    peak.fetch_max(open.fetch_add(1, SeqCst) + 1, SeqCst);
                    let mut buffer = [0; 1024];
                    while matches!(stream.read(&mut buffer).await, Ok(n) if n > 0) {
                        if stream.write_all(answer.as_bytes()).await.is_err() {
                            break;
                        }
                    }
                    open.fetch_sub(1, SeqCst);
                });
            }
        });
        Self {
            authority,
            open,
            peak,
        }
    }
}

async fn told_by(guest: fixture::hostile::Guest, origins: &[String]) -> String {
    let node = Node::new();
    let mut spec = node.spec(&component_of(guest));
    spec.allow.http = origins.iter().cloned().collect();
    let prepared = node.prepare(spec).await.unwrap();
    node.handlers.switch(vec![prepared]).unwrap();
    let (status, told) = node.get().await;
    assert_eq!(status, StatusCode::OK, "{told}");
    told
}

/// What a guest tells of an error code, by its place in wasi:http.
fn told_error(place: u8) -> String {
    format!("e{}", char::from(b'A' + place))
}

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

#[tokio::test]
async fn only_origins_that_were_allowed_are_called() {
    let [allowed, other] = [Server::new(OK).await, Server::new(OK).await];
    let origins = [format!("http://{}", allowed.authority)];
    let asked = told_by(calling::asking(&allowed.authority, "/"), &origins).await;
    assert_eq!(asked, "s200");
    let port = other.authority.rsplit_once(':').unwrap().1;
    for denied in [
        other.authority.clone(),
        format!("localhost:{port}"),
        format!("[::ffff:127.0.0.1]:{port}"),
        "169.254.169.254".to_owned(),
        "10.0.0.1".to_owned(),
        format!(
            "{}@{}",
            allowed.authority.replace(':', "%3A"),
            other.authority
        ),
    ] {
        let told = told_by(calling::asking(&denied, "/"), &origins).await;
        assert_eq!(told, told_error(15), "{denied}");
    }
    assert_eq!(other.peak.load(SeqCst), 0);
}

#[tokio::test]
async fn a_redirect_is_told_and_not_followed() {
    let inner = Server::new(OK).await;
    let redirect = format!(
        "HTTP/1.1 302 Found\r\nlocation: http://{}/\r\ncontent-length: 0\r\n\r\n",
        inner.authority
    );
    let outer = Server::new(&redirect).await;
    let told = told_by(calling::asking(&outer.authority, "/"), &["all".to_owned()]).await;
    assert_eq!((told.as_str(), inner.peak.load(SeqCst)), ("s302", 0));
}

#[tokio::test]
async fn a_flood_of_calls_takes_a_bounded_number_of_connections_and_lets_them_go() {
    let silent = Server::new("").await;
    let most = Limits::default().outbound;
    let flood = calling::flood(&silent.authority, 3 * most);
    let told = told_by(flood, &["all".to_owned()]).await;
    assert_eq!(told, told_error(11));
    let peak = silent.peak.load(SeqCst);
    assert!((1..=most as usize).contains(&peak), "{peak}");
    eventually(|| silent.open.load(SeqCst) == 0).await;
}
