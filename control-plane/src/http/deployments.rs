use axum::Json;
use axum::body::Bytes;
use axum::extract::{Path, Query, State};
use fleet_api::ids::Name;
use fleet_api::rest::{ApplyResult, DeploymentStatus, ErrorBody};
use serde::Deserialize;

use super::Api;
use super::caller::Operator;
use super::error::ApiError;

#[derive(Deserialize)]
pub(super) struct ApplyQuery {
    #[serde(default)]
    dry_run: bool,
}

/// All deployments, from old to new.
#[utoipa::path(get, path = "/api/v1/deployments", tag = "fleet", responses(
    (status = 200, description = "All deployments", body = [DeploymentStatus]),
    (status = 401, description = "No operator", body = ErrorBody),
))]
pub(super) async fn list(
    State(api): State<Api>,
    _: Operator,
) -> Result<Json<Vec<DeploymentStatus>>, ApiError> {
    Ok(Json(api.fleet.deployments().await?))
}

/// Applies a deployment: a TOML file, whole.
#[utoipa::path(post, path = "/api/v1/deployments", tag = "fleet",
    params(("dry_run" = Option<bool>, Query, description = "Only say what would come of it")),
    request_body(content = String, content_type = "application/toml", description = "The deployment's TOML"),
    responses(
        (status = 200, description = "What came of it", body = ApplyResult),
        (status = 401, description = "No operator", body = ErrorBody),
        (status = 409, description = "Another deployment has a place that it wants", body = ErrorBody),
        (status = 422, description = "The file is wrong, or names what was never pushed", body = ErrorBody),
    ))]
pub(super) async fn apply(
    State(api): State<Api>,
    _: Operator,
    Query(query): Query<ApplyQuery>,
    body: Bytes,
) -> Result<Json<ApplyResult>, ApiError> {
    let text = std::str::from_utf8(&body)
        .map_err(|_| ApiError::invalid("the deployment is not text: send its TOML in UTF-8"))?;
    Ok(Json(api.fleet.apply(text, query.dry_run).await?))
}

/// Takes a deployment away from its nodes.
#[utoipa::path(delete, path = "/api/v1/deployments/{name}", tag = "fleet",
    params(("name" = String, Path, description = "The deployment")),
    responses(
        (status = 200, description = "What came of it", body = ApplyResult),
        (status = 401, description = "No operator", body = ErrorBody),
        (status = 404, description = "No such deployment", body = ErrorBody),
    ))]
pub(super) async fn remove(
    State(api): State<Api>,
    _: Operator,
    Path(name): Path<String>,
) -> Result<Json<ApplyResult>, ApiError> {
    let name = Name::new(name).map_err(|e| ApiError::invalid(e.to_string()))?;
    Ok(Json(api.fleet.remove_deployment(&name).await?))
}
