use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use control_plane::{App, AppError, Config};
use fleet_api::ids::NodeId;
use fleet_api::rest::{EnrollResponse, TokenCreated};
use fleet_api::token::JoinToken;
use reqwest::{Client, Method, RequestBuilder, Response};
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::{ConnectReturnCode, LastWill, Packet};
use rumqttc::v5::{AsyncClient, ConnectionError, Event, EventLoop, MqttOptions};
use rumqttc::{TlsConfiguration, Transport};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// A control plane on free ports with a folder of its own.
pub(crate) struct Plane {
    pub(crate) dir: Arc<TempDir>,
    pub(crate) url: String,
    mqtt_port: u16,
    client: Client,
    token: String,
    stop: Option<oneshot::Sender<()>>,
    running: JoinHandle<Result<(), AppError>>,
}

impl Plane {
    pub(crate) async fn start() -> Self {
        Self::start_in(Arc::new(tempfile::tempdir().unwrap())).await
    }

    pub(crate) async fn start_in(dir: Arc<TempDir>) -> Self {
        Self::start_with(dir, |_| ()).await
    }

    pub(crate) async fn start_with(dir: Arc<TempDir>, change: impl FnOnce(&mut Config)) -> Self {
        let mut config = config(dir.path());
        change(&mut config);
        let app = App::build(config).await.unwrap();
        let (url, mqtt_port) = (app.endpoint().url.clone(), app.endpoint().mqtt_port);
        let (stop, stopped) = oneshot::channel();
        let running = tokio::spawn(app.run(async {
            let _ = stopped.await;
        }));
        let token = std::fs::read_to_string(dir.path().join("cp/admin-token")).unwrap();
        let client = client(&ca(dir.path()), None);
        Self {
            dir,
            url,
            mqtt_port,
            client,
            token: token.trim().to_owned(),
            stop: Some(stop),
            running,
        }
    }

    /// Stops as SIGTERM would; gives the folder back for another start.
    pub(crate) async fn stop(mut self) -> Arc<TempDir> {
        self.stop.take().unwrap().send(()).unwrap();
        let ended = tokio::time::timeout(PATIENCE, &mut self.running).await;
        ended.unwrap().unwrap().unwrap();
        Arc::clone(&self.dir)
    }

    pub(crate) fn data(&self) -> PathBuf {
        self.dir.path().join("cp")
    }

    /// A request without a login.
    pub(crate) fn anonymous(&self, method: Method, path: &str) -> RequestBuilder {
        self.client.request(method, format!("{}{path}", self.url))
    }

    /// A request of an operator.
    pub(crate) fn operator(&self, method: Method, path: &str) -> RequestBuilder {
        self.anonymous(method, path).bearer_auth(&self.token)
    }

    pub(crate) async fn get(&self, path: &str) -> Value {
        read(self.operator(Method::GET, path).send().await.unwrap(), 200).await
    }

    pub(crate) async fn apply(&self, toml: &str) -> Response {
        let request = self.operator(Method::POST, "/api/v1/deployments");
        request.body(toml.to_owned()).send().await.unwrap()
    }

    pub(crate) async fn join_token(&self, request: Value) -> JoinToken {
        let answer = self.operator(Method::POST, "/api/v1/tokens");
        let answer = answer.json(&request).send().await.unwrap();
        assert_eq!(answer.status(), 201);
        let created: TokenCreated = answer.json().await.unwrap();
        created.token.parse().unwrap()
    }

    pub(crate) async fn try_enroll(&self, bearer: &str, node: &str, csr: &str) -> Response {
        let request = self.anonymous(Method::POST, "/api/v1/enroll");
        let body = json!({ "node": node, "csr_pem": csr });
        request
            .bearer_auth(bearer)
            .json(&body)
            .send()
            .await
            .unwrap()
    }

    /// Joins a node with labels.
    pub(crate) async fn join(&self, node: &str, labels: Value) -> Node {
        let token = self.join_token(json!({ "labels": labels })).await;
        let (key, csr) = request_for("somebody-else");
        let answer = self.try_enroll(&token.bearer(), node, &csr).await;
        assert_eq!(answer.status(), 200);
        let answer: EnrollResponse = answer.json().await.unwrap();
        Node {
            id: NodeId::new(node).unwrap(),
            url: self.url.clone(),
            mqtt_port: self.mqtt_port,
            ca: answer.ca_pem,
            certificate: answer.certificate_pem,
            key: key.serialize_pem(),
        }
    }

    /// The node, once `holds`.
    pub(crate) async fn wait_for(&self, node: &str, holds: impl Fn(&Value) -> bool) -> Value {
        let path = format!("/api/v1/nodes/{node}");
        let wait = async {
            loop {
                let state = self.get(&path).await;
                if holds(&state) {
                    return state;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        match tokio::time::timeout(PATIENCE, wait).await {
            Ok(state) => state,
            Err(_) => panic!("did not come to hold: {}", self.get(&path).await),
        }
    }
}

/// A node's identity, as `enroll` leaves it.
#[derive(Clone)]
pub(crate) struct Node {
    pub(crate) id: NodeId,
    url: String,
    mqtt_port: u16,
    ca: String,
    certificate: String,
    key: String,
}

impl Node {
    pub(crate) fn at(&self, plane: &Plane) -> Self {
        let mut node = self.clone();
        node.url = plane.url.clone();
        node.mqtt_port = plane.mqtt_port;
        node
    }

    pub(crate) fn at_port(&self, mqtt_port: u16) -> Self {
        let mut node = self.clone();
        node.mqtt_port = mqtt_port;
        node
    }

    pub(crate) async fn get(&self, path: &str) -> Response {
        let client = client(&self.ca, Some((&self.certificate, &self.key)));
        client
            .get(format!("{}{path}", self.url))
            .send()
            .await
            .unwrap()
    }

    pub(crate) fn options(&self, client_id: &str) -> MqttOptions {
        let mut options = MqttOptions::new(client_id, "127.0.0.1", self.mqtt_port);
        options.set_transport(Transport::Tls(TlsConfiguration::Rustls(Arc::new(tls(
            &self.ca,
            Some((&self.certificate, &self.key)),
        )))));
        options.set_outgoing_inflight_upper_limit(20);
        options.set_max_packet_size(Some(1 << 20));
        options
    }

    /// The broker as a node's own client takes it.
    pub(crate) fn broker(&self) -> fleet_mqtt::Broker {
        let tls = tls(&self.ca, Some((&self.certificate, &self.key)));
        fleet_mqtt::Broker {
            host: "127.0.0.1".to_owned(),
            port: self.mqtt_port,
            tls: Some(Arc::new(tls)),
            protocol: None,
            credentials: None,
        }
    }

    pub(crate) async fn connect(&self, client_id: &str) -> Mqtt {
        Mqtt::connect(self.options(client_id)).await.unwrap()
    }

    pub(crate) async fn connect_with_will(&self, topic: &str, payload: &str) -> Mqtt {
        let mut options = self.options(self.id.as_str());
        let will = LastWill::new(topic, payload.to_owned(), QoS::AtLeastOnce, true, None);
        options.set_last_will(will);
        Mqtt::connect(options).await.unwrap()
    }
}

/// An MQTT session that is read by hand.
pub(crate) struct Mqtt {
    pub(crate) client: AsyncClient,
    events: EventLoop,
}

impl Mqtt {
    pub(crate) async fn connect(options: MqttOptions) -> Result<Self, ConnectionError> {
        let (client, events) = AsyncClient::new(options, 100);
        let mut session = Self { client, events };
        loop {
            match session.poll().await? {
                Event::Incoming(Packet::ConnAck(ack)) => {
                    assert_eq!(ack.code, ConnectReturnCode::Success);
                    return Ok(session);
                }
                _ => continue,
            }
        }
    }

    async fn poll(&mut self) -> Result<Event, ConnectionError> {
        let polled = tokio::time::timeout(PATIENCE, self.events.poll()).await;
        polled.expect("nothing came in time")
    }

    /// The next packet for which `wanted` gives something.
    pub(crate) async fn next<T>(&mut self, wanted: impl Fn(&Packet) -> Option<T>) -> T {
        loop {
            if let Event::Incoming(packet) = self.poll().await.unwrap()
                && let Some(found) = wanted(&packet)
            {
                return found;
            }
        }
    }

    /// Publishes and returns the acknowledgement's code.
    pub(crate) async fn publish(&mut self, topic: &str, payload: impl Into<Vec<u8>>) -> String {
        let payload: Vec<u8> = payload.into();
        self.client
            .publish(topic, QoS::AtLeastOnce, false, payload)
            .await
            .unwrap();
        self.next(|packet| match packet {
            Packet::PubAck(ack) => Some(format!("{:?}", ack.reason)),
            _ => None,
        })
        .await
    }

    /// Subscribes and returns the acknowledgement's code.
    pub(crate) async fn subscribe(&mut self, filter: &str) -> String {
        self.client
            .subscribe(filter, QoS::AtLeastOnce)
            .await
            .unwrap();
        self.next(|packet| match packet {
            Packet::SubAck(ack) => Some(format!("{:?}", ack.return_codes[0])),
            _ => None,
        })
        .await
    }

    /// The next message: topic and payload.
    pub(crate) async fn message(&mut self) -> (String, Vec<u8>) {
        self.next(|packet| match packet {
            Packet::Publish(p) => Some((
                String::from_utf8(p.topic.to_vec()).unwrap(),
                p.payload.to_vec(),
            )),
            _ => None,
        })
        .await
    }

    /// Waits for the other side to end the session.
    pub(crate) async fn ended(mut self) {
        while self.poll().await.is_ok() {}
    }
}

pub(crate) fn config(dir: &Path) -> Config {
    Config {
        data_dir: dir.join("cp"),
        listen: "127.0.0.1:0".parse().unwrap(),
        mqtt_listen: "127.0.0.1:0".parse().unwrap(),
        ..Config::default()
    }
}

/// An address that was free a moment ago.
pub(crate) fn free_address() -> std::net::SocketAddr {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap()
}

/// A key and a request with a name that does not count.
pub(crate) fn request_for(name: &str) -> (rcgen::KeyPair, String) {
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params
        .distinguished_name
        .push(rcgen::DnType::CommonName, name);
    let csr = params.serialize_request(&key).unwrap().pem().unwrap();
    (key, csr)
}

/// An answer's body, which must have this status.
pub(crate) async fn read(answer: Response, status: u16) -> Value {
    let found = answer.status();
    let text = answer.text().await.unwrap();
    assert_eq!(found, status, "{text}");
    serde_json::from_str(&text).unwrap_or(Value::String(text))
}

fn ca(dir: &Path) -> String {
    std::fs::read_to_string(dir.join("cp/ca/ca.pem")).unwrap()
}

fn client(ca: &str, identity: Option<(&str, &str)>) -> Client {
    Client::builder()
        .tls_backend_preconfigured(tls(ca, identity))
        .no_proxy()
        .timeout(PATIENCE)
        .build()
        .unwrap()
}

fn tls(ca: &str, identity: Option<(&str, &str)>) -> rustls::ClientConfig {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let mut roots = rustls::RootCertStore::empty();
    roots
        .add(CertificateDer::from_pem_slice(ca.as_bytes()).unwrap())
        .unwrap();
    let builder = rustls::ClientConfig::builder().with_root_certificates(roots);
    match identity {
        None => builder.with_no_client_auth(),
        Some((certificate, key)) => {
            let certificate = CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap();
            let key = PrivatePkcs8KeyDer::from_pem_slice(key.as_bytes()).unwrap();
            builder
                .with_client_auth_cert(vec![certificate], PrivateKeyDer::from(key))
                .unwrap()
        }
    }
}
