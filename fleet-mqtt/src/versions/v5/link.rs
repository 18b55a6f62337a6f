//! One connection of MQTT 5: its bytes, and what rumqttc makes of the packets in them.
//!
//! rumqttc's own loop reads its bytes by itself, which loses the broker's last word (see
//! `packets`), and waits for ever for a peer that stops reading. Here reading and writing wait
//! for each other in nothing.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use rumqttc::v5::mqttbytes::v5::{
    ConnAck, Connect, ConnectProperties, ConnectReturnCode, Disconnect, LastWill, Login, Packet,
};
use rumqttc::v5::mqttbytes::{Error as FormatError, QoS};
use rumqttc::v5::{Event, MqttState, Request, StateError};
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::io::{ReadHalf, WriteHalf};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at};
use tokio_rustls::TlsConnector;

use super::packets::{self, Incoming};
use crate::connect::{Broker, Session};

/// Bytes that are read at once.
const READ_BYTES: usize = 16 << 10;
/// Bytes that may wait for the network before no request is taken any more.
const WAITING_BYTES: usize = 64 << 10;
/// Pings come no quicker, whatever was agreed.
const SHORTEST_PING: Duration = Duration::from_millis(100);

/// Why a connection is over.
#[derive(Debug, thiserror::Error)]
pub(super) enum LinkError {
    #[error("the network broke")]
    Network(#[from] io::Error),
    #[error("the broker closed the connection")]
    Closed,
    /// A reason of MQTT 5, and the broker's own words.
    #[error("the broker ended the connection with reason {0:#04x}")]
    Disconnect(u8, Option<String>),
    #[error("the broker refused the connection")]
    Refused(ConnectReturnCode),
    #[error("the broker does not speak MQTT 5 as it should")]
    Format(#[source] FormatError),
    #[error("the broker answers what it was not asked")]
    State(#[source] StateError),
    #[error("the broker did not answer in time")]
    NoAnswer,
    #[error("the packet is larger than the broker takes")]
    TooLarge,
}

trait Socket: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Socket for T {}

/// Bytes to and from the broker.
pub(super) struct Wire {
    reader: ReadHalf<Box<dyn Socket>>,
    /// None after it failed: what the broker said before it hung up can still be read.
    writer: Option<WriteHalf<Box<dyn Socket>>>,
    input: BytesMut,
    output: BytesMut,
    flushed: bool,
    incoming_bytes: u32,
    outgoing_bytes: Option<u32>,
}

/// One connection with its state.
pub(crate) struct Link {
    wire: Wire,
    state: MqttState,
    in_flight: u16,
    requests: mpsc::Receiver<Request>,
    ping: Interval,
    /// Whether the broker has said anything since the last tick.
    heard: bool,
}

impl Wire {
    /// A connection to the broker on which nothing has been said.
    pub(super) async fn open(broker: &Broker, session: &Session) -> io::Result<Self> {
        let tcp = TcpStream::connect((broker.host.as_str(), broker.port)).await?;
        tcp.set_nodelay(true)?;
        let socket: Box<dyn Socket> = match &broker.tls {
            Some(tls) => {
                let name = ServerName::try_from(broker.host.clone())
                    .map_err(|e| io::Error::new(io::ErrorKind::InvalidInput, e))?;
                Box::new(
                    TlsConnector::from(Arc::clone(tls))
                        .connect(name, tcp)
                        .await?,
                )
            }
            None => Box::new(tcp),
        };
        let (reader, writer) = tokio::io::split(socket);
        Ok(Self {
            reader,
            writer: Some(writer),
            input: BytesMut::new(),
            output: BytesMut::new(),
            flushed: true,
            incoming_bytes: session.incoming_bytes,
            outgoing_bytes: None,
        })
    }

    /// The next packet that has come as a whole.
    fn next(&mut self) -> Result<Option<Packet>, LinkError> {
        match packets::next(&mut self.input, self.incoming_bytes).map_err(LinkError::Format)? {
            Some(Incoming::Disconnect(reason)) => Err(LinkError::Disconnect(reason, None)),
            Some(Incoming::Packet(packet)) => match *packet {
                Packet::Disconnect(Disconnect {
                    reason_code,
                    properties,
                }) => {
                    let said = properties.and_then(|properties| properties.reason_string);
                    Err(LinkError::Disconnect(reason_code as u8, said))
                }
                packet => Ok(Some(packet)),
            },
            None => Ok(None),
        }
    }

    /// Takes a packet to be sent.
    fn put(&mut self, packet: &Packet) -> Result<(), LinkError> {
        self.flushed = false;
        match packet.write(&mut self.output, self.outgoing_bytes) {
            Ok(_) => Ok(()),
            Err(FormatError::OutgoingPacketTooLarge { .. }) => Err(LinkError::TooLarge),
            Err(error) => Err(LinkError::Format(error)),
        }
    }

    /// Moves bytes, in whichever direction they can be moved. Cancelling it loses nothing.
    async fn run(&mut self) -> Result<(), LinkError> {
        self.input.reserve(READ_BYTES);
        let (reader, input) = (&mut self.reader, &mut self.input);
        let (output, flushed) = (&mut self.output, &mut self.flushed);
        tokio::select! {
            read = reader.read_buf(input) => match read? {
                0 => Err(LinkError::Closed),
                _ => Ok(()),
            },
            sent = send(self.writer.as_mut(), output), if !*flushed => {
                match sent {
                    Ok(all) => *flushed = all,
                    Err(error) => {
                        tracing::debug!(%error, "cannot write to the broker: reading on");
                        self.writer = None;
                        *flushed = true;
                    }
                }
                Ok(())
            }
        }
    }
}

/// Sends some of the bytes; whether all are on their way.
async fn send<W: AsyncWrite + Unpin>(
    writer: Option<&mut W>,
    output: &mut BytesMut,
) -> io::Result<bool> {
    let Some(writer) = writer else {
        output.clear();
        return Ok(true);
    };
    if output.is_empty() {
        writer.flush().await?;
        return Ok(true);
    }
    match writer.write_buf(output).await? {
        0 => Err(io::ErrorKind::WriteZero.into()),
        _ => Ok(false),
    }
}

impl Link {
    /// Says CONNECT and waits for the answer.
    pub(super) async fn greet(
        mut wire: Wire,
        broker: &Broker,
        session: &Session,
        requests: mpsc::Receiver<Request>,
    ) -> Result<(Self, ConnAck), LinkError> {
        let seconds = u16::try_from(session.keep_alive.as_secs()).unwrap_or(u16::MAX);
        let mut properties = ConnectProperties::new();
        properties.max_packet_size = Some(session.incoming_bytes);
        properties.session_expiry_interval = session.kept.map(|kept| kept.seconds);
        properties.receive_maximum = session.kept.map(|kept| kept.window);
        let connect = Connect {
            keep_alive: seconds,
            client_id: session.client_id.clone(),
            clean_start: session.kept.is_none(),
            properties: Some(properties),
        };
        let will = session.will.as_ref().map(|will| {
            let (topic, payload) = (will.topic.as_str(), will.payload.clone());
            LastWill::new(topic, payload, QoS::AtLeastOnce, true, None)
        });
        let login = broker.credentials.as_ref();
        let login = login.map(|login| Login::new(&login.username, &login.password));
        wire.put(&Packet::Connect(connect, will, login))?;
        let connack = loop {
            match wire.next()? {
                Some(Packet::ConnAck(connack)) => break connack,
                Some(_) => return Err(LinkError::Format(FormatError::IncorrectPacketFormat)),
                None => wire.run().await?,
            }
        };
        if connack.code != ConnectReturnCode::Success {
            return Err(LinkError::Refused(connack.code));
        }
        let properties = connack.properties.as_ref();
        wire.outgoing_bytes = properties.and_then(|p| p.max_packet_size);
        let theirs = properties.and_then(|p| p.server_keep_alive);
        let theirs = theirs.map(|seconds| Duration::from_secs(seconds.into()));
        let every = theirs.filter(|every| !every.is_zero());
        let every = every.unwrap_or(session.keep_alive).max(SHORTEST_PING);
        let mut ping = interval_at(Instant::now() + every, every);
        ping.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let receive_max = properties.and_then(|p| p.receive_max);
        let in_flight = receive_max.unwrap_or(u16::MAX).min(session.in_flight);
        let mut state = MqttState::new(session.in_flight, session.kept.is_some());
        let greeting = Packet::ConnAck(connack.clone());
        state
            .handle_incoming_packet(greeting)
            .map_err(LinkError::State)?;
        state.events.clear();
        let link = Self {
            wire,
            state,
            in_flight,
            requests,
            ping,
            heard: false,
        };
        Ok((link, connack))
    }

    /// The next thing that happens. Cancelling it loses nothing.
    pub(super) async fn poll(&mut self) -> Result<Event, LinkError> {
        loop {
            if let Some(event) = self.state.events.pop_front() {
                return Ok(event);
            }
            if let Some(packet) = self.wire.next()? {
                self.heard = true;
                let answer = self.state.handle_incoming_packet(packet);
                if let Some(answer) = answer.map_err(LinkError::State)? {
                    self.wire.put(&answer)?;
                }
                continue;
            }
            let room = self.has_room();
            tokio::select! {
                moved = self.wire.run() => moved?,
                Some(request) = self.requests.recv(), if room => {
                    self.ask(request)?;
                    // They go out together.
                    while self.has_room() {
                        match self.requests.try_recv() {
                            Ok(request) => self.ask(request)?,
                            Err(_) => break,
                        }
                    }
                }
                _ = self.ping.tick() => {
                    // Behind much that is under way a ping takes long; who talks is not silent.
                    let busy = self.state.await_pingresp && self.heard;
                    self.heard = false;
                    if !busy {
                        self.ask(Request::PingReq)?;
                    }
                }
            }
        }
    }

    fn has_room(&self) -> bool {
        self.state.inflight() < self.in_flight
            && self.state.collision.is_none()
            && self.wire.output.len() < WAITING_BYTES
            && self.wire.writer.is_some()
    }

    fn ask(&mut self, request: Request) -> Result<(), LinkError> {
        let packet = match self.state.handle_outgoing_packet(request) {
            Ok(packet) => packet,
            Err(StateError::AwaitPingResp) => return Err(LinkError::NoAnswer),
            Err(error) => return Err(LinkError::State(error)),
        };
        packet.map_or(Ok(()), |packet| self.wire.put(&packet))
    }
}
