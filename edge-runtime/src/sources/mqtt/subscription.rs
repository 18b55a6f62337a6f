use std::sync::Arc;
use std::time::Duration;

use fleet_api::source::MqttSource;
use fleet_mqtt::{
    Address, AddressError, Broker, Client, Connected, Credentials, Event, Events, Kept, Refusal,
    Session,
};
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

/// Messages that the broker may have sent without an acknowledgement. One of 3.1.1 may send
/// more; then nobody reads from it until what came is durable.
const WINDOW: u16 = 256;
/// Messages that one commit takes at most.
const BATCH: usize = 256;
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
    #[error(transparent)]
    Address(#[from] AddressError),
    #[error(transparent)]
    Mqtt(#[from] fleet_mqtt::Error),
    #[error("the broker refuses the subscription to {filter:?} with {reason}")]
    Subscription { filter: String, reason: Refusal },
}

type Received = mpsc::Receiver<Result<Event, fleet_mqtt::Error>>;

/// A message that is not acknowledged yet.
struct Message {
    topic: String,
    payload: bytes::Bytes,
    retained: bool,
    id: Option<u16>,
}

/// One connection to the broker, until it breaks or the source stops.
///
/// The broker keeps the session, so that it sends again what was not
/// acknowledged; nothing is acknowledged before it is durable here.
pub(super) async fn run(context: &Context, mqtt: &MqttSource) -> Result<(), SubscriptionError> {
    let broker = broker(context, mqtt)?;
    let session = session(context, mqtt);
    let connected = tokio::select! {
        () = context.intake.stop.cancelled() => return Ok(()),
        connected = broker.connect(&session) => connected?,
    };
    let Connected { client, events, .. } = connected;
    let (sender, mut received) = mpsc::channel(4 * usize::from(WINDOW));
    // A task of its own: a poll that is cancelled halfway may lose a packet.
    let mut poller = JoinSet::new();
    poller.spawn(poll(events, sender, context.intake.report.clone()));
    client.follow(mqtt.topics.clone())?;
    take(context, mqtt, &client, &mut received).await
}

async fn take(
    context: &Context,
    mqtt: &MqttSource,
    client: &Client,
    received: &mut Received,
) -> Result<(), SubscriptionError> {
    let mut batch: Vec<Message> = Vec::new();
    loop {
        let first = tokio::select! {
            () = context.intake.stop.cancelled() => return Ok(()),
            first = received.recv() => first,
        };
        let mut next = Some(first.ok_or(fleet_mqtt::Error::Silent)?);
        while let Some(event) = next {
            match event? {
                Event::Message {
                    topic,
                    payload,
                    retained,
                    id,
                } => batch.push(Message {
                    topic,
                    payload,
                    retained,
                    id,
                }),
                Event::Subscribed(granted) => {
                    for (filter, granted) in mqtt.topics.iter().zip(granted) {
                        let filter = filter.clone();
                        granted
                            .map_err(|reason| SubscriptionError::Subscription { filter, reason })?;
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
        let records = batch.iter().map(|message| {
            let Message { topic, payload, .. } = message;
            message::record(context.name(), topic, message.retained, mqtt.raw, payload)
        });
        // Told apart by now, so only a stop ends it early.
        if let Err(IntakeError::Stopped) = context
            .intake
            .store_what_fits(records.collect(), None)
            .await
        {
            return Ok(());
        }
        for id in batch.drain(..).filter_map(|message| message.id) {
            client.acknowledge(id)?;
        }
    }
}

/// Hands over what concerns the source. The broker has no more than a window
/// of messages with an acknowledgement under way; one without, that comes while
/// the buffer takes nothing, is lost and counted.
async fn poll(
    mut events: Events,
    sender: mpsc::Sender<Result<Event, fleet_mqtt::Error>>,
    report: Report,
) {
    loop {
        let event = match timeout(2 * KEEP_ALIVE + CONNECT, events.poll()).await {
            Ok(event) => event,
            Err(_) => Err(fleet_mqtt::Error::Silent),
        };
        let ended = event.is_err();
        let sent = match event {
            Ok(Event::Message { id: None, .. }) => match sender.try_send(event) {
                Err(mpsc::error::TrySendError::Full(_)) => {
                    let why = "the buffer does not keep up, and nobody repeats messages of QoS 0";
                    report.lost(1, why);
                    true
                }
                sent => sent.is_ok(),
            },
            Ok(Event::Message { .. } | Event::Subscribed(_)) | Err(_) => {
                sender.send(event).await.is_ok()
            }
            Ok(_) => true,
        };
        if !sent || ended {
            return;
        }
    }
}

fn broker(context: &Context, mqtt: &MqttSource) -> Result<Broker, SubscriptionError> {
    let address: Address = mqtt.broker.as_deref().unwrap_or_default().parse()?;
    let credentials = match &mqtt.username {
        Some(username) => Some(Credentials {
            username: username.clone(),
            password: match &mqtt.password {
                Some(name) => context.secrets.read(name)?,
                None => String::new(),
            },
        }),
        None => None,
    };
    Ok(Broker {
        host: address.host,
        port: address.port,
        tls: match address.tls {
            true => Some(Arc::new(tls_config(mqtt)?)),
            false => None,
        },
        protocol: None,
        credentials,
    })
}

fn session(context: &Context, mqtt: &MqttSource) -> Session {
    let own = || format!("{}.{}", context.node, context.name());
    Session {
        client_id: mqtt.client_id.clone().unwrap_or_else(own),
        keep_alive: KEEP_ALIVE,
        connect: CONNECT,
        incoming_bytes: u32::try_from(packet_bytes(mqtt)).unwrap_or(u32::MAX),
        // It publishes nothing.
        in_flight: 1,
        will: None,
        kept: Some(Kept {
            seconds: SESSION_SECONDS,
            window: WINDOW,
        }),
    }
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
