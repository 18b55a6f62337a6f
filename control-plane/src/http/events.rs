use axum::Json;
use axum::extract::{Query, State};
use fleet_api::ids::NodeId;
use fleet_api::rest::{ErrorBody, NodeEvent};
use serde::Deserialize;

use super::Api;
use super::caller::Operator;
use super::error::ApiError;

/// Events in an answer, unless it is said otherwise, and at most.
const LIMIT: (u32, u32) = (100, 1000);

/// Which events are wanted.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Wanted {
    node: Option<String>,
    after: Option<u64>,
    limit: Option<u32>,
}

/// What nodes tell, from old to new.
#[utoipa::path(get, path = "/api/v1/events", tag = "fleet", params(
    ("node" = Option<String>, Query, description = "Only those of this node"),
    ("after" = Option<u64>, Query, description = "Only those after the event of this id; without it the newest"),
    ("limit" = Option<u32>, Query, description = "At most so many, 100 by default, 1000 at most"),
), responses(
    (status = 200, description = "The events", body = [NodeEvent]),
    (status = 400, description = "A parameter is not valid", body = ErrorBody),
    (status = 401, description = "No operator", body = ErrorBody),
))]
pub(super) async fn list(
    State(api): State<Api>,
    _: Operator,
    Query(wanted): Query<Wanted>,
) -> Result<Json<Vec<NodeEvent>>, ApiError> {
    let node = wanted
        .node
        .map(NodeId::new)
        .transpose()
        .map_err(|e| ApiError::invalid(e.to_string()))?;
    let limit = wanted.limit.unwrap_or(LIMIT.0).min(LIMIT.1);
    let events = api.fleet.events(node.as_ref(), wanted.after, limit).await?;
    Ok(Json(events))
}
