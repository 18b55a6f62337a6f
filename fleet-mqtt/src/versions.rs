//! The two versions behind one face; what differs stands in `v5` and `v3`.

pub(crate) mod v3;
pub(crate) mod v5;

use bytes::Bytes;
use tokio::sync::mpsc;

use crate::error::Error;
use crate::event::Event;

/// Sends on one connection; never waits.
#[derive(Clone)]
pub enum Client {
    #[doc(hidden)]
    V5(mpsc::Sender<rumqttc::v5::Request>),
    #[doc(hidden)]
    V3(rumqttc::AsyncClient),
}

/// Receives on one connection. Nothing moves, sending included, unless it is polled.
pub struct Events(pub(crate) Loop);

pub(crate) enum Loop {
    V5(Box<v5::Link>),
    V3(Box<rumqttc::EventLoop>),
}

/// Why connecting failed.
pub(crate) struct Failed {
    pub(crate) error: Error,
    /// Whether the broker may just not speak this version.
    pub(crate) perhaps_for_the_version: bool,
}

impl Client {
    /// Publishes with QoS 1.
    ///
    /// # Errors
    /// [`Error::Busy`] if the client has no room for it.
    pub fn publish(&self, topic: String, retained: bool, payload: Bytes) -> Result<(), Error> {
        match self {
            Self::V5(client) => v5::publish(client, topic, true, retained, payload),
            Self::V3(client) => v3::publish(client, topic, true, retained, payload),
        }
    }

    /// Publishes with QoS 0.
    ///
    /// # Errors
    /// [`Error::Busy`] if the client has no room for it.
    pub fn mention(&self, topic: String, payload: Bytes) -> Result<(), Error> {
        match self {
            Self::V5(client) => v5::publish(client, topic, false, false, payload),
            Self::V3(client) => v3::publish(client, topic, false, false, payload),
        }
    }

    /// Subscribes to all `filters` with QoS 1.
    ///
    /// # Errors
    /// [`Error::Busy`] if the client has no room for it.
    pub fn subscribe(&self, filters: Vec<String>) -> Result<(), Error> {
        match self {
            Self::V5(client) => v5::subscribe(client, filters),
            Self::V3(client) => v3::subscribe(client, filters),
        }
    }

    /// Subscribes to all `filters` with QoS 1 in a session that is kept: a broker of MQTT 5 sends
    /// what it has retained only the first time, and marks it.
    ///
    /// # Errors
    /// [`Error::Busy`] if the client has no room for it.
    pub fn follow(&self, filters: Vec<String>) -> Result<(), Error> {
        match self {
            Self::V5(client) => v5::follow(client, filters),
            Self::V3(client) => v3::subscribe(client, filters),
        }
    }

    /// Tells the broker that the message of this `id` is safe, in a session that is kept.
    ///
    /// # Errors
    /// [`Error::Busy`] if the client has no room for it.
    pub fn acknowledge(&self, id: u16) -> Result<(), Error> {
        match self {
            Self::V5(client) => v5::acknowledge(client, id),
            Self::V3(client) => v3::acknowledge(client, id),
        }
    }

    /// Says goodbye, so that the will is not published.
    ///
    /// # Errors
    /// [`Error::Busy`] if the client has no room for it.
    pub fn disconnect(&self) -> Result<(), Error> {
        match self {
            Self::V5(client) => v5::disconnect(client),
            Self::V3(client) => client.try_disconnect().map_err(|_| Error::Busy),
        }
    }
}

impl Events {
    /// The next thing that happens. A peer that stops answering is noticed by the keep alive in
    /// MQTT 5; callers have a limit of their own as well.
    ///
    /// # Errors
    /// [`Error`]; then the connection is over.
    pub async fn poll(&mut self) -> Result<Event, Error> {
        match &mut self.0 {
            Loop::V5(link) => v5::poll(link).await,
            Loop::V3(events) => v3::poll(events).await,
        }
    }
}
