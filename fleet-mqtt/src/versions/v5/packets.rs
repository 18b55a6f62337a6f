//! Packets of MQTT 5 out of a stream of bytes, where rumqttc's reader needs help.

use bytes::{Buf as _, BytesMut};
use rumqttc::v5::mqttbytes::Error;
use rumqttc::v5::mqttbytes::v5::Packet;

/// DISCONNECT without flags.
const DISCONNECT: u8 = 0xE0;
/// The reason that a DISCONNECT has which names none.
const NORMAL: u8 = 0;

/// What came.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Incoming {
    /// A packet, but no DISCONNECT in its short form.
    Packet(Box<Packet>),
    /// DISCONNECT with this reason and nothing beside it.
    Disconnect(u8),
}

/// Takes the next packet out of `input`; none if it is not complete yet.
///
/// rumqttc 0.25.1 takes a DISCONNECT without a reason for a fault and swallows one without
/// properties (MQTT 5, 3.14.2.2.1), as our own broker sends it: a connection that was ended in good
/// order would look like one that broke. These two are read here.
pub(super) fn next(input: &mut BytesMut, limit: u32) -> Result<Option<Incoming>, Error> {
    let short = match **input {
        [DISCONNECT, 0, ..] => Some((NORMAL, 2)),
        [DISCONNECT, 1, reason, ..] => Some((reason, 3)),
        _ => None,
    };
    if let Some((reason, bytes)) = short {
        input.advance(bytes);
        return Ok(Some(Incoming::Disconnect(reason)));
    }
    let before = input.len();
    match Packet::read(input, Some(limit)) {
        Ok(packet) => Ok(Some(Incoming::Packet(Box::new(packet)))),
        Err(Error::InsufficientBytes(_)) if input.len() == before => Ok(None),
        // It was whole by its length and is not by what it says; rumqttc has thrown it away.
        Err(Error::InsufficientBytes(_)) => Err(Error::MalformedPacket),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use rumqttc::v5::mqttbytes::v5::{Disconnect, DisconnectReasonCode, PingResp, PubAck};

    use super::*;

    fn read(bytes: &[u8]) -> Vec<Incoming> {
        let mut input = BytesMut::new();
        let mut all = Vec::new();
        // One byte at a time: none may be taken before its packet is whole.
        for byte in bytes {
            input.extend_from_slice(&[*byte]);
            all.extend(next(&mut input, 100).unwrap());
        }
        assert!(input.is_empty(), "{input:?} is left");
        all
    }

    fn packet(packet: Packet) -> Incoming {
        Incoming::Packet(Box::new(packet))
    }

    #[test]
    fn reads_a_disconnect_of_any_length() {
        let taken_over = Disconnect::new(DisconnectReasonCode::SessionTakenOver);
        assert_eq!(read(&[0xE0, 0]), [Incoming::Disconnect(0)]);
        assert_eq!(read(&[0xE0, 1, 0x8E]), [Incoming::Disconnect(0x8E)]);
        assert_eq!(
            read(&[0xE0, 2, 0x8E, 0]),
            [packet(Packet::Disconnect(taken_over))]
        );
    }

    #[test]
    fn reads_what_stands_before_a_short_disconnect() {
        let puback = PubAck::new(7, None);
        assert_eq!(
            read(&[0x40, 2, 0, 7, 0xD0, 0, 0xE0, 1, 0x95]),
            [
                packet(Packet::PubAck(puback)),
                packet(Packet::PingResp(PingResp)),
                Incoming::Disconnect(0x95)
            ]
        );
    }

    #[test]
    fn a_packet_that_is_shorter_than_it_says_is_a_fault() {
        // CONNACK as in 3.1.1, without properties.
        let mut input = BytesMut::from(&[0x20, 2, 0, 5][..]);
        assert!(matches!(next(&mut input, 100), Err(Error::MalformedPacket)));
    }
}
