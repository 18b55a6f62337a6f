mod broker;

use std::path::Path;

use fleet_api::deployment::Ack;
use fleet_api::desired::StreamSpec;
use fleet_api::event;
use fleet_api::frame::{Encoding, GapReason};
use fleet_api::ids::StreamName;
use rumqttc::v5::mqttbytes::v5::PubAckReason;

use self::broker::{Broker, Manners};
use super::*;
use crate::streams::{BufferConfig, NewRecord};

/// How long the tests' node gives way.
const GIVE_WAY: Duration = Duration::from_secs(2);

struct Node {
    streams: Streams,
    handle: UplinkHandle,
    stop: CancellationToken,
    task: tokio::task::JoinHandle<()>,
    dir: tempfile::TempDir,
}

fn spec(name: &str) -> StreamSpec {
    StreamSpec::named(StreamName::new(name).unwrap())
}

impl Node {
    fn start(port: u16, specs: &[StreamSpec]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let specs: Vec<_> = specs.iter().cloned().chain([event::stream()]).collect();
        let streams = open(dir.path(), &specs);
        let config = UplinkConfig {
            node: NodeId::new("n1").unwrap(),
            broker: fleet_mqtt::Broker {
                host: "127.0.0.1".to_owned(),
                port,
                tls: None,
                protocol: None,
                credentials: None,
            },
            rate: None,
            window: UplinkConfig::WINDOW,
        };
        let timing = Timing {
            keep_alive: Duration::from_secs(5),
            connect: Duration::from_secs(2),
            puback: Duration::from_millis(600),
            stall: Duration::from_millis(300),
            backoff_min: Duration::from_millis(5),
            backoff_max: Duration::from_millis(50),
            give_way: GIVE_WAY,
        };
        let handle = UplinkHandle::default();
        let stop = CancellationToken::new();
        let run = run_timed(
            config,
            timing,
            streams.clone(),
            handle.clone(),
            stop.clone(),
        );
        tokio::spawn(crate::events::run(streams.clone(), stop.clone()));
        Self {
            streams,
            handle,
            stop,
            task: tokio::spawn(run),
            dir,
        }
    }

    async fn append(&self, stream: &str, count: u64, size: usize) {
        let records = (0..count)
            .map(|n| {
                let mut value = n.to_be_bytes().to_vec();
                value.resize(size, 7);
                NewRecord::new(Encoding::Bytes, value)
            })
            .collect();
        self.streams.append(stream, records).await.unwrap();
    }

    fn depth(&self, stream: &str) -> u64 {
        let all = self.streams.health();
        let found = all.iter().find(|h| h.name.as_str() == stream);
        found.map_or(0, |health| health.depth)
    }

    async fn empty(&self, stream: &str) {
        self.until(&format!("{stream} is empty"), || self.depth(stream) == 0)
            .await;
    }

    async fn until(&self, what: &str, mut is_so: impl FnMut() -> bool) {
        let deadline = tokio::time::sleep(Duration::from_secs(30));
        tokio::pin!(deadline);
        let mut poll = tokio::time::interval(Duration::from_millis(10));
        while !is_so() {
            tokio::select! {
                () = &mut deadline => panic!("{what}: not within 30 s; {:?} {:?}", self.handle.health(), self.streams.health()),
                _ = poll.tick() => {}
            }
        }
    }

    async fn end(self) {
        self.stop.cancel();
        self.task.await.unwrap();
        self.streams.close();
    }
}

fn open(dir: &Path, specs: &[StreamSpec]) -> Streams {
    let config = BufferConfig {
        ballast_bytes: 0,
        ..BufferConfig::default()
    };
    let streams = Streams::open(dir, config).unwrap();
    streams.configure(specs);
    streams
}

#[tokio::test]
async fn forwards_in_order_and_frees_on_the_watermark() {
    let broker = Broker::start(Manners::default()).await;
    let node = Node::start(broker.port, &[spec("a"), spec("b")]);
    for _ in 0..20 {
        node.append("a", 100, 100).await;
        node.append("b", 10, 3_000).await;
    }
    node.empty("a").await;
    node.empty("b").await;
    assert_eq!(broker.archived("a"), 2_000);
    assert_eq!(broker.archived("b"), 200);
    assert_eq!(broker.holes(), 0);
    let health = node.handle.health();
    assert!(health.connected && health.published > 0);
    assert_eq!(health.resent, 0);
    node.end().await;
}

#[tokio::test]
async fn nothing_is_lost_through_resets() {
    let broker = Broker::start(Manners {
        reset_after: Some(23),
        ..Manners::default()
    })
    .await;
    let node = Node::start(broker.port, &[spec("a")]);
    for _ in 0..30 {
        node.append("a", 200, 200).await;
    }
    node.empty("a").await;
    assert_eq!(broker.archived("a"), 6_000);
    assert_eq!(broker.holes(), 0);
    assert!(broker.connections() > 5, "{}", broker.connections());
    node.end().await;
}

#[tokio::test]
async fn what_the_broker_took_and_the_receiver_lost_goes_again() {
    let broker = Broker::start(Manners {
        forget_first: 12,
        ..Manners::default()
    })
    .await;
    let node = Node::start(broker.port, &[spec("a")]);
    node.append("a", 1_000, 200).await;
    node.empty("a").await;
    assert_eq!(broker.archived("a"), 1_000);
    assert_eq!(broker.connections(), 1, "on the same connection");
    assert!(node.handle.health().resent >= 12);
    node.end().await;
}

#[tokio::test]
async fn a_refused_stream_is_kept_and_others_go_on() {
    let manners = Manners {
        refuse: Some(("a", PubAckReason::NotAuthorized)),
        ..Manners::default()
    };
    let broker = Broker::start(manners).await;
    let keep = StreamSpec {
        ack: Ack::Broker,
        ..spec("a")
    };
    let node = Node::start(broker.port, &[keep, spec("b")]);
    node.append("a", 100, 100).await;
    node.append("b", 100, 100).await;
    node.empty("b").await;
    assert_eq!(node.depth("a"), 100);
    assert_eq!(broker.connections(), 1);
    node.until("the refusal is told", || {
        broker
            .told()
            .contains(&("refusal".to_owned(), Some("a".to_owned())))
    })
    .await;
    broker.set(Manners::default());
    node.empty("a").await;
    assert_eq!(broker.archived("a"), 100);
    node.end().await;
}

#[tokio::test]
async fn the_brokers_ack_is_enough_where_it_is_configured() {
    let broker = Broker::start(Manners {
        no_watermark: true,
        ..Manners::default()
    })
    .await;
    let by_broker = StreamSpec {
        ack: Ack::Broker,
        ..spec("a")
    };
    let node = Node::start(broker.port, &[by_broker, spec("b")]);
    node.append("a", 500, 100).await;
    node.append("b", 500, 100).await;
    node.empty("a").await;
    assert_eq!(node.depth("b"), 500, "this one waits for its receiver");
    node.end().await;
}

#[tokio::test]
async fn a_broker_that_stops_answering_is_left() {
    let broker = Broker::start(Manners {
        silent_after: Some(5),
        ..Manners::default()
    })
    .await;
    let node = Node::start(broker.port, &[spec("a")]);
    node.append("a", 2_000, 200).await;
    node.until("a second connection", || broker.connections() > 1)
        .await;
    broker.set(Manners::default());
    node.empty("a").await;
    assert_eq!(broker.archived("a"), 2_000);
    node.end().await;
}

#[tokio::test]
async fn a_record_that_the_broker_can_never_take_becomes_a_gap() {
    let broker = Broker::start(Manners {
        max_packet: Some(10_000),
        ..Manners::default()
    })
    .await;
    let node = Node::start(broker.port, &[spec("a")]);
    node.append("a", 10, 100).await;
    node.append("a", 1, 50_000).await;
    node.append("a", 10, 100).await;
    node.empty("a").await;
    node.until("all is archived", || broker.archived("a") == 20)
        .await;
    assert_eq!(broker.gaps("a"), [(11, 11, GapReason::TooLarge)]);
    node.end().await;
}

#[tokio::test]
async fn starts_again_where_the_receiver_is() {
    let broker = Broker::start(Manners::default()).await;
    let node = Node::start(broker.port, &[spec("a")]);
    node.append("a", 100, 100).await;
    node.empty("a").await;
    broker.set(Manners {
        closed: true,
        ..Manners::default()
    });
    node.until("it notices", || !node.handle.health().connected)
        .await;
    assert!(node.handle.health().reason.is_some());
    node.append("a", 300, 100).await;
    assert_eq!(node.depth("a"), 300);
    broker.set(Manners::default());
    node.empty("a").await;
    assert_eq!(broker.archived("a"), 400);
    assert_eq!(broker.holes(), 0);
    node.end().await;
}

#[tokio::test]
async fn a_full_broker_makes_its_stream_wait_too() {
    let broker = Broker::start(Manners {
        refuse: Some(("a", PubAckReason::QuotaExceeded)),
        ..Manners::default()
    })
    .await;
    let node = Node::start(broker.port, &[spec("a")]);
    node.append("a", 100, 100).await;
    node.until("the refusal is told", || !broker.told().is_empty())
        .await;
    assert_eq!((node.depth("a"), broker.archived("a")), (100, 0));
    broker.set(Manners::default());
    node.empty("a").await;
    assert_eq!(broker.archived("a"), 100);
    node.end().await;
}

#[tokio::test]
async fn an_orderly_end_is_held_against_no_frame() {
    // DISCONNECT: without a reason, server shutting down, session taken over, a spent quota.
    for goodbye in [
        &[0xE0, 0][..],
        &[0xE0, 1, 0x8B],
        &[0xE0, 2, 0x8E, 0],
        &[0xE0, 1, 0x97],
    ] {
        let broker = Broker::start(Manners {
            break_above: Some(0),
            goodbye,
            ..Manners::default()
        })
        .await;
        let node = Node::start(broker.port, &[spec("a")]);
        node.append("a", 10, 100).await;
        // A takeover makes it pause at the fifth.
        let enough = if goodbye.contains(&0x8E) { 6 } else { 20 };
        node.until("it tries again and again", || {
            broker.connections() >= enough
        })
        .await;
        broker.set(Manners::default());
        node.empty("a").await;
        assert_eq!((broker.archived("a"), broker.gaps("a").len()), (10, 0));
        assert!(!node.dir.path().join("aside").exists());
        node.end().await;
    }
}

#[tokio::test]
async fn a_frame_that_breaks_every_connection_is_set_aside() {
    one_that_breaks_is_set_aside(&[]).await;
}

#[tokio::test]
async fn a_frame_of_which_the_broker_says_that_it_is_too_large_is_set_aside() {
    // DISCONNECT, 149 packet too large.
    one_that_breaks_is_set_aside(&[0xE0, 1, 0x95]).await;
}

async fn one_that_breaks_is_set_aside(goodbye: &'static [u8]) {
    let broker = Broker::start(Manners {
        break_above: Some(20_000),
        goodbye,
        ..Manners::default()
    })
    .await;
    let node = Node::start(broker.port, &[spec("a"), spec("b")]);
    node.append("a", 10, 100).await;
    node.append("a", 1, 50_000).await;
    node.append("a", 10, 100).await;
    node.append("b", 500, 1_000).await;
    node.empty("a").await;
    node.empty("b").await;
    assert_eq!((broker.archived("a"), broker.archived("b")), (20, 500));
    assert_eq!(broker.gaps("a"), [(11, 11, GapReason::TooLarge)]);
    assert!(broker.connections() >= 6, "{}", broker.connections());
    node.until("the poison is told", || {
        broker
            .told()
            .contains(&("poison".to_owned(), Some("a".to_owned())))
    })
    .await;
    let aside: Vec<_> = std::fs::read_dir(node.dir.path().join("aside"))
        .unwrap()
        .map(|file| std::fs::read(file.unwrap().path()).unwrap())
        .collect();
    assert_eq!(aside.len(), 1);
    let frame = fleet_api::frame::Frame::decode("a", &aside[0].clone().into()).unwrap();
    assert_eq!((frame.first, frame.last()), (11, 11));
    node.end().await;
}

#[tokio::test]
async fn a_node_gives_way_to_another_with_its_identity() {
    let broker = Broker::start(Manners {
        taken_over: true,
        ..Manners::default()
    })
    .await;
    let started = Instant::now();
    let node = Node::start(broker.port, &[spec("a")]);
    node.append("a", 10, 100).await;
    node.until("it gives way and keeps that to tell", || {
        node.depth("events") > 0
    })
    .await;
    // One of them may have broken before it was told why.
    let tries = TAKEOVERS.0 as u32;
    assert!((tries..2 * tries).contains(&broker.connections()));
    broker.set(Manners::default());
    node.empty("a").await;
    node.until("the takeover is told", || {
        broker.told().contains(&("takeover".to_owned(), None))
    })
    .await;
    // It was noted when the last connection had ended already.
    assert!(started.elapsed() >= GIVE_WAY, "too soon");
    node.end().await;
}

#[tokio::test]
async fn a_backlog_does_not_delay_fresh_records_of_a_higher_priority() {
    let broker = Broker::start(Manners {
        bytes_per_s: Some(400_000),
        ..Manners::default()
    })
    .await;
    let [mut bulk, mut alarm] = [spec("bulk"), spec("alarm")];
    (bulk.priority, alarm.priority) = (1, 8);
    let node = Node::start(broker.port, &[bulk, alarm]);
    for _ in 0..20 {
        node.append("bulk", 100, 1_500).await;
    }
    node.until("the backlog flows", || broker.archived("bulk") > 250)
        .await;
    for n in 1..=3 {
        let fresh = Instant::now();
        node.append("alarm", 1, 100).await;
        node.until("the alarm is there", || broker.archived("alarm") == n)
            .await;
        let waited = fresh.elapsed();
        assert!(
            waited < Duration::from_millis(1_200),
            "{waited:?} behind the backlog"
        );
    }
    assert!(
        broker.archived("bulk") < 2_000,
        "the backlog was too small to tell"
    );
    assert_eq!(broker.holes(), 0);
    node.stop.cancel();
    node.task.abort();
}
