use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use fleet_api::frame::{GapReason, MAX_FRAME_BYTES, Watermark};
use fleet_api::ids::StreamName;
use fleet_api::topic::{self, NodeTopic};
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::{
    ConnAck, ConnectReturnCode, Packet, PubAck, PubAckReason, Publish, SubscribeReasonCode,
};
use rumqttc::v5::{AsyncClient, ClientError, ConnectionError, Event, EventLoop, MqttOptions};
use rumqttc::{Outgoing, TlsConfiguration, Transport};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;

use super::lanes::{Lanes, Next};
use super::{Timing, UplinkConfig, UplinkHandle};
use crate::streams::{AppendError, Streams};

/// Frames in flight at most.
const WINDOW_FRAMES: usize = 256;
/// Bytes in flight at most, but for one frame.
const WINDOW_BYTES: usize = 1 << 20;
/// Frames that are read from the buffer at once.
const FETCH_FRAMES: usize = 64;
/// The largest packet that the broker may send; watermarks are small.
const INCOMING_BYTES: u32 = 256 * 1024;
/// What a PUBLISH has beside topic and payload, generously.
const PUBLISH_BYTES: usize = 64;
/// How long the broker may take to end a connection that was ended properly.
const GOODBYE: Duration = Duration::from_secs(1);

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
pub(super) enum UplinkError {
    #[error("the broker {0} is not reachable")]
    Connect(String, #[source] Box<ConnectionError>),
    #[error("the broker refuses the connection with {0:?}")]
    Refused(ConnectReturnCode),
    #[error("the broker refuses the subscription to watermarks with {0:?}")]
    Subscription(SubscribeReasonCode),
    #[error("the connection to the broker broke")]
    Broken(#[source] Box<ConnectionError>),
    #[error("the broker was silent for too long")]
    Silent,
    #[error("the broker did not acknowledge a frame in time")]
    NoPuback,
    #[error("the broker acknowledges frames out of order")]
    OutOfOrder,
    #[error("the client does not take a request")]
    Client(#[source] Box<ClientError>),
    #[error("the buffer cannot be read")]
    Buffer(#[source] AppendError),
}

struct InFlight {
    stream: String,
    last: u64,
    bytes: usize,
    sent_at: Instant,
}

struct Connection<'a> {
    config: &'a UplinkConfig,
    timing: &'a Timing,
    streams: &'a Streams,
    handle: &'a UplinkHandle,
    client: AsyncClient,
    lanes: Lanes,
    /// Handed to the client, which has not given them a packet id yet.
    queued: VecDeque<InFlight>,
    in_flight: HashMap<u16, InFlight>,
    flight_bytes: usize,
    window: usize,
    largest_packet: usize,
}

type Received = mpsc::Receiver<Result<Event, UplinkError>>;

/// One connection from CONNECT to its end; `Ok` only when asked to stop.
pub(super) async fn run(
    config: &UplinkConfig,
    timing: &Timing,
    streams: &Streams,
    handle: &UplinkHandle,
    stop: &CancellationToken,
) -> Result<(), UplinkError> {
    let (client, event_loop) = AsyncClient::new(options(config, timing), 2 * WINDOW_FRAMES);
    let (events, mut received) = mpsc::channel(2 * WINDOW_FRAMES);
    let watchdog = 2 * timing.keep_alive + timing.connect;
    // A task of its own: a poll that is cancelled halfway may lose a packet.
    let mut poller = JoinSet::new();
    poller.spawn(poll(event_loop, events, watchdog));

    let broker = format!("{}:{}", config.host, config.port);
    let connack = tokio::select! {
        () = stop.cancelled() => return Ok(()),
        event = received.recv() => match event {
            Some(Ok(Event::Incoming(Packet::ConnAck(connack)))) => connack,
            Some(Err(UplinkError::Broken(error))) => return Err(refusal(broker, *error)),
            Some(Err(error)) => return Err(error),
            Some(Ok(_)) | None => return Err(UplinkError::Silent),
        }
    };
    client
        .try_subscribe(topic::acks_filter(&config.node), QoS::AtLeastOnce)
        .map_err(|e| UplinkError::Client(Box::new(e)))?;
    let (window, largest_packet) = limits(&connack);
    let mut connection = Connection {
        config,
        timing,
        streams,
        handle,
        client,
        lanes: Lanes::new(timing.stall),
        queued: VecDeque::new(),
        in_flight: HashMap::new(),
        flight_bytes: 0,
        window,
        largest_packet,
    };
    tracing::info!(broker, "the data connection stands");
    let result = connection.forward(&mut received, stop).await;
    if result.is_ok() && connection.client.try_disconnect().is_ok() {
        let goodbye = async { while received.recv().await.is_some_and(|event| event.is_ok()) {} };
        // It is over either way.
        let _ = timeout(GOODBYE, goodbye).await;
    }
    result
}

async fn poll(
    mut event_loop: EventLoop,
    events: mpsc::Sender<Result<Event, UplinkError>>,
    watchdog: Duration,
) {
    loop {
        let event = match timeout(watchdog, event_loop.poll()).await {
            Ok(Ok(event)) => Ok(event),
            Ok(Err(error)) => Err(UplinkError::Broken(Box::new(error))),
            Err(_) => Err(UplinkError::Silent),
        };
        let ended = event.is_err();
        if events.send(event).await.is_err() || ended {
            return;
        }
    }
}

impl Connection<'_> {
    async fn forward(
        &mut self,
        received: &mut Received,
        stop: &CancellationToken,
    ) -> Result<(), UplinkError> {
        let mut changed = self.streams.changed();
        let mut tick = interval(self.timing.stall.min(self.timing.puback) / 30);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            changed.mark_unchanged();
            self.lanes.update(&self.streams.outlook(), Instant::now());
            self.fill().await?;
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                event = received.recv() => {
                    self.on_event(event)?;
                    // Those that came meanwhile need no look at the buffer each.
                    while let Ok(event) = received.try_recv() {
                        self.on_event(Some(event))?;
                    }
                }
                Ok(()) = changed.changed() => {}
                _ = tick.tick() => self.on_tick()?,
            }
        }
    }

    /// Sends while the window has room.
    async fn fill(&mut self) -> Result<(), UplinkError> {
        while self.queued.len() + self.in_flight.len() < self.window
            && self.flight_bytes < WINDOW_BYTES
        {
            match self.lanes.next(Instant::now()) {
                None => break,
                Some(Next::Fetch { stream, from }) => {
                    let frames = self
                        .streams
                        .frames(&stream, from, FETCH_FRAMES)
                        .await
                        .map_err(UplinkError::Buffer)?;
                    self.lanes.fetched(&stream, from, frames);
                }
                Some(Next::Send {
                    stream,
                    frame,
                    again,
                }) => {
                    let topic = self.topic(&stream);
                    let bytes = frame.bytes.len();
                    if topic.len() + bytes + PUBLISH_BYTES > self.largest_packet {
                        self.give_up(&stream, frame.first, bytes).await?;
                        continue;
                    }
                    self.client
                        .try_publish(topic, QoS::AtLeastOnce, false, frame.bytes)
                        .map_err(|e| UplinkError::Client(Box::new(e)))?;
                    self.handle.count(0, u64::from(again));
                    self.flight_bytes += bytes;
                    self.queued.push_back(InFlight {
                        stream,
                        last: frame.last,
                        bytes,
                        sent_at: Instant::now(),
                    });
                }
            }
        }
        Ok(())
    }

    fn topic(&self, stream: &str) -> String {
        let node = &self.config.node;
        StreamName::new(stream).map_or_else(
            // A name out of the buffer was checked before it got there.
            |_| format!("{}/{node}/streams/{stream}", topic::ROOT),
            |stream| NodeTopic::of_stream(stream).name(node),
        )
    }

    /// A frame that this broker can never take would stop its stream for ever.
    async fn give_up(&mut self, stream: &str, first: u64, bytes: usize) -> Result<(), UplinkError> {
        tracing::error!(
            stream,
            first,
            bytes,
            limit = self.largest_packet,
            "the broker takes no packet of this size: a gap takes the record's place"
        );
        self.streams
            .repair(stream, first, Some(GapReason::TooLarge))
            .await
            .map_err(UplinkError::Buffer)?;
        self.lanes.refused(stream, Instant::now());
        Ok(())
    }

    fn on_event(&mut self, event: Option<Result<Event, UplinkError>>) -> Result<(), UplinkError> {
        match event.unwrap_or(Err(UplinkError::Silent))? {
            Event::Outgoing(Outgoing::Publish(pkid)) => {
                if let Some(frame) = self.queued.pop_front() {
                    self.in_flight.insert(pkid, frame);
                }
            }
            Event::Outgoing(Outgoing::AwaitAck(_)) => return Err(UplinkError::OutOfOrder),
            Event::Incoming(Packet::PubAck(puback)) => self.on_puback(&puback),
            Event::Incoming(Packet::Publish(publish)) => self.on_watermark(&publish),
            Event::Incoming(Packet::SubAck(suback)) => {
                for code in suback.return_codes {
                    if !matches!(code, SubscribeReasonCode::Success(_)) {
                        return Err(UplinkError::Subscription(code));
                    }
                }
                self.handle.connected();
            }
            _ => {}
        }
        Ok(())
    }

    fn on_puback(&mut self, puback: &PubAck) {
        let Some(frame) = self.in_flight.remove(&puback.pkid) else {
            return;
        };
        self.flight_bytes -= frame.bytes;
        let now = Instant::now();
        match puback.reason {
            PubAckReason::Success => {
                self.handle.count(1, 0);
                if let Some(upto) = self.lanes.taken(&frame.stream, frame.last, now) {
                    let epoch = self.streams.epoch();
                    self.streams.release_later(&frame.stream, epoch, upto);
                }
            }
            reason => {
                tracing::warn!(
                    stream = frame.stream,
                    ?reason,
                    "the broker refuses a frame: its stream waits"
                );
                self.lanes.refused(&frame.stream, now);
            }
        }
    }

    fn on_watermark(&self, publish: &Publish) {
        let topic = String::from_utf8_lossy(&publish.topic);
        let Some((node, NodeTopic::StreamAck(stream))) = NodeTopic::parse(&topic) else {
            return;
        };
        if node != self.config.node {
            return;
        }
        match serde_json::from_slice::<Watermark>(&publish.payload) {
            Ok(Watermark {
                v: 1,
                epoch,
                sequence,
            }) => self.streams.release_later(stream.as_str(), epoch, sequence),
            Ok(other) => tracing::warn!(%stream, v = other.v, "cannot read a newer watermark"),
            Err(error) => tracing::warn!(%stream, %error, "cannot read a watermark"),
        }
    }

    fn on_tick(&mut self) -> Result<(), UplinkError> {
        let now = Instant::now();
        let mut waiting = self.in_flight.values().chain(&self.queued);
        if waiting.any(|frame| now.duration_since(frame.sent_at) > self.timing.puback) {
            return Err(UplinkError::NoPuback);
        }
        for stream in self.lanes.resend_stalled(now) {
            tracing::warn!(
                stream,
                "the receiver's watermark does not move: sending again"
            );
        }
        Ok(())
    }
}

fn options(config: &UplinkConfig, timing: &Timing) -> MqttOptions {
    let client_id = topic::data_client_id(&config.node);
    let mut options = MqttOptions::new(client_id, config.host.as_str(), config.port);
    let inflight = u16::try_from(4 * WINDOW_FRAMES).unwrap_or(u16::MAX);
    options
        .set_clean_start(true)
        .set_keep_alive(timing.keep_alive)
        .set_connection_timeout(timing.connect.as_secs().max(1))
        .set_max_packet_size(Some(INCOMING_BYTES))
        .set_outgoing_inflight_upper_limit(inflight);
    if let Some(tls) = &config.tls {
        let tls = TlsConfiguration::Rustls(Arc::clone(tls));
        options.set_transport(Transport::tls_with_config(tls));
    }
    options
}

/// How much the broker takes: frames in flight, and bytes of a packet.
fn limits(connack: &ConnAck) -> (usize, usize) {
    let properties = connack.properties.as_ref();
    let receive = properties.and_then(|p| p.receive_max).map(usize::from);
    let packet = properties.and_then(|p| p.max_packet_size);
    (
        receive.unwrap_or(WINDOW_FRAMES).clamp(1, WINDOW_FRAMES),
        packet.map_or(2 * MAX_FRAME_BYTES, |bytes| bytes as usize),
    )
}

fn refusal(broker: String, error: ConnectionError) -> UplinkError {
    match error {
        ConnectionError::ConnectionRefused(code) => UplinkError::Refused(code),
        error => UplinkError::Connect(broker, Box::new(error)),
    }
}
