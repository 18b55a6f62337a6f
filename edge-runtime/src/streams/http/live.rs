//! A stream as server-sent events, from the buffer: a client that is slow reads
//! later, and what was evicted meanwhile comes as a gap.
//!
//! ```text
//! id: <epoch>.<seq>    data: {"seq", "time", "value"}
//! event: gap           data: {"gap": {"first", "last", "reason", "lost"}}
//! event: epoch         data: {"epoch", "first_seq"}       the buffer is another one than before
//! event: end           data: {"reason", "message"}        then the connection closes
//! ```

use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut as _, Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use http_body::Frame;
use http_body_util::{BodyExt as _, StreamBody};
use tokio::sync::mpsc::{self, OwnedPermit};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;

use super::form::GapRow;
use super::query::{OF_LIVE, Query};
use super::{HttpError, StreamsBody, answer};
use crate::streams::range::RecordRange;
use crate::streams::{AppendError, OutFrame, Streams};

/// Clients that follow streams at the same time.
pub(super) const CLIENTS: usize = 64;
/// A comment is sent when nothing else was for so long.
const PAUSE: Duration = Duration::from_secs(15);
/// A client that has taken nothing for so long is let go.
const PATIENCE: Duration = Duration::from_secs(if cfg!(test) { 1 } else { 25 });
/// How long a client shall wait before it comes back, in milliseconds.
const RETRY_MS: u64 = 2_000;
/// Size of the pieces in which events go out.
const PIECE_BYTES: usize = 32 << 10;
/// Pieces that wait for the client.
const PIECES: usize = 4;
/// Frames that are read at once.
const FRAMES: usize = 32;

type Piece = Result<Bytes, AppendError>;

/// Who follows streams of this node.
#[derive(Debug)]
pub(in crate::streams) struct Live {
    places: Arc<Semaphore>,
    stop: CancellationToken,
}

impl Default for Live {
    fn default() -> Self {
        Self {
            places: Arc::new(Semaphore::new(CLIENTS)),
            stop: CancellationToken::new(),
        }
    }
}

impl Live {
    #[cfg(test)]
    pub(in crate::streams) fn clients(&self) -> usize {
        CLIENTS - self.places.available_permits()
    }
}

/// Why a client is let go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Slow,
    Stopping,
    Failed,
}

impl End {
    fn event(self) -> Bytes {
        let (reason, message) = match self {
            Self::Slow => (
                "slow",
                "nothing was taken for too long: come back with Last-Event-ID",
            ),
            Self::Stopping => ("stopping", "the node is stopping: come back later"),
            Self::Failed => ("failed", "the buffer cannot be read: see the node's log"),
        };
        let data = serde_json::json!({ "reason": reason, "message": message });
        format!("event: end\ndata: {data}\n\n").into()
    }
}

impl Streams {
    /// Lets those go that follow streams, with a word of farewell.
    pub fn end_live(&self) {
        self.inner.live.stop.cancel();
    }

    /// Events from `?from`, `?since` or `Last-Event-ID` on, else new ones only.
    pub(super) async fn live(
        &self,
        stream: &str,
        headers: &HeaderMap,
        query: Option<&str>,
    ) -> Result<Response<StreamsBody>, HttpError> {
        self.inner.shared.spec(stream)?;
        let range = Query::parse(query, OF_LIVE)?.range;
        let place = Arc::clone(&self.inner.live.places)
            .try_acquire_owned()
            .map_err(|_| HttpError::LiveClients)?;
        let held = self.readable(stream)?;
        let resumed = headers.get("last-event-id").and_then(last_event);
        let other_epoch = resumed.is_some_and(|last| last.epoch.is_some_and(|e| e != self.epoch()));
        let at = match (resumed, range) {
            (Some(_), _) if other_epoch => held.start,
            (Some(last), _) => last.seq.saturating_add(1),
            (
                None,
                RecordRange {
                    from: Some(from), ..
                },
            ) => from,
            (
                None,
                RecordRange {
                    since_ms: Some(_), ..
                },
            ) => self.range(stream, range).await?.at(),
            (None, _) => held.end,
        };
        // A part of the first event: some clients hand out an empty one for a block without data.
        let mut greeting = BytesMut::from(&format!("retry: {RETRY_MS}\n")[..]);
        if other_epoch {
            let data = serde_json::json!({ "epoch": self.epoch(), "first_seq": held.start });
            greeting.put_slice(format!("event: epoch\ndata: {data}\n\n").as_bytes());
        }

        let (events, received) = mpsc::channel::<Piece>(PIECES);
        let farewell = events.clone().try_reserve_owned();
        let farewell = farewell.expect("a new channel has room");
        let follower = Follower {
            streams: self.clone(),
            stream: stream.to_owned(),
            at,
            piece: greeting,
            events,
            _place: place,
        };
        tokio::spawn(follower.run(farewell));
        let body = StreamBody::new(ReceiverStream::new(received).map(|p| p.map(Frame::data)));
        let mut response = answer(StatusCode::OK, "text/event-stream", body.boxed_unsync());
        response
            .headers_mut()
            .insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        // Asks proxies not to hold events back.
        response
            .headers_mut()
            .insert("x-accel-buffering", HeaderValue::from_static("no"));
        Ok(response)
    }
}

/// Where a client has got to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct LastEvent {
    epoch: Option<u64>,
    seq: u64,
}

/// Reads `<epoch>.<seq>`, or a bare sequence.
fn last_event(id: &HeaderValue) -> Option<LastEvent> {
    let id = id.to_str().ok()?;
    let (epoch, seq) = match id.split_once('.') {
        Some((epoch, seq)) => (Some(epoch.parse().ok()?), seq),
        None => (None, id),
    };
    let seq = seq.parse().ok()?;
    Some(LastEvent { epoch, seq })
}

/// Sends one client its events.
struct Follower {
    streams: Streams,
    stream: String,
    at: u64,
    piece: BytesMut,
    events: mpsc::Sender<Piece>,
    _place: OwnedSemaphorePermit,
}

/// Why a follower ends; none if the client has left.
type Ended = Option<End>;

impl Follower {
    async fn run(mut self, farewell: OwnedPermit<Piece>) {
        let end = match self.follow().await {
            Ok(never) => match never {},
            Err(end) => end,
        };
        if let Some(end) = end {
            tracing::debug!(stream = self.stream, ?end, "let a live client go");
            farewell.send(Ok(end.event()));
        }
    }

    async fn follow(&mut self) -> Result<std::convert::Infallible, Ended> {
        let mut changed = self.streams.changed();
        let stop = self.streams.inner.live.stop.clone();
        loop {
            changed.mark_unchanged();
            let low = self
                .streams
                .readable(&self.stream)
                .map_err(|_| Some(End::Failed))?;
            if self.at > 0 && self.at < low.start {
                self.gap(&GapRow::released((self.at, low.start - 1)), low.start - 1);
                self.at = low.start;
            }
            let frames = self.streams.frames(&self.stream, self.at, FRAMES).await;
            let frames = frames.map_err(|_| Some(End::Failed))?;
            let idle = frames.is_empty();
            for frame in frames {
                self.frame(frame).await?;
            }
            self.flush().await?;
            if stop.is_cancelled() {
                return Err(Some(End::Stopping));
            }
            if !idle {
                continue;
            }
            if self.streams.failed().is_some() {
                return Err(Some(End::Failed));
            }
            tokio::select! {
                () = stop.cancelled() => return Err(Some(End::Stopping)),
                () = self.events.closed() => return Err(None),
                more = changed.changed() => more.map_err(|_| Some(End::Stopping))?,
                () = tokio::time::sleep(PAUSE) => {
                    self.piece.put_slice(b":\n");
                    self.flush().await?;
                }
            }
        }
    }

    async fn frame(&mut self, frame: OutFrame) -> Result<(), Ended> {
        if let Some(gap) = GapRow::of(&frame) {
            self.gap(&gap, frame.last);
            self.at = frame.last + 1;
            return Ok(());
        }
        for row in crate::streams::read::rows(frame, self.at) {
            let id = format!("id: {}.{}\ndata: ", self.streams.epoch(), row.seq);
            self.piece.put_slice(id.as_bytes());
            self.piece.put_slice(row.to_json().as_bytes());
            self.piece.put_slice(b"\n\n");
            self.at = row.seq + 1;
            if self.piece.len() >= PIECE_BYTES {
                self.flush().await?;
            }
        }
        Ok(())
    }

    fn gap(&mut self, gap: &GapRow, last: u64) {
        let epoch = self.streams.epoch();
        let event = format!(
            "id: {epoch}.{last}\nevent: gap\ndata: {}\n\n",
            gap.to_json()
        );
        self.piece.put_slice(event.as_bytes());
    }

    async fn flush(&mut self) -> Result<(), Ended> {
        let piece = self.piece.split().freeze();
        if piece.is_empty() {
            return Ok(());
        }
        match tokio::time::timeout(PATIENCE, self.events.send(Ok(piece))).await {
            Ok(sent) => sent.map_err(|_| None),
            Err(_) => Err(Some(End::Slow)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_of_an_event_is_read_back() {
        let read = |id: &'static str| last_event(&HeaderValue::from_static(id));
        let known = LastEvent {
            epoch: Some(7),
            seq: 42,
        };
        assert_eq!(read("7.42"), Some(known));
        assert_eq!(
            read("42"),
            Some(LastEvent {
                epoch: None,
                ..known
            })
        );
        assert_eq!(read("x"), None);
    }
}
