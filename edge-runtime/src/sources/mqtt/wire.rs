//! The packets of MQTT 3.1.1 and 5 that a listener needs which devices only publish to.

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};

/// Which protocol a client speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Version {
    V311,
    V5,
}

/// A packet of a client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Packet {
    Connect(Box<Connect>),
    Publish(Publish),
    /// The second half of a message of QoS 2.
    Pubrel(u16),
    Subscribe {
        id: u16,
        filters: usize,
    },
    Unsubscribe {
        id: u16,
        filters: usize,
    },
    Ping,
    /// Whether the will is to be published all the same.
    Disconnect {
        with_will: bool,
    },
}

/// How a client introduces itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Connect {
    pub version: Version,
    pub client_id: String,
    /// Seconds; 0 is none.
    pub keep_alive: u16,
    pub clean: bool,
    pub will: Option<(String, Bytes)>,
    pub username: Option<String>,
    pub password: Option<Bytes>,
}

/// A message of a device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Publish {
    pub topic: String,
    pub qos: u8,
    /// 0 with QoS 0.
    pub id: u16,
    pub payload: Bytes,
}

/// Why bytes are not a packet that a device may send here.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum WireError {
    #[error(
        "a packet of {bytes} bytes is larger than {most}: send less at once, or raise mqtt.packet"
    )]
    TooLarge { bytes: usize, most: usize },
    #[error("protocol {name:?} level {level} is not known: use MQTT 3.1.1 or 5")]
    Protocol { name: String, level: u8 },
    #[error("the packet is malformed: {0}")]
    Malformed(&'static str),
    #[error("the client does what the protocol does not allow: {0}")]
    Violation(&'static str),
    #[error("QoS 2 was sent, and this listener has said that it takes QoS 1 at most")]
    Qos2,
}

impl WireError {
    /// MQTT 5's reason code for it.
    pub(super) fn reason(&self) -> u8 {
        match self {
            Self::TooLarge { .. } => 0x95,
            Self::Protocol { .. } => 0x84,
            Self::Malformed(_) => 0x81,
            Self::Violation(_) => 0x82,
            Self::Qos2 => 0x9b,
        }
    }
}

type Parsed<T> = Result<T, WireError>;

/// Takes one packet off the front of `buffer`; none if it is not there as a whole.
///
/// # Errors
/// [`WireError`], after which the connection is of no more use.
pub(super) fn take(
    buffer: &mut BytesMut,
    version: Option<Version>,
    most: usize,
) -> Parsed<Option<Packet>> {
    let Some((head, length)) = header(buffer)? else {
        return Ok(None);
    };
    if head + length > most {
        return Err(WireError::TooLarge {
            bytes: head + length,
            most,
        });
    }
    if buffer.len() < head + length {
        return Ok(None);
    }
    let first = buffer[0];
    buffer.advance(head);
    let body = Body(buffer.split_to(length).freeze());
    packet(first, body, version).map(Some)
}

/// Bytes of the fixed header, and what it says of the rest.
fn header(buffer: &[u8]) -> Parsed<Option<(usize, usize)>> {
    let mut length = 0;
    for at in 0..4 {
        let Some(byte) = buffer.get(1 + at) else {
            return Ok(None);
        };
        length |= usize::from(byte & 0x7f) << (7 * at);
        if byte & 0x80 == 0 {
            return Ok(Some((2 + at, length)));
        }
    }
    Err(WireError::Malformed("its length has more than four bytes"))
}

fn packet(first: u8, mut body: Body, version: Option<Version>) -> Parsed<Packet> {
    let (kind, flags) = (first >> 4, first & 0x0f);
    let Some(version) = version else {
        if first != 0x10 {
            return Err(WireError::Violation("the first packet is no CONNECT"));
        }
        return connect(body).map(|c| Packet::Connect(Box::new(c)));
    };
    let expect = |wanted: u8| {
        if flags == wanted {
            Ok(())
        } else {
            Err(WireError::Malformed("its flags are reserved"))
        }
    };
    match kind {
        3 => publish(flags, body, version).map(Packet::Publish),
        6 => {
            expect(2)?;
            Ok(Packet::Pubrel(body.u16()?))
        }
        8 | 10 => {
            expect(2)?;
            let id = body.id()?;
            if version == Version::V5 {
                body.skip_properties()?;
            }
            let mut filters = 0;
            while !body.0.is_empty() {
                body.text()?;
                if kind == 8 {
                    body.u8()?;
                }
                filters += 1;
            }
            if filters == 0 {
                return Err(WireError::Violation("a subscription to nothing"));
            }
            Ok(if kind == 8 {
                Packet::Subscribe { id, filters }
            } else {
                Packet::Unsubscribe { id, filters }
            })
        }
        12 => expect(0).map(|()| Packet::Ping),
        14 => {
            expect(0)?;
            let with_will = version == Version::V5 && body.0.first() == Some(&0x04);
            Ok(Packet::Disconnect { with_will })
        }
        1 => Err(WireError::Violation("a second CONNECT")),
        _ => Err(WireError::Violation("a packet that no client sends here")),
    }
}

fn connect(mut body: Body) -> Parsed<Connect> {
    let name = body.text()?;
    let level = body.u8()?;
    let version = match (name.as_str(), level & 0x7f) {
        ("MQTT", 4) => Version::V311,
        ("MQTT", 5) => Version::V5,
        _ => return Err(WireError::Protocol { name, level }),
    };
    let flags = body.u8()?;
    if flags & 1 != 0 || flags & 0x18 == 0x18 || (flags & 4 == 0 && flags & 0x38 != 0) {
        return Err(WireError::Malformed(
            "its connect flags contradict each other",
        ));
    }
    let keep_alive = body.u16()?;
    if version == Version::V5 {
        body.skip_properties()?;
    }
    let client_id = body.text()?;
    let will = if flags & 4 == 0 {
        None
    } else {
        if version == Version::V5 {
            body.skip_properties()?;
        }
        Some((body.topic()?, body.bytes()?))
    };
    let username = (flags & 0x80 != 0).then(|| body.text()).transpose()?;
    let password = (flags & 0x40 != 0).then(|| body.bytes()).transpose()?;
    if !body.0.is_empty() {
        return Err(WireError::Malformed("something follows its end"));
    }
    Ok(Connect {
        version,
        client_id,
        keep_alive,
        clean: flags & 2 != 0,
        will,
        username,
        password,
    })
}

fn publish(flags: u8, mut body: Body, version: Version) -> Parsed<Publish> {
    let qos = flags >> 1 & 3;
    match (qos, version) {
        (3, _) => return Err(WireError::Malformed("there is no QoS 3")),
        (2, Version::V5) => return Err(WireError::Qos2),
        _ => {}
    }
    let topic = body.text()?;
    let id = if qos == 0 { 0 } else { body.id()? };
    if version == Version::V5 {
        body.skip_properties()?;
    }
    if topic.is_empty() {
        return Err(WireError::Violation(
            "a topic alias, of which none was offered",
        ));
    }
    if topic.contains(['+', '#']) {
        return Err(WireError::Malformed("a topic has no wildcards"));
    }
    Ok(Publish {
        topic,
        qos,
        id,
        payload: body.0,
    })
}

/// What is left of a packet's body.
struct Body(Bytes);

impl Body {
    fn need(&self, bytes: usize) -> Parsed<()> {
        if self.0.len() < bytes {
            return Err(WireError::Malformed("it ends too early"));
        }
        Ok(())
    }

    fn u8(&mut self) -> Parsed<u8> {
        self.need(1)?;
        Ok(self.0.get_u8())
    }

    fn u16(&mut self) -> Parsed<u16> {
        self.need(2)?;
        Ok(self.0.get_u16())
    }

    fn id(&mut self) -> Parsed<u16> {
        match self.u16()? {
            0 => Err(WireError::Malformed("a packet id is not 0")),
            id => Ok(id),
        }
    }

    fn bytes(&mut self) -> Parsed<Bytes> {
        let length = usize::from(self.u16()?);
        self.need(length)?;
        Ok(self.0.split_to(length))
    }

    fn text(&mut self) -> Parsed<String> {
        let text = String::from_utf8(self.bytes()?.to_vec())
            .map_err(|_| WireError::Malformed("a text is not UTF-8"))?;
        if text.contains('\0') {
            return Err(WireError::Malformed("a text has a zero character"));
        }
        Ok(text)
    }

    fn topic(&mut self) -> Parsed<String> {
        let topic = self.text()?;
        if topic.is_empty() || topic.contains(['+', '#']) {
            return Err(WireError::Malformed("a topic has no wildcards"));
        }
        Ok(topic)
    }

    /// None of the properties changes what this listener does.
    fn skip_properties(&mut self) -> Parsed<()> {
        let mut length = 0;
        for at in 0..4 {
            let byte = self.u8()?;
            length |= usize::from(byte & 0x7f) << (7 * at);
            if byte & 0x80 == 0 {
                self.need(length)?;
                self.0.advance(length);
                return Ok(());
            }
        }
        Err(WireError::Malformed("a length has more than four bytes"))
    }
}

/// What CONNACK says.
pub(super) struct Connack<'a> {
    /// 0 for a success, else the reason in MQTT 5's numbers.
    pub reason: u8,
    /// The id that the listener gave to a client without one.
    pub assigned: Option<&'a str>,
    /// The largest packet.
    pub packet: u32,
    /// Messages without an acknowledgement.
    pub window: u16,
}

/// CONNACK; MQTT 3.1.1 has fewer reasons.
pub(super) fn connack(out: &mut BytesMut, version: Version, connack: &Connack<'_>) {
    if version == Version::V311 {
        let code = match connack.reason {
            0 => 0,
            0x84 => 1,
            0x85 => 2,
            0x86 => 4,
            0x87 => 5,
            _ => 3,
        };
        out.put_slice(&[0x20, 2, 0, code]);
        return;
    }
    let mut properties = BytesMut::new();
    if connack.reason == 0 {
        properties.put_u8(0x21);
        properties.put_u16(connack.window);
        // QoS 1 at most.
        properties.put_slice(&[0x24, 1]);
        properties.put_u8(0x27);
        properties.put_u32(connack.packet);
        // Nothing can be subscribed: no wildcards, no identifiers, no shares.
        properties.put_slice(&[0x28, 0, 0x29, 0, 0x2a, 0]);
        if let Some(id) = connack.assigned {
            properties.put_u8(0x12);
            properties.put_u16(u16::try_from(id.len()).unwrap_or(0));
            properties.put_slice(id.as_bytes());
        }
    }
    out.put_u8(0x20);
    length(out, 2 + length_bytes(properties.len()) + properties.len());
    out.put_slice(&[0, connack.reason]);
    length(out, properties.len());
    out.put_slice(&properties);
}

/// PUBACK; MQTT 3.1.1 has no way to refuse.
pub(super) fn puback(out: &mut BytesMut, version: Version, id: u16, reason: u8) {
    if version == Version::V5 && reason != 0 {
        out.put_slice(&[0x40, 3]);
        out.put_u16(id);
        out.put_u8(reason);
    } else {
        out.put_slice(&[0x40, 2]);
        out.put_u16(id);
    }
}

/// PUBREC, the first answer to QoS 2.
pub(super) fn pubrec(out: &mut BytesMut, id: u16) {
    out.put_slice(&[0x50, 2]);
    out.put_u16(id);
}

/// PUBCOMP, the last answer to QoS 2.
pub(super) fn pubcomp(out: &mut BytesMut, id: u16) {
    out.put_slice(&[0x70, 2]);
    out.put_u16(id);
}

/// SUBACK that refuses every filter: there is nothing to hear here.
pub(super) fn suback(out: &mut BytesMut, version: Version, id: u16, filters: usize) {
    let (properties, code) = match version {
        Version::V311 => (0, 0x80),
        Version::V5 => (1, 0x87),
    };
    out.put_u8(0x90);
    length(out, 2 + properties + filters);
    out.put_u16(id);
    out.put_bytes(0, properties);
    out.put_bytes(code, filters);
}

/// UNSUBACK.
pub(super) fn unsuback(out: &mut BytesMut, version: Version, id: u16, filters: usize) {
    out.put_u8(0xb0);
    match version {
        Version::V311 => {
            length(out, 2);
            out.put_u16(id);
        }
        Version::V5 => {
            length(out, 3 + filters);
            out.put_u16(id);
            out.put_u8(0);
            // No subscription existed.
            out.put_bytes(0x11, filters);
        }
    }
}

/// PINGRESP.
pub(super) fn pong(out: &mut BytesMut) {
    out.put_slice(&[0xd0, 0]);
}

/// DISCONNECT, which only MQTT 5 has from this side.
pub(super) fn disconnect(out: &mut BytesMut, version: Version, reason: u8) {
    if version == Version::V5 {
        out.put_slice(&[0xe0, 1, reason]);
    }
}

fn length_bytes(value: usize) -> usize {
    match value {
        0..0x80 => 1,
        0x80..0x4000 => 2,
        0x4000..0x20_0000 => 3,
        _ => 4,
    }
}

fn length(out: &mut BytesMut, mut value: usize) {
    loop {
        let byte = u8::try_from(value & 0x7f).expect("seven bits");
        value >>= 7;
        if value == 0 {
            out.put_u8(byte);
            return;
        }
        out.put_u8(byte | 0x80);
    }
}

#[cfg(test)]
mod tests;
