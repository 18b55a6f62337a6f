//! One HTTP request through a guest.
//!
//! The guest runs within the connection's own task: no task is spawned and
//! nothing is woken for a request that is answered at once, and a client that
//! goes away takes its guest's work with it. While the response streams, the
//! body drives the guest; see [`Exchange`].

use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use bytes::{Bytes, BytesMut};
use http::header::{CONTENT_LENGTH, HOST, HeaderName, UPGRADE};
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{Method, Request, Response, StatusCode, Uri, response};
use http_body::Frame;
use http_body_util::BodyExt as _;
use wasmtime::Store;
use wasmtime::component::Accessor;
use wasmtime_wasi_http::p2::bindings::Proxy;
use wasmtime_wasi_http::p2::bindings::http::types::Scheme as Scheme02;
use wasmtime_wasi_http::p3;
use wasmtime_wasi_http::p3::bindings::Service;
use wasmtime_wasi_http::{Error, WasiHttpView as _};

use super::call::Call;
use super::exchange::{Exchange, Open, RequestBody};
use super::handler::{Handler, Turn};
use super::metered::{Failed, Metered};
use super::state::GuestState;
use super::stats::FaultKind;
use super::trace::Trace;
use super::world::Guest;
use crate::gateway::{Body, OverTls, reply};

/// Carries the id of a request, in and out.
pub(crate) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// A response that ends within this many bytes and without a wait goes out
/// whole, with a content length.
const WHOLE_BYTES: usize = 64 << 10;

/// Serves one request.
pub(super) async fn respond<B>(handler: Arc<Handler>, mut request: Request<B>) -> Response<Body>
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Error>,
{
    let started = Instant::now();
    let limits = &handler.spec.limits;
    if wants_websocket(&request) {
        return reply::error(
            StatusCode::NOT_IMPLEMENTED,
            "upgrade-unsupported",
            "handlers answer plain requests: this runtime does not upgrade connections",
        );
    }
    if declared_length(&request).is_some_and(|length| length > limits.request_body.0) {
        return too_large(&handler);
    }
    let Ok(turn) = handler.turn().await else {
        return busy(&handler);
    };
    let id = request.headers().get(REQUEST_ID);
    let id = id.and_then(|id| id.to_str().ok()).unwrap_or("-");
    let id = id.to_owned();
    let trace = Trace::take_from(request.headers_mut());
    let call = Arc::new(Call::new(id, limits, started).within(trace));
    let head_only = request.method() == Method::HEAD;
    let request = request.map(|body| RequestBody::new(body, limits.request_body.0, &call));
    let work = {
        let (handler, call) = (Arc::clone(&handler), Arc::clone(&call));
        async move { run(&handler, &call, turn, request).await }
    };
    let work = Metered::new(&handler.long_work, Arc::clone(&call), work);
    let mut exchange = Exchange::begin(handler, Arc::clone(&call), work, head_only, started);
    let mut head = Head::default();
    match poll_fn(|cx| head.poll(&mut exchange, cx)).await {
        Reached::Whole => {
            let parts = head.parts.take().expect("a head comes before its body");
            let body = head.whole_body();
            exchange.finish();
            Response::from_parts(parts, body)
        }
        Reached::Streaming => {
            let parts = head.parts.take().expect("a head comes before its body");
            let body = exchange.into_body(head.frames);
            if head_only {
                tokio::spawn(body.collect());
                return Response::from_parts(parts, Body::empty());
            }
            Response::from_parts(parts, Body::stream(body))
        }
        Reached::Answer(response) => {
            exchange.set_status(response.status());
            exchange.finish();
            response
        }
    }
}

/// What the first wait for a guest leads to.
enum Reached {
    /// The response is complete.
    Whole,
    /// The response has begun; more of it comes later.
    Streaming,
    /// The runtime answers in the guest's place.
    Answer(Response<Body>),
}

#[derive(Default)]
struct Head {
    parts: Option<response::Parts>,
    frames: VecDeque<Frame<Bytes>>,
    buffered: usize,
}

impl Head {
    fn poll(&mut self, exchange: &mut Exchange, cx: &mut Context<'_>) -> Poll<Reached> {
        if self.parts.is_none() {
            let ended = exchange.poll_guest(cx);
            match exchange.call.take_answer() {
                Some(Ok(response)) if exchange.call.too_large() => {
                    drop(response);
                    return Poll::Ready(Reached::Answer(too_large(&exchange.handler)));
                }
                Some(Ok(response)) => {
                    let (parts, body) = response.into_parts();
                    if !exchange.set_answer(&parts, body) {
                        return Poll::Ready(Reached::Answer(no_answer(exchange)));
                    }
                    self.parts = Some(parts);
                }
                Some(Err(code)) => {
                    return Poll::Ready(Reached::Answer(gave_up(&exchange.handler, &code)));
                }
                None if ended => return Poll::Ready(Reached::Answer(no_answer(exchange))),
                None => return Poll::Pending,
            }
        }
        loop {
            match exchange.poll_frame(cx) {
                Poll::Ready(Some(Ok(frame))) => {
                    self.buffered += frame.data_ref().map_or(0, Bytes::len);
                    let has_trailers = frame.is_trailers();
                    self.frames.push_back(frame);
                    if self.buffered > WHOLE_BYTES || has_trailers {
                        return Poll::Ready(Reached::Streaming);
                    }
                }
                // Nothing has gone out yet, so the client can be told in full.
                Poll::Ready(Some(Err(_))) => {
                    return Poll::Ready(Reached::Answer(no_answer(exchange)));
                }
                Poll::Ready(None) => return Poll::Ready(Reached::Whole),
                Poll::Pending => return Poll::Ready(Reached::Streaming),
            }
        }
    }

    fn whole_body(&mut self) -> Body {
        let mut data = self.frames.drain(..).filter_map(|f| f.into_data().ok());
        let first = data.next().unwrap_or_default();
        match data.next() {
            None => Body::full(first),
            Some(second) => {
                let mut all = BytesMut::with_capacity(self.buffered);
                all.extend_from_slice(&first);
                all.extend_from_slice(&second);
                data.for_each(|bytes| all.extend_from_slice(&bytes));
                Body::full(all.freeze())
            }
        }
    }
}

async fn run<B>(
    handler: &Handler,
    call: &Arc<Call>,
    turn: Turn,
    request: Request<RequestBody<B>>,
) -> Result<Option<Open>, Failed>
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Error>,
{
    let mut instance = handler.instance(call).await?;
    let store = &mut instance.store;
    let result = match &instance.guest {
        Guest::Http02(proxy) => call_02(store, proxy, call, request).await,
        Guest::Http03(service) => call_03(store, service, call, request).await,
        Guest::Processor(_) => Err(wasmtime::format_err!("a processor serves no requests")),
    };
    match result {
        Ok(()) if store.data_mut().has_open_body() => {
            handler.stats.memory(store.data().memory.used());
            Ok(Some(Open {
                _instance: instance,
                _turn: turn,
            }))
        }
        Ok(()) => {
            handler.done(instance, call.answered());
            Ok(None)
        }
        Err(error) => {
            let state = store.data_mut();
            handler.stats.memory(state.memory.used());
            Err(Failed {
                memory_denied: state.memory.denied(),
                open_body: matches!(instance.guest, Guest::Http03(_)) || state.has_open_body(),
                error,
                remains: Some(Box::new((instance, turn))),
            })
        }
    }
}

async fn call_02<B>(
    store: &mut Store<GuestState>,
    proxy: &Proxy,
    call: &Arc<Call>,
    mut request: Request<RequestBody<B>>,
) -> wasmtime::Result<()>
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Error>,
{
    let scheme = if over_tls(&request) {
        Scheme02::Https
    } else {
        Scheme02::Http
    };
    if request.uri().authority().is_none() && !request.headers().contains_key(HOST) {
        *request.uri_mut() = absolute(&request);
    }
    let request = store
        .data_mut()
        .http()
        .new_incoming_request(scheme, request)?;
    let answered = Arc::clone(call);
    let out = store
        .data_mut()
        .http()
        .new_response_outparam_from_callback(move |answer| {
            answered.set_answer(answer.map_err(|code| format!("{code:?}")));
        })?;
    proxy
        .wasi_http_incoming_handler()
        .call_handle(store, request, out)
        .await
}

async fn call_03<B>(
    store: &mut Store<GuestState>,
    service: &Service,
    call: &Arc<Call>,
    mut request: Request<RequestBody<B>>,
) -> wasmtime::Result<()>
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Error>,
{
    *request.uri_mut() = absolute(&request);
    let (request, written) = p3::Request::from_http(store.data_mut().http().hooks, request);
    store
        .run_concurrent(async |accessor: &Accessor<GuestState>| {
            match service.handle(accessor, request).await? {
                Ok(response) => {
                    let response =
                        accessor.with(|mut store| response.into_http(&mut store, written))?;
                    call.set_answer(Ok(response));
                }
                Err(code) => call.set_answer(Err(format!("{code:?}"))),
            }
            // The body is read from within this store: stay until it has been taken.
            poll_fn(|cx| {
                let idle = accessor.poll_no_interesting_tasks(cx).is_ready();
                if idle && call.body_ended() {
                    Poll::Ready(())
                } else {
                    Poll::Pending
                }
            })
            .await;
            Ok(())
        })
        .await?
}

/// The whole of what the client asked for. What it wrote in front of the path
/// goes before its Host (RFC 9112, section 3.2.2); the scheme is the connection's.
fn absolute<B>(request: &Request<B>) -> Uri {
    let of_host = || {
        let host = request.headers().get(HOST)?;
        Authority::try_from(host.as_bytes()).ok()
    };
    let authority = request.uri().authority().cloned().or_else(of_host);
    let path = request.uri().path_and_query().cloned();
    let scheme = if over_tls(request) {
        Scheme::HTTPS
    } else {
        Scheme::HTTP
    };
    Uri::builder()
        .scheme(scheme)
        .authority(authority.unwrap_or_else(|| Authority::from_static("localhost")))
        .path_and_query(path.unwrap_or_else(|| PathAndQuery::from_static("/")))
        .build()
        .expect("all three parts are there and valid")
}

fn over_tls<B>(request: &Request<B>) -> bool {
    request.extensions().get::<OverTls>().is_some()
}

fn declared_length<B>(request: &Request<B>) -> Option<u64> {
    let length = request.headers().get(CONTENT_LENGTH)?;
    length.to_str().ok()?.parse().ok()
}

fn wants_websocket<B>(request: &Request<B>) -> bool {
    let upgrade = request.headers().get(UPGRADE);
    upgrade.is_some_and(|to| to.as_bytes().eq_ignore_ascii_case(b"websocket"))
}

fn too_large(handler: &Handler) -> Response<Body> {
    let limit = handler.spec.limits.request_body;
    let message = format!("the body is larger than the handler's limit of {limit}");
    reply::error(StatusCode::PAYLOAD_TOO_LARGE, "body-too-large", &message)
}

fn busy(handler: &Handler) -> Response<Body> {
    let name = &handler.spec.name;
    let message = format!("handler {name} has as much to do as it may: try again in a second");
    reply::busy(StatusCode::SERVICE_UNAVAILABLE, "busy", &message, 1)
}

fn node_full(handler: &Handler) -> Response<Body> {
    let name = &handler.spec.name;
    let message = format!(
        "the node has no memory left for handler {name}: try again in a second, or raise handlers.max_memory in its configuration"
    );
    reply::busy(StatusCode::SERVICE_UNAVAILABLE, "node-memory", &message, 1)
}

fn gave_up(handler: &Handler, code: &str) -> Response<Body> {
    let message = format!("handler {} gave up: {code}", handler.spec.name);
    reply::error(StatusCode::BAD_GATEWAY, "handler-error", &message)
}

/// The answer for a guest that ended without one.
fn no_answer(exchange: &Exchange) -> Response<Body> {
    let handler = &exchange.handler;
    let name = &handler.spec.name;
    if exchange.call.too_large() {
        return too_large(handler);
    }
    let Some(failed) = &exchange.failed else {
        let message = format!("handler {name} ended without an answer, or broke it off");
        return reply::error(StatusCode::BAD_GATEWAY, "no-response", &message);
    };
    if failed.is_pool_full() {
        return busy(handler);
    }
    let (status, code, what) = match failed.kind() {
        FaultKind::Timeout => (StatusCode::GATEWAY_TIMEOUT, "timeout", "took too long"),
        FaultKind::Cpu => (
            StatusCode::GATEWAY_TIMEOUT,
            "cpu-limit",
            "used more CPU time than it may",
        ),
        FaultKind::Memory => (
            StatusCode::INTERNAL_SERVER_ERROR,
            "memory-limit",
            "needs more memory than it may have",
        ),
        FaultKind::NodeMemory => return node_full(handler),
        FaultKind::ResponseBody => (
            StatusCode::INTERNAL_SERVER_ERROR,
            "response-too-large",
            "answers more than it may",
        ),
        FaultKind::Trap => (
            StatusCode::INTERNAL_SERVER_ERROR,
            "handler-fault",
            "stopped with a fault",
        ),
    };
    let id = &exchange.call.id;
    let message = format!("handler {name} {what}; the node's log has the details under {id}");
    reply::error(status, code, &message)
}

/// Counts and logs what stopped a guest.
pub(super) fn log_fault(handler: &Handler, call: &Call, failed: &Failed) {
    let kind = failed.kind();
    let text = format!("{:?}", failed.error);
    handler.log.fault(&call.id, kind, &text);
    handler.stats.fault(kind, text);
}
