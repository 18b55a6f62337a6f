use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use fleet_api::source::MqttSource;
use ring::digest::{SHA256, digest};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::super::Context;
use super::super::intake::Intake;
use super::super::secrets::SecretError;
use super::packet_bytes;
use super::session::Session;

const CONNECTIONS: u32 = 128;
/// A client that is not through with its CONNECT by then is cut.
pub(super) const HANDSHAKE: Duration = Duration::from_secs(5);

/// Why the listener ended.
#[derive(Debug, thiserror::Error)]
pub(super) enum ListenerError {
    #[error("cannot listen on {address}")]
    Bind {
        address: SocketAddr,
        #[source]
        source: std::io::Error,
    },
    #[error(transparent)]
    Secret(#[from] SecretError),
    #[error("secret {secret:?} has a line {line} that is not USER:PASSWORD")]
    Users { secret: String, line: usize },
}

/// What the sessions of a listener share.
pub(super) struct Shared {
    pub intake: Intake,
    pub name: String,
    pub topics: Vec<String>,
    pub raw: bool,
    pub packet: usize,
    users: Option<HashMap<String, Vec<u8>>>,
    /// Which session a client id belongs to.
    clients: Mutex<HashMap<String, (u64, CancellationToken)>>,
}

/// Takes connections until the source stops.
pub(super) async fn run(
    context: &Context,
    mqtt: &MqttSource,
    address: SocketAddr,
) -> Result<(), ListenerError> {
    let shared = Arc::new(Shared {
        intake: context.intake.clone(),
        name: context.name().to_owned(),
        topics: mqtt.topics.clone(),
        raw: mqtt.raw,
        packet: packet_bytes(mqtt),
        users: users(context, mqtt)?,
        clients: Mutex::default(),
    });
    let listener = TcpListener::bind(address)
        .await
        .map_err(|source| ListenerError::Bind { address, source })?;
    if let Ok(address) = listener.local_addr() {
        shared.intake.report.listens(address);
    }
    shared.intake.report.connected();
    let most = mqtt.connections.unwrap_or(CONNECTIONS) as usize;
    let permits = Arc::new(Semaphore::new(most));
    let stop = context.intake.stop.clone();
    let mut sessions = JoinSet::new();
    let mut ids = 0_u64..;
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            Some(_) = sessions.join_next() => {}
            accepted = listener.accept() => match accepted {
                Ok((stream, peer)) => {
                    let Ok(permit) = Arc::clone(&permits).try_acquire_owned() else {
                        shared.intake.report.error(&format!(
                            "refused a connection of {peer}: there are {most}, the most that mqtt.connections allows"
                        ));
                        continue;
                    };
                    let _ = stream.set_nodelay(true);
                    let id = ids.next().unwrap_or_default();
                    let session = Session::new(Arc::clone(&shared), stream, peer, id);
                    let permits = Arc::clone(&permits);
                    sessions.spawn(async move {
                        let report = session.report();
                        report.clients(most - permits.available_permits());
                        session.run().await;
                        drop(permit);
                        report.clients(most - permits.available_permits());
                    });
                }
                Err(error) => {
                    shared.intake.report.error(&format!("cannot accept a connection: {error}"));
                    tokio::time::sleep(Duration::from_millis(200)).await;
                }
            }
        }
    }
    drop(listener);
    while sessions.join_next().await.is_some() {}
    Ok(())
}

impl Shared {
    /// Whether a client may publish here.
    pub(super) fn admits(&self, user: Option<&str>, password: Option<&[u8]>) -> bool {
        let Some(users) = &self.users else {
            return true;
        };
        let known = user.and_then(|user| users.get(user));
        // Digests are of one length and tell nothing by the time that comparing them takes.
        let given = digest(&SHA256, password.unwrap_or_default());
        known.is_some_and(|known| known.as_slice() == given.as_ref())
    }

    /// Makes `session` the holder of a client id; the one before is cut.
    pub(super) fn enter(&self, client_id: &str, session: u64) -> CancellationToken {
        let token = CancellationToken::new();
        let before = self
            .clients()
            .insert(client_id.to_owned(), (session, token.clone()));
        if let Some((_, before)) = before {
            before.cancel();
        }
        token
    }

    pub(super) fn leave(&self, client_id: &str, session: u64) {
        let mut clients = self.clients();
        if clients.get(client_id).is_some_and(|(id, _)| *id == session) {
            clients.remove(client_id);
        }
    }

    fn clients(&self) -> std::sync::MutexGuard<'_, HashMap<String, (u64, CancellationToken)>> {
        self.clients.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The digests of the users' passwords; none admits everybody.
fn users(
    context: &Context,
    mqtt: &MqttSource,
) -> Result<Option<HashMap<String, Vec<u8>>>, ListenerError> {
    let Some(name) = &mqtt.users else {
        return Ok(None);
    };
    let text = context.secrets.read(name)?;
    let lines = text.lines().enumerate();
    lines
        .filter(|(_, line)| !line.trim().is_empty())
        .map(|(i, line)| match line.split_once(':') {
            Some((user, password)) if !user.is_empty() => {
                let digest = digest(&SHA256, password.as_bytes());
                Ok((user.to_owned(), digest.as_ref().to_vec()))
            }
            _ => Err(ListenerError::Users {
                secret: name.to_string(),
                line: i + 1,
            }),
        })
        .collect::<Result<_, _>>()
        .map(Some)
}
