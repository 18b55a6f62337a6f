//! Who asks: an operator with the admin token, or a node with its certificate.

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::http::{HeaderMap, header};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use fleet_api::ids::NodeId;

use super::Api;
use super::error::ApiError;

/// What the TLS handshake has shown of the client.
#[derive(Debug, Clone, Default)]
pub(super) struct Peer {
    /// The member of the fleet whose certificate it holds.
    pub(super) node: Option<NodeId>,
    /// Whether it showed a certificate at all.
    pub(super) certificate: bool,
}

/// The caller is an operator.
pub(super) struct Operator;

/// The caller is an operator or a node of the fleet.
pub(super) enum Caller {
    Operator,
    Node(NodeId),
}

impl FromRequestParts<Api> for Operator {
    type Rejection = ApiError;
    async fn from_request_parts(parts: &mut Parts, api: &Api) -> Result<Self, ApiError> {
        match Caller::from_request_parts(parts, api).await? {
            Caller::Operator => Ok(Self),
            Caller::Node(node) => Err(ApiError::forbidden(format!(
                "node {node} may not do this: it takes an operator's token"
            ))),
        }
    }
}

impl FromRequestParts<Api> for Caller {
    type Rejection = ApiError;
    async fn from_request_parts(parts: &mut Parts, api: &Api) -> Result<Self, ApiError> {
        if let Some(token) = token(&parts.headers) {
            return if api.admin.matches(&token) {
                Ok(Self::Operator)
            } else {
                Err(ApiError::unauthorized(
                    "the token is not the admin token: run `edgectl login` with the one from the file admin-token in the control plane's data folder",
                ))
            };
        }
        let peer = parts.extensions.get::<Peer>().cloned().unwrap_or_default();
        match peer.node {
            Some(node) if api.members.contains(&node) => Ok(Self::Node(node)),
            _ if peer.certificate => Err(ApiError::unauthorized(
                "the certificate belongs to no member of the fleet: the node was removed or has joined anew",
            )),
            _ => Err(ApiError::unauthorized(
                "say who you are: an operator sends the admin token as bearer or as a password, a node its certificate",
            )),
        }
    }
}

/// The secret of a bearer token, or the password of a basic login: registry clients and browsers
/// know only that.
fn token(headers: &HeaderMap) -> Option<String> {
    if let Some(token) = bearer(headers) {
        return Some(token.to_owned());
    }
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, rest) = value.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let login = String::from_utf8(STANDARD.decode(rest.trim()).ok()?).ok()?;
    let (_, password) = login.split_once(':')?;
    Some(password.to_owned())
}

/// The secret of a bearer token.
pub(super) fn bearer(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, rest) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| rest.trim())
}
