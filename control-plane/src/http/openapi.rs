use axum::Json;
use utoipa::OpenApi;

use super::{
    archive, artifacts, dashboard, deployments, enroll, events, health, nodes, oci, replays, tokens,
};

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Control plane",
        description = "Registry, desired state, nodes and archive of a fleet of edge runtimes. \
                       Operators send the admin token as bearer or as the password of a basic login; \
                       nodes show their certificate."
    ),
    paths(
        dashboard::page,
        health::healthz,
        health::metrics,
        document,
        health::info,
        enroll::ca,
        enroll::enroll,
        tokens::create,
        nodes::list,
        nodes::show,
        nodes::remove,
        nodes::desired,
        replays::list,
        replays::begin,
        replays::show,
        replays::cancel,
        artifacts::list,
        deployments::list,
        deployments::apply,
        deployments::remove,
        archive::list,
        events::list,
        archive::gaps,
        oci::version,
        oci::catalog,
        oci::uploads::start,
        oci::uploads::status,
        oci::uploads::append,
        oci::uploads::finish,
        oci::uploads::cancel,
        oci::blobs::read,
        oci::blobs::refuse_delete,
        oci::manifests::read,
        oci::manifests::write,
        oci::manifests::refuse_delete,
        oci::manifests::tags,
        oci::manifests::referrers,
    )
)]
struct Document;

/// This document.
#[utoipa::path(get, path = "/api/openapi.json", tag = "control plane", responses(
    (status = 200, description = "OpenAPI 3.1", body = serde_json::Value),
))]
pub(super) async fn document() -> Json<serde_json::Value> {
    Json(serde_json::to_value(Document::openapi()).expect("the document has only string keys"))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::http::router::{OCI, REST};

    #[tokio::test]
    async fn every_route_is_in_the_document_and_nothing_else() {
        let Json(document) = document().await;
        assert!(
            document["openapi"]
                .as_str()
                .is_some_and(|v| v.starts_with("3.1"))
        );
        let described: BTreeSet<(String, String)> = document["paths"]
            .as_object()
            .expect("paths")
            .iter()
            .flat_map(|(path, item)| {
                let methods = item.as_object().expect("a path item").keys();
                methods.map(move |method| (method.clone(), path.clone()))
            })
            .collect();
        let routed: BTreeSet<(String, String)> = [REST, OCI]
            .concat()
            .iter()
            .map(|(method, path)| ((*method).to_owned(), (*path).to_owned()))
            .collect();
        assert_eq!(described, routed);
    }
}
