use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::time::Duration;

use fleet_api::deployment::Ack;
use fleet_api::event::EventKind;
use fleet_api::frame::{GapReason, MAX_FRAME_BYTES, Watermark};
use fleet_api::ids::StreamName;
use fleet_api::topic::{self, NodeTopic};
use fleet_mqtt::{Client, Connected, Event, Events, Protocol, Refusal, Session};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use super::lanes::{Lanes, Next};
use super::suspect::{FrameId, Suspect};
use super::window::{Throttle, Window};
use super::{Timing, UplinkConfig, UplinkHandle};
use crate::streams::{AppendError, OutFrame, Outlook, Streams};

/// Frames in flight at most.
const WINDOW_FRAMES: usize = 256;
/// Frames that are read from the buffer at once.
const FETCH_FRAMES: usize = 16;
/// The largest packet that the broker may send; watermarks are small.
const INCOMING_BYTES: u32 = 256 * 1024;
/// What a PUBLISH has beside topic and payload, generously.
const PUBLISH_BYTES: usize = 64;
/// How long the broker may take to end a connection that was ended properly.
const GOODBYE: Duration = Duration::from_secs(1);

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
pub(super) enum UplinkError {
    #[error(transparent)]
    Mqtt(#[from] fleet_mqtt::Error),
    #[error("the broker refuses the subscription to watermarks: {0}")]
    Subscription(Refusal),
    #[error("the broker did not acknowledge a frame in time")]
    NoPuback,
    #[error("the broker acknowledges frames out of order")]
    OutOfOrder,
    #[error("the buffer cannot be read")]
    Buffer(#[source] AppendError),
}

struct InFlight {
    stream: String,
    first: u64,
    last: u64,
    bytes: usize,
    sent_at: Instant,
}

struct Connection<'a> {
    config: &'a UplinkConfig,
    timing: &'a Timing,
    streams: &'a Streams,
    handle: &'a UplinkHandle,
    suspect: &'a mut Suspect,
    client: Client,
    protocol: Protocol,
    lanes: Lanes,
    /// Handed to the client, which has not given them a packet id yet.
    queued: VecDeque<InFlight>,
    in_flight: HashMap<u16, InFlight>,
    flight_bytes: usize,
    window: Window,
    throttle: Throttle,
    largest_packet: usize,
    subscribed: bool,
    /// Until when nothing is sent, so that the connection shows that it holds.
    quiet: Option<Instant>,
    /// Up to where streams can be released on the broker's word.
    taken: BTreeMap<String, u64>,
    /// Streams that want the broker's word, which this protocol does not give.
    without_word: BTreeSet<String>,
}

type Received = mpsc::Receiver<Result<Event, UplinkError>>;

/// One connection from CONNECT to its end; `Ok` only when asked to stop.
pub(super) async fn run(
    config: &UplinkConfig,
    timing: &Timing,
    streams: &Streams,
    handle: &UplinkHandle,
    suspect: &mut Suspect,
    stop: &CancellationToken,
) -> Result<(), UplinkError> {
    let session = Session {
        client_id: topic::data_client_id(&config.node),
        keep_alive: timing.keep_alive,
        connect: timing.connect,
        incoming_bytes: INCOMING_BYTES,
        in_flight: u16::try_from(4 * WINDOW_FRAMES).unwrap_or(u16::MAX),
        will: None,
        kept: None,
    };
    let connected = tokio::select! {
        () = stop.cancelled() => return Ok(()),
        connected = config.broker.connect(&session) => connected?,
    };
    let Connected {
        client,
        events,
        protocol,
        receive_max,
        max_packet,
    } = connected;
    let (sender, mut received) = mpsc::channel(2 * WINDOW_FRAMES);
    let watchdog = 2 * timing.keep_alive + timing.connect;
    // A task of its own: a poll that is cancelled halfway may lose a packet.
    let mut poller = JoinSet::new();
    poller.spawn(poll(events, sender, watchdog));

    client.subscribe(vec![topic::acks_filter(&config.node)])?;
    let frames = receive_max.map_or(WINDOW_FRAMES, usize::from);
    let mut connection = Connection {
        config,
        timing,
        streams,
        handle,
        suspect,
        client,
        protocol,
        lanes: Lanes::new(timing.stall),
        queued: VecDeque::new(),
        in_flight: HashMap::new(),
        flight_bytes: 0,
        window: Window::new(config.window, frames.clamp(1, WINDOW_FRAMES)),
        throttle: Throttle::new(config.rate),
        largest_packet: max_packet.unwrap_or(2 * MAX_FRAME_BYTES),
        subscribed: false,
        quiet: None,
        taken: BTreeMap::new(),
        without_word: BTreeSet::new(),
    };
    tracing::info!(broker = config.broker.name(), %protocol, "the data connection stands");
    let result = connection.forward(&mut received, stop).await;
    match &result {
        Ok(()) => {
            if connection.client.disconnect().is_ok() {
                let goodbye =
                    async { while received.recv().await.is_some_and(|event| event.is_ok()) {} };
                // It is over either way.
                let _ = timeout(GOODBYE, goodbye).await;
            }
        }
        Err(error) => connection.after(error).await?,
    }
    result
}

async fn poll(
    mut events: Events,
    sender: mpsc::Sender<Result<Event, UplinkError>>,
    watchdog: Duration,
) {
    loop {
        let event = match timeout(watchdog, events.poll()).await {
            Ok(event) => event.map_err(UplinkError::from),
            Err(_) => Err(fleet_mqtt::Error::Silent.into()),
        };
        let ended = event.is_err();
        if sender.send(event).await.is_err() || ended {
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
            let outlook = self.outlook();
            self.lanes.update(&outlook, Instant::now());
            let later = self.fill().await?;
            let later = async {
                match later {
                    Some(later) => sleep_until(later).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                event = received.recv() => {
                    let all_well = self.on_events(event, received);
                    self.release();
                    all_well?;
                }
                Ok(()) = changed.changed() => {}
                () = later => {}
                _ = tick.tick() => self.on_tick()?,
            }
        }
    }

    /// What there is to forward. In 3.1.1 a broker acknowledges what it refuses, so that only
    /// the receiver's word counts there.
    fn outlook(&mut self) -> Vec<Outlook> {
        let mut outlook = self.streams.outlook();
        if self.protocol == Protocol::V5 {
            return outlook;
        }
        for stream in &mut outlook {
            if stream.ack == Ack::Broker {
                stream.ack = Ack::Consumer;
                if self.without_word.insert(stream.name.to_string()) {
                    let text = "ack = broker needs MQTT 5 and this broker speaks 3.1.1: records wait for the receiver's watermark";
                    tracing::warn!(stream = %stream.name, text);
                    let events = self.streams.events();
                    events.note(EventKind::Broker, Some(stream.name.as_str()), text);
                }
            }
        }
        outlook
    }

    /// Sends while window and rate have room; says when to try again, if that is known.
    async fn fill(&mut self) -> Result<Option<Instant>, UplinkError> {
        if !self.subscribed {
            return Ok(None);
        }
        if let Some((suspect, _)) = self.suspect.alone() {
            let suspect = suspect.clone();
            return self.send_alone(suspect).await;
        }
        loop {
            let now = Instant::now();
            if !self.window.has_room(self.flight(), self.flight_bytes) {
                return Ok(None);
            }
            if let Some(until) = self.throttle.until(now) {
                return Ok(Some(until));
            }
            match self.lanes.next(now) {
                None => return Ok(None),
                Some(Next::Fetch { stream, from }) => {
                    let frames = self.read(&stream, from, FETCH_FRAMES).await?;
                    self.lanes.fetched(&stream, from, frames);
                }
                Some(Next::Send {
                    stream,
                    frame,
                    again,
                }) => {
                    self.handle.count(0, u64::from(again));
                    self.send(stream, frame).await?;
                }
            }
        }
    }

    /// Sends the frame on which connections break, with nothing beside it, once this one has
    /// held for a while without it.
    async fn send_alone(
        &mut self,
        (stream, first): FrameId,
    ) -> Result<Option<Instant>, UplinkError> {
        if self.flight() > 0 {
            return Ok(None);
        }
        let now = Instant::now();
        let silence = self
            .suspect
            .alone()
            .map_or(Duration::ZERO, |(_, time)| time);
        let until = *self.quiet.get_or_insert(now + silence);
        if now < until {
            return Ok(Some(until));
        }
        let frame = self.read(&stream, first, 1).await?.into_iter().next();
        let low = self.streams.outlook();
        let low = low.iter().find(|s| s.name.as_str() == stream);
        match frame.filter(|frame| frame.first == first && low.is_some_and(|s| s.acked < first)) {
            Some(frame) => self.send(stream, frame).await?,
            // It is not there any more: nothing to suspect.
            None => self.suspect.clear(),
        }
        Ok(None)
    }

    async fn send(&mut self, stream: String, frame: OutFrame) -> Result<(), UplinkError> {
        let topic = self.topic(&stream);
        let bytes = frame.bytes.len();
        if topic.len() + bytes + PUBLISH_BYTES > self.largest_packet {
            let limit = self.largest_packet;
            let why = format!("the broker takes no packet above {limit} bytes");
            self.set_aside(&stream, frame.first, &why).await?;
            self.lanes.refused(&stream, Instant::now());
            return Ok(());
        }
        self.client.publish(topic, false, frame.bytes)?;
        let now = Instant::now();
        self.throttle.sent(bytes, now);
        self.flight_bytes += bytes;
        self.queued.push_back(InFlight {
            stream,
            first: frame.first,
            last: frame.last,
            bytes,
            sent_at: now,
        });
        Ok(())
    }

    async fn read(
        &self,
        stream: &str,
        from: u64,
        most: usize,
    ) -> Result<Vec<OutFrame>, UplinkError> {
        let frames = self.streams.frames(stream, from, most).await;
        frames.map_err(UplinkError::Buffer)
    }

    fn flight(&self) -> usize {
        self.queued.len() + self.in_flight.len()
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
    async fn set_aside(&self, stream: &str, first: u64, why: &str) -> Result<(), UplinkError> {
        tracing::error!(stream, first, why, "a gap takes a frame's place");
        let frames = self.read(stream, first, 1).await?;
        let frame = frames.into_iter().find(|frame| frame.first == first);
        let kept = match frame {
            Some(frame) => super::aside::keep(self.streams.folder(), stream, frame).await,
            None => None,
        };
        self.streams
            .repair(stream, first, Some(GapReason::TooLarge))
            .await
            .map_err(UplinkError::Buffer)?;
        let kept = kept.map_or_else(String::new, |file| {
            format!("; it lies in {}", file.display())
        });
        let text = format!("the frame at {first} cannot be forwarded: {why}{kept}");
        let events = self.streams.events();
        events.note(EventKind::Poison, Some(stream), text);
        Ok(())
    }

    /// Takes in an event and those that came meanwhile, which need no look at the buffer each.
    fn on_events(
        &mut self,
        event: Option<Result<Event, UplinkError>>,
        received: &mut Received,
    ) -> Result<(), UplinkError> {
        self.on_event(event)?;
        while let Ok(event) = received.try_recv() {
            self.on_event(Some(event))?;
        }
        Ok(())
    }

    fn on_event(&mut self, event: Option<Result<Event, UplinkError>>) -> Result<(), UplinkError> {
        match event.unwrap_or_else(|| Err(fleet_mqtt::Error::Silent.into()))? {
            Event::Sent(id) => {
                if let Some(frame) = self.queued.pop_front() {
                    self.in_flight.insert(id, frame);
                }
            }
            Event::Collision => return Err(UplinkError::OutOfOrder),
            Event::Acknowledged(id, result) => self.on_puback(id, result),
            Event::Message { topic, payload, .. } => self.on_watermark(&topic, &payload),
            Event::Subscribed(granted) => {
                if let Some(refused) = granted.into_iter().find_map(Result::err) {
                    return Err(UplinkError::Subscription(refused));
                }
                self.subscribed = true;
                self.handle.connected();
            }
            Event::Other => {}
        }
        Ok(())
    }

    fn on_puback(&mut self, id: u16, result: Result<(), Refusal>) {
        let Some(frame) = self.in_flight.remove(&id) else {
            return;
        };
        self.flight_bytes -= frame.bytes;
        self.suspect.acknowledged(&frame.stream, frame.first);
        let now = Instant::now();
        self.window
            .acknowledged(frame.bytes, now.duration_since(frame.sent_at), now);
        match result {
            Ok(()) => {
                self.handle.count(1, 0);
                if let Some(upto) = self.lanes.taken(&frame.stream, frame.last, now) {
                    self.taken.insert(frame.stream, upto);
                }
            }
            Err(reason) => {
                tracing::warn!(
                    stream = frame.stream,
                    %reason,
                    "the broker refuses a frame: its stream waits"
                );
                let text = format!("the broker refuses its frames ({reason}): they wait");
                let events = self.streams.events();
                events.note(EventKind::Refusal, Some(&frame.stream), text);
                self.lanes.refused(&frame.stream, now);
            }
        }
    }

    /// Releases what the broker has taken: once for all that came together.
    fn release(&mut self) {
        let epoch = self.streams.epoch();
        for (stream, upto) in std::mem::take(&mut self.taken) {
            self.streams.release_later(&stream, epoch, upto);
        }
    }

    fn on_watermark(&self, topic: &str, payload: &[u8]) {
        let Some((node, NodeTopic::StreamAck(stream))) = NodeTopic::parse(topic) else {
            return;
        };
        if node != self.config.node {
            return;
        }
        match serde_json::from_slice::<Watermark>(payload) {
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

    /// Looks whether a frame was to blame for the end of the connection. Only the broker's
    /// hanging up without a word, or its word that it was a packet, is held against frames:
    /// a takeover, a shutdown, a spent quota or what cannot be read says nothing about them.
    async fn after(&mut self, error: &UplinkError) -> Result<(), UplinkError> {
        let broke = matches!(
            error,
            UplinkError::Mqtt(fleet_mqtt::Error::Broken(_) | fleet_mqtt::Error::Rejected(_))
        );
        if !broke {
            self.suspect.clear();
            return Ok(());
        }
        let mut waiting: Vec<_> = self.in_flight.values().chain(&self.queued).collect();
        waiting.sort_by_key(|frame| frame.sent_at);
        let held = waiting
            .first()
            .map_or(Duration::ZERO, |frame| frame.sent_at.elapsed());
        let mut heads: Vec<FrameId> = Vec::new();
        for frame in waiting {
            if !heads.iter().any(|(stream, _)| *stream == frame.stream) {
                heads.push((frame.stream.clone(), frame.first));
            }
        }
        if let Some((stream, first)) = self.suspect.broke(&heads, held) {
            let why = "the broker breaks every connection on which it is sent";
            self.set_aside(&stream, first, why).await?;
        }
        Ok(())
    }
}
