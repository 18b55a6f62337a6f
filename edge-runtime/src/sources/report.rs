use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use fleet_api::event::EventKind;
use fleet_api::health::SourceHealth;
use fleet_api::source::Source;

use crate::clock::unix_ms;
use crate::events::Events;

/// Shows how one source does; clones show the same.
#[derive(Clone)]
pub(super) struct Report {
    health: Arc<Mutex<SourceHealth>>,
    events: Events,
}

impl Report {
    /// A source that has not reached anything yet.
    pub(super) fn new(source: &Source, events: Events) -> Self {
        let health = SourceHealth {
            name: source.name.clone(),
            kind: source.kind().to_owned(),
            stream: source.stream.clone(),
            address: address(source),
            connected: false,
            since_ms: unix_ms(),
            reason: None,
            records: 0,
            errors: 0,
            lost: 0,
            clients: 0,
            last_record_ms: None,
        };
        Self {
            health: Arc::new(Mutex::new(health)),
            events,
        }
    }

    /// The figures of this moment.
    pub(super) fn health(&self) -> SourceHealth {
        self.lock().clone()
    }

    /// It is in touch with what it reads from.
    pub(super) fn connected(&self) {
        let mut health = self.lock();
        if !health.connected {
            health.since_ms = unix_ms();
            tracing::info!(source = %health.name, kind = health.kind, "the source is connected");
            self.event(&health, "is connected".to_owned());
        }
        health.connected = true;
        health.reason = None;
    }

    /// It is not, and why. A reason is told in the log once.
    pub(super) fn disconnected(&self, reason: &str) {
        let mut health = self.lock();
        if health.connected || health.reason.as_deref() != Some(reason) {
            tracing::warn!(source = %health.name, kind = health.kind, reason, "the source is not connected, trying again");
        }
        if health.connected || health.reason.is_none() {
            health.since_ms = unix_ms();
            self.event(&health, format!("is not connected: {reason}"));
        }
        health.connected = false;
        health.reason = Some(reason.to_owned());
        health.errors += 1;
    }

    /// It holds records that its stream does not take for now.
    pub(super) fn waits(&self, reason: &str) {
        let mut health = self.lock();
        if health.reason.as_deref() != Some(reason) {
            tracing::warn!(source = %health.name, stream = %health.stream, reason, "the source waits for its stream");
            self.event(&health, format!("waits: {reason}"));
        }
        health.reason = Some(reason.to_owned());
    }

    /// So many records are durable.
    pub(super) fn stored(&self, records: usize) {
        let mut health = self.lock();
        health.records += records as u64;
        health.last_record_ms = Some(unix_ms());
        if health.connected {
            health.reason = None;
        }
    }

    /// Something that was sent could not be read.
    pub(super) fn error(&self, reason: &str) {
        let mut health = self.lock();
        health.errors += 1;
        tracing::warn!(source = %health.name, reason, "the source could not read something");
    }

    /// So many values or messages were not stored, and nobody sends them again.
    pub(super) fn lost(&self, values: u64, reason: &str) {
        let mut health = self.lock();
        health.lost += values;
        tracing::error!(source = %health.name, values, reason, "the source has lost values");
        self.event(&health, format!("has lost {values}: {reason}"));
    }

    /// Where it listens, once that is known.
    pub(super) fn listens(&self, address: SocketAddr) {
        self.lock().address = address.to_string();
    }

    /// So many clients are connected now.
    pub(super) fn clients(&self, clients: usize) {
        self.lock().clients = clients as u64;
    }

    fn event(&self, health: &SourceHealth, what: String) {
        let text = format!("source {} {what}", health.name);
        let stream = Some(health.stream.as_str());
        self.events.note(EventKind::Source, stream, text);
    }

    fn lock(&self) -> MutexGuard<'_, SourceHealth> {
        self.health.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn address(source: &Source) -> String {
    let mqtt = source.mqtt.as_ref();
    let listen = mqtt.and_then(|mqtt| Some(mqtt.listen?.to_string()));
    listen
        .or_else(|| mqtt?.broker.clone())
        .or_else(|| Some(source.modbus.as_ref()?.address.clone()))
        .or_else(|| Some(source.opcua.as_ref()?.endpoint.clone()))
        .or_else(|| Some(source.file.as_ref()?.path.clone()))
        .unwrap_or_default()
}
