//! The node's events on their way to its own stream.
//!
//! ```text
//!  anybody ─ note (never waits) ─► pending, the same once in 10 s ─► stream `events` ─► uplink
//! ```

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use fleet_api::event::{self, Event, EventKind};
use fleet_api::frame::Encoding;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::clock::unix_ms;
use crate::streams::{NewRecord, Streams};

/// Events that wait at most; the oldest gives way.
const WAITING: usize = 256;
/// The same kind of the same stream is told once in this time, with its count.
const AGAIN: Duration = Duration::from_secs(10);
/// A text is cut here.
const TEXT_BYTES: usize = 1024;

type Key = (EventKind, Option<String>);

/// Takes events from every part of the node; clones lead to the same place.
#[derive(Clone, Default)]
pub struct Events {
    inner: Arc<Inner>,
}

#[derive(Default)]
struct Inner {
    pending: Mutex<Pending>,
    noted: Notify,
}

/// What waits to be written. No I/O, no clock.
#[derive(Default)]
struct Pending {
    waiting: VecDeque<Event>,
    keys: VecDeque<Key>,
    told: BTreeMap<Key, Instant>,
}

impl Events {
    /// Notes that something happened, perhaps to a stream. Never waits, may be called from
    /// any thread; what follows soon after the same kind of the same stream only counts.
    pub fn note(&self, kind: EventKind, stream: Option<&str>, text: impl Into<String>) {
        let mut text: String = text.into();
        if text.len() > TEXT_BYTES {
            let end = (0..=TEXT_BYTES).rev().find(|&at| text.is_char_boundary(at));
            text.truncate(end.unwrap_or(0));
        }
        self.lock()
            .note((kind, stream.map(str::to_owned)), text, unix_ms());
        self.inner.noted.notify_one();
    }

    /// Those that are not written yet.
    #[cfg(test)]
    pub(crate) fn waiting(&self) -> Vec<Event> {
        self.lock().waiting.iter().cloned().collect()
    }

    fn lock(&self) -> MutexGuard<'_, Pending> {
        self.inner
            .pending
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl Pending {
    fn note(&mut self, key: Key, text: String, time_ms: u64) {
        if let Some(at) = self.keys.iter().position(|known| *known == key) {
            let event = &mut self.waiting[at];
            event.count += 1;
            event.time_ms = time_ms;
            event.text = text;
            return;
        }
        if self.waiting.len() == WAITING {
            self.waiting.pop_front();
            self.keys.pop_front();
        }
        self.waiting.push_back(Event {
            v: 1,
            time_ms,
            kind: key.0.as_str().to_owned(),
            stream: key.1.clone(),
            text,
            count: 1,
        });
        self.keys.push_back(key);
    }

    /// The events whose time has come, in the order in which they came first.
    fn due(&mut self, now: Instant) -> Vec<(Key, Event)> {
        self.told
            .retain(|_, told| now.duration_since(*told) < AGAIN);
        let all = std::mem::take(&mut self.keys)
            .into_iter()
            .zip(std::mem::take(&mut self.waiting));
        let (due, later): (Vec<_>, Vec<_>) = all.partition(|(key, _)| !self.told.contains_key(key));
        (self.keys, self.waiting) = later.into_iter().unzip();
        due
    }

    /// When the next of those that wait is due.
    fn next(&self) -> Option<Instant> {
        let told = self.keys.iter().map(|key| self.told.get(key));
        told.map(|told| told.map_or_else(Instant::now, |told| *told + AGAIN))
            .min()
    }
}

/// Writes events into the node's own stream until `stop`, and what is left then.
pub async fn run(streams: Streams, stop: CancellationToken) {
    let events = streams.events().clone();
    loop {
        write(&events, &streams).await;
        let next = events.lock().next();
        let next = async {
            match next {
                Some(next) => tokio::time::sleep_until(next).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = stop.cancelled() => break,
            () = events.inner.noted.notified() => {}
            () = next => {}
        }
    }
    events.lock().told.clear();
    write(&events, &streams).await;
}

async fn write(events: &Events, streams: &Streams) {
    let due = events.lock().due(Instant::now());
    if due.is_empty() {
        return;
    }
    let records = due.iter().map(|(_, event)| {
        let text = serde_json::to_vec(event).expect("an event has only string keys");
        NewRecord {
            time_ms: Some(event.time_ms),
            ..NewRecord::new(Encoding::Json, text)
        }
    });
    let records = records.collect();
    // A buffer that takes no event takes no data either, and says so in health and log.
    if let Err(error) = streams.append(event::STREAM, records).await {
        tracing::warn!(%error, "events cannot be kept");
    }
    let now = Instant::now();
    let mut pending = events.lock();
    pending
        .told
        .extend(due.into_iter().map(|(key, _)| (key, now)));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(kind: EventKind, stream: &str) -> Key {
        (kind, Some(stream.to_owned()))
    }

    #[test]
    fn the_same_again_is_counted_and_told_later() {
        let mut pending = Pending::default();
        let now = Instant::now();
        let gap = key(EventKind::Gap, "a");
        pending.note(gap.clone(), "one".to_owned(), 1);
        pending.note(key(EventKind::Gap, "b"), "other".to_owned(), 1);
        let due = pending.due(now);
        assert_eq!(due.len(), 2);
        pending
            .told
            .extend(due.into_iter().map(|(key, _)| (key, now)));
        for n in 2..=4 {
            pending.note(gap.clone(), n.to_string(), n);
        }
        assert!(pending.due(now + AGAIN / 2).is_empty());
        assert_eq!(pending.next(), Some(now + AGAIN));
        let due = pending.due(now + AGAIN);
        assert_eq!(due.len(), 1);
        let event = &due[0].1;
        assert_eq!(
            (event.count, event.text.as_str(), event.time_ms),
            (3, "4", 4)
        );
        assert_eq!(pending.next(), None);
    }

    #[test]
    fn too_many_kinds_of_events_push_the_oldest_out() {
        let mut pending = Pending::default();
        for n in 0..=WAITING {
            pending.note(key(EventKind::Source, &n.to_string()), String::new(), 0);
        }
        let due = pending.due(Instant::now());
        assert_eq!(due.len(), WAITING);
        assert_eq!(due[0].1.stream.as_deref(), Some("1"));
    }

    #[test]
    fn a_long_text_is_cut_between_characters() {
        let events = Events::default();
        events.note(EventKind::Gap, None, "ä".repeat(TEXT_BYTES));
        let due = events.lock().due(Instant::now());
        assert_eq!(due[0].1.text.len(), TEXT_BYTES);
    }
}
