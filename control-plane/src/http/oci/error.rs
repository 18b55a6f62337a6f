//! The registry's errors, in the form and with the codes of the distribution-spec.

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::json;

use crate::http::error::{ApiError, challenge};
use crate::registry::RegistryError;

#[derive(Debug)]
pub(in crate::http) enum OciError {
    Caller(ApiError),
    NameInvalid,
    NameUnknown,
    DigestInvalid(String),
    ReferenceInvalid(String),
    Unsupported(&'static str),
    RangeInvalid(String),
    RangeNotSatisfiable { size: u64 },
    Registry(RegistryError),
}

impl From<RegistryError> for OciError {
    fn from(error: RegistryError) -> Self {
        Self::Registry(error)
    }
}

impl IntoResponse for OciError {
    fn into_response(self) -> Response {
        let (status, code, message) = match self {
            Self::Caller(error) => {
                let status = error.status();
                let code = if status == StatusCode::FORBIDDEN { "DENIED" } else { "UNAUTHORIZED" };
                let mut response = body(status, code, error.into_message());
                if status == StatusCode::UNAUTHORIZED {
                    challenge(&mut response);
                }
                return response;
            }
            Self::NameInvalid => (
                StatusCode::NOT_FOUND,
                "NAME_INVALID",
                "repositories here are handlers/NAME and models/NAME, in lower-case letters, digits and inner '-', '_' or '.'".to_owned(),
            ),
            Self::NameUnknown => (
                StatusCode::NOT_FOUND,
                "NAME_UNKNOWN",
                "nothing has been pushed to this repository yet".to_owned(),
            ),
            Self::DigestInvalid(message) => (StatusCode::BAD_REQUEST, "DIGEST_INVALID", message),
            Self::ReferenceInvalid(message) => {
                (StatusCode::BAD_REQUEST, "MANIFEST_INVALID", message)
            }
            Self::Unsupported(message) => (
                StatusCode::METHOD_NOT_ALLOWED,
                "UNSUPPORTED",
                message.to_owned(),
            ),
            Self::RangeInvalid(message) => {
                (StatusCode::BAD_REQUEST, "BLOB_UPLOAD_INVALID", message)
            }
            Self::RangeNotSatisfiable { size } => {
                let mut response = body(
                    StatusCode::RANGE_NOT_SATISFIABLE,
                    "RANGE_INVALID",
                    format!("the blob has {size} bytes"),
                );
                if let Ok(value) = HeaderValue::from_str(&format!("bytes */{size}")) {
                    response.headers_mut().insert(header::CONTENT_RANGE, value);
                }
                return response;
            }
            Self::Registry(error) => return of_registry(error),
        };
        body(status, code, message)
    }
}

fn of_registry(error: RegistryError) -> Response {
    use RegistryError as E;
    let message = error.to_string();
    let (status, code) = match &error {
        E::UploadUnknown => (StatusCode::NOT_FOUND, "BLOB_UPLOAD_UNKNOWN"),
        E::UploadBusy => (StatusCode::CONFLICT, "BLOB_UPLOAD_INVALID"),
        E::TooManyUploads => (StatusCode::TOO_MANY_REQUESTS, "TOOMANYREQUESTS"),
        E::OutOfOrder { .. } => (StatusCode::RANGE_NOT_SATISFIABLE, "BLOB_UPLOAD_INVALID"),
        E::BlobTooLarge { .. } => (StatusCode::PAYLOAD_TOO_LARGE, "SIZE_INVALID"),
        E::Interrupted(_) => (StatusCode::BAD_REQUEST, "BLOB_UPLOAD_INVALID"),
        E::WrongDigest { .. } => (StatusCode::BAD_REQUEST, "DIGEST_INVALID"),
        E::BlobUnknown(_) => (StatusCode::NOT_FOUND, "BLOB_UNKNOWN"),
        E::ManifestUnknown(_) => (StatusCode::NOT_FOUND, "MANIFEST_UNKNOWN"),
        E::ManifestBlobUnknown(_) => (StatusCode::BAD_REQUEST, "MANIFEST_BLOB_UNKNOWN"),
        E::ManifestInvalid(_) | E::Refused(_) => (StatusCode::BAD_REQUEST, "MANIFEST_INVALID"),
        E::ManifestTooLarge { .. } => (StatusCode::PAYLOAD_TOO_LARGE, "SIZE_INVALID"),
        E::TagTaken { .. } => (StatusCode::CONFLICT, "TAG_IMMUTABLE"),
        E::DiskFull => {
            tracing::error!("{message}");
            (StatusCode::INSUFFICIENT_STORAGE, "DISK_FULL")
        }
        E::Io(_) | E::Objects(_) | E::Store(_) => {
            tracing::error!("the registry failed to {message}");
            (StatusCode::INTERNAL_SERVER_ERROR, "INTERNAL")
        }
    };
    let mut response = body(status, code, message);
    if let E::OutOfOrder { have } = error
        && let Ok(value) = HeaderValue::from_str(&super::uploads::upload_range(have))
    {
        response.headers_mut().insert(header::RANGE, value);
    }
    response
}

fn body(status: StatusCode, code: &str, message: String) -> Response {
    let body = json!({ "errors": [{ "code": code, "message": message, "detail": message }] });
    (status, Json(body)).into_response()
}
