use axum::Json;
use axum::extract::State;
use fleet_api::rest::{ArtifactSummary, ErrorBody};

use super::Api;
use super::caller::Operator;
use super::error::ApiError;

/// All artifacts.
#[utoipa::path(get, path = "/api/v1/artifacts", tag = "registry", responses(
    (status = 200, description = "All artifacts, in the order of kind, name and push", body = [ArtifactSummary]),
    (status = 401, description = "No operator", body = ErrorBody),
))]
pub(super) async fn list(
    State(api): State<Api>,
    _: Operator,
) -> Result<Json<Vec<ArtifactSummary>>, ApiError> {
    Ok(Json(api.fleet.artifacts().await?))
}
