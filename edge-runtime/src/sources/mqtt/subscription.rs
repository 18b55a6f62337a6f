use std::sync::Arc;
use std::time::Duration;

use fleet_api::source::MqttSource;
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::{
    ConnectReturnCode, Filter, Packet, Publish, RetainForwardRule, SubscribeReasonCode,
};
use rumqttc::v5::{AsyncClient, ClientError, ConnectionError, Event, EventLoop, MqttOptions};
use rumqttc::{TlsConfiguration, Transport};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::super::Context;
use super::super::intake::IntakeError;
use super::super::secrets::SecretError;
use super::{message, packet_bytes};
use crate::sources::report::Report;

/// Messages that the broker may have sent without an acknowledgement.
const WINDOW: u16 = 256;
/// Messages that one commit takes at most.
const BATCH: usize = 256;
/// Acknowledgements that may wait to be sent: as many as there are packet ids,
/// so that the client always has room for one more. A broker may send more than
/// the window; then nobody reads from it until what came is durable.
const ACKNOWLEDGEMENTS: usize = 1 << 16;
/// How long the broker keeps what it has for this source while the node is away.
const SESSION_SECONDS: u32 = 7 * 24 * 3600;
const KEEP_ALIVE: Duration = Duration::from_secs(15);
const CONNECT: Duration = Duration::from_secs(10);

/// Why a subscription ended.
#[derive(Debug, thiserror::Error)]
pub(super) enum SubscriptionError {
    #[error(transparent)]
    Secret(#[from] SecretError),
    #[error("read the certificates in {path}")]
    Ca {
        path: String,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    #[error("the broker {0} is not reachable")]
    Connect(String, #[source] Box<ConnectionError>),
    #[error("the broker refuses the connection with {0:?}")]
    Refused(ConnectReturnCode),
    #[error("the broker refuses the subscription to {filter:?} with {reason:?}")]
    Subscription {
        filter: String,
        reason: SubscribeReasonCode,
    },
    #[error("the connection to the broker broke")]
    Broken(#[source] Box<ConnectionError>),
    #[error("the broker was silent for too long")]
    Silent,
    #[error("the client does not take a request")]
    Client(#[source] Box<ClientError>),
}

impl From<ClientError> for SubscriptionError {
    fn from(error: ClientError) -> Self {
        Self::Client(Box::new(error))
    }
}

type Received = mpsc::Receiver<Result<Packet, SubscriptionError>>;

/// One connection to the broker, until it breaks or the source stops.
///
/// The broker keeps the session, so that it sends again what was not
/// acknowledged; nothing is acknowledged before it is durable here.
pub(super) async fn run(context: &Context, mqtt: &MqttSource) -> Result<(), SubscriptionError> {
    let (options, broker) = options(context, mqtt)?;
    let (client, event_loop) = AsyncClient::new(options, ACKNOWLEDGEMENTS);
    let (packets, mut received) = mpsc::channel(4 * usize::from(WINDOW));
    // A task of its own: a poll that is cancelled halfway may lose a packet.
    let mut poller = JoinSet::new();
    poller.spawn(poll(event_loop, packets, context.intake.report.clone()));
    loop {
        let packet = tokio::select! {
            () = context.intake.stop.cancelled() => return Ok(()),
            packet = received.recv() => packet,
        };
        match packet.ok_or(SubscriptionError::Silent)? {
            Ok(Packet::ConnAck(_)) => break,
            Ok(_) => {}
            Err(SubscriptionError::Broken(error)) => {
                return Err(match *error {
                    ConnectionError::ConnectionRefused(code) => SubscriptionError::Refused(code),
                    error => SubscriptionError::Connect(broker, Box::new(error)),
                });
            }
            Err(error) => return Err(error),
        }
    }
    let filters = mqtt.topics.iter().map(|topic| {
        let mut filter = Filter::new(topic.clone(), QoS::AtLeastOnce);
        // A reconnect shall not bring old values again.
        filter.retain_forward_rule = RetainForwardRule::OnNewSubscribe;
        filter.preserve_retain = true;
        filter
    });
    client.subscribe_many(filters).await?;
    take(context, mqtt, &client, &mut received).await
}

async fn take(
    context: &Context,
    mqtt: &MqttSource,
    client: &AsyncClient,
    received: &mut Received,
) -> Result<(), SubscriptionError> {
    let mut batch: Vec<Publish> = Vec::new();
    loop {
        let first = tokio::select! {
            () = context.intake.stop.cancelled() => return Ok(()),
            first = received.recv() => first,
        };
        let mut next = Some(first.ok_or(SubscriptionError::Silent)?);
        while let Some(packet) = next {
            match packet? {
                Packet::Publish(publish) => batch.push(publish),
                Packet::SubAck(suback) => {
                    for (filter, reason) in mqtt.topics.iter().zip(suback.return_codes) {
                        if !matches!(reason, SubscribeReasonCode::Success(_)) {
                            let filter = filter.clone();
                            return Err(SubscriptionError::Subscription { filter, reason });
                        }
                    }
                    context.intake.report.connected();
                }
                _ => {}
            }
            next = if batch.len() < BATCH {
                received.try_recv().ok()
            } else {
                None
            };
        }
        if batch.is_empty() {
            continue;
        }
        let records = batch.iter().map(|publish| {
            let topic = String::from_utf8_lossy(&publish.topic);
            let (source, raw) = (context.name(), mqtt.raw);
            message::record(source, &topic, publish.retain, raw, &publish.payload)
        });
        // Told apart by now, so only a stop ends it early.
        if let Err(IntakeError::Stopped) = context
            .intake
            .store_what_fits(records.collect(), None)
            .await
        {
            return Ok(());
        }
        for publish in batch.drain(..) {
            client.try_ack(&publish)?;
        }
    }
}

/// Hands over what concerns the source. The broker has no more than a window
/// of messages with an acknowledgement under way; one without, that comes while
/// the buffer takes nothing, is lost and counted.
async fn poll(
    mut event_loop: EventLoop,
    packets: mpsc::Sender<Result<Packet, SubscriptionError>>,
    report: Report,
) {
    loop {
        let packet = match timeout(2 * KEEP_ALIVE + CONNECT, event_loop.poll()).await {
            Ok(Ok(Event::Incoming(packet))) => Ok(packet),
            Ok(Ok(Event::Outgoing(_))) => continue,
            Ok(Err(error)) => Err(SubscriptionError::Broken(Box::new(error))),
            Err(_) => Err(SubscriptionError::Silent),
        };
        let ended = packet.is_err();
        let sent = match packet {
            Ok(Packet::Publish(publish)) if publish.qos == QoS::AtMostOnce => {
                match packets.try_send(Ok(Packet::Publish(publish))) {
                    Err(mpsc::error::TrySendError::Full(_)) => {
                        let why =
                            "the buffer does not keep up, and nobody repeats messages of QoS 0";
                        report.lost(1, why);
                        true
                    }
                    sent => sent.is_ok(),
                }
            }
            Ok(packet @ (Packet::Publish(_) | Packet::ConnAck(_) | Packet::SubAck(_))) => {
                packets.send(Ok(packet)).await.is_ok()
            }
            Ok(_) => true,
            Err(error) => packets.send(Err(error)).await.is_ok(),
        };
        if !sent || ended {
            return;
        }
    }
}

fn options(
    context: &Context,
    mqtt: &MqttSource,
) -> Result<(MqttOptions, String), SubscriptionError> {
    let url = mqtt.broker.as_deref().unwrap_or_default();
    let (tls, rest) = match url.strip_prefix("mqtts://") {
        Some(rest) => (true, rest),
        None => (false, url.strip_prefix("mqtt://").unwrap_or(url)),
    };
    let default_port = if tls { 8883 } else { 1883 };
    let (host, port) = match rest.rsplit_once(':') {
        Some((host, port)) => match port.parse() {
            Ok(port) => (host, port),
            Err(_) => (rest, default_port),
        },
        None => (rest, default_port),
    };
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let client_id = mqtt
        .client_id
        .clone()
        .unwrap_or_else(|| format!("{}.{}", context.node, context.name()));
    let mut options = MqttOptions::new(client_id, host, port);
    let packet = u32::try_from(packet_bytes(mqtt)).unwrap_or(u32::MAX);
    options
        .set_clean_start(false)
        .set_session_expiry_interval(Some(SESSION_SECONDS))
        .set_receive_maximum(Some(WINDOW))
        .set_max_packet_size(Some(packet))
        .set_manual_acks(true)
        .set_keep_alive(KEEP_ALIVE)
        .set_connection_timeout(CONNECT.as_secs());
    if let Some(username) = &mqtt.username {
        let password = match &mqtt.password {
            Some(name) => context.secrets.read(name)?,
            None => String::new(),
        };
        options.set_credentials(username, password);
    }
    if tls {
        let tls = TlsConfiguration::Rustls(Arc::new(tls_config(mqtt)?));
        options.set_transport(Transport::tls_with_config(tls));
    }
    Ok((options, format!("{host}:{port}")))
}

fn tls_config(mqtt: &MqttSource) -> Result<rustls::ClientConfig, SubscriptionError> {
    let path = mqtt.ca.clone().unwrap_or_default();
    let wrong = |source: Box<dyn std::error::Error + Send + Sync>| SubscriptionError::Ca {
        path: path.clone(),
        source,
    };
    let mut roots = rustls::RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(&path).map_err(|e| wrong(e.into()))? {
        let certificate = certificate.map_err(|e| wrong(e.into()))?;
        roots.add(certificate).map_err(|e| wrong(e.into()))?;
    }
    Ok(rustls::ClientConfig::builder()
        .with_root_certificates(roots)
        .with_no_client_auth())
}
