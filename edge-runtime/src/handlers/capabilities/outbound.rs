//! Outbound wasi:http: only to the origins that the deployment allows, and only
//! where their names lead to addresses that a name may lead to; a redirect is
//! the guest's own affair, and another request. A handler has a bounded number
//! of requests out at the same time, with bounded bodies.

mod body;
mod origins;

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use http::HeaderValue;
use http_body_util::BodyExt as _;
use tokio::sync::Semaphore;
use tokio::time::timeout;
use wasmtime_wasi_http::{
    DEFAULT_FORBIDDEN_HEADERS, Error, RequestOptions, WasiBody, WasiHttpHooks,
};

use self::body::{Received, Sending};
pub use self::origins::OriginError;
pub(crate) use self::origins::Origins;
use super::Grant;
use crate::handlers::call::Call;
use crate::handlers::guest_log::LogShare;
use crate::handlers::request::REQUEST_ID;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);
const MAX_FIRST_BYTE_TIMEOUT: Duration = Duration::from_secs(600);
/// How long a request waits for one of its handler's that is out.
const PLACE_TIMEOUT: Duration = Duration::from_secs(1);

/// What of a body a guest may write ahead of its reader: guests write in small
/// pieces, and each wait for the reader costs two switches between them.
const BODY_CHUNKS: usize = 15;
const BODY_CHUNK_BYTES: usize = 64 << 10;

/// The node's client, one pool of connections for all handlers.
#[derive(Clone, Default)]
pub(crate) struct Client(Arc<OnceLock<Option<reqwest::Client>>>);

impl Client {
    fn reqwest(&self) -> Result<&reqwest::Client, Error> {
        self.0
            .get_or_init(|| {
                // Fails only if another provider is installed already, which then serves.
                let _ = rustls::crypto::ring::default_provider().install_default();
                reqwest::Client::builder()
                    .connect_timeout(CONNECT_TIMEOUT)
                    .pool_idle_timeout(IDLE_TIMEOUT)
                    .redirect(reqwest::redirect::Policy::none())
                    .no_proxy()
                    .dns_resolver(Arc::new(origins::CheckedResolver))
                    .build()
                    .inspect_err(|e| tracing::error!("handlers cannot call out: {e}"))
                    .ok()
            })
            .as_ref()
            .ok_or(Error::ConfigurationError)
    }
}

/// What a handler may have out, over all its calls.
#[derive(Debug)]
pub(crate) struct OutboundShare {
    pub(crate) origins: Origins,
    places: Arc<Semaphore>,
    body_bytes: u64,
}

impl OutboundShare {
    pub(crate) fn new(origins: Origins, requests: u32, body_bytes: u64) -> Self {
        Self {
            origins,
            places: Arc::new(Semaphore::new(requests as usize)),
            body_bytes,
        }
    }
}

/// The hooks of one guest.
pub(crate) struct Outbound {
    pub(crate) grant: Arc<Grant>,
    pub(crate) log: Arc<LogShare>,
    /// The call that the guest is in.
    pub(crate) call: Arc<Call>,
}

type Sent = (
    http::Response<WasiBody>,
    Box<dyn Future<Output = Result<(), Error>> + Send>,
);

impl WasiHttpHooks for Outbound {
    fn is_forbidden_header(&mut self, name: &http::HeaderName) -> bool {
        DEFAULT_FORBIDDEN_HEADERS.contains(name)
    }

    fn p2_outgoing_body_buffer_chunks(&mut self) -> usize {
        BODY_CHUNKS
    }

    fn p2_outgoing_body_chunk_size(&mut self) -> usize {
        BODY_CHUNK_BYTES
    }

    fn send_request(
        &mut self,
        mut request: http::Request<WasiBody>,
        options: Option<RequestOptions>,
        _written: Box<dyn Future<Output = Result<(), Error>> + Send>,
    ) -> Box<dyn Future<Output = Result<Sent, Error>> + Send> {
        let share = &self.grant.outbound;
        if !share.origins.allow(request.uri()) {
            let reason = format!(
                "it may not call {}: name the origin in the deployment's allow.http",
                origins::shown(request.uri())
            );
            self.log.denied(&self.call.id, &reason);
            return Box::new(async { Err(Error::HttpRequestDenied) });
        }
        let headers = request.headers_mut();
        self.call.trace.add_to(headers);
        if !headers.contains_key(REQUEST_ID)
            && let Ok(id) = HeaderValue::try_from(&self.call.id)
        {
            headers.insert(REQUEST_ID, id);
        }
        let grant = Arc::clone(&self.grant);
        Box::new(async move { send(&grant, request, options.unwrap_or_default()).await })
    }
}

async fn send(
    grant: &Grant,
    request: http::Request<WasiBody>,
    options: RequestOptions,
) -> Result<Sent, Error> {
    let client = grant.client.reqwest()?;
    let share = &grant.outbound;
    let place = timeout(PLACE_TIMEOUT, Arc::clone(&share.places).acquire_owned());
    let Ok(Ok(place)) = place.await else {
        return Err(Error::ConnectionLimitReached);
    };
    let (parts, body) = request.into_parts();
    let (body, rest) = Sending::new(body, share.body_bytes);
    let request = http::Request::from_parts(parts, reqwest::Body::wrap(body));
    let request = reqwest::Request::try_from(request).map_err(|_| Error::HttpRequestUriInvalid)?;
    let patience = options
        .first_byte_timeout
        .unwrap_or(MAX_FIRST_BYTE_TIMEOUT)
        .min(MAX_FIRST_BYTE_TIMEOUT);
    let response = timeout(patience, client.execute(request))
        .await
        .map_err(|_| Error::ConnectionReadTimeout)?
        .map_err(|e| cause(&e))?;
    let response: http::Response<reqwest::Body> = response.into();
    let response = response.map(|body| {
        let body = body.map_err(|e| cause(&e));
        Received::new(body, share.body_bytes, options.between_bytes_timeout, place).boxed_unsync()
    });
    Ok((response, Box::new(rest.drain())))
}

fn cause(error: &reqwest::Error) -> Error {
    tracing::debug!("outbound request failed: {error:?}");
    // What the request's own body says is the reason that the guest can use.
    let mut source = std::error::Error::source(error);
    while let Some(inner) = source {
        if let Some(Error::HttpRequestBodySize(limit)) = inner.downcast_ref::<Error>() {
            return Error::HttpRequestBodySize(*limit);
        }
        source = inner.source();
    }
    if error.is_timeout() {
        Error::ConnectionTimeout
    } else if error.is_connect() {
        let text = format!("{error:?}");
        if text.contains(origins::NO_GOOD_ADDRESS) {
            Error::DestinationIpProhibited
        } else if text.contains("dns error") {
            Error::DnsError {
                rcode: None,
                info_code: None,
            }
        } else {
            Error::ConnectionRefused
        }
    } else {
        Error::HttpProtocolError
    }
}
