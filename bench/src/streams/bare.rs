//! MQTT 5 (OASIS, 2019) as far as a socket needs it that only publishes, or only listens.

use anyhow::{Result, ensure};
use bytes::{Buf as _, BufMut as _, BytesMut};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

const CONNACK: u8 = 0x20;
const PUBACK: u8 = 0x40;
const SUBACK: u8 = 0x90;

/// A connection.
pub(super) struct Bare {
    stream: TcpStream,
    input: BytesMut,
}

impl Bare {
    pub(super) async fn connect(address: &str, client_id: &str) -> Result<Self> {
        let mut new = Self {
            stream: TcpStream::connect(address).await?,
            input: BytesMut::with_capacity(64 << 10),
        };
        new.stream.set_nodelay(true)?;
        let mut body = BytesMut::new();
        text(&mut body, "MQTT");
        // Version 5, clean start, no keep-alive, no properties.
        body.put_slice(&[5, 0b10, 0, 0, 0]);
        text(&mut body, client_id);
        new.stream.write_all(&packet(0x10, &body)).await?;
        let answer = new.packet(CONNACK).await?;
        ensure!(answer.get(1) == Some(&0), "refused: {answer:?}");
        Ok(new)
    }

    /// Publishes `count` messages of `bytes` each, `window` of them under way at most, until all are acknowledged.
    pub(super) async fn publish(
        &mut self,
        topic: &str,
        bytes: usize,
        count: u64,
        window: u64,
    ) -> Result<()> {
        let payload = vec![b'7'; bytes];
        let (mut sent, mut taken) = (0, 0);
        let mut output = BytesMut::new();
        while taken < count {
            while sent < count && sent < taken + window {
                let mut body = BytesMut::with_capacity(bytes + topic.len() + 8);
                text(&mut body, topic);
                body.put_u16((sent % 60_000) as u16 + 1);
                body.put_u8(0);
                body.put_slice(&payload);
                output.extend_from_slice(&packet(0x32, &body));
                sent += 1;
            }
            self.stream.write_all(&output).await?;
            output.clear();
            self.packet(PUBACK).await?;
            taken += 1;
            while self.whole().is_some() {
                self.packet(PUBACK).await?;
                taken += 1;
            }
        }
        Ok(())
    }

    /// The next packet's body.
    async fn packet(&mut self, kind: u8) -> Result<BytesMut> {
        loop {
            if let Some((header, body)) = self.whole() {
                let first = self.input[0];
                ensure!(first & 0xF0 == kind, "packet {first:#x}, not {kind:#x}");
                self.input.advance(header);
                return Ok(self.input.split_to(body));
            }
            let read = self.stream.read_buf(&mut self.input).await?;
            ensure!(read > 0, "the broker closed the connection");
        }
    }

    /// Bytes of the next packet's header and body, if it is whole.
    fn whole(&self) -> Option<(usize, usize)> {
        let mut length = 0;
        for (index, byte) in self.input.iter().skip(1).take(4).enumerate() {
            length |= usize::from(byte & 0x7F) << (7 * index);
            if byte & 0x80 == 0 {
                let header = index + 2;
                return (self.input.len() >= header + length).then_some((header, length));
            }
        }
        None
    }
}

/// Listens to `filter` and throws away what comes, until it is aborted.
pub(super) async fn subscribe(address: &str, filter: &str) -> Result<JoinHandle<()>> {
    let mut client = Bare::connect(address, "listener").await?;
    let mut body = BytesMut::new();
    body.put_u16(1);
    body.put_u8(0);
    text(&mut body, filter);
    body.put_u8(0);
    client.stream.write_all(&packet(0x82, &body)).await?;
    client.packet(SUBACK).await?;
    Ok(tokio::spawn(async move {
        let mut sink = vec![0; 256 << 10];
        while client.stream.read(&mut sink).await.is_ok_and(|n| n > 0) {}
    }))
}

fn packet(first: u8, body: &[u8]) -> BytesMut {
    let mut packet = BytesMut::with_capacity(body.len() + 5);
    packet.put_u8(first);
    let mut length = body.len();
    loop {
        let byte = (length & 0x7F) as u8;
        length >>= 7;
        packet.put_u8(if length > 0 { byte | 0x80 } else { byte });
        if length == 0 {
            break;
        }
    }
    packet.put_slice(body);
    packet
}

fn text(body: &mut BytesMut, text: &str) {
    body.put_u16(u16::try_from(text.len()).unwrap_or(u16::MAX));
    body.put_slice(text.as_bytes());
}
