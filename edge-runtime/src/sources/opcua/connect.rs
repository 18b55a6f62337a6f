use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;

use fleet_api::source::{OpcuaSecurity, OpcuaSource};
use opcua::client::{Client, ClientBuilder, IdentityToken, Session};
use opcua::crypto::{CertificateStore, SecurityPolicy, X509};
use opcua::types::{EndpointDescription, MessageSecurityMode, StatusCode, UserTokenType};
use tokio::time::timeout;

use super::{Context, OpcuaError};

/// Port of OPC UA by its registration.
const PORT: u16 = 4840;

/// A session, and the work that keeps it going; nothing happens unless that is polled.
pub(super) struct Connection {
    pub session: Arc<Session>,
    pub events: Pin<Box<dyn Future<Output = StatusCode> + Send>>,
}

/// Opens a session by the source's settings.
pub(super) async fn open(context: &Context, opcua: &OpcuaSource) -> Result<Connection, OpcuaError> {
    let client = client(context, opcua).await?;
    // Discovery, channel and session take some requests each.
    let limit = opcua.timeout.duration() * 3;
    let opening = async {
        let offered = client
            .get_server_endpoints_from_url(opcua.endpoint.as_str())
            .await
            .map_err(|source| OpcuaError::Connect {
                endpoint: opcua.endpoint.clone(),
                source,
            })?;
        let endpoint = choose(&offered, opcua)?;
        start(context, opcua, &client, endpoint).await
    };
    timeout(limit, opening)
        .await
        .unwrap_or(Err(OpcuaError::Silent(limit)))
}

async fn start(
    context: &Context,
    opcua: &OpcuaSource,
    client: &Client,
    endpoint: EndpointDescription,
) -> Result<Connection, OpcuaError> {
    let user = match (&opcua.username, &opcua.password) {
        (Some(username), Some(password)) => {
            let password = context.secrets.read(password)?;
            IdentityToken::UserName(username.clone(), password.into())
        }
        _ => IdentityToken::Anonymous,
    };
    let built = client
        .session_builder()
        .user_identity_token(user)
        .connect_to_endpoint_directly(endpoint.clone())
        .and_then(|builder| builder.build(client.certificate_store().clone()));
    let (session, events) = built.map_err(|source| OpcuaError::Connect {
        endpoint: opcua.endpoint.clone(),
        source,
    })?;
    // A new connection is a new session: what it goes on with is decided here.
    session.disable_reconnects();
    let mut events: Pin<Box<dyn Future<Output = StatusCode> + Send>> = Box::pin(events.run());
    tokio::select! {
        status = &mut events => Err(refusal(context, client, &endpoint, status)),
        _ = session.wait_for_connection() => Ok(Connection { session, events }),
    }
}

/// A client with this node's key. Making the key takes a moment.
async fn client(context: &Context, opcua: &OpcuaSource) -> Result<Client, OpcuaError> {
    let folder = context.keys.clone();
    let node = &context.node;
    let builder = ClientBuilder::new()
        .application_name(format!("edge-runtime {node}"))
        .application_uri(format!("urn:edge-runtime:{node}"))
        .product_uri("urn:edge-runtime")
        .session_name(format!("{node}/{}", context.name()))
        .pki_dir(&folder)
        .create_sample_keypair(true)
        .trust_server_certs(false)
        .session_retry_limit(0)
        .request_timeout(opcua.timeout.duration())
        // Its own publishing answers for a connection that is still.
        .max_failed_keep_alive_count(0);
    let made = tokio::task::spawn_blocking(move || {
        let failed = |reason: String| OpcuaError::Keys {
            folder: folder.display().to_string(),
            reason,
        };
        let mut private = DirBuilder::new();
        let private = private.recursive(true).mode(0o700).create(&folder);
        private.map_err(|error| failed(error.to_string()))?;
        let client = builder.client().map_err(|e| failed(e.join("; ")))?;
        let store = client.certificate_store().clone();
        let store = store.read();
        store.read_own_cert().map_err(failed)?;
        store.read_own_pkey().map_err(failed)?;
        Ok(client)
    });
    made.await.expect("making a key does not panic")
}

/// The offered endpoint with the wanted protection that the server ranks highest.
fn choose(
    offered: &[EndpointDescription],
    opcua: &OpcuaSource,
) -> Result<EndpointDescription, OpcuaError> {
    let mode = match opcua.security {
        OpcuaSecurity::None => MessageSecurityMode::None,
        OpcuaSecurity::Sign => MessageSecurityMode::Sign,
        OpcuaSecurity::SignAndEncrypt => MessageSecurityMode::SignAndEncrypt,
    };
    let user = match opcua.username {
        Some(_) => UserTokenType::UserName,
        None => UserTokenType::Anonymous,
    };
    let policy = |e: &EndpointDescription| SecurityPolicy::from_uri(e.security_policy_uri.as_ref());
    let fits = |e: &&EndpointDescription| {
        let takes_user = e
            .user_identity_tokens
            .as_ref()
            .is_none_or(|tokens| tokens.iter().any(|token| token.token_type == user));
        let policy = policy(e);
        e.security_mode == mode && takes_user && policy.is_supported() && !policy.is_deprecated()
    };
    let best = offered.iter().filter(fits).max_by_key(|e| e.security_level);
    let Some(best) = best else {
        let offered: Vec<_> = offered
            .iter()
            .map(|e| {
                let users = e.user_identity_tokens.iter().flatten();
                let users: Vec<_> = users.map(|t| format!("{:?}", t.token_type)).collect();
                let (policy, users) = (policy(e), users.join(" or "));
                format!("{:?} by {policy} for {users}", e.security_mode)
            })
            .collect();
        return Err(OpcuaError::Endpoint {
            wanted: opcua.security,
            offered: offered.join(", "),
        });
    };
    let mut best = best.clone();
    best.endpoint_url = reachable(&opcua.endpoint, best.endpoint_url.as_ref()).into();
    Ok(best)
}

/// The server's own address for an endpoint, at the host and port that it was reached by:
/// servers often name themselves by what only they can resolve.
fn reachable(reached: &str, named: &str) -> String {
    let authority = |url: &str| -> (String, String) {
        let rest = url.strip_prefix("opc.tcp://").unwrap_or(url);
        let (host, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        (host.to_owned(), path.to_owned())
    };
    let ((host, _), (_, path)) = (authority(reached), authority(named));
    let has_port = host
        .rsplit_once(':')
        .is_some_and(|(_, port)| port.parse::<u16>().is_ok());
    let port = if has_port {
        String::new()
    } else {
        format!(":{PORT}")
    };
    format!("opc.tcp://{host}{port}{path}")
}

/// Why no session came about, with what helps.
fn refusal(
    context: &Context,
    client: &Client,
    endpoint: &EndpointDescription,
    status: StatusCode,
) -> OpcuaError {
    let folder = &context.keys;
    let store = client.certificate_store().read();
    if let Ok(certificate) = X509::from_byte_string(&endpoint.server_certificate) {
        let name = CertificateStore::cert_file_name(&certificate);
        let rejected = store.rejected_certs_dir().join(&name);
        if rejected.exists() {
            return OpcuaError::Untrusted {
                rejected: rejected.display().to_string(),
                trusted: store.trusted_certs_dir().display().to_string(),
            };
        }
    }
    let own = |folder: &Path| folder.join("own/cert.der").display().to_string();
    let hint = match status.sub_code().name() {
        _ if endpoint.security_mode == MessageSecurityMode::None => String::new(),
        "BadUserAccessDenied" | "BadIdentityTokenRejected" | "BadIdentityTokenInvalid" => {
            "; check username and password".to_owned()
        }
        _ => format!(
            "; let the server trust this node's certificate, {}",
            own(folder)
        ),
    };
    OpcuaError::Session { status, hint }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_is_taken_where_the_server_was_reached() {
        let cases = [
            (
                "opc.tcp://10.0.0.8",
                "opc.tcp://plc-4:4840/ua",
                "opc.tcp://10.0.0.8:4840/ua",
            ),
            (
                "opc.tcp://10.0.0.8:4841/x",
                "opc.tcp://plc-4:4840",
                "opc.tcp://10.0.0.8:4841",
            ),
            (
                "opc.tcp://[::1]:4841",
                "opc.tcp://plc-4:4840/",
                "opc.tcp://[::1]:4841/",
            ),
        ];
        for (reached, named, wanted) in cases {
            assert_eq!(reachable(reached, named), wanted);
        }
    }
}
