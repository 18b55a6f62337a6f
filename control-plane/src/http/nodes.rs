use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use fleet_api::desired::Envelope;
use fleet_api::ids::NodeId;
use fleet_api::rest::{ErrorBody, NodeDetail, NodeSummary};

use super::Api;
use super::caller::{Caller, Operator};
use super::error::ApiError;

/// All nodes.
#[utoipa::path(get, path = "/api/v1/nodes", tag = "fleet", responses(
    (status = 200, description = "All nodes, in the order of their ids", body = [NodeSummary]),
    (status = 401, description = "No operator", body = ErrorBody),
))]
pub(super) async fn list(
    State(api): State<Api>,
    _: Operator,
) -> Result<Json<Vec<NodeSummary>>, ApiError> {
    Ok(Json(api.fleet.nodes().await?))
}

/// All that is known of a node.
#[utoipa::path(get, path = "/api/v1/nodes/{id}", tag = "fleet", params(("id" = String, Path, description = "The node")), responses(
    (status = 200, description = "The node", body = NodeDetail),
    (status = 401, description = "No operator", body = ErrorBody),
    (status = 404, description = "No such node", body = ErrorBody),
))]
pub(super) async fn show(
    State(api): State<Api>,
    _: Operator,
    Path(id): Path<String>,
) -> Result<Json<NodeDetail>, ApiError> {
    let node = read_id(&id)?;
    let mut detail = api.fleet.node(&node).await?.ok_or_else(|| unknown(&node))?;
    detail.archive = api.archive.of(&node);
    Ok(Json(detail))
}

/// Takes a node out of the fleet: its certificate counts no more from now on.
#[utoipa::path(delete, path = "/api/v1/nodes/{id}", tag = "fleet", params(("id" = String, Path, description = "The node")), responses(
    (status = 204, description = "It is out"),
    (status = 401, description = "No operator", body = ErrorBody),
    (status = 404, description = "No such node", body = ErrorBody),
))]
pub(super) async fn remove(
    State(api): State<Api>,
    _: Operator,
    Path(id): Path<String>,
) -> Result<StatusCode, ApiError> {
    let node = read_id(&id)?;
    if !api.fleet.remove_node(&node).await? {
        return Err(unknown(&node));
    }
    api.broker.forget(&node);
    tracing::info!(%node, "removed a node");
    Ok(StatusCode::NO_CONTENT)
}

/// What a node shall run; the same document as on MQTT.
#[utoipa::path(get, path = "/api/v1/nodes/{id}/desired", tag = "fleet", params(("id" = String, Path, description = "The node")), responses(
    (status = 200, description = "The desired state in its envelope", body = Envelope),
    (status = 401, description = "Neither an operator nor a node", body = ErrorBody),
    (status = 403, description = "Another node", body = ErrorBody),
    (status = 404, description = "Nothing has been deployed to it yet", body = ErrorBody),
))]
pub(super) async fn desired(
    State(api): State<Api>,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<Json<Envelope>, ApiError> {
    let node = read_id(&id)?;
    if let Caller::Node(caller) = caller
        && caller != node
    {
        return Err(ApiError::forbidden(format!(
            "node {caller} may read only its own desired state"
        )));
    }
    if !api.members.contains(&node) {
        return Err(unknown(&node));
    }
    let envelope = api.fleet.desired(&node).await?.ok_or_else(|| {
        ApiError::new(
            StatusCode::NOT_FOUND,
            "no_desired_state",
            format!("nothing has been deployed to node {node} yet"),
        )
    })?;
    Ok(Json(envelope))
}

fn read_id(id: &str) -> Result<NodeId, ApiError> {
    NodeId::new(id).map_err(|e| ApiError::invalid(e.to_string()))
}

fn unknown(node: &NodeId) -> ApiError {
    ApiError::not_found(format!(
        "there is no node {node}: `edgectl nodes` lists them"
    ))
}
