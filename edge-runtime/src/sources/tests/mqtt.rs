use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::*;

const LISTENER: &str = r#"
[[source]]
name = "devices"
stream = "press"
mqtt = { listen = "127.0.0.1:0", topics = ["plant/#"], connections = 2, packet = "2KiB" }
"#;

/// A device that speaks bytes.
struct Device(TcpStream);

impl Device {
    async fn connect(plant: &Plant, connect: &[u8], connack: &[u8]) -> Self {
        let address = plant.health(|health| health.connected).await.address;
        let mut device = Self(TcpStream::connect(address).await.unwrap());
        device.send(connect).await;
        device.hears(connack).await;
        device
    }

    async fn v311(plant: &Plant) -> Self {
        let connect = b"\x10\x0e\x00\x04MQTT\x04\x02\x00\x00\x00\x02d1";
        Self::connect(plant, connect, b"\x20\x02\x00\x00").await
    }

    async fn v5(plant: &Plant, id: &str) -> Self {
        let mut connect = b"\x10\x0f\x00\x04MQTT\x05\x02\x00\x00\x00\x00\x02".to_vec();
        connect.extend_from_slice(id.as_bytes());
        let connack =
            b"\x20\x13\x00\x00\x10\x21\x01\x00\x24\x01\x27\x00\x00\x08\x00\x28\x00\x29\x00\x2a\x00";
        Self::connect(plant, &connect, connack).await
    }

    async fn send(&mut self, bytes: &[u8]) {
        self.0.write_all(bytes).await.unwrap();
    }

    async fn hears(&mut self, expected: &[u8]) {
        let mut heard = vec![0; expected.len()];
        let read = timeout(LIMIT, self.0.read_exact(&mut heard)).await;
        read.expect("an answer").expect("an answer");
        assert_eq!(heard, expected);
    }

    async fn is_cut(&mut self) {
        let mut rest = Vec::new();
        let _ = timeout(LIMIT, self.0.read_to_end(&mut rest))
            .await
            .expect("the end");
        assert_eq!(rest, b"");
    }
}

#[tokio::test]
async fn messages_are_acknowledged_in_order_once_they_are_in_the_stream() {
    let folder = tempfile::tempdir().unwrap();
    let plant = Plant::start(folder.path(), spec(), LISTENER).await;
    let mut device = Device::v311(&plant).await;
    device.send(b"\x32\x0d\x00\x07plant/a\x00\x011x\x32\x0c\x00\x07plant/b\x00\x022\x30\x0a\x00\x07plant/c3").await;
    device.hears(b"\x40\x02\x00\x01\x40\x02\x00\x02").await;
    let values = plant.values(3).await;
    assert_eq!(values[0]["value"], "1x");
    assert_eq!(values[1]["value"], 2);
    assert_eq!(values[2]["topic"], "plant/c");
    // QoS 2 is taken as QoS 1 with two more steps.
    device.send(b"\x34\x0c\x00\x07plant/d\x00\x034").await;
    device.hears(b"\x50\x02\x00\x03").await;
    assert_eq!(plant.values(4).await[3]["value"], 4);
    device.send(b"\x62\x02\x00\x03\xc0\x00").await;
    device.hears(b"\x70\x02\x00\x03\xd0\x00").await;
    // There is nothing to hear.
    device.send(b"\x82\x08\x00\x05\x00\x03a/b\x01").await;
    device.hears(b"\x90\x03\x00\x05\x80").await;
    device.send(b"\xe0\x00").await;
    device.is_cut().await;
    let health = plant.health(|health| health.clients == 0).await;
    assert_eq!((health.records, health.lost), (4, 0));
    plant.end().await;
}

#[tokio::test]
async fn a_full_stream_tells_clients_of_5_and_lets_those_of_3_1_1_wait() {
    let folder = tempfile::tempdir().unwrap();
    let full = StreamSpec {
        quota: ByteSize(700),
        on_full: OnFull::Reject,
        ..spec()
    };
    let plant = Plant::start(folder.path(), full, LISTENER).await;
    let mut new = Device::v5(&plant, "v5").await;
    let mut old = Device::v311(&plant).await;
    let mut publish = b"\x32\x92\x03\x00\x07plant/a\x00\x01".to_vec();
    publish.extend_from_slice(&[b'1'; 391]);
    old.send(&publish).await;
    old.hears(b"\x40\x02\x00\x01").await;
    let mut publish_5 = b"\x32\x93\x03\x00\x07plant/a\x00\x02\x00".to_vec();
    publish_5.extend_from_slice(&[b'1'; 391]);
    new.send(&publish_5).await;
    new.hears(b"\x40\x03\x00\x02\x97").await;

    old.send(&publish).await;
    let waiting = |h: &SourceHealth| h.reason.as_deref().is_some_and(|r| r.contains("is full"));
    plant.health(waiting).await;
    // It waits for its acknowledgement, not for the answer to its ping.
    old.send(b"\xc0\x00").await;
    old.hears(b"\xd0\x00").await;
    let epoch = plant.streams.epoch();
    plant.streams.release("press", epoch, 1).await;
    old.hears(b"\x40\x02\x00\x01").await;
    assert_eq!(plant.streams.held("press").unwrap(), 2..3);
    plant.end().await;
}

#[tokio::test]
async fn what_a_client_may_not_do_ends_or_is_refused_with_a_reason() {
    let folder = tempfile::tempdir().unwrap();
    let plant = Plant::start(folder.path(), spec(), LISTENER).await;
    let mut device = Device::v5(&plant, "v5").await;
    device.send(b"\x32\x07\x00\x01x\x00\x01\x001").await;
    device.hears(b"\x40\x03\x00\x01\x87").await;
    device.send(b"\x34\x07\x00\x01x\x00\x01\x001").await;
    device.hears(b"\xe0\x01\x9b").await;
    device.is_cut().await;

    let mut first = Device::v5(&plant, "d1").await;
    let mut second = Device::v5(&plant, "d1").await;
    first.hears(b"\xe0\x01\x8e").await;
    first.is_cut().await;
    second.send(b"\x32\xff\x7f").await;
    second.hears(b"\xe0\x01\x95").await;
    second.is_cut().await;

    plant.health(|health| health.clients == 0).await;
    let _one = Device::v5(&plant, "c1").await;
    let _two = Device::v5(&plant, "c2").await;
    let address = plant.health(|_| true).await.address;
    let mut third = Device(TcpStream::connect(address).await.unwrap());
    third.is_cut().await;
    assert_eq!(plant.streams.held("press").unwrap(), 1..1);
    plant.end().await;
}

#[tokio::test]
async fn a_will_is_a_record_where_a_device_falls_silent() {
    let folder = tempfile::tempdir().unwrap();
    let plant = Plant::start(folder.path(), spec(), LISTENER).await;
    let connect = b"\x10\x1d\x00\x04MQTT\x04\x06\x00\x01\x00\x02d1\x00\x07plant/w\x00\x04gone";
    let mut device = Device::connect(&plant, connect, b"\x20\x02\x00\x00").await;
    // A keep-alive of 1 s that nothing is sent within.
    device.is_cut().await;
    let values = plant.values(1).await;
    assert_eq!(
        (&values[0]["topic"], &values[0]["value"]),
        (&"plant/w".into(), &"gone".into())
    );
    plant.end().await;
}

#[tokio::test]
async fn only_known_users_may_publish_where_users_are_named() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(
        folder.path().join("devices"),
        "press:s3:cret\n\nmill:other\n",
    )
    .unwrap();
    let toml = LISTENER.replace("connections", "users = \"devices\", connections");
    let plant = Plant::start(folder.path(), spec(), &toml).await;
    let connect = b"\x10\x1d\x00\x04MQTT\x04\xc2\x00\x00\x00\x02d1\x00\x05press\x00\x06s3:cre";
    let refused = Device::connect(&plant, connect, b"\x20\x02\x00\x04").await;
    drop(refused);
    let connect = b"\x10\x1e\x00\x04MQTT\x04\xc2\x00\x00\x00\x02d1\x00\x05press\x00\x07s3:cret";
    Device::connect(&plant, connect, b"\x20\x02\x00\x00").await;
    plant.end().await;
}
