//! Every route, in one place.

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::http::{StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, patch, post, put};

use super::error::ApiError;
use super::{
    Api, archive, artifacts, dashboard, deployments, enroll, events, health, nodes, oci, openapi,
    replays, tokens, unread,
};

/// REST bodies are small; the registry sets bounds of its own.
const BODY_BYTES: usize = 1 << 20;

/// Writes a table of routes as a router and as a list, so that a test can hold the OpenAPI
/// document against it.
macro_rules! routes {
    ($table:ident, $make:ident: $($method:ident $path:literal => $handler:path,)*) => {
        #[cfg(test)]
        pub(super) const $table: &[(&str, &str)] = &[$((stringify!($method), $path)),*];

        fn $make() -> Router<Api> {
            Router::new()$(.route($path, $method($handler)))*
        }
    };
}

routes! { REST, rest:
    get    "/"                                => dashboard::page,
    get    "/healthz"                         => health::healthz,
    get    "/metrics"                         => health::metrics,
    get    "/api/openapi.json"                => openapi::document,
    get    "/api/v1/info"                     => health::info,
    get    "/api/v1/ca"                       => enroll::ca,
    post   "/api/v1/enroll"                   => enroll::enroll,
    post   "/api/v1/tokens"                   => tokens::create,
    get    "/api/v1/nodes"                    => nodes::list,
    get    "/api/v1/nodes/{id}"               => nodes::show,
    delete "/api/v1/nodes/{id}"               => nodes::remove,
    get    "/api/v1/nodes/{id}/desired"       => nodes::desired,
    get    "/api/v1/nodes/{id}/replays"       => replays::list,
    post   "/api/v1/nodes/{id}/replays"       => replays::begin,
    get    "/api/v1/nodes/{id}/replays/{replay}" => replays::show,
    delete "/api/v1/nodes/{id}/replays/{replay}" => replays::cancel,
    get    "/api/v1/artifacts"                => artifacts::list,
    get    "/api/v1/deployments"              => deployments::list,
    post   "/api/v1/deployments"              => deployments::apply,
    delete "/api/v1/deployments/{name}"       => deployments::remove,
    get    "/api/v1/archive"                  => archive::list,
    get    "/api/v1/events"                   => events::list,
    get    "/api/v1/archive/gaps"             => archive::gaps,
}

routes! { OCI, oci:
    get    "/v2/"                                  => oci::version,
    get    "/v2/_catalog"                          => oci::catalog,
    post   "/v2/{kind}/{name}/blobs/uploads/"      => oci::uploads::start,
    get    "/v2/{kind}/{name}/blobs/uploads/{id}"  => oci::uploads::status,
    patch  "/v2/{kind}/{name}/blobs/uploads/{id}"  => oci::uploads::append,
    put    "/v2/{kind}/{name}/blobs/uploads/{id}"  => oci::uploads::finish,
    delete "/v2/{kind}/{name}/blobs/uploads/{id}"  => oci::uploads::cancel,
    get    "/v2/{kind}/{name}/blobs/{digest}"      => oci::blobs::read,
    delete "/v2/{kind}/{name}/blobs/{digest}"      => oci::blobs::refuse_delete,
    get    "/v2/{kind}/{name}/manifests/{reference}" => oci::manifests::read,
    put    "/v2/{kind}/{name}/manifests/{reference}" => oci::manifests::write,
    delete "/v2/{kind}/{name}/manifests/{reference}" => oci::manifests::refuse_delete,
    get    "/v2/{kind}/{name}/tags/list"           => oci::manifests::tags,
    get    "/v2/{kind}/{name}/referrers/{digest}"  => oci::manifests::referrers,
}

/// The registry alone, for the listener without TLS.
pub(super) fn registry(api: Api) -> Router {
    finish(oci().layer(DefaultBodyLimit::disable()), api)
}

/// Everything.
pub(super) fn all(api: Api) -> Router {
    let rest = rest().layer(DefaultBodyLimit::max(BODY_BYTES));
    finish(rest.merge(oci().layer(DefaultBodyLimit::disable())), api)
}

fn finish(router: Router<Api>, api: Api) -> Router {
    router
        .fallback(unknown)
        .method_not_allowed_fallback(not_allowed)
        .layer(axum::middleware::from_fn(unread::hear_out))
        .with_state(api)
}

async fn unknown(uri: Uri) -> Response {
    if uri.path().starts_with("/v2/") {
        return oci::error::OciError::NameInvalid.into_response();
    }
    ApiError::not_found(format!(
        "there is nothing at {}: /api/openapi.json lists what there is",
        uri.path()
    ))
    .into_response()
}

async fn not_allowed(uri: Uri) -> Response {
    if uri.path().starts_with("/v2/") {
        return oci::error::OciError::Unsupported("the registry does not take this method here")
            .into_response();
    }
    ApiError::new(
        StatusCode::METHOD_NOT_ALLOWED,
        "method_not_allowed",
        "this path does not take that method: /api/openapi.json lists what there is",
    )
    .into_response()
}
