//! A TCP proxy that does to connections what bad links do. What it does next comes from a seed.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

/// What the link does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mood {
    /// Passes on what comes.
    Good,
    /// Closes whatever is opened.
    Refuse,
    /// Breaks each connection after some 100 KB at most.
    Reset,
    /// Stands still for up to 3 s, again and again.
    Stall,
    /// Takes up to 300 ms for every step.
    Delay,
    /// Takes what comes and passes nothing on, without a word.
    HalfOpen,
    /// One byte a second.
    Crawl,
    /// So many bytes a second from the client.
    Slow(u32),
}

/// The proxy; it ends when it is dropped.
pub struct Chaos {
    address: SocketAddr,
    shared: Arc<Shared>,
    _accept: JoinSet<()>,
}

struct Shared {
    target: SocketAddr,
    mood: Mutex<Mood>,
    changed: tokio::sync::watch::Sender<u64>,
    random: AtomicU64,
    broken: AtomicU64,
    opened: AtomicU64,
}

impl Chaos {
    /// A proxy to `target` on a port of its own.
    ///
    /// # Errors
    /// If no port can be had.
    pub async fn start(target: SocketAddr, seed: u64) -> io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            target,
            mood: Mutex::new(Mood::Good),
            changed: tokio::sync::watch::Sender::new(0),
            random: AtomicU64::new(seed.max(1)),
            broken: AtomicU64::new(0),
            opened: AtomicU64::new(0),
        });
        let state = Arc::clone(&shared);
        let mut accept = JoinSet::new();
        accept.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((socket, _)) = listener.accept().await {
                state.opened.fetch_add(1, Ordering::Relaxed);
                connections.spawn(serve(socket, Arc::clone(&state)));
                while connections.try_join_next().is_some() {}
            }
        });
        Ok(Self {
            address,
            shared,
            _accept: accept,
        })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Changes what the link does, to connections that stand as well.
    pub fn set(&self, mood: Mood) {
        *self
            .shared
            .mood
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = mood;
        self.shared.changed.send_modify(|version| *version += 1);
    }

    /// One of the moods at random.
    pub fn any(&self) -> Mood {
        let moods = [
            Mood::Good,
            Mood::Reset,
            Mood::Stall,
            Mood::Delay,
            Mood::HalfOpen,
            Mood::Crawl,
            Mood::Refuse,
            Mood::Slow(50_000),
        ];
        moods[usize::try_from(self.shared.next(moods.len() as u64)).unwrap_or(0)]
    }

    /// A number below `below` at random.
    pub fn random(&self, below: u64) -> u64 {
        self.shared.next(below)
    }

    /// Connections that it broke, and that were opened.
    pub fn count(&self) -> (u64, u64) {
        let of = |count: &AtomicU64| count.load(Ordering::Relaxed);
        (of(&self.shared.broken), of(&self.shared.opened))
    }
}

impl Shared {
    fn mood(&self) -> Mood {
        *self.mood.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// xorshift64: good enough to be erratic.
    fn next(&self, below: u64) -> u64 {
        let mut x = self.random.load(Ordering::Relaxed);
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        self.random.store(x, Ordering::Relaxed);
        x % below.max(1)
    }
}

/// One connection; both ways end together.
async fn serve(client: TcpStream, shared: Arc<Shared>) {
    if shared.mood() == Mood::Refuse {
        shared.broken.fetch_add(1, Ordering::Relaxed);
        return;
    }
    let Ok(server) = TcpStream::connect(shared.target).await else {
        return;
    };
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let (client_in, client_out) = client.into_split();
    let (server_in, server_out) = server.into_split();
    tokio::select! {
        () = pass(client_in, server_out, true, &shared) => {}
        () = pass(server_in, client_out, false, &shared) => {}
    }
}

async fn pass(
    mut from: tokio::net::tcp::OwnedReadHalf,
    mut to: tokio::net::tcp::OwnedWriteHalf,
    up: bool,
    shared: &Shared,
) {
    let mut buffer = vec![0; 16 * 1024];
    let budget = 1 + shared.next(100_000);
    let mut passed = 0;
    let mut changed = shared.changed.subscribe();
    loop {
        let mood = shared.mood();
        let most = match mood {
            Mood::Crawl => 1,
            Mood::Slow(_) if up => 2_000,
            _ => buffer.len(),
        };
        // A look at the mood now and then, also where nothing comes.
        let read = timeout(Duration::from_millis(100), from.read(&mut buffer[..most]));
        let count = match read.await {
            Err(_) if mood == Mood::Refuse => 0,
            Err(_) => continue,
            Ok(Ok(count)) => count,
            Ok(Err(_)) => 0,
        };
        if count == 0 {
            return;
        }
        passed += count as u64;
        let pause = match mood {
            Mood::Good => Duration::ZERO,
            Mood::Stall => Duration::from_millis(shared.next(3_000)),
            Mood::Delay => Duration::from_millis(shared.next(300)),
            Mood::Crawl => Duration::from_secs(1),
            Mood::Slow(rate) if up => {
                Duration::from_secs_f64(count as f64 / f64::from(rate.max(1)))
            }
            Mood::Slow(_) => Duration::ZERO,
            Mood::HalfOpen => {
                // Until the mood changes: what was taken is gone, and so is the connection.
                let _ = changed.changed().await;
                shared.broken.fetch_add(1, Ordering::Relaxed);
                return;
            }
            Mood::Reset if passed > budget => {
                shared.broken.fetch_add(1, Ordering::Relaxed);
                return;
            }
            Mood::Reset => Duration::ZERO,
            Mood::Refuse => {
                shared.broken.fetch_add(1, Ordering::Relaxed);
                return;
            }
        };
        if !pause.is_zero() {
            sleep(pause).await;
        }
        if to.write_all(&buffer[..count]).await.is_err() {
            return;
        }
    }
}
