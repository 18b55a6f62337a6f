//! The log on stderr, written by a thread of its own: whoever reads it may be
//! slow or stand still, and no request waits for that.

use std::io::{self, IsTerminal as _, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

/// Lines that wait for the reader; more are left out and counted.
const LINES: usize = 1024;
/// How long the last lines may take at the end of the process.
const LAST_LINES: Duration = Duration::from_secs(1);
const PAUSE: Duration = Duration::from_millis(5);

enum Message {
    Line(Vec<u8>),
    /// Asks for word when all lines before are written.
    Flush(SyncSender<()>),
}

/// Lines on their way to the writing thread. Cheap to clone.
#[derive(Clone)]
struct Lines {
    queue: SyncSender<Message>,
    lost: Arc<AtomicU64>,
}

/// Lets the last lines go out when it is dropped.
#[must_use = "the last lines are lost without it"]
pub struct LogGuard(Option<SyncSender<Message>>);

/// Logs to stderr what `filter` lets through, as text or as JSON.
pub fn to_stderr(filter: &str, json: bool) -> LogGuard {
    let log = tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::new(filter))
        .with_ansi(io::stderr().is_terminal());
    match Lines::start(io::stderr()) {
        Ok((lines, guard)) => {
            let log = log.with_writer(lines);
            if json {
                log.json().init()
            } else {
                log.init()
            }
            guard
        }
        Err(error) => {
            let log = log.with_writer(io::stderr);
            if json {
                log.json().init()
            } else {
                log.init()
            }
            tracing::warn!("log lines wait for their reader: {error}");
            LogGuard(None)
        }
    }
}

impl Lines {
    fn start(to: impl Write + Send + 'static) -> io::Result<(Self, LogGuard)> {
        let (queue, lines) = sync_channel(LINES);
        let lost = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&lost);
        thread::Builder::new()
            .name("log".to_owned())
            .spawn(move || write(to, &lines, &counted))?;
        let guard = LogGuard(Some(queue.clone()));
        Ok((Self { queue, lost }, guard))
    }
}

fn write(mut to: impl Write, lines: &Receiver<Message>, lost: &AtomicU64) {
    for message in lines {
        match message {
            // There is no other place to tell that stderr is gone.
            Message::Line(line) => drop(to.write_all(&line)),
            Message::Flush(done) => drop(done.send(())),
        }
        let lost = lost.swap(0, Relaxed);
        if lost > 0 {
            tracing::warn!(
                lost,
                "lines of the log were left out: its reader is too slow"
            );
        }
    }
}

impl<'a> MakeWriter<'a> for Lines {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

impl Write for Lines {
    /// Takes a line; an event is written with one call.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if self.queue.try_send(Message::Line(line.to_vec())).is_err() {
            self.lost.fetch_add(1, Relaxed);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for LogGuard {
    fn drop(&mut self) {
        let Some(queue) = &self.0 else { return };
        let deadline = Instant::now() + LAST_LINES;
        let (done, written) = sync_channel(1);
        let mut flush = Message::Flush(done);
        while let Err(TrySendError::Full(again)) = queue.try_send(flush) {
            if Instant::now() > deadline {
                return;
            }
            flush = again;
            thread::sleep(PAUSE);
        }
        // Late lines are given up.
        let _ = written.recv_timeout(deadline.saturating_duration_since(Instant::now()));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Mutex, PoisonError};

    use super::*;

    /// A reader that takes nothing while its lock is held.
    #[derive(Clone, Default)]
    struct Reader(Arc<Mutex<Vec<u8>>>);

    impl Write for Reader {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let mut read = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            read.extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_reader_that_stands_still_keeps_nobody_waiting_and_losses_are_counted() {
        let reader = Reader::default();
        let (mut lines, guard) = Lines::start(reader.clone()).unwrap();
        let held = reader.0.lock().unwrap();
        for _ in 0..10 * LINES {
            lines.write_all(b"line\n").unwrap();
        }
        let lost = lines.lost.load(Relaxed);
        // One line may be on its way out.
        assert!(lost >= 9 * LINES as u64 - 1, "{lost}");
        drop(held);
        drop(guard);
        let written = reader.0.lock().unwrap().len();
        assert_eq!(written as u64, 5 * (10 * LINES as u64 - lost));
    }

    #[test]
    fn the_last_lines_go_out_at_the_end() {
        let reader = Reader::default();
        let (mut lines, guard) = Lines::start(reader.clone()).unwrap();
        for _ in 0..100 {
            lines.write_all(b"line\n").unwrap();
        }
        drop(guard);
        assert_eq!(reader.0.lock().unwrap().len(), 500);
    }
}
