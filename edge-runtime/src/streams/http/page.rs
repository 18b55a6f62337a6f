use http::{HeaderValue, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Full};

use super::{Form, StreamsBody, answer};

const PAGE: &str = include_str!("page.html");
/// The page needs nothing from elsewhere, and may reach nothing but this node.
const POLICY: &str = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// The page that plots a stream; it takes the stream's name from its address.
pub(super) fn page() -> Response<StreamsBody> {
    let body = Full::from(PAGE).map_err(|never| match never {});
    let mut response = answer(StatusCode::OK, Form::Page.media_type(), body.boxed_unsync());
    let headers = response.headers_mut();
    headers.insert(
        header::CONTENT_SECURITY_POLICY,
        HeaderValue::from_static(POLICY),
    );
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::VARY, HeaderValue::from_static("accept"));
    response
}
