use axum::Json;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::StatusCode;
use fleet_api::ids::Digest;
use fleet_api::labels::parse_label;
use fleet_api::rest::{ErrorBody, TokenCreated, TokenRequest};
use fleet_api::token::JoinToken;

use super::Api;
use super::caller::Operator;
use super::error::ApiError;
use crate::clock::now_ms;

const DAY_S: u64 = 86_400;
const LONGEST_S: u64 = 365 * DAY_S;

/// Makes a join token. It is shown only in this answer.
#[utoipa::path(post, path = "/api/v1/tokens", tag = "identity", request_body = TokenRequest, responses(
    (status = 201, description = "The token", body = TokenCreated),
    (status = 401, description = "No operator", body = ErrorBody),
    (status = 422, description = "A value is out of range", body = ErrorBody),
))]
pub(super) async fn create(
    State(api): State<Api>,
    _: Operator,
    body: Bytes,
) -> Result<(StatusCode, Json<TokenCreated>), ApiError> {
    let request: TokenRequest = if body.is_empty() {
        TokenRequest {
            labels: Default::default(),
            ttl_s: None,
            uses: None,
        }
    } else {
        serde_json::from_slice(&body)
            .map_err(|e| ApiError::invalid(format!("the body is not a request for a token: {e}")))?
    };
    for (key, value) in &request.labels {
        parse_label(&format!("{key}={value}")).map_err(|e| ApiError::invalid(e.to_string()))?;
    }
    let ttl_s = request.ttl_s.unwrap_or(DAY_S);
    let uses = request.uses.unwrap_or(1);
    if ttl_s == 0 || ttl_s > LONGEST_S || uses == 0 {
        return Err(ApiError::invalid(
            "a token lives 1 second to 365 days and can be used at least once",
        ));
    }
    let expires_ms = now_ms() + ttl_s * 1000;
    let secret = api
        .fleet
        .create_token(&request.labels, expires_ms, uses)
        .await?;
    let token = JoinToken {
        url: api.endpoint.url.clone(),
        ca: Digest::of(api.authority.ca()),
        secret,
    };
    let created = TokenCreated {
        token: token.to_string(),
        expires_ms,
        uses,
    };
    Ok((StatusCode::CREATED, Json(created)))
}
