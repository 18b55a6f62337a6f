mod form;
mod live;
mod page;
mod query;
mod rows;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode, header};
use http_body::Body;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};

pub(super) use self::live::Live;

use self::form::Form;
use self::query::QueryError;
use super::body::{self, BodyError};
use super::{AppendError, Mark, Streams};
use crate::models::{Coding, CodingError};

/// The body of an answer of [`Streams::handle`]; it fails where the buffer does.
pub type StreamsBody = UnsyncBoxBody<Bytes, AppendError>;

/// The largest request body.
const BODY_BYTES: usize = 8 << 20;

#[derive(Debug, thiserror::Error)]
enum HttpError {
    #[error(transparent)]
    Append(#[from] AppendError),
    #[error(transparent)]
    Body(#[from] BodyError),
    #[error("the body is larger than {BODY_BYTES} bytes: send fewer records at once")]
    TooLarge,
    #[error("the body did not arrive whole")]
    Cut,
    #[error(transparent)]
    Coding(#[from] CodingError),
    #[error("Idempotency-Key is not 1 to 255 printable ASCII characters")]
    Key,
    #[error("there is no such resource: use /streams, /streams/NAME or /streams/NAME/live")]
    Path,
    #[error("{0} is not possible here")]
    Method(Method),
    #[error(transparent)]
    Query(#[from] QueryError),
    #[error(
        "records come as application/x-ndjson, application/cbor-seq, application/vnd.edge.frames or text/html: accept one of them"
    )]
    Form,
    #[error("{} clients follow streams already: end one of them", live::CLIENTS)]
    LiveClients,
}

impl HttpError {
    fn status(&self) -> StatusCode {
        match self {
            Self::Append(AppendError::Unknown { .. }) | Self::Path => StatusCode::NOT_FOUND,
            Self::Append(AppendError::Reserved { .. }) => StatusCode::FORBIDDEN,
            Self::Append(AppendError::Removed { .. }) => StatusCode::GONE,
            Self::Append(
                AppendError::Full { .. }
                | AppendError::BufferFull { .. }
                | AppendError::NoSpace { .. },
            ) => StatusCode::INSUFFICIENT_STORAGE,
            Self::Append(
                AppendError::LargerThanQuota { .. } | AppendError::ValueTooLarge { .. },
            )
            | Self::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Append(AppendError::AlreadyProcessed { .. }) => StatusCode::CONFLICT,
            Self::Append(AppendError::Busy | AppendError::Closed | AppendError::Buffer(_))
            | Self::LiveClients => StatusCode::SERVICE_UNAVAILABLE,
            Self::Body(BodyError::ContentType(_)) => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::Append(AppendError::Empty) | Self::Body(_) | Self::Cut | Self::Query(_) => {
                StatusCode::BAD_REQUEST
            }
            Self::Coding(CodingError::TooLarge { .. }) => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Coding(CodingError::Unsupported(_)) => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::Coding(CodingError::Broken { .. }) | Self::Key => StatusCode::BAD_REQUEST,
            Self::Append(AppendError::KeyReused) => StatusCode::UNPROCESSABLE_ENTITY,
            Self::Method(_) => StatusCode::METHOD_NOT_ALLOWED,
            Self::Form => StatusCode::NOT_ACCEPTABLE,
        }
    }

    fn code(&self) -> &'static str {
        match self {
            Self::Append(error) => error.code(),
            Self::Body(BodyError::ContentType(_)) => "unknown-content-type",
            Self::Coding(CodingError::TooLarge { .. }) => "body-too-large",
            Self::Coding(CodingError::Unsupported(_)) => "unknown-content-encoding",
            Self::Body(_) | Self::Cut | Self::Coding(CodingError::Broken { .. }) => "bad-body",
            Self::Key => "bad-idempotency-key",
            Self::TooLarge => "body-too-large",
            Self::Path => "not-found",
            Self::Method(_) => "method-not-allowed",
            Self::Query(_) => "bad-query",
            Self::Form => "not-acceptable",
            Self::LiveClients => "too-many-clients",
        }
    }

    fn response(&self) -> Response<StreamsBody> {
        let error = serde_json::json!({
            "error": { "code": self.code(), "message": self.to_string() }
        });
        let mut response = json(self.status(), error.to_string());
        let retry_after = match self.status() {
            StatusCode::SERVICE_UNAVAILABLE => Some("1"),
            StatusCode::INSUFFICIENT_STORAGE => Some("10"),
            _ => None,
        };
        if let Some(seconds) = retry_after {
            let seconds = header::HeaderValue::from_static(seconds);
            response.headers_mut().insert(header::RETRY_AFTER, seconds);
        }
        response
    }
}

impl Streams {
    /// Serves `/streams`, `/streams/NAME` and `/streams/NAME/live`.
    pub async fn handle<B>(&self, request: Request<B>) -> Response<StreamsBody>
    where
        B: Body<Data = Bytes> + Send,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        match self.route(request).await {
            Ok(response) => response,
            Err(error) => {
                if error.status().is_server_error() {
                    tracing::debug!(%error, "refused a request for a stream");
                }
                error.response()
            }
        }
    }

    async fn route<B>(&self, request: Request<B>) -> Result<Response<StreamsBody>, HttpError>
    where
        B: Body<Data = Bytes> + Send,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let path = request.uri().path().to_owned();
        let rest = path.strip_prefix("/streams").ok_or(HttpError::Path)?;
        let parts: Vec<_> = rest.split('/').skip(1).collect();
        let method = request.method().clone();
        match (&method, parts.as_slice()) {
            (&Method::GET | &Method::HEAD, [] | [""]) => Ok(self.list()),
            (&Method::GET | &Method::HEAD, [stream]) => {
                let (headers, query) = (request.headers(), request.uri().query());
                self.rows_of(stream, &method, headers, query).await
            }
            (&Method::POST, [stream]) => self.post(stream, request).await,
            (&Method::GET, [stream, "live"]) => {
                let (headers, query) = (request.headers(), request.uri().query());
                self.live(stream, headers, query).await
            }
            (_, [] | [_] | [_, "live"]) => Err(HttpError::Method(method)),
            _ => Err(HttpError::Path),
        }
    }

    fn list(&self) -> Response<StreamsBody> {
        let list = serde_json::json!({ "streams": self.health() });
        json(StatusCode::OK, list.to_string())
    }

    async fn post<B>(
        &self,
        stream: &str,
        request: Request<B>,
    ) -> Result<Response<StreamsBody>, HttpError>
    where
        B: Body<Data = Bytes> + Send,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        // A client with the wrong name need not send its body.
        self.inner.shared.spec(stream)?;
        if stream == fleet_api::event::STREAM {
            let stream = stream.to_owned();
            return Err(AppendError::Reserved { stream }.into());
        }
        let (head, body) = request.into_parts();
        let content_type = head
            .headers
            .get(header::CONTENT_TYPE)
            .map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
        let key = key(&head.headers)?;
        let coding = Coding::of_request(&head.headers)?;
        let body = std::pin::pin!(Limited::new(body, BODY_BYTES));
        let body = body.collect().await.map_err(|error| {
            if error.downcast_ref::<LengthLimitError>().is_some() {
                HttpError::TooLarge
            } else {
                HttpError::Cut
            }
        })?;
        let mut body = body.to_bytes();
        if let Some(coding) = coding {
            let packed = body;
            body = tokio::task::spawn_blocking(move || coding.inflate(&packed, BODY_BYTES))
                .await
                .expect("inflating does not panic")?;
        }
        let records = body::records(content_type.as_deref(), &body)?;
        let mark = key.map(|key| Mark::Key {
            key,
            digest: digest_of(content_type.as_deref(), &body),
        });
        let appended = self.append_marked(stream, records, mark).await?;
        let appended = serde_json::to_string(&appended).expect("three numbers");
        Ok(json(StatusCode::OK, appended))
    }
}

/// The key under which a request may be sent again.
fn key(headers: &HeaderMap) -> Result<Option<String>, HttpError> {
    let Some(value) = headers.get("idempotency-key") else {
        return Ok(None);
    };
    let key = value.to_str().map_err(|_| HttpError::Key)?;
    if key.is_empty() || key.len() > 255 {
        return Err(HttpError::Key);
    }
    Ok(Some(key.to_owned()))
}

/// What tells one request's records from another's.
fn digest_of(content_type: Option<&str>, body: &[u8]) -> String {
    let mut digest = ring::digest::Context::new(&ring::digest::SHA256);
    digest.update(content_type.unwrap_or_default().as_bytes());
    digest.update(&[0]);
    digest.update(body);
    STANDARD.encode(digest.finish())
}

fn json(status: StatusCode, text: String) -> Response<StreamsBody> {
    let body = Full::from(text).map_err(|never| match never {});
    answer(status, "application/json", body.boxed_unsync())
}

fn answer(
    status: StatusCode,
    content_type: &'static str,
    body: StreamsBody,
) -> Response<StreamsBody> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        header::HeaderValue::from_static(content_type),
    );
    response
}
