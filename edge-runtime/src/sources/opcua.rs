//! OPC UA: a server tells of changed values; what it told is acknowledged once it is durable.
//!
//! ```text
//!  connect ─► resume the subscription, or make one ─► publish ─► changes ─► one commit: records + position
//!                 ▲ what was not acknowledged is sent again     ◄── acknowledged with the next publish
//! ```
//!
//! One publish request is under way at a time, so a stream that takes nothing
//! holds the server back. The position names the subscription, so that a new
//! connection, also after a restart, goes on where the last commit ended, as
//! long as the server keeps the subscription.

mod connect;
mod position;
mod subscription;
mod value;

use std::time::Duration;

use fleet_api::source::{OpcuaSecurity, OpcuaSource};
use opcua::types::{Error, StatusCode};
use tokio::time::timeout;

use self::connect::Connection;
use self::position::Position;
use self::subscription::Subscription;
use self::value::{Found, Values};
use super::secrets::SecretError;
use super::{Context, Reconnect};
use crate::buffer::BufferError;

/// How long a session may take to be closed.
const FAREWELL: Duration = Duration::from_secs(1);

/// Why a server is not listened to any more.
#[derive(Debug, thiserror::Error)]
enum OpcuaError {
    #[error(transparent)]
    Secret(#[from] SecretError),
    #[error("cannot read how far the source has come")]
    Position(#[from] BufferError),
    #[error("cannot keep a key and certificates in {folder}: {reason}")]
    Keys { folder: String, reason: String },
    #[error("the server {endpoint} is not reachable")]
    Connect {
        endpoint: String,
        #[source]
        source: Error,
    },
    #[error("the server did not answer within {0:?}")]
    Silent(Duration),
    #[error(
        "the server has no endpoint for security {wanted} and a known policy; it offers {offered}"
    )]
    Endpoint {
        wanted: OpcuaSecurity,
        offered: String,
    },
    #[error(
        "the server's certificate is not trusted: if it is the right one, move {rejected} to {trusted}"
    )]
    Untrusted { rejected: String, trusted: String },
    #[error("the server refuses the session: {status}{hint}")]
    Session { status: StatusCode, hint: String },
    #[error("the connection to the server broke: {0}")]
    Broken(StatusCode),
    #[error("the server has no namespace {0}")]
    Namespace(String),
    #[error("the server refuses to {what}")]
    Refused {
        what: &'static str,
        #[source]
        source: Error,
    },
    #[error("the server has ended the subscription: {0}")]
    Ended(StatusCode),
}

/// Ends a source without an error: it is to stop.
struct Stopped;

/// Runs the source until it is stopped.
pub(super) async fn run(context: &Context, opcua: &OpcuaSource) {
    let mut turns = Reconnect::new(&context.intake);
    let mut values = Values::new(context, opcua);
    let mut lost = None;
    while turns
        .after(session(context, opcua, &mut values, &mut lost))
        .await
    {
        // What is not heard of is bad, once, until it is heard of again.
        if let Some(reason) = lost.take()
            && values.tell_bad(context, &reason).await.is_err()
        {
            return;
        }
    }
}

/// One connection, until it breaks or the source stops; then `lost` says why.
async fn session(
    context: &Context,
    opcua: &OpcuaSource,
    values: &mut Values<'_>,
    lost: &mut Option<String>,
) -> Result<(), OpcuaError> {
    let ended = connected(context, opcua, values).await;
    if let Err(error) = &ended {
        *lost = Some(crate::causes::chain(error));
    }
    ended
}

async fn connected(
    context: &Context,
    opcua: &OpcuaSource,
    values: &mut Values<'_>,
) -> Result<(), OpcuaError> {
    let stop = context.intake.stop.clone();
    let opening = connect::open(context, opcua);
    let Connection {
        session,
        mut events,
    } = tokio::select! {
        () = stop.cancelled() => return Ok(()),
        opened = opening => opened?,
    };
    let ended = tokio::select! {
        status = &mut events => return Err(OpcuaError::Broken(status)),
        () = stop.cancelled() => Ok(()),
        ended = follow(context, opcua, values, &session) => ended,
    };
    // The server keeps the subscription, so that the next session goes on with it.
    let goodbye = session.disconnect_without_delete_subscriptions();
    let _ = timeout(FAREWELL, async { tokio::join!(events, goodbye) }).await;
    ended
}

/// Makes what the server tells durable, for as long as it tells.
async fn follow(
    context: &Context,
    opcua: &OpcuaSource,
    values: &mut Values<'_>,
    session: &opcua::client::Session,
) -> Result<(), OpcuaError> {
    let (mut subscription, unheard) =
        Subscription::resume_or_create(context, opcua, values.position().await?, session).await?;
    if let Some(reason) = subscription.why_new()
        && values.told_before()
        && values.tell_bad(context, reason).await.is_err()
    {
        return Ok(());
    }
    context.intake.report.connected();
    let refused = subscription.refused();
    if values.store(context, refused, None).await.is_err() {
        return Ok(());
    }
    let mut waiting: Vec<_> = unheard;
    let mut heard = subscription.why_new().is_some();
    loop {
        let message = match waiting.pop() {
            Some(message) => message,
            None => match subscription.next(session).await {
                Ok(message) => {
                    heard = true;
                    message
                }
                Err(error) => {
                    if !heard {
                        // It was handed over, but nothing comes of it: not every server does this well.
                        values.give_up_subscription();
                    }
                    return Err(error);
                }
            },
        };
        let told = subscription::read(&message, opcua)?;
        let overrun = told.iter().filter(|found| found.overrun).count();
        if overrun > 0 {
            let why = "the server's queue ran over: values before these were left out";
            context.intake.report.lost(overrun as u64, why);
        }
        let settled = told.is_empty();
        let position = subscription.position_after(&message);
        if values.store(context, told, Some(position)).await.is_err() {
            return Ok(());
        }
        subscription.acknowledge(&message);
        // What has not changed since it was told bad is not told again by itself.
        if settled && values.are_missing() {
            let found = subscription.read_now(session, values.missing()).await?;
            if values.store(context, found, None).await.is_err() {
                return Ok(());
            }
        }
    }
}
