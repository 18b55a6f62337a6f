use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use bytes::{Bytes, BytesMut};
use fleet_api::frame::{Body, Frame, GapReason, Watermark};
use fleet_api::ids::NodeId;
use fleet_api::topic::NodeTopic;
use rumqttc::v5::mqttbytes::v5::{
    ConnAck, ConnAckProperties, ConnectReturnCode, Packet, PingResp, PubAck, PubAckReason, Publish,
    SubAck, SubscribeReasonCode,
};
use rumqttc::v5::mqttbytes::{Error, QoS};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

/// How the broker and the receiver behind it misbehave.
#[derive(Debug, Clone, Default)]
pub(super) struct Manners {
    /// Each connection is cut after so many publishes, the last one unanswered.
    pub reset_after: Option<u32>,
    /// Each connection is not read any more after so many publishes.
    pub silent_after: Option<u32>,
    /// The receiver loses so many frames that the broker has acknowledged.
    pub forget_first: u32,
    /// Publishes of this stream are answered with this reason and dropped.
    pub refuse: Option<(&'static str, PubAckReason)>,
    /// The receiver never acknowledges.
    pub no_watermark: bool,
    /// What CONNACK says.
    pub max_packet: Option<u32>,
    /// Connections are closed at once.
    pub closed: bool,
    /// Connections are closed at a publish that is larger, with `goodbye`.
    pub break_above: Option<usize>,
    /// The bytes before that; none is a close without a word.
    pub goodbye: &'static [u8],
    /// Connections are taken over by another client as soon as they subscribe.
    pub taken_over: bool,
    /// Bytes that the link carries in a second; what was sent waits on the way.
    pub bytes_per_s: Option<u32>,
}

/// One broker with one receiver behind it, as strict as the archive.
pub(super) struct Broker {
    pub port: u16,
    state: Arc<Mutex<State>>,
    _accept: tokio::task::JoinSet<()>,
}

#[derive(Default)]
struct State {
    manners: Manners,
    connections: u32,
    holes: u32,
    streams: BTreeMap<String, Archive>,
}

#[derive(Default)]
struct Archive {
    epoch: u64,
    watermark: u64,
    records: BTreeMap<u64, Bytes>,
    gaps: Vec<(u64, u64, GapReason)>,
}

impl Broker {
    pub(super) async fn start(manners: Manners) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let state = Arc::new(Mutex::new(State {
            manners,
            ..State::default()
        }));
        let shared = Arc::clone(&state);
        let mut accept = tokio::task::JoinSet::new();
        accept.spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            loop {
                let (socket, _) = listener.accept().await.unwrap();
                connections.spawn(serve(socket, Arc::clone(&shared)));
            }
        });
        Self {
            port,
            state,
            _accept: accept,
        }
    }

    pub(super) fn set(&self, manners: Manners) {
        self.state.lock().unwrap().manners = manners;
    }

    pub(super) fn connections(&self) -> u32 {
        self.state.lock().unwrap().connections
    }

    /// Frames that came before their predecessors.
    pub(super) fn holes(&self) -> u32 {
        self.state.lock().unwrap().holes
    }

    pub(super) fn archived(&self, stream: &str) -> usize {
        let state = self.state.lock().unwrap();
        state.streams.get(stream).map_or(0, |a| a.records.len())
    }

    /// The kinds of events that have come, with the streams that they are about.
    pub(super) fn told(&self) -> Vec<(String, Option<String>)> {
        let state = self.state.lock().unwrap();
        let events = state.streams.get("events").map(|archive| &archive.records);
        events
            .into_iter()
            .flat_map(BTreeMap::values)
            .map(|value| {
                let event: fleet_api::event::Event = serde_json::from_slice(value).unwrap();
                (event.kind, event.stream)
            })
            .collect()
    }

    pub(super) fn gaps(&self, stream: &str) -> Vec<(u64, u64, GapReason)> {
        self.state.lock().unwrap().streams[stream].gaps.clone()
    }
}

impl State {
    /// What the receiver does with a frame; its watermark afterwards.
    fn receive(&mut self, stream: &str, payload: &Bytes) -> Watermark {
        let frame = Frame::decode(stream, payload).unwrap();
        let archive = self.streams.entry(stream.to_owned()).or_default();
        archive.epoch = frame.epoch;
        let (first, last) = (frame.first, frame.last());
        if self.manners.forget_first > 0 {
            self.manners.forget_first -= 1;
        } else if first > archive.watermark + 1 {
            self.holes += 1;
        } else if last > archive.watermark {
            match frame.body {
                Body::Records(records) => {
                    let new = (first..).zip(records);
                    let new = new.filter(|(seq, _)| *seq > archive.watermark);
                    archive.records.extend(new.map(|(seq, r)| (seq, r.value)));
                }
                Body::Gap(gap) => archive.gaps.push((first, gap.last, gap.reason)),
            }
            archive.watermark = last;
        }
        Watermark::new(archive.epoch, archive.watermark)
    }
}

/// Serves a connection until it breaks or the manners say so.
async fn serve(mut socket: TcpStream, state: Arc<Mutex<State>>) {
    state.lock().unwrap().connections += 1;
    let mut input = BytesMut::new();
    let mut publishes = 0;
    loop {
        let packet = match Packet::read(&mut input, Some(1 << 20)) {
            Ok(packet) => packet,
            Err(Error::InsufficientBytes(_)) => {
                let read = tokio::time::timeout(
                    std::time::Duration::from_millis(50),
                    socket.read_buf(&mut input),
                );
                match read.await {
                    Ok(Ok(0) | Err(_)) => return,
                    Ok(Ok(_)) => {}
                    // A look at the manners now and then.
                    Err(_) if state.lock().unwrap().manners.closed => return,
                    Err(_) => {}
                }
                continue;
            }
            Err(error) => panic!("the client sends nonsense: {error}"),
        };
        let manners = state.lock().unwrap().manners.clone();
        if manners.closed {
            return;
        }
        let mut output = BytesMut::new();
        match packet {
            Packet::Connect(connect, _, _) => {
                assert_eq!(connect.client_id, "n1.data");
                assert!(connect.clean_start);
                connack(manners.max_packet)
                    .write(&mut output, None)
                    .unwrap();
            }
            Packet::Subscribe(subscribe) => {
                let suback = Packet::SubAck(SubAck {
                    pkid: subscribe.pkid,
                    return_codes: vec![SubscribeReasonCode::Success(QoS::AtLeastOnce)],
                    properties: None,
                });
                suback.write(&mut output, None).unwrap();
                if manners.taken_over {
                    // DISCONNECT, 142 session taken over, in its short form.
                    output.extend_from_slice(&[0xE0, 1, 142]);
                }
                let state = state.lock().unwrap();
                for (stream, archive) in &state.streams {
                    let watermark = Watermark::new(archive.epoch, archive.watermark);
                    ack(stream, watermark).write(&mut output, None).unwrap();
                }
            }
            Packet::Publish(publish) => {
                publishes += 1;
                if manners.silent_after.is_some_and(|n| publishes > n) {
                    std::future::pending::<()>().await;
                }
                let topic = String::from_utf8(publish.topic.to_vec()).unwrap();
                let stream = match NodeTopic::parse(&topic) {
                    Some((_, NodeTopic::Stream(stream))) => stream,
                    Some((_, NodeTopic::Events)) => "events".parse().unwrap(),
                    _ => panic!("{topic} is no stream's topic"),
                };
                let bytes = publish.payload.len();
                if manners.break_above.is_some_and(|limit| bytes > limit) {
                    let _ = socket.write_all(manners.goodbye).await;
                    return;
                }
                if let Some(rate) = manners.bytes_per_s {
                    let takes = bytes as f64 / f64::from(rate);
                    tokio::time::sleep(std::time::Duration::from_secs_f64(takes)).await;
                }
                let mut puback = PubAck::new(publish.pkid, None);
                match manners.refuse {
                    Some((refused, reason)) if refused == stream.as_str() => puback.reason = reason,
                    _ => {
                        let mut state = state.lock().unwrap();
                        let watermark = state.receive(stream.as_str(), &publish.payload);
                        if !manners.no_watermark && watermark.sequence > 0 {
                            let ack = ack(stream.as_str(), watermark);
                            ack.write(&mut output, None).unwrap();
                        }
                    }
                }
                if manners.reset_after.is_some_and(|n| publishes > n) {
                    return;
                }
                Packet::PubAck(puback).write(&mut output, None).unwrap();
            }
            Packet::PingReq(_) => {
                Packet::PingResp(PingResp).write(&mut output, None).unwrap();
            }
            Packet::Disconnect(_) => return,
            _ => {}
        }
        if socket.write_all(&output).await.is_err() {
            return;
        }
    }
}

fn connack(max_packet: Option<u32>) -> Packet {
    let properties = ConnAckProperties {
        session_expiry_interval: None,
        receive_max: Some(40),
        max_qos: None,
        retain_available: None,
        max_packet_size: max_packet,
        assigned_client_identifier: None,
        topic_alias_max: None,
        reason_string: None,
        user_properties: Vec::new(),
        wildcard_subscription_available: None,
        subscription_identifiers_available: None,
        shared_subscription_available: None,
        server_keep_alive: None,
        response_information: None,
        server_reference: None,
        authentication_method: None,
        authentication_data: None,
    };
    Packet::ConnAck(ConnAck {
        session_present: false,
        code: ConnectReturnCode::Success,
        properties: Some(properties),
    })
}

fn ack(stream: &str, watermark: Watermark) -> Packet {
    let node = NodeId::new("n1").unwrap();
    let topic = NodeTopic::StreamAck(stream.parse().unwrap()).name(&node);
    let payload = serde_json::to_vec(&watermark).unwrap();
    Packet::Publish(Publish::new(topic, QoS::AtMostOnce, payload, None))
}
