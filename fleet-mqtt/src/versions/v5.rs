mod link;
mod packets;

use bytes::Bytes;
use rumqttc::Outgoing;
use rumqttc::v5::Request;
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::{
    ConnectReturnCode, DisconnectReasonCode, Filter, Packet, PubAck, PubAckReason, Publish,
    RetainForwardRule, Subscribe, SubscribeReasonCode,
};
use tokio::sync::mpsc;
use tokio::time::timeout;

pub(crate) use self::link::Link;
use self::link::{LinkError, Wire};
use super::{Client, Events, Failed, Loop};
use crate::connect::{Broker, Connected, Protocol, Session};
use crate::error::Error;
use crate::event::{Event, Refusal};

pub(crate) async fn connect(broker: &Broker, session: &Session) -> Result<Connected, Failed> {
    let (sender, requests) = mpsc::channel(session.requests());
    let connected = timeout(session.connect, async {
        let wire = Wire::open(broker, session).await;
        let wire = wire.map_err(|source| Failed {
            error: Error::Unreachable {
                broker: broker.name(),
                source: Box::new(source),
            },
            perhaps_for_the_version: false,
        })?;
        let link = Link::greet(wire, broker, session, requests).await;
        link.map_err(|error| failed(broker, error))
    });
    let (link, connack) = connected.await.map_err(|elapsed| Failed {
        error: Error::Unreachable {
            broker: broker.name(),
            source: Box::new(elapsed),
        },
        perhaps_for_the_version: false,
    })??;
    let properties = connack.properties.as_ref();
    Ok(Connected {
        client: Client::V5(sender),
        events: Events(Loop::V5(Box::new(link))),
        protocol: Protocol::V5,
        receive_max: properties.and_then(|p| p.receive_max),
        max_packet: properties
            .and_then(|p| p.max_packet_size)
            .map(|bytes| bytes as usize),
    })
}

fn failed(broker: &Broker, error: LinkError) -> Failed {
    let broker = broker.name();
    // A broker of 3.1.1 answers in a form that is none in 5, or just hangs up.
    let perhaps_for_the_version = match &error {
        LinkError::Refused(code) => matches!(
            code,
            ConnectReturnCode::RefusedProtocolVersion
                | ConnectReturnCode::UnsupportedProtocolVersion
        ),
        LinkError::Format(_) | LinkError::Closed | LinkError::Network(_) => true,
        _ => false,
    };
    let error = match error {
        LinkError::Refused(code) => Error::Refused {
            broker,
            reason: format!("{code:?}"),
        },
        source => Error::Unreachable {
            broker,
            source: Box::new(source),
        },
    };
    Failed {
        error,
        perhaps_for_the_version,
    }
}

pub(super) fn publish(
    client: &mpsc::Sender<Request>,
    topic: String,
    acknowledged: bool,
    retained: bool,
    payload: Bytes,
) -> Result<(), Error> {
    let qos = if acknowledged {
        QoS::AtLeastOnce
    } else {
        QoS::AtMostOnce
    };
    let mut publish = Publish::new(topic, qos, payload, None);
    publish.retain = retained;
    ask(client, Request::Publish(publish))
}

pub(super) fn subscribe(client: &mpsc::Sender<Request>, filters: Vec<String>) -> Result<(), Error> {
    let filters = filters
        .into_iter()
        .map(|filter| Filter::new(filter, QoS::AtLeastOnce));
    let subscribe = Subscribe::new_many(filters, None);
    ask(client, Request::Subscribe(subscribe))
}

pub(super) fn follow(client: &mpsc::Sender<Request>, filters: Vec<String>) -> Result<(), Error> {
    let filters = filters.into_iter().map(|filter| {
        let mut filter = Filter::new(filter, QoS::AtLeastOnce);
        filter.retain_forward_rule = RetainForwardRule::OnNewSubscribe;
        filter.preserve_retain = true;
        filter
    });
    let subscribe = Subscribe::new_many(filters, None);
    ask(client, Request::Subscribe(subscribe))
}

pub(super) fn acknowledge(client: &mpsc::Sender<Request>, id: u16) -> Result<(), Error> {
    ask(client, Request::PubAck(PubAck::new(id, None)))
}

pub(super) fn disconnect(client: &mpsc::Sender<Request>) -> Result<(), Error> {
    ask(client, Request::Disconnect)
}

fn ask(client: &mpsc::Sender<Request>, request: Request) -> Result<(), Error> {
    client.try_send(request).map_err(|_| Error::Busy)
}

/// Why the connection is over, in the words of both versions.
fn ended(error: LinkError) -> Error {
    let (reason, said) = match error {
        LinkError::Disconnect(reason, said) => (reason, said),
        LinkError::NoAnswer => return Error::Silent,
        LinkError::TooLarge => return Error::Rejected(error.to_string()),
        LinkError::Network(_) | LinkError::Closed => return Error::Broken(Box::new(error)),
        LinkError::Format(_) | LinkError::State(_) | LinkError::Refused(_) => {
            return Error::Garbled(Box::new(error));
        }
    };
    let code = DisconnectReasonCode::try_from(reason);
    let name = match &code {
        Ok(code) => format!("{code:?}"),
        Err(_) => format!("reason {reason:#04x}"),
    };
    let text = said.map_or_else(|| name.clone(), |said| format!("{name} ({said})"));
    match code {
        Ok(DisconnectReasonCode::SessionTakenOver) => Error::TakenOver,
        // A limit on a packet's contents. Quotas and rates are not: they pass.
        Ok(
            DisconnectReasonCode::MalformedPacket
            | DisconnectReasonCode::ProtocolError
            | DisconnectReasonCode::ImplementationSpecificError
            | DisconnectReasonCode::TopicNameInvalid
            | DisconnectReasonCode::PacketTooLarge
            | DisconnectReasonCode::PayloadFormatInvalid,
        ) => Error::Rejected(text),
        _ => Error::Ended(text),
    }
}

pub(super) async fn poll(link: &mut Link) -> Result<Event, Error> {
    let event = link.poll().await.map_err(ended)?;
    Ok(match event {
        rumqttc::v5::Event::Outgoing(Outgoing::Publish(id)) if id > 0 => Event::Sent(id),
        rumqttc::v5::Event::Outgoing(Outgoing::AwaitAck(_)) => Event::Collision,
        rumqttc::v5::Event::Incoming(Packet::PubAck(ack)) => Event::Acknowledged(
            ack.pkid,
            match ack.reason {
                PubAckReason::Success => Ok(()),
                reason => Err(Refusal(format!("{reason:?}"))),
            },
        ),
        rumqttc::v5::Event::Incoming(Packet::SubAck(ack)) => {
            let granted = ack.return_codes.into_iter().map(|code| match code {
                SubscribeReasonCode::Success(_) => Ok(()),
                code => Err(Refusal(format!("{code:?}"))),
            });
            Event::Subscribed(granted.collect())
        }
        rumqttc::v5::Event::Incoming(Packet::Publish(publish)) => Event::Message {
            topic: String::from_utf8_lossy(&publish.topic).into_owned(),
            payload: publish.payload,
            retained: publish.retain,
            id: (publish.qos == QoS::AtLeastOnce).then_some(publish.pkid),
        },
        _ => Event::Other,
    })
}

#[cfg(test)]
mod tests;
