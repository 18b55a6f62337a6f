//! Forwards the streams over the data connection.
//!
//! ```text
//!            ┌────────────── back off, full jitter ◄──────────────┐
//!  streams ─►│ connect (new client) ─► send a window ─► any fault ┘
//!            │                         ▲    │ PUBACK: the broker has it
//!            └── low, freed ◄──────────┴────┘ watermark: the receiver has it
//! ```
//!
//! The MQTT client is trusted with nothing: it drops what it accepted when a
//! connection breaks. So every connection gets a new client and starts again
//! at the watermark; what is in flight is bounded by a window; a record leaves
//! the disk only on the receiver's watermark (`ack = consumer`) or the
//! broker's successful PUBACK (`ack = broker`). A broker that acknowledges and
//! a receiver that does not get the same frames again after a pause.

mod aside;
mod connection;
mod lanes;
mod suspect;
mod window;

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use fleet_api::event::EventKind;
use fleet_api::health::UplinkHealth;
use fleet_api::ids::NodeId;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use self::connection::UplinkError;
use self::suspect::Suspect;
use crate::backoff::Backoff;
use crate::causes::chain;
use crate::clock::unix_ms;
use crate::streams::Streams;

/// Where the data goes.
#[derive(Clone)]
pub struct UplinkConfig {
    /// This node; the client id and the topics derive from it.
    pub node: NodeId,
    /// The broker.
    pub broker: fleet_mqtt::Broker,
    /// Bytes a second at most; none is no bound.
    pub rate: Option<u64>,
    /// Bytes in flight at most, but for one frame.
    pub window: usize,
}

impl UplinkConfig {
    /// Bytes in flight unless it is configured otherwise.
    pub const WINDOW: usize = 1 << 20;
}

/// The times that rule a connection.
#[derive(Debug, Clone)]
struct Timing {
    keep_alive: Duration,
    connect: Duration,
    /// A PUBACK that takes longer ends the connection.
    puback: Duration,
    /// A watermark that does not move for so long makes frames go out again.
    stall: Duration,
    backoff_min: Duration,
    backoff_max: Duration,
    /// How long the node gives way to another client with its identity.
    give_way: Duration,
}

/// So many takeovers within the time are a fight, not a reconnect.
const TAKEOVERS: (usize, Duration) = (5, Duration::from_secs(60));

impl Default for Timing {
    fn default() -> Self {
        Self {
            keep_alive: Duration::from_secs(15),
            connect: Duration::from_secs(10),
            puback: Duration::from_secs(30),
            stall: Duration::from_secs(30),
            backoff_min: Duration::from_millis(50),
            backoff_max: Duration::from_secs(15),
            give_way: Duration::from_secs(300),
        }
    }
}

/// Shows how the uplink does; clones show the same.
#[derive(Clone, Default)]
pub struct UplinkHandle {
    health: Arc<Mutex<UplinkHealth>>,
}

impl UplinkHandle {
    /// The figures of this moment.
    pub fn health(&self) -> UplinkHealth {
        self.lock().clone()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, UplinkHealth> {
        self.health.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn connected(&self) {
        let mut health = self.lock();
        health.connected = true;
        health.since_ms = unix_ms();
        health.reason = None;
    }

    fn disconnected(&self, reason: &str) {
        let mut health = self.lock();
        if health.connected || health.since_ms == 0 {
            health.since_ms = unix_ms();
        }
        health.connected = false;
        health.reason = Some(reason.to_owned());
    }

    fn count(&self, published: u64, resent: u64) {
        let mut health = self.lock();
        health.published += published;
        health.resent += resent;
    }
}

/// Forwards until `stop`; what is not forwarded by then stays in the buffer.
pub async fn run(
    config: UplinkConfig,
    streams: Streams,
    handle: UplinkHandle,
    stop: CancellationToken,
) {
    run_timed(config, Timing::default(), streams, handle, stop).await;
}

async fn run_timed(
    config: UplinkConfig,
    timing: Timing,
    streams: Streams,
    handle: UplinkHandle,
    stop: CancellationToken,
) {
    let mut backoff = Backoff::new(timing.backoff_min, timing.backoff_max);
    let mut suspect = Suspect::default();
    let mut takeovers = VecDeque::new();
    loop {
        let started = Instant::now();
        let ended = connection::run(&config, &timing, &streams, &handle, &mut suspect, &stop).await;
        let Err(error) = ended else {
            handle.disconnected("the node is stopping");
            return;
        };
        // A connection that stood for a while was a good one.
        if started.elapsed() > timing.backoff_max {
            backoff.reset();
        }
        let mut pause = backoff.next();
        if is_fight(&error, &mut takeovers) {
            takeovers.clear();
            pause = timing.give_way;
            let text = "another client has this node's identity: two machines may share a data folder's copy; this one pauses";
            tracing::error!(?pause, text);
            streams.events().note(EventKind::Takeover, None, text);
        }
        let reason = chain(&error);
        tracing::warn!(reason, ?pause, "the data connection is down, trying again");
        handle.disconnected(&reason);
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(pause) => {}
        }
    }
}

/// Whether this end of a connection is one takeover too many.
fn is_fight(error: &UplinkError, takeovers: &mut VecDeque<Instant>) -> bool {
    if !matches!(error, UplinkError::Mqtt(fleet_mqtt::Error::TakenOver)) {
        return false;
    }
    let now = Instant::now();
    takeovers.push_back(now);
    takeovers.retain(|at| now.duration_since(*at) < TAKEOVERS.1);
    takeovers.len() >= TAKEOVERS.0
}

#[cfg(test)]
mod tests;
