use std::sync::Arc;

use bytes::Bytes;
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::{
    ConnectReturnCode, DisconnectReasonCode, Filter, LastWill, Packet, PubAckReason,
    SubscribeReasonCode,
};
use rumqttc::v5::{AsyncClient, ConnectionError, EventLoop, MqttOptions, StateError};
use rumqttc::{Outgoing, TlsConfiguration, Transport};
use tokio::time::timeout;

use super::{Client, Events, Failed};
use crate::connect::{Broker, Connected, Protocol, Session};
use crate::error::Error;
use crate::event::{Event, Refusal};

pub(crate) async fn connect(broker: &Broker, session: &Session) -> Result<Connected, Failed> {
    let mut options = MqttOptions::new(&session.client_id, &broker.host, broker.port);
    options
        .set_clean_start(true)
        .set_keep_alive(session.keep_alive)
        .set_connection_timeout(session.connect.as_secs().max(1))
        .set_max_packet_size(Some(session.incoming_bytes))
        .set_outgoing_inflight_upper_limit(session.in_flight);
    if let Some(tls) = &broker.tls {
        let tls = TlsConfiguration::Rustls(Arc::clone(tls));
        options.set_transport(Transport::tls_with_config(tls));
    }
    if let Some(login) = &broker.credentials {
        options.set_credentials(&login.username, &login.password);
    }
    if let Some(will) = &session.will {
        let (topic, payload) = (will.topic.as_str(), will.payload.clone());
        options.set_last_will(LastWill::new(topic, payload, QoS::AtLeastOnce, true, None));
    }
    let (client, mut events) = AsyncClient::new(options, usize::from(session.in_flight));
    let limit = session.connect + session.keep_alive;
    let connack = match timeout(limit, events.poll()).await {
        Ok(Ok(rumqttc::v5::Event::Incoming(Packet::ConnAck(connack)))) => connack,
        Ok(Ok(_)) | Err(_) => {
            return Err(Failed {
                error: Error::Silent,
                perhaps_for_the_version: false,
            });
        }
        Ok(Err(error)) => return Err(failed(broker, error)),
    };
    let properties = connack.properties.as_ref();
    Ok(Connected {
        client: Client::V5(client),
        events: Events::V5(Box::new(events)),
        protocol: Protocol::V5,
        receive_max: properties.and_then(|p| p.receive_max),
        max_packet: properties
            .and_then(|p| p.max_packet_size)
            .map(|bytes| bytes as usize),
    })
}

fn failed(broker: &Broker, error: ConnectionError) -> Failed {
    let broker = broker.name();
    // A broker of 3.1.1 answers in a form that is none in 5, or just hangs up.
    let perhaps_for_the_version = match &error {
        ConnectionError::ConnectionRefused(code) => matches!(
            code,
            ConnectReturnCode::RefusedProtocolVersion
                | ConnectReturnCode::UnsupportedProtocolVersion
        ),
        ConnectionError::MqttState(
            StateError::Deserialization(_) | StateError::ConnectionAborted | StateError::Io(_),
        ) => true,
        _ => false,
    };
    let error = match error {
        ConnectionError::ConnectionRefused(code) => Error::Refused {
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
        .map(|filter| Filter::new(filter, QoS::AtLeastOnce));
    client.try_subscribe_many(filters).map_err(|_| Error::Busy)
}

pub(super) async fn poll(events: &mut EventLoop) -> Result<Event, Error> {
    let event = events.poll().await.map_err(|error| match error {
        ConnectionError::MqttState(StateError::ServerDisconnect {
            reason_code: DisconnectReasonCode::SessionTakenOver,
            ..
        }) => Error::TakenOver,
        ConnectionError::MqttState(StateError::ServerDisconnect {
            reason_code,
            reason_string,
        }) => Error::Ended(reason_string.map_or_else(
            || format!("{reason_code:?}"),
            |said| format!("{reason_code:?} ({said})"),
        )),
        error => Error::Broken(Box::new(error)),
    })?;
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
        },
        _ => Event::Other,
    })
}
