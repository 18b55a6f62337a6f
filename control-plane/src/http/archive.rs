use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use fleet_api::ids::{NodeId, StreamName};
use fleet_api::rest::{ArchiveGap, ArchiveStream, ErrorBody};
use serde::Deserialize;

use super::Api;
use super::caller::Operator;
use super::error::ApiError;
use crate::archive::GapQuery;

/// Gaps in an answer, unless it is asked for others.
const LIMIT: usize = 100;
const MAX_LIMIT: usize = 10_000;

/// What has been archived of every stream of every node.
#[utoipa::path(get, path = "/api/v1/archive", tag = "archive", responses(
    (status = 200, description = "All streams, in the order of node and stream", body = [ArchiveStream]),
    (status = 401, description = "No operator", body = ErrorBody),
))]
pub(super) async fn list(State(api): State<Api>, _: Operator) -> Json<Vec<ArchiveStream>> {
    Json(api.archive.all())
}

/// Which gaps are asked for.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Asked {
    node: Option<NodeId>,
    stream: Option<StreamName>,
    limit: Option<usize>,
}

/// Which sequences have no record, why, and since when.
#[utoipa::path(get, path = "/api/v1/archive/gaps", tag = "archive", params(
    ("node" = Option<String>, Query, description = "Of this node only"),
    ("stream" = Option<String>, Query, description = "Of this stream only"),
    ("limit" = Option<usize>, Query, description = "The newest gaps of each stream of a node, at most; default 100, at most 10000"),
), responses(
    (status = 200, description = "In the order of node, stream, epoch and sequence", body = [ArchiveGap]),
    (status = 401, description = "No operator", body = ErrorBody),
    (status = 422, description = "Another question", body = ErrorBody),
    (status = 503, description = "The object store cannot be reached", body = ErrorBody),
))]
pub(super) async fn gaps(
    State(api): State<Api>,
    _: Operator,
    asked: Result<Query<Asked>, QueryRejection>,
) -> Result<Json<Vec<ArchiveGap>>, ApiError> {
    let Query(asked) = asked.map_err(|error| ApiError::invalid(error.body_text()))?;
    let limit = asked.limit.unwrap_or(LIMIT);
    if limit == 0 || limit > MAX_LIMIT {
        let rule = format!("limit must lie between 1 and {MAX_LIMIT}");
        return Err(ApiError::invalid(rule));
    }
    let query = GapQuery {
        node: asked.node,
        stream: asked.stream,
        limit,
    };
    let gaps = api.archive.gaps(&query).await.map_err(|error| {
        tracing::warn!(%error, "could not read the gaps of the archive");
        let message = format!("the gaps cannot be read from the object store: {error}; try again");
        ApiError::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "store_unavailable",
            message,
        )
    })?;
    Ok(Json(gaps))
}
