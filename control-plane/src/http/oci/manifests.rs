use axum::Json;
use axum::body::Body;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use fleet_api::ids::Version;
use serde::Deserialize;
use serde_json::json;

use super::error::OciError;
use super::{Api, CONTENT_DIGEST, Page, digest, reader, repository, writer};
use crate::http::caller::{Caller, Operator};
use crate::http::error::ApiError;
use crate::registry::{ManifestRef, RegistryError};

const SUBJECT: HeaderName = HeaderName::from_static("oci-subject");
const FILTERS: HeaderName = HeaderName::from_static("oci-filters-applied");
const INDEX: &str = "application/vnd.oci.image.index.v1+json";

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(in crate::http) struct Filter {
    artifact_type: Option<String>,
}

fn reference(text: &str) -> Result<ManifestRef, OciError> {
    if text.contains(':') {
        return digest(text).map(ManifestRef::Digest);
    }
    Version::new(text)
        .map(ManifestRef::Tag)
        .map_err(|e| OciError::ReferenceInvalid(e.to_string()))
}

/// A manifest by tag or digest.
#[utoipa::path(get, path = "/v2/{kind}/{name}/manifests/{reference}", tag = "oci",
    params(("kind" = String, Path, description = "handlers or models"), ("name" = String, Path, description = "The artifact"), ("reference" = String, Path, description = "A tag or a digest")),
    responses((status = 200, description = "The manifest", body = Value), (status = 404, description = "No such manifest")))]
pub(in crate::http) async fn read(
    State(api): State<Api>,
    caller: Result<Caller, ApiError>,
    Path((kind, name, text)): Path<(String, String, String)>,
    method: Method,
) -> Result<Response, OciError> {
    reader(caller).await?;
    let stored = api
        .registry
        .manifest(&repository(&kind, &name)?, &reference(&text)?)
        .await?;
    let headers = [
        (header::CONTENT_TYPE, stored.media_type),
        (header::CONTENT_LENGTH, stored.content.len().to_string()),
        (CONTENT_DIGEST, stored.digest.to_string()),
    ];
    let body = if method == Method::HEAD {
        Body::empty()
    } else {
        Body::from(stored.content)
    };
    Ok((headers, body).into_response())
}

/// Pushes a manifest. What cannot run is refused with the reason.
#[utoipa::path(put, path = "/v2/{kind}/{name}/manifests/{reference}", tag = "oci",
    params(("kind" = String, Path, description = "handlers or models"), ("name" = String, Path, description = "The artifact"), ("reference" = String, Path, description = "A tag or a digest")),
    request_body = Value,
    responses((status = 201, description = "It is there"), (status = 400, description = "It names what is not there, or what cannot run"), (status = 409, description = "The tag is there with another manifest")))]
pub(in crate::http) async fn write(
    State(api): State<Api>,
    caller: Result<Operator, ApiError>,
    Path((kind, name, text)): Path<(String, String, String)>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, OciError> {
    writer(caller).await?;
    let (repository, reference) = (repository(&kind, &name)?, reference(&text)?);
    let max = api.registry.max_manifest();
    let content = axum::body::to_bytes(body, max)
        .await
        .map_err(|_| RegistryError::ManifestTooLarge { max })?;
    let content_type = headers
        .get(header::CONTENT_TYPE)
        .and_then(|v| v.to_str().ok());
    let accepted = api
        .registry
        .put_manifest(&repository, &reference, content_type, &content)
        .await?;
    let location = format!("/v2/{repository}/manifests/{}", accepted.digest);
    let headers = [
        (header::LOCATION, location),
        (CONTENT_DIGEST, accepted.digest.to_string()),
    ];
    let mut response = (StatusCode::CREATED, headers).into_response();
    if let Some(subject) = accepted.subject
        && let Ok(value) = HeaderValue::from_str(subject.as_str())
    {
        response.headers_mut().insert(SUBJECT, value);
    }
    Ok(response)
}

/// Versions stay.
#[utoipa::path(delete, path = "/v2/{kind}/{name}/manifests/{reference}", tag = "oci",
    params(("kind" = String, Path, description = "handlers or models"), ("name" = String, Path, description = "The artifact"), ("reference" = String, Path, description = "A tag or a digest")),
    responses((status = 405, description = "Always")))]
pub(in crate::http) async fn refuse_delete(caller: Result<Operator, ApiError>) -> OciError {
    match writer(caller).await {
        Ok(()) => OciError::Unsupported("versions are not deleted: nodes may still need them"),
        Err(error) => error,
    }
}

/// The tags of a repository.
#[utoipa::path(get, path = "/v2/{kind}/{name}/tags/list", tag = "oci",
    params(("kind" = String, Path, description = "handlers or models"), ("name" = String, Path, description = "The artifact"),
        ("n" = Option<u32>, Query, description = "At most so many"), ("last" = Option<String>, Query, description = "After this one")),
    responses((status = 200, description = "The tags in their order", body = Value), (status = 404, description = "No such repository")))]
pub(in crate::http) async fn tags(
    State(api): State<Api>,
    caller: Result<Caller, ApiError>,
    Path((kind, name)): Path<(String, String)>,
    Query(page): Query<Page>,
) -> Result<Response, OciError> {
    reader(caller).await?;
    let repository = repository(&kind, &name)?;
    let limit = page.limit();
    let tags = api
        .registry
        .tags(&repository, page.last(), limit)
        .await?
        .ok_or(OciError::NameUnknown)?;
    // A full page may not be the last.
    let next = tags
        .last()
        .filter(|_| tags.len() == limit as usize && limit > 0);
    let link = next
        .map(|last| format!("</v2/{repository}/tags/list?n={limit}&last={last}>; rel=\"next\""));
    let body = Json(json!({ "name": repository.to_string(), "tags": tags }));
    let mut response = body.into_response();
    if let Some(Ok(value)) = link.map(|l| HeaderValue::from_str(&l)) {
        response.headers_mut().insert(header::LINK, value);
    }
    Ok(response)
}

/// What refers to a manifest: signatures, bills of material.
#[utoipa::path(get, path = "/v2/{kind}/{name}/referrers/{digest}", tag = "oci",
    params(("kind" = String, Path, description = "handlers or models"), ("name" = String, Path, description = "The artifact"), ("digest" = String, Path, description = "The manifest referred to"),
        ("artifactType" = Option<String>, Query, description = "Only of this type")),
    responses((status = 200, description = "An image index", body = Value)))]
pub(in crate::http) async fn referrers(
    State(api): State<Api>,
    caller: Result<Caller, ApiError>,
    Path((kind, name, text)): Path<(String, String, String)>,
    Query(filter): Query<Filter>,
) -> Result<Response, OciError> {
    reader(caller).await?;
    let all = api
        .registry
        .referrers(&repository(&kind, &name)?, &digest(&text)?)
        .await?;
    let wanted = filter.artifact_type.as_deref();
    let manifests: Vec<_> = all
        .into_iter()
        .filter(|r| wanted.is_none() || r.artifact_type.as_deref() == wanted)
        .map(|r| {
            json!({
                "mediaType": r.media_type,
                "digest": r.digest,
                "size": r.size,
                "artifactType": r.artifact_type,
                "annotations": r.annotations,
            })
        })
        .collect();
    let body = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": manifests });
    let mut response = ([(header::CONTENT_TYPE, INDEX)], body.to_string()).into_response();
    if wanted.is_some() {
        let applied = HeaderValue::from_static("artifactType");
        response.headers_mut().insert(FILTERS, applied);
    }
    Ok(response)
}
