use proptest::prelude::*;

use super::*;

fn all(bytes: &[u8], mut version: Option<Version>) -> Parsed<Vec<Packet>> {
    let mut buffer = BytesMut::from(bytes);
    let mut packets = Vec::new();
    while let Some(packet) = take(&mut buffer, version, 1 << 20)? {
        if let Packet::Connect(connect) = &packet {
            version = Some(connect.version);
        }
        packets.push(packet);
    }
    Ok(packets)
}

#[test]
fn reads_what_a_client_of_3_1_1_sends() {
    let connect = b"\x10\x13\x00\x04MQTT\x04\xc2\x00\x3c\x00\x02id\x00\x01u\x00\x00";
    let mut bytes = connect.to_vec();
    bytes.extend_from_slice(b"\x32\x08\x00\x03a/b\x00\x07x");
    bytes.extend_from_slice(b"\xc0\x00\xe0\x00");
    let packets = all(&bytes, None).expect("valid");
    let Packet::Connect(connect) = &packets[0] else {
        panic!("{packets:?}");
    };
    assert_eq!((connect.version, connect.keep_alive), (Version::V311, 60));
    assert_eq!(connect.username.as_deref(), Some("u"));
    let publish = Publish {
        topic: "a/b".to_owned(),
        qos: 1,
        id: 7,
        payload: Bytes::from_static(b"x"),
    };
    assert_eq!(packets[1], Packet::Publish(publish));
    assert_eq!(packets[2], Packet::Ping);
    assert_eq!(packets[3], Packet::Disconnect { with_will: false });
}

#[test]
fn reads_a_will_and_skips_properties_of_5() {
    let connect =
        b"\x10\x1f\x00\x04MQTT\x05\x06\x00\x00\x03\x21\x00\x0a\x00\x00\x02\x01\x01\x00\x03w/x\x00\x02by";
    // One byte short of what its length says: nothing yet.
    assert_eq!(all(connect, None), Ok(Vec::new()));
    let mut whole = connect.to_vec();
    whole[1] = u8::try_from(whole.len() - 2).expect("short");
    let packets = all(&whole, None).expect("valid");
    let Packet::Connect(connect) = &packets[0] else {
        panic!("{packets:?}");
    };
    let will = ("w/x".to_owned(), Bytes::from_static(b"by"));
    assert_eq!(connect.will, Some(will));
    let publish = b"\x32\x0a\x00\x01a\x00\x09\x02\x01\x01xy";
    let packets = all(publish, Some(Version::V5)).expect("valid");
    let Packet::Publish(publish) = &packets[0] else {
        panic!("{packets:?}");
    };
    assert_eq!((publish.id, &publish.payload[..]), (9, &b"xy"[..]));
}

#[test]
fn refuses_what_no_device_may_send() {
    let error = |bytes: &[u8], version| all(bytes, version).expect_err("refused").reason();
    let v5 = Some(Version::V5);
    assert_eq!(error(b"\xc0\x00", None), 0x82);
    assert_eq!(error(b"\x10\x06\x00\x04MQTT\x03", None), 0x81);
    assert_eq!(error(b"\x10\x0c\x00\x06MQIsdp\x03\x00\x00\x00", None), 0x84);
    assert_eq!(error(b"\x34\x06\x00\x01a\x00\x01\x00", v5), 0x9b);
    assert_eq!(error(b"\x32\x06\x00\x01#\x00\x01\x00", v5), 0x81);
    assert_eq!(error(b"\x32\x05\x00\x00\x00\x01\x00", v5), 0x82);
    assert_eq!(error(b"\x32\x06\x00\x01a\x00\x00\x00", v5), 0x81);
    assert_eq!(error(b"\x32\xff\xff\x7f", v5), 0x95);
    assert_eq!(error(b"\x32\xff\xff\xff\xff", v5), 0x81);
    assert_eq!(error(b"\x10\x00", v5), 0x82);
}

#[test]
fn answers_have_the_bytes_of_the_standard() {
    let mut out = BytesMut::new();
    puback(&mut out, Version::V5, 7, 0);
    puback(&mut out, Version::V5, 7, 0x97);
    puback(&mut out, Version::V311, 7, 0x97);
    suback(&mut out, Version::V311, 2, 1);
    suback(&mut out, Version::V5, 2, 2);
    pong(&mut out);
    disconnect(&mut out, Version::V5, 0x8e);
    disconnect(&mut out, Version::V311, 0x8e);
    assert_eq!(
        &out[..],
        b"\x40\x02\x00\x07\x40\x03\x00\x07\x97\x40\x02\x00\x07\
          \x90\x03\x00\x02\x80\x90\x05\x00\x02\x00\x87\x87\xd0\x00\xe0\x01\x8e"
    );
    let mut out = BytesMut::new();
    let refusal = Connack {
        reason: 0x86,
        assigned: None,
        packet: 0,
        window: 0,
    };
    connack(&mut out, Version::V311, &refusal);
    connack(&mut out, Version::V5, &refusal);
    assert_eq!(&out[..], b"\x20\x02\x00\x04\x20\x03\x00\x86\x00");
}

proptest! {
    #[test]
    fn any_bytes_are_packets_or_refused(
        bytes in proptest::collection::vec(any::<u8>(), 0..200),
        version in prop_oneof![Just(None), Just(Some(Version::V311)), Just(Some(Version::V5))],
    ) {
        let _ = all(&bytes, version);
    }

    #[test]
    fn a_cut_packet_waits_for_its_rest(
        topic in "[a-z]{1,5}(/[a-z]{1,5}){0,3}",
        payload in proptest::collection::vec(any::<u8>(), 0..300),
        id in 1_u16..,
        cut in any::<proptest::sample::Index>(),
    ) {
        let mut bytes = BytesMut::new();
        bytes.put_u8(0x32);
        length(&mut bytes, 2 + topic.len() + 2 + 1 + payload.len());
        bytes.put_u16(u16::try_from(topic.len()).expect("short"));
        bytes.put_slice(topic.as_bytes());
        bytes.put_u16(id);
        bytes.put_u8(0);
        bytes.put_slice(&payload);
        let at = cut.index(bytes.len());
        prop_assert_eq!(all(&bytes[..at], Some(Version::V5)), Ok(Vec::new()));
        let whole = Packet::Publish(Publish { topic, qos: 1, id, payload: payload.into() });
        prop_assert_eq!(all(&bytes, Some(Version::V5)), Ok(vec![whole]));
    }
}
