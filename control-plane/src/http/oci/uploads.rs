use axum::body::Body;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, HeaderName, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;

use super::error::OciError;
use super::{Api, CONTENT_DIGEST, digest, repository, writer};
use crate::http::caller::Operator;
use crate::http::error::ApiError;
use crate::registry::{Repository, UploadId};

const UPLOAD_ID: HeaderName = HeaderName::from_static("docker-upload-uuid");

#[derive(Deserialize)]
pub(in crate::http) struct Start {
    digest: Option<String>,
    mount: Option<String>,
    from: Option<String>,
}

#[derive(Deserialize)]
pub(in crate::http) struct Finish {
    digest: Option<String>,
}

/// Starts an upload; with `digest` it takes the whole blob at once, with `mount` one of another repository.
#[utoipa::path(post, path = "/v2/{kind}/{name}/blobs/uploads/", tag = "oci",
    params(("kind" = String, Path, description = "handlers or models"), ("name" = String, Path, description = "The artifact"),
        ("digest" = Option<String>, Query, description = "The body is the blob of this digest"),
        ("mount" = Option<String>, Query, description = "Take over the blob of this digest"),
        ("from" = Option<String>, Query, description = "From this repository")),
    responses((status = 201, description = "The blob is there"), (status = 202, description = "Go on at Location"), (status = 400, description = "The digest is wrong")))]
pub(in crate::http) async fn start(
    State(api): State<Api>,
    caller: Result<Operator, ApiError>,
    Path((kind, name)): Path<(String, String)>,
    Query(query): Query<Start>,
    body: Body,
) -> Result<Response, OciError> {
    writer(caller).await?;
    let repository = repository(&kind, &name)?;
    if let Some(mount) = &query.mount {
        let wanted = digest(mount)?;
        let from = query.from.as_deref().and_then(Repository::parse);
        let nowhere = query.from.is_some() && from.is_none();
        if !nowhere
            && api
                .registry
                .mount(&repository, from.as_ref(), &wanted)
                .await?
        {
            return Ok(created(&repository, wanted.as_str()));
        }
    }
    if let Some(whole) = &query.digest {
        let claimed = digest(whole)?;
        let id = api.registry.start_upload(&repository).await?;
        if let Err(error) = take(&api, &repository, &id, None, body).await {
            let _ = api.registry.cancel_upload(&repository, &id);
            return Err(error);
        }
        api.registry
            .finish_upload(&repository, &id, &claimed)
            .await?;
        return Ok(created(&repository, whole));
    }
    let id = api.registry.start_upload(&repository).await?;
    Ok(accepted(StatusCode::ACCEPTED, &repository, &id, 0))
}

/// How far an upload is.
#[utoipa::path(get, path = "/v2/{kind}/{name}/blobs/uploads/{id}", tag = "oci",
    params(("kind" = String, Path, description = "handlers or models"), ("name" = String, Path, description = "The artifact"), ("id" = String, Path, description = "The upload")),
    responses((status = 204, description = "Range says which bytes are there"), (status = 404, description = "No such upload")))]
pub(in crate::http) async fn status(
    State(api): State<Api>,
    caller: Result<Operator, ApiError>,
    Path((kind, name, id)): Path<(String, String, String)>,
) -> Result<Response, OciError> {
    writer(caller).await?;
    let (repository, id) = (repository(&kind, &name)?, UploadId::new(&id));
    let have = api.registry.upload_bytes(&repository, &id).await?;
    Ok(accepted(StatusCode::NO_CONTENT, &repository, &id, have))
}

/// Appends to an upload.
#[utoipa::path(patch, path = "/v2/{kind}/{name}/blobs/uploads/{id}", tag = "oci",
    params(("kind" = String, Path, description = "handlers or models"), ("name" = String, Path, description = "The artifact"), ("id" = String, Path, description = "The upload")),
    request_body(content = Vec<u8>, content_type = "application/octet-stream"),
    responses((status = 202, description = "Range says which bytes are there"), (status = 404, description = "No such upload"), (status = 416, description = "Content-Range does not follow what is there")))]
pub(in crate::http) async fn append(
    State(api): State<Api>,
    caller: Result<Operator, ApiError>,
    Path((kind, name, id)): Path<(String, String, String)>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, OciError> {
    writer(caller).await?;
    let (repository, id) = (repository(&kind, &name)?, UploadId::new(&id));
    let at = chunk_start(&headers)?;
    let have = take(&api, &repository, &id, at, body).await?;
    Ok(accepted(StatusCode::ACCEPTED, &repository, &id, have))
}

/// Ends an upload, with the last chunk or without.
#[utoipa::path(put, path = "/v2/{kind}/{name}/blobs/uploads/{id}", tag = "oci",
    params(("kind" = String, Path, description = "handlers or models"), ("name" = String, Path, description = "The artifact"), ("id" = String, Path, description = "The upload"),
        ("digest" = String, Query, description = "What the bytes must have")),
    responses((status = 201, description = "The blob is there"), (status = 400, description = "The digest is wrong"), (status = 404, description = "No such upload")))]
pub(in crate::http) async fn finish(
    State(api): State<Api>,
    caller: Result<Operator, ApiError>,
    Path((kind, name, id)): Path<(String, String, String)>,
    Query(query): Query<Finish>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, OciError> {
    writer(caller).await?;
    let (repository, id) = (repository(&kind, &name)?, UploadId::new(&id));
    let text = query.digest.ok_or_else(|| {
        OciError::DigestInvalid("give the blob's digest: ?digest=sha256:...".to_owned())
    })?;
    let claimed = digest(&text)?;
    let at = chunk_start(&headers)?;
    take(&api, &repository, &id, at, body).await?;
    api.registry
        .finish_upload(&repository, &id, &claimed)
        .await?;
    Ok(created(&repository, &text))
}

/// Gives an upload up.
#[utoipa::path(delete, path = "/v2/{kind}/{name}/blobs/uploads/{id}", tag = "oci",
    params(("kind" = String, Path, description = "handlers or models"), ("name" = String, Path, description = "The artifact"), ("id" = String, Path, description = "The upload")),
    responses((status = 204, description = "It is gone"), (status = 404, description = "No such upload")))]
pub(in crate::http) async fn cancel(
    State(api): State<Api>,
    caller: Result<Operator, ApiError>,
    Path((kind, name, id)): Path<(String, String, String)>,
) -> Result<StatusCode, OciError> {
    writer(caller).await?;
    let repository = repository(&kind, &name)?;
    api.registry
        .cancel_upload(&repository, &UploadId::new(&id))?;
    Ok(StatusCode::NO_CONTENT)
}

async fn take(
    api: &Api,
    repository: &Repository,
    id: &UploadId,
    at: Option<u64>,
    body: Body,
) -> Result<u64, OciError> {
    let bytes = body.into_data_stream();
    Ok(api.registry.append(repository, id, at, bytes).await?)
}

/// The bytes that are there, as the spec writes them; an upload without any has `0-0`.
pub(super) fn upload_range(have: u64) -> String {
    format!("0-{}", have.saturating_sub(1))
}

/// Where a chunk starts: `Content-Range: 0-99`, inclusive, without a unit.
fn chunk_start(headers: &HeaderMap) -> Result<Option<u64>, OciError> {
    let Some(value) = headers.get(header::CONTENT_RANGE) else {
        return Ok(None);
    };
    let text = value.to_str().unwrap_or_default();
    let numbers = text.trim_start_matches("bytes ").split('/').next();
    let start = numbers
        .and_then(|n| n.split_once('-'))
        .and_then(|(first, last)| {
            let (first, last): (u64, u64) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
            (first <= last).then_some(first)
        });
    match start {
        Some(start) => Ok(Some(start)),
        None => Err(OciError::RangeInvalid(format!(
            "Content-Range {text:?} is not valid: write FIRST-LAST"
        ))),
    }
}

fn created(repository: &Repository, digest: &str) -> Response {
    let headers = [
        (header::LOCATION, format!("/v2/{repository}/blobs/{digest}")),
        (CONTENT_DIGEST, digest.to_owned()),
    ];
    (StatusCode::CREATED, headers).into_response()
}

fn accepted(status: StatusCode, repository: &Repository, id: &UploadId, have: u64) -> Response {
    let headers = [
        (
            header::LOCATION,
            format!("/v2/{repository}/blobs/uploads/{id}"),
        ),
        (header::RANGE, upload_range(have)),
        (UPLOAD_ID, id.to_string()),
    ];
    (status, headers).into_response()
}
