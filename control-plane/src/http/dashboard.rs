use axum::extract::State;
use axum::http::header;
use axum::response::{Html, IntoResponse};

use super::Api;
use super::caller::Operator;
use super::error::ApiError;

const PAGE: &str = include_str!("dashboard.html");
/// The page brings its own style and script and loads nothing else.
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// The dashboard: a page that lists the nodes.
#[utoipa::path(get, path = "/", tag = "control plane", responses(
    (status = 200, description = "The page", body = String, content_type = "text/html"),
    (status = 401, description = "No operator"),
))]
pub(super) async fn page(State(_): State<Api>, _: Operator) -> Result<impl IntoResponse, ApiError> {
    Ok(([(header::CONTENT_SECURITY_POLICY, POLICY)], Html(PAGE)))
}
