use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};

use super::error::OciError;
use super::range::{self, Asked};
use super::{Api, CONTENT_DIGEST, digest, reader, repository, writer};
use crate::http::caller::{Caller, Operator};
use crate::http::error::ApiError;

/// A blob, or a part of it.
#[utoipa::path(get, path = "/v2/{kind}/{name}/blobs/{digest}", tag = "oci",
    params(("kind" = String, Path, description = "handlers or models"), ("name" = String, Path, description = "The artifact"), ("digest" = String, Path, description = "The blob")),
    responses((status = 200, description = "The blob", body = Vec<u8>, content_type = "application/octet-stream"),
        (status = 206, description = "The part that Range asks for", body = Vec<u8>, content_type = "application/octet-stream"),
        (status = 404, description = "No such blob"), (status = 416, description = "Range lies outside")))]
pub(in crate::http) async fn read(
    State(api): State<Api>,
    caller: Result<Caller, ApiError>,
    Path((kind, name, text)): Path<(String, String, String)>,
    method: Method,
    headers: HeaderMap,
) -> Result<Response, OciError> {
    reader(caller).await?;
    let blob = api
        .registry
        .blob(&repository(&kind, &name)?, &digest(&text)?)
        .await?;
    let asked = headers.get(header::RANGE).and_then(|v| v.to_str().ok());
    let (status, part) = match range::read(asked, blob.size) {
        Asked::All => (StatusCode::OK, 0..blob.size),
        Asked::Part(part) => (StatusCode::PARTIAL_CONTENT, part),
        Asked::Outside => return Err(OciError::RangeNotSatisfiable { size: blob.size }),
    };
    let fixed = [
        (header::CONTENT_TYPE, "application/octet-stream".to_owned()),
        (header::CONTENT_LENGTH, (part.end - part.start).to_string()),
        (header::ACCEPT_RANGES, "bytes".to_owned()),
        (header::ETAG, format!("\"{text}\"")),
        (
            header::CACHE_CONTROL,
            "max-age=31536000, immutable".to_owned(),
        ),
        (CONTENT_DIGEST, text),
    ];
    let content_range = format!(
        "bytes {}-{}/{}",
        part.start,
        part.end.saturating_sub(1),
        blob.size
    );
    let body = if method == Method::HEAD || part.is_empty() {
        Body::empty()
    } else {
        Body::from_stream(api.registry.read_blob(&blob, part).await?)
    };
    let mut response = (status, fixed, body).into_response();
    if status == StatusCode::PARTIAL_CONTENT
        && let Ok(value) = HeaderValue::from_str(&content_range)
    {
        response.headers_mut().insert(header::CONTENT_RANGE, value);
    }
    Ok(response)
}

/// Blobs are not deleted one by one.
#[utoipa::path(delete, path = "/v2/{kind}/{name}/blobs/{digest}", tag = "oci",
    params(("kind" = String, Path, description = "handlers or models"), ("name" = String, Path, description = "The artifact"), ("digest" = String, Path, description = "The blob")),
    responses((status = 405, description = "Always")))]
pub(in crate::http) async fn refuse_delete(caller: Result<Operator, ApiError>) -> OciError {
    match writer(caller).await {
        Ok(()) => OciError::Unsupported("blobs are not deleted: nodes may still need them"),
        Err(error) => error,
    }
}
