//! What a guest prints: whole lines into the runtime's log, with handler,
//! version and request id, and no more than a handler's share of it.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Instant;

use bytes::Bytes;
use fleet_api::ids::{Name, Version};
use tokio::io::AsyncWrite;
use tracing::Level;
use wasmtime_wasi::async_trait;
use wasmtime_wasi::cli::{IsTerminal, StdoutStream};
use wasmtime_wasi::p2::{OutputStream, Pollable, StreamError};

use super::call::Call;
use super::stats::FaultKind;

const MAX_LINE_BYTES: usize = 4096;
const MAX_CONTEXT_BYTES: usize = 256;
const BYTES_PER_SECOND: f64 = 64.0 * 1024.0;
const BURST_BYTES: f64 = 256.0 * 1024.0;

/// A handler's share of the log, over all its calls.
#[derive(Debug)]
pub(super) struct LogShare {
    handler: Name,
    version: Version,
    bucket: Mutex<Bucket>,
}

#[derive(Debug)]
struct Bucket {
    tokens: f64,
    filled: Instant,
    dropped_lines: u64,
}

impl LogShare {
    pub(super) fn new(handler: Name, version: Version) -> Arc<Self> {
        let bucket = Bucket {
            tokens: BURST_BYTES,
            filled: Instant::now(),
            dropped_lines: 0,
        };
        Arc::new(Self {
            handler,
            version,
            bucket: Mutex::new(bucket),
        })
    }

    fn emit(&self, call: &Call, stream: &'static str, line: &[u8]) {
        if self.admit(line.len()) {
            let (handler, version) = (self.handler.as_str(), self.version.as_str());
            let line = String::from_utf8_lossy(line);
            let (request_id, trace_id) = (call.id.as_str(), call.trace.id());
            tracing::info!(target: "guest", handler, version, request_id, trace_id, stream, "{line}");
        }
    }

    /// A line that the guest logs itself.
    pub(super) fn line(&self, level: Level, call: &Call, context: &str, message: &str) {
        let context = &context[..context.floor_char_boundary(MAX_CONTEXT_BYTES)];
        let message = &message[..message.floor_char_boundary(MAX_LINE_BYTES)];
        if !self.admit(context.len() + message.len()) {
            return;
        }
        let (handler, version) = (self.handler.as_str(), self.version.as_str());
        let (request_id, trace_id) = (call.id.as_str(), call.trace.id());
        macro_rules! emit {
            ($level:expr) => {
                tracing::event!(target: "guest", $level, handler, version, request_id, trace_id, context, "{message}")
            };
        }
        match level {
            Level::TRACE => emit!(Level::TRACE),
            Level::DEBUG => emit!(Level::DEBUG),
            Level::INFO => emit!(Level::INFO),
            Level::WARN => emit!(Level::WARN),
            Level::ERROR => emit!(Level::ERROR),
        }
    }

    /// Tells what the guest was refused, and what would grant it.
    pub(super) fn denied(&self, request_id: &str, what: &str) {
        if self.admit(what.len()) {
            let (handler, version) = (self.handler.as_str(), self.version.as_str());
            tracing::warn!(handler, version, request_id, "a handler was denied: {what}");
        }
    }

    /// Tells why a guest was stopped.
    pub(super) fn fault(&self, request_id: &str, kind: FaultKind, error: &str) {
        let error = error[..error.floor_char_boundary(MAX_LINE_BYTES)].replace('\n', " | ");
        if self.admit(error.len()) {
            let (handler, version) = (self.handler.as_str(), self.version.as_str());
            tracing::warn!(
                handler,
                version,
                request_id,
                ?kind,
                "a handler was stopped: {error}"
            );
        }
    }

    fn admit(&self, bytes: usize) -> bool {
        let dropped = {
            let mut bucket = self.bucket.lock().unwrap_or_else(PoisonError::into_inner);
            match bucket.take(bytes, Instant::now()) {
                Some(dropped) => dropped,
                None => return false,
            }
        };
        if dropped > 0 {
            let (handler, version) = (self.handler.as_str(), self.version.as_str());
            tracing::warn!(
                handler,
                version,
                dropped,
                "the handler logs more than its share; lines were left out"
            );
        }
        true
    }
}

impl Bucket {
    /// How many lines were left out before this one, or none if this is left out too.
    fn take(&mut self, bytes: usize, now: Instant) -> Option<u64> {
        let passed = now.duration_since(self.filled).as_secs_f64();
        self.tokens = (self.tokens + passed * BYTES_PER_SECOND).min(BURST_BYTES);
        self.filled = now;
        let cost = bytes as f64 + 64.0;
        if self.tokens < cost {
            self.dropped_lines += 1;
            return None;
        }
        self.tokens -= cost;
        Some(std::mem::take(&mut self.dropped_lines))
    }
}

/// stdout or stderr of one instance.
#[derive(Clone)]
pub(super) struct GuestLog(Arc<Mutex<Lines>>);

struct Lines {
    share: Arc<LogShare>,
    stream: &'static str,
    /// The call that the next lines belong to; none before the first.
    call: Option<Arc<Call>>,
    partial: Vec<u8>,
}

impl GuestLog {
    pub(super) fn new(share: Arc<LogShare>, stream: &'static str) -> Self {
        Self(Arc::new(Mutex::new(Lines {
            share,
            stream,
            call: None,
            partial: Vec::new(),
        })))
    }

    /// Names the call that the next lines belong to.
    pub(super) fn begin(&self, call: &Arc<Call>) {
        let mut lines = self.lines();
        lines.flush();
        lines.call = Some(Arc::clone(call));
    }

    fn lines(&self) -> std::sync::MutexGuard<'_, Lines> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Lines {
    fn push(&mut self, mut bytes: &[u8]) {
        while let Some(end) = bytes.iter().position(|b| *b == b'\n') {
            self.extend(&bytes[..end]);
            self.flush();
            bytes = &bytes[end + 1..];
        }
        self.extend(bytes);
    }

    fn extend(&mut self, bytes: &[u8]) {
        let room = MAX_LINE_BYTES.saturating_sub(self.partial.len());
        self.partial
            .extend_from_slice(&bytes[..bytes.len().min(room)]);
    }

    fn flush(&mut self) {
        if let Some(call) = &self.call
            && !self.partial.is_empty()
        {
            self.share.emit(call, self.stream, &self.partial);
        }
        self.partial.clear();
    }
}

impl Drop for Lines {
    fn drop(&mut self) {
        self.flush();
    }
}

impl IsTerminal for GuestLog {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdoutStream for GuestLog {
    fn async_stream(&self) -> Box<dyn AsyncWrite + Send + Sync> {
        Box::new(self.clone())
    }

    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(self.clone())
    }
}

impl AsyncWrite for GuestLog {
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        self.lines().push(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[async_trait]
impl Pollable for GuestLog {
    async fn ready(&mut self) {}
}

impl OutputStream for GuestLog {
    fn write(&mut self, bytes: Bytes) -> Result<(), StreamError> {
        self.lines().push(&bytes);
        Ok(())
    }

    fn flush(&mut self) -> Result<(), StreamError> {
        Ok(())
    }

    fn check_write(&mut self) -> Result<usize, StreamError> {
        Ok(64 * 1024)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_flood_is_cut_and_counted() {
        let start = Instant::now();
        let mut bucket = Bucket {
            tokens: BURST_BYTES,
            filled: start,
            dropped_lines: 0,
        };
        let passed = (0..1000).filter(|_| bucket.take(1000, start).is_some());
        let passed = passed.count();
        assert!((200..300).contains(&passed), "{passed}");
        let later = start + Duration::from_secs(1);
        assert_eq!(bucket.take(1000, later).unwrap(), 1000 - passed as u64);
        assert_eq!(bucket.take(1000, later).unwrap(), 0);
    }

    #[test]
    fn a_line_without_end_takes_bounded_memory() {
        let name = Name::new("h").unwrap();
        let log = GuestLog::new(LogShare::new(name, Version::new("1").unwrap()), "stdout");
        for _ in 0..1000 {
            log.lines().push(&[b'x'; 100]);
        }
        assert_eq!(log.lines().partial.len(), MAX_LINE_BYTES);
        log.lines().push(b"\nnext");
        assert_eq!(log.lines().partial, b"next");
    }
}
