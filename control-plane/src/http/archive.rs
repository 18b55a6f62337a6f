use axum::Json;
use axum::extract::State;
use fleet_api::rest::{ArchiveStream, ErrorBody};

use super::Api;
use super::caller::Operator;

/// What has been archived of every stream of every node.
#[utoipa::path(get, path = "/api/v1/archive", tag = "archive", responses(
    (status = 200, description = "All streams, in the order of node and stream", body = [ArchiveStream]),
    (status = 401, description = "No operator", body = ErrorBody),
))]
pub(super) async fn list(State(api): State<Api>, _: Operator) -> Json<Vec<ArchiveStream>> {
    Json(api.archive.all())
}
