use axum::Json;
use axum::extract::State;
use axum::http::header;
use axum::response::IntoResponse;
use fleet_api::rest::{ErrorBody, Info};

use super::Api;
use super::caller::Operator;
use super::error::ApiError;

/// Whether the process lives and its database answers.
#[utoipa::path(get, path = "/healthz", tag = "control plane", responses(
    (status = 200, description = "It does", body = String, content_type = "text/plain"),
    (status = 500, description = "The database does not answer", body = ErrorBody),
))]
pub(super) async fn healthz(State(api): State<Api>) -> Result<&'static str, ApiError> {
    api.fleet.ping().await?;
    Ok("ok\n")
}

/// The control plane itself.
#[utoipa::path(get, path = "/api/v1/info", tag = "control plane", responses(
    (status = 200, description = "Version, uptime and where MQTT is", body = Info),
    (status = 401, description = "No operator", body = ErrorBody),
))]
pub(super) async fn info(State(api): State<Api>, _: Operator) -> Json<Info> {
    Json(Info {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        mqtt_host: api.endpoint.mqtt_host.clone(),
        mqtt_port: api.endpoint.mqtt_port,
        uptime_s: api.started.elapsed().as_secs(),
    })
}

/// Figures for Prometheus.
#[utoipa::path(get, path = "/metrics", tag = "control plane", responses(
    (status = 200, description = "OpenMetrics text", body = String, content_type = "application/openmetrics-text"),
    (status = 401, description = "No operator", body = ErrorBody),
))]
pub(super) async fn metrics(
    State(api): State<Api>,
    _: Operator,
) -> Result<impl IntoResponse, ApiError> {
    let text = super::figures::write(&api).await?;
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    Ok(([(header::CONTENT_TYPE, kind)], text))
}
