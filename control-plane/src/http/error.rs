//! The one place that maps errors to answers.

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use fleet_api::rest::ErrorBody;

use crate::fleet::{ApplyError, EnrollError, ReplayError, StoreError};

/// An answer that is not a success: a stable code and a sentence that says what to do.
#[derive(Debug)]
pub(super) struct ApiError {
    status: StatusCode,
    code: &'static str,
    message: String,
}

impl ApiError {
    pub(super) fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self {
            status,
            code,
            message: message.into(),
        }
    }

    pub(super) fn unauthorized(message: impl Into<String>) -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "unauthorized", message)
    }

    pub(super) fn forbidden(message: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, "forbidden", message)
    }

    pub(super) fn not_found(message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, "not_found", message)
    }

    pub(super) fn invalid(message: impl Into<String>) -> Self {
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid", message)
    }

    pub(super) fn status(&self) -> StatusCode {
        self.status
    }

    pub(super) fn into_message(self) -> String {
        self.message
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let body = ErrorBody::new(self.code, self.message);
        let mut response = (self.status, Json(body)).into_response();
        if self.status == StatusCode::UNAUTHORIZED {
            challenge(&mut response);
        }
        response
    }
}

/// Asks browsers and registry clients for a login.
pub(super) fn challenge(response: &mut Response) {
    let value = HeaderValue::from_static(
        "Basic realm=\"control plane: any user, the admin token as password\"",
    );
    response
        .headers_mut()
        .insert(header::WWW_AUTHENTICATE, value);
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        let message = format!("the control plane failed to {error}");
        tracing::error!("{message}");
        match error {
            StoreError::Full(_) => {
                Self::new(StatusCode::INSUFFICIENT_STORAGE, "disk_full", message)
            }
            _ => Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", message),
        }
    }
}

impl From<ApplyError> for ApiError {
    fn from(error: ApplyError) -> Self {
        let message = error.to_string();
        let (status, code) = match error {
            ApplyError::Store(error) => return error.into(),
            ApplyError::Deployment(_) => (StatusCode::UNPROCESSABLE_ENTITY, "invalid_deployment"),
            ApplyError::Missing(_) => (StatusCode::UNPROCESSABLE_ENTITY, "unknown_artifact"),
            ApplyError::TornProcessor(..) => {
                (StatusCode::UNPROCESSABLE_ENTITY, "invalid_deployment")
            }
            ApplyError::Conflict(_) => (StatusCode::CONFLICT, "conflict"),
            ApplyError::Unknown(_) => (StatusCode::NOT_FOUND, "not_found"),
        };
        Self::new(status, code, message)
    }
}

impl From<ReplayError> for ApiError {
    fn from(error: ReplayError) -> Self {
        let message = error.to_string();
        let (status, code) = match error {
            ReplayError::Store(error) => return error.into(),
            ReplayError::UnknownNode(_) | ReplayError::Unknown(..) => {
                (StatusCode::NOT_FOUND, "not_found")
            }
            ReplayError::TooMany(_) => (StatusCode::CONFLICT, "too_many_replays"),
            ReplayError::Plan(_) => (StatusCode::UNPROCESSABLE_ENTITY, "invalid_replay"),
        };
        Self::new(status, code, message)
    }
}

impl From<EnrollError> for ApiError {
    fn from(error: EnrollError) -> Self {
        let message = error.to_string();
        let (status, code) = match error {
            EnrollError::Store(error) => return error.into(),
            EnrollError::UnknownToken => (StatusCode::UNAUTHORIZED, "unknown_token"),
            EnrollError::ExpiredToken => (StatusCode::UNAUTHORIZED, "expired_token"),
            EnrollError::UsedToken => (StatusCode::FORBIDDEN, "used_token"),
            EnrollError::Taken(_) => (StatusCode::CONFLICT, "node_exists"),
            EnrollError::Request(_) => (StatusCode::UNPROCESSABLE_ENTITY, "invalid_request"),
            EnrollError::Authority(_) => {
                tracing::error!("{message}");
                (StatusCode::INTERNAL_SERVER_ERROR, "internal")
            }
        };
        Self::new(status, code, message)
    }
}
