use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use fleet_api::frame::MAX_VALUE_BYTES;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use super::listener::{HANDSHAKE, Shared};
use super::message::{self, matches};
use super::wire::{self, Connack, Connect, Packet, Publish, Version, WireError};
use crate::sources::intake::{IntakeError, may_pass};
use crate::sources::report::Report;
use crate::streams::{AppendError, NewRecord};

/// Messages that one commit of a session takes at most, and that a client of
/// MQTT 5 may have sent without an acknowledgement.
const WINDOW: u16 = 256;
/// How long a client may take to read an answer.
const WRITE: Duration = Duration::from_secs(10);

/// MQTT 5's reasons.
const SERVER_SHUTTING_DOWN: u8 = 0x8b;
const BAD_USER_OR_PASSWORD: u8 = 0x86;
const BAD_CLIENT_ID: u8 = 0x85;
const NOT_AUTHORIZED: u8 = 0x87;
const KEEP_ALIVE_TIMEOUT: u8 = 0x8d;
const TAKEN_OVER: u8 = 0x8e;
const PACKET_TOO_LARGE: u8 = 0x95;
const QUOTA_EXCEEDED: u8 = 0x97;
const IMPLEMENTATION_ERROR: u8 = 0x83;

/// One client's connection.
pub(super) struct Session {
    shared: Arc<Shared>,
    stream: TcpStream,
    peer: SocketAddr,
    id: u64,
    buffer: BytesMut,
}

/// Why a session ended, other than by the client's DISCONNECT.
#[derive(Debug, thiserror::Error)]
enum Ended {
    #[error("the client went away without a word")]
    Gone,
    #[error("the connection broke: {0}")]
    Io(#[from] std::io::Error),
    #[error(transparent)]
    Wire(#[from] WireError),
    #[error("the client was silent for longer than its keep-alive")]
    Silent,
    #[error("another client has the same id")]
    TakenOver,
    #[error("the listener stops")]
    Stopped,
    #[error("CONNECT did not come in time")]
    NoConnect,
    #[error("the user or the password is wrong")]
    Refused,
    #[error("a message could not be stored, and MQTT 3.1.1 has no way to say so: {0}")]
    Unstorable(String),
}

/// Messages on their way to the disk, and what becomes of them.
type Storing = Pin<Box<dyn Future<Output = (Vec<Sent>, Outcome)> + Send>>;

/// A message and why it cannot be stored, if so; the reason as MQTT 5 has it.
type Sent = (Publish, Option<u8>);

enum Outcome {
    Stored,
    Stopped,
    Refused(AppendError),
}

/// What is known of a client that has introduced itself.
struct Client {
    version: Version,
    will: Option<(String, Bytes)>,
    /// How long it may be silent.
    silence: Option<Duration>,
    taken_over: CancellationToken,
}

impl Session {
    pub(super) fn new(shared: Arc<Shared>, stream: TcpStream, peer: SocketAddr, id: u64) -> Self {
        Self {
            shared,
            stream,
            peer,
            id,
            buffer: BytesMut::with_capacity(4096),
        }
    }

    pub(super) fn report(&self) -> Report {
        self.shared.intake.report.clone()
    }

    /// From CONNECT to the end.
    pub(super) async fn run(mut self) {
        let connect = match timeout(HANDSHAKE, self.connect()).await {
            Ok(Ok(connect)) => connect,
            Ok(Err(ended)) => return self.end(None, &ended).await,
            Err(_) => return self.end(None, &Ended::NoConnect).await,
        };
        let assigned = format!("edge-{:016x}", self.id);
        let client_id = match connect.client_id.as_str() {
            "" => assigned.as_str(),
            id => id,
        };
        let user = connect.username.as_deref();
        let reason = if !self.shared.admits(user, connect.password.as_deref()) {
            BAD_USER_OR_PASSWORD
        } else if connect.client_id.is_empty() && connect.version == Version::V311 && !connect.clean
        {
            BAD_CLIENT_ID
        } else {
            0
        };
        let answer = Connack {
            reason,
            assigned: connect.client_id.is_empty().then_some(client_id),
            packet: u32::try_from(self.shared.packet).unwrap_or(u32::MAX),
            window: WINDOW,
        };
        let mut out = BytesMut::new();
        wire::connack(&mut out, connect.version, &answer);
        if let Err(ended) = self.write(out).await {
            return self.end(None, &ended).await;
        }
        if reason != 0 {
            return self.end(None, &Ended::Refused).await;
        }
        let mut client = Client {
            version: connect.version,
            will: connect.will,
            silence: (connect.keep_alive > 0)
                .then(|| Duration::from_secs(u64::from(connect.keep_alive)) * 3 / 2),
            taken_over: self.shared.enter(client_id, self.id),
        };
        let ended = self.serve(&mut client).await;
        self.shared.leave(client_id, self.id);
        if let Some((topic, payload)) = client.will {
            self.store_will(topic, payload).await;
        }
        if let Err(ended) = ended {
            self.end(Some(client.version), &ended).await;
        }
    }

    async fn connect(&mut self) -> Result<Connect, Ended> {
        loop {
            if let Some(packet) = wire::take(&mut self.buffer, None, self.shared.packet)? {
                let Packet::Connect(connect) = packet else {
                    return Err(WireError::Violation("the first packet is no CONNECT").into());
                };
                return Ok(*connect);
            }
            if self.stream.read_buf(&mut self.buffer).await? == 0 {
                return Err(Ended::Gone);
            }
        }
    }

    /// Reads on while messages are on their way to the disk, so that a client
    /// that pings is not left without an answer when the disk or a full stream
    /// makes it wait. `Ok` after a DISCONNECT, which leaves a will only where
    /// the client wants it.
    async fn serve(&mut self, client: &mut Client) -> Result<(), Ended> {
        let stop = self.shared.intake.stop.clone();
        let mut heard = Instant::now();
        let mut waiting: Vec<Publish> = Vec::new();
        let mut storing: Option<Storing> = None;
        loop {
            let mut out = BytesMut::new();
            let mut bye = None;
            while waiting.len() < usize::from(WINDOW) && bye.is_none() {
                let packet =
                    wire::take(&mut self.buffer, Some(client.version), self.shared.packet)?;
                match packet {
                    None => break,
                    Some(Packet::Publish(publish)) => waiting.push(publish),
                    Some(Packet::Disconnect { with_will }) => bye = Some(with_will),
                    Some(packet) => reply(&mut out, client.version, &packet),
                }
            }
            if !out.is_empty() {
                self.write(out).await?;
            }
            if storing.is_none() && !waiting.is_empty() {
                storing = Some(self.store(client.version, std::mem::take(&mut waiting)));
            }
            if let Some(with_will) = bye {
                // What came before the farewell is stored before the end.
                if let Some(storing) = storing.take() {
                    let (sent, outcome) = storing.await;
                    self.answer(client.version, &sent, outcome).await?;
                }
                if !waiting.is_empty() {
                    let (sent, outcome) = self.store(client.version, waiting).await;
                    self.answer(client.version, &sent, outcome).await?;
                }
                if !with_will {
                    client.will = None;
                }
                return Ok(());
            }
            let silence = client.silence.map(|silence| heard + silence);
            let has_room = waiting.len() < usize::from(WINDOW);
            tokio::select! {
                () = stop.cancelled() => return Err(Ended::Stopped),
                () = client.taken_over.cancelled() => return Err(Ended::TakenOver),
                (sent, outcome) = pending(storing.as_mut()) => {
                    storing = None;
                    self.answer(client.version, &sent, outcome).await?;
                }
                read = self.stream.read_buf(&mut self.buffer), if has_room => {
                    if read? == 0 {
                        return Err(Ended::Gone);
                    }
                    heard = Instant::now();
                }
                () = sleep_until(silence.unwrap_or_else(Instant::now)), if silence.is_some() && has_room => {
                    return Err(Ended::Silent);
                }
            }
        }
    }

    /// A client of MQTT 5 is told when its stream is full; one of 3.1.1 waits for its PUBACK.
    fn store(&self, version: Version, publishes: Vec<Publish>) -> Storing {
        let shared = Arc::clone(&self.shared);
        let mut records = Vec::with_capacity(publishes.len());
        let sent = publishes.into_iter().map(|publish| {
            let record = shared.record(&publish.topic, &publish.payload);
            let refusal = if !shared.takes(&publish.topic) {
                Some(NOT_AUTHORIZED)
            } else if record.value.len() > MAX_VALUE_BYTES {
                Some(PACKET_TOO_LARGE)
            } else {
                records.push(record);
                None
            };
            (publish, refusal)
        });
        let sent: Vec<Sent> = sent.collect();
        Box::pin(async move {
            let outcome = if records.is_empty() {
                Outcome::Stored
            } else if version == Version::V5 {
                match shared.intake.offer(records).await {
                    Ok(()) => Outcome::Stored,
                    Err(AppendError::Closed) => Outcome::Stopped,
                    Err(error) => Outcome::Refused(error),
                }
            } else {
                match shared.intake.store(records).await {
                    Ok(()) => Outcome::Stored,
                    Err(IntakeError::Stopped) => Outcome::Stopped,
                    Err(IntakeError::Refused(error)) => Outcome::Refused(error),
                }
            };
            (sent, outcome)
        })
    }

    async fn answer(
        &mut self,
        version: Version,
        sent: &[Sent],
        outcome: Outcome,
    ) -> Result<(), Ended> {
        let report = &self.shared.intake.report;
        let mut out = BytesMut::new();
        let reason = match &outcome {
            Outcome::Stopped => return Err(Ended::Stopped),
            Outcome::Stored => 0,
            Outcome::Refused(error) => {
                let unrepeated = sent
                    .iter()
                    .filter(|(p, refusal)| p.qos == 0 && refusal.is_none());
                let unrepeated = unrepeated.count();
                if unrepeated > 0 {
                    report.lost(unrepeated as u64, &error.to_string());
                }
                if version == Version::V311 {
                    return Err(Ended::Unstorable(error.to_string()));
                }
                report.waits(&error.to_string());
                if may_pass(error) {
                    QUOTA_EXCEEDED
                } else {
                    IMPLEMENTATION_ERROR
                }
            }
        };
        let mut unstorable = None;
        for (publish, refusal) in sent {
            if let Some(refusal) = refusal {
                let why = match *refusal {
                    NOT_AUTHORIZED => "its topic is not one of mqtt.topics",
                    _ => "it is larger than a record may be",
                };
                let topic = &publish.topic;
                report.lost(1, &format!("refused a message on {topic:?}: {why}"));
                if version == Version::V311 && publish.qos > 0 {
                    unstorable = Some(why);
                    continue;
                }
            }
            let reason = refusal.unwrap_or(reason);
            match publish.qos {
                0 => {}
                1 => wire::puback(&mut out, version, publish.id, reason),
                _ => wire::pubrec(&mut out, publish.id),
            }
        }
        self.write(out).await?;
        unstorable.map_or(Ok(()), |why| Err(Ended::Unstorable(why.to_owned())))
    }

    async fn store_will(&self, topic: String, payload: Bytes) {
        if self.shared.takes(&topic) {
            let record = self.shared.record(&topic, &payload);
            // A stop ends it too; then nobody was promised anything.
            let _ = self.shared.intake.store_what_fits(vec![record], None).await;
        }
    }

    async fn write(&mut self, out: BytesMut) -> Result<(), Ended> {
        match timeout(WRITE, self.stream.write_all(&out)).await {
            Ok(written) => Ok(written?),
            Err(_) => Err(Ended::Silent),
        }
    }

    async fn end(&mut self, version: Option<Version>, ended: &Ended) {
        let reason = match ended {
            Ended::Wire(error) => error.reason(),
            Ended::Silent => KEEP_ALIVE_TIMEOUT,
            Ended::TakenOver => TAKEN_OVER,
            Ended::Stopped => SERVER_SHUTTING_DOWN,
            _ => 0,
        };
        if let (Some(version), true) = (version, reason != 0) {
            let mut out = BytesMut::new();
            wire::disconnect(&mut out, version, reason);
            let _ = self.write(out).await;
        }
        match ended {
            Ended::Stopped | Ended::TakenOver => {}
            Ended::Gone | Ended::Io(_) if version.is_some() => {
                tracing::debug!(peer = %self.peer, reason = %ended, "an MQTT client is gone");
            }
            ended => self
                .shared
                .intake
                .report
                .error(&format!("ended a connection of {}: {ended}", self.peer)),
        }
    }
}

impl Shared {
    fn takes(&self, topic: &str) -> bool {
        self.topics.is_empty() || self.topics.iter().any(|filter| matches(filter, topic))
    }

    fn record(&self, topic: &str, payload: &Bytes) -> NewRecord {
        message::record(&self.name, topic, false, self.raw, payload)
    }
}

/// Packets that are answered at once.
fn reply(out: &mut BytesMut, version: Version, packet: &Packet) {
    match packet {
        Packet::Ping => wire::pong(out),
        Packet::Pubrel(id) => wire::pubcomp(out, *id),
        Packet::Subscribe { id, filters } => wire::suback(out, version, *id, *filters),
        Packet::Unsubscribe { id, filters } => wire::unsuback(out, version, *id, *filters),
        Packet::Connect(_) | Packet::Publish(_) | Packet::Disconnect { .. } => {}
    }
}

async fn pending(storing: Option<&mut Storing>) -> (Vec<Sent>, Outcome) {
    match storing {
        Some(storing) => storing.await,
        None => std::future::pending().await,
    }
}
