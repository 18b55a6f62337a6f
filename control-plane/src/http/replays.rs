use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use fleet_api::ids::NodeId;
use fleet_api::replay::{ReplayRequest, ReplayStatus};
use fleet_api::rest::ErrorBody;

use super::Api;
use super::caller::Operator;
use super::error::ApiError;

/// Asks a node to run recorded records through another version of their processor.
#[utoipa::path(post, path = "/api/v1/nodes/{id}/replays", tag = "fleet", params(("id" = String, Path, description = "The node")),
    request_body = ReplayRequest, responses(
    (status = 202, description = "The node is asked", body = ReplayStatus),
    (status = 401, description = "No operator", body = ErrorBody),
    (status = 404, description = "No such node", body = ErrorBody),
    (status = 409, description = "The node has too many replays to do", body = ErrorBody),
    (status = 422, description = "It names something that is not there", body = ErrorBody),
))]
pub(super) async fn begin(
    State(api): State<Api>,
    _: Operator,
    Path(id): Path<String>,
    body: axum::body::Bytes,
) -> Result<(StatusCode, Json<ReplayStatus>), ApiError> {
    let request: ReplayRequest =
        serde_json::from_slice(&body).map_err(|e| ApiError::invalid(format!("the body: {e}")))?;
    let status = api.fleet.begin_replay(&read_id(&id)?, &request).await?;
    Ok((StatusCode::ACCEPTED, Json(status)))
}

/// The replays of a node.
#[utoipa::path(get, path = "/api/v1/nodes/{id}/replays", tag = "fleet", params(("id" = String, Path, description = "The node")), responses(
    (status = 200, description = "Its replays of the last 30 days, the newest first", body = [ReplayStatus]),
    (status = 401, description = "No operator", body = ErrorBody),
    (status = 404, description = "No such node", body = ErrorBody),
))]
pub(super) async fn list(
    State(api): State<Api>,
    _: Operator,
    Path(id): Path<String>,
) -> Result<Json<Vec<ReplayStatus>>, ApiError> {
    Ok(Json(api.fleet.replays_of(&read_id(&id)?).await?))
}

/// Where a replay stands, and what has come of it.
#[utoipa::path(get, path = "/api/v1/nodes/{id}/replays/{replay}", tag = "fleet", params(
    ("id" = String, Path, description = "The node"), ("replay" = String, Path, description = "The replay")), responses(
    (status = 200, description = "The replay", body = ReplayStatus),
    (status = 401, description = "No operator", body = ErrorBody),
    (status = 404, description = "No such replay", body = ErrorBody),
))]
pub(super) async fn show(
    State(api): State<Api>,
    _: Operator,
    Path((id, replay)): Path<(String, String)>,
) -> Result<Json<ReplayStatus>, ApiError> {
    Ok(Json(api.fleet.replay(&read_id(&id)?, &replay).await?))
}

/// Takes a replay back; one that has ended stays as it is.
#[utoipa::path(delete, path = "/api/v1/nodes/{id}/replays/{replay}", tag = "fleet", params(
    ("id" = String, Path, description = "The node"), ("replay" = String, Path, description = "The replay")), responses(
    (status = 200, description = "The replay as it stands now", body = ReplayStatus),
    (status = 401, description = "No operator", body = ErrorBody),
    (status = 404, description = "No such replay", body = ErrorBody),
))]
pub(super) async fn cancel(
    State(api): State<Api>,
    _: Operator,
    Path((id, replay)): Path<(String, String)>,
) -> Result<Json<ReplayStatus>, ApiError> {
    Ok(Json(
        api.fleet.cancel_replay(&read_id(&id)?, &replay).await?,
    ))
}

fn read_id(id: &str) -> Result<NodeId, ApiError> {
    NodeId::new(id).map_err(|e| ApiError::invalid(e.to_string()))
}
