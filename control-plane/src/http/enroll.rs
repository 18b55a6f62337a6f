use axum::Json;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, header};
use axum::response::IntoResponse;
use fleet_api::rest::{EnrollRequest, EnrollResponse, ErrorBody};

use super::Api;
use super::caller::bearer;
use super::error::ApiError;

/// The CA's certificate. A join token carries its digest, so that anyone may serve it.
#[utoipa::path(get, path = "/api/v1/ca", tag = "identity", responses(
    (status = 200, description = "The CA's certificate in PEM", body = String, content_type = "application/x-pem-file"),
))]
pub(super) async fn ca(State(api): State<Api>) -> impl IntoResponse {
    let pem = api.authority.ca_pem().to_owned();
    ([(header::CONTENT_TYPE, "application/x-pem-file")], pem)
}

/// Joins a node with a join token's secret as bearer.
#[utoipa::path(post, path = "/api/v1/enroll", tag = "identity", request_body = EnrollRequest, responses(
    (status = 200, description = "The node's certificate", body = EnrollResponse),
    (status = 401, description = "The token is unknown or expired", body = ErrorBody),
    (status = 403, description = "The token has been used", body = ErrorBody),
    (status = 409, description = "The id is taken", body = ErrorBody),
    (status = 422, description = "The request is not valid", body = ErrorBody),
))]
pub(super) async fn enroll(
    State(api): State<Api>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Json<EnrollResponse>, ApiError> {
    let token = bearer(&headers).ok_or_else(|| {
        ApiError::unauthorized("send the join token's secret as bearer: `edge-runtime enroll` does")
    })?;
    let request: EnrollRequest = serde_json::from_slice(&body)
        .map_err(|e| ApiError::invalid(format!("the body is not a request to join: {e}")))?;
    let enrolled = api.fleet.enroll(token, &request).await?;
    Ok(Json(EnrollResponse {
        node: request.node,
        certificate_pem: enrolled.certificate_pem,
        ca_pem: enrolled.ca_pem,
        mqtt_host: api.endpoint.mqtt_host.clone(),
        mqtt_port: api.endpoint.mqtt_port,
    }))
}
