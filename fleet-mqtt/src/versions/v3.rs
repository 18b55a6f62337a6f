use std::sync::Arc;

use bytes::Bytes;
use rumqttc::{
    AsyncClient, ConnectionError, EventLoop, LastWill, MqttOptions, NetworkOptions, Outgoing,
    Packet, Publish, QoS, StateError, SubscribeFilter, SubscribeReasonCode, TlsConfiguration,
    Transport, mqttbytes,
};
use tokio::time::timeout;

use super::{Client, Events, Failed, Loop};
use crate::connect::{Broker, Connected, Protocol, Session};
use crate::error::Error;
use crate::event::{Event, Refusal};

/// The format itself has no larger packet.
const OUTGOING_BYTES: usize = 256 << 20;

pub(crate) async fn connect(broker: &Broker, session: &Session) -> Result<Connected, Failed> {
    let mut options = MqttOptions::new(&session.client_id, &broker.host, broker.port);
    options
        .set_clean_session(session.kept.is_none())
        .set_manual_acks(session.kept.is_some())
        .set_keep_alive(session.keep_alive)
        .set_max_packet_size(session.incoming_bytes as usize, OUTGOING_BYTES)
        .set_inflight(session.in_flight.max(1));
    if let Some(tls) = &broker.tls {
        let tls = TlsConfiguration::Rustls(Arc::clone(tls));
        options.set_transport(Transport::tls_with_config(tls));
    }
    if let Some(login) = &broker.credentials {
        options.set_credentials(&login.username, &login.password);
    }
    if let Some(will) = &session.will {
        let (topic, payload) = (will.topic.as_str(), will.payload.clone());
        options.set_last_will(LastWill::new(topic, payload, QoS::AtLeastOnce, true));
    }
    let (client, mut events) = AsyncClient::new(options, session.requests());
    let mut network = NetworkOptions::new();
    network.set_connection_timeout(session.connect.as_secs().max(1));
    events.set_network_options(network);
    let limit = session.connect + session.keep_alive;
    let error = match timeout(limit, events.poll()).await {
        Ok(Ok(rumqttc::Event::Incoming(Packet::ConnAck(_)))) => {
            return Ok(Connected {
                client: Client::V3(client),
                events: Events(Loop::V3(Box::new(events))),
                protocol: Protocol::V3,
                receive_max: None,
                max_packet: None,
            });
        }
        Ok(Ok(_)) | Err(_) => Error::Silent,
        Ok(Err(ConnectionError::ConnectionRefused(code))) => Error::Refused {
            broker: broker.name(),
            reason: format!("{code:?}"),
        },
        Ok(Err(source)) => Error::Unreachable {
            broker: broker.name(),
            source: Box::new(source),
        },
    };
    Err(Failed {
        error,
        perhaps_for_the_version: false,
    })
}

pub(super) fn publish(
    client: &AsyncClient,
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
    let sent = client.try_publish(topic, qos, retained, payload);
    sent.map_err(|_| Error::Busy)
}

pub(super) fn subscribe(client: &AsyncClient, filters: Vec<String>) -> Result<(), Error> {
    let filters = filters
        .into_iter()
        .map(|filter| SubscribeFilter::new(filter, QoS::AtLeastOnce));
    client.try_subscribe_many(filters).map_err(|_| Error::Busy)
}

pub(super) fn acknowledge(client: &AsyncClient, id: u16) -> Result<(), Error> {
    let mut publish = Publish::new("", QoS::AtLeastOnce, Bytes::new());
    publish.pkid = id;
    client.try_ack(&publish).map_err(|_| Error::Busy)
}

pub(super) async fn poll(events: &mut EventLoop) -> Result<Event, Error> {
    let event = events.poll().await.map_err(|error| match error {
        ConnectionError::FlushTimeout | ConnectionError::MqttState(StateError::AwaitPingResp) => {
            Error::Silent
        }
        ConnectionError::Io(_)
        | ConnectionError::MqttState(
            StateError::Io(_)
            | StateError::ConnectionAborted
            | StateError::Deserialization(mqttbytes::Error::Io(_)),
        ) => Error::Broken(Box::new(error)),
        error => Error::Garbled(Box::new(error)),
    })?;
    Ok(match event {
        rumqttc::Event::Outgoing(Outgoing::Publish(id)) if id > 0 => Event::Sent(id),
        rumqttc::Event::Outgoing(Outgoing::AwaitAck(_)) => Event::Collision,
        rumqttc::Event::Incoming(Packet::PubAck(ack)) => Event::Acknowledged(ack.pkid, Ok(())),
        rumqttc::Event::Incoming(Packet::SubAck(ack)) => {
            let granted = ack.return_codes.into_iter().map(|code| match code {
                SubscribeReasonCode::Success(_) => Ok(()),
                SubscribeReasonCode::Failure => Err(Refusal("Failure".to_owned())),
            });
            Event::Subscribed(granted.collect())
        }
        rumqttc::Event::Incoming(Packet::Publish(publish)) => Event::Message {
            topic: publish.topic,
            payload: publish.payload,
            retained: publish.retain,
            id: (publish.qos == QoS::AtLeastOnce).then_some(publish.pkid),
        },
        _ => Event::Other,
    })
}
