//! The registry's HTTP face: OCI distribution-spec 1.1.

pub(super) mod blobs;
pub(super) mod error;
pub(super) mod manifests;
pub(super) mod range;
pub(super) mod uploads;

use axum::Json;
use axum::extract::{Query, State};
use axum::http::HeaderName;
use axum::response::IntoResponse;
use fleet_api::ids::Digest;
use serde::Deserialize;
use serde_json::{Value, json};

use self::error::OciError;
use super::Api;
use super::caller::{Caller, Operator};
use super::error::ApiError;
use crate::registry::Repository;

const API_VERSION: (HeaderName, &str) = (
    HeaderName::from_static("docker-distribution-api-version"),
    "registry/2.0",
);
const CONTENT_DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");

/// A page of a list.
#[derive(Deserialize)]
pub(super) struct Page {
    n: Option<u32>,
    last: Option<String>,
}

impl Page {
    fn limit(&self) -> u32 {
        self.n.unwrap_or(1000).min(1000)
    }

    fn last(&self) -> &str {
        self.last.as_deref().unwrap_or_default()
    }
}

/// An operator, with refusals in the registry's own form.
async fn writer(caller: Result<Operator, ApiError>) -> Result<(), OciError> {
    caller.map(drop).map_err(OciError::Caller)
}

/// An operator or a node, with refusals in the registry's own form.
async fn reader(caller: Result<Caller, ApiError>) -> Result<(), OciError> {
    caller.map(drop).map_err(OciError::Caller)
}

fn repository(kind: &str, name: &str) -> Result<Repository, OciError> {
    Repository::from_parts(kind, name).ok_or(OciError::NameInvalid)
}

fn digest(text: &str) -> Result<Digest, OciError> {
    Digest::new(text).map_err(|e| OciError::DigestInvalid(e.to_string()))
}

/// Whether there is a registry, and whether the caller may use it.
#[utoipa::path(get, path = "/v2/", tag = "oci", responses(
    (status = 200, description = "There is"),
    (status = 401, description = "Neither an operator nor a node"),
))]
pub(super) async fn version(
    caller: Result<Caller, ApiError>,
) -> Result<impl IntoResponse, OciError> {
    reader(caller).await?;
    Ok(([API_VERSION], Json(json!({}))))
}

/// All repositories.
#[utoipa::path(get, path = "/v2/_catalog", tag = "oci",
    params(("n" = Option<u32>, Query, description = "At most so many"), ("last" = Option<String>, Query, description = "After this one")),
    responses((status = 200, description = "Their names", body = Value)))]
pub(super) async fn catalog(
    State(api): State<Api>,
    caller: Result<Operator, ApiError>,
    Query(page): Query<Page>,
) -> Result<Json<Value>, OciError> {
    writer(caller).await?;
    let repositories = api.registry.repositories(page.last(), page.limit()).await?;
    Ok(Json(json!({ "repositories": repositories })))
}
