use std::convert::Infallible;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt as _;
use http::{Method, Request, Response, StatusCode, header};
use http_body::{Body, Frame};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited, StreamBody};
use tokio_stream::wrappers::ReceiverStream;

use super::body::{self, BodyError};
use super::{AppendError, Streams};

/// The body of an answer of [`Streams::handle`].
pub type StreamsBody = UnsyncBoxBody<Bytes, Infallible>;

/// The largest request body.
const BODY_BYTES: usize = 8 << 20;
/// Rows of one answer unless the request says otherwise.
const ROWS: usize = 1_000;
/// Rows of one answer at most.
const MOST_ROWS: usize = 100_000;
/// Bytes of rows after which an answer ends.
const ANSWER_BYTES: usize = 8 << 20;
/// Clients that follow streams at the same time.
pub(super) const LIVE_CLIENTS: usize = 64;
/// A comment is sent to a live client when nothing else was for so long.
const LIVE_PAUSE: Duration = Duration::from_secs(15);

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
    #[error("there is no such resource: use /streams, /streams/NAME or /streams/NAME/live")]
    Path,
    #[error("{0} is not possible here")]
    Method(Method),
    #[error("{name}={value:?} is not a number")]
    Number { name: &'static str, value: String },
    #[error("{LIVE_CLIENTS} clients follow streams already")]
    LiveClients,
}

impl HttpError {
    fn status(&self) -> StatusCode {
        match self {
            Self::Append(AppendError::Unknown { .. }) | Self::Path => StatusCode::NOT_FOUND,
            Self::Append(AppendError::Removed { .. }) => StatusCode::GONE,
            Self::Append(AppendError::Full { .. } | AppendError::NoSpace { .. }) => {
                StatusCode::INSUFFICIENT_STORAGE
            }
            Self::Append(
                AppendError::LargerThanQuota { .. } | AppendError::ValueTooLarge { .. },
            )
            | Self::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Append(AppendError::AlreadyProcessed { .. }) => StatusCode::CONFLICT,
            Self::Append(AppendError::Busy | AppendError::Closed | AppendError::Buffer(_))
            | Self::LiveClients => StatusCode::SERVICE_UNAVAILABLE,
            Self::Body(BodyError::ContentType(_)) => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::Append(AppendError::Empty) | Self::Body(_) | Self::Cut | Self::Number { .. } => {
                StatusCode::BAD_REQUEST
            }
            Self::Method(_) => StatusCode::METHOD_NOT_ALLOWED,
        }
    }

    fn code(&self) -> &'static str {
        match self {
            Self::Append(error) => error.code(),
            Self::Body(BodyError::ContentType(_)) => "unknown-content-type",
            Self::Body(_) | Self::Cut => "bad-body",
            Self::TooLarge => "body-too-large",
            Self::Path => "not-found",
            Self::Method(_) => "method-not-allowed",
            Self::Number { .. } => "bad-query",
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
            (&Method::GET, [] | [""]) => Ok(self.list()),
            (&Method::GET, [stream]) => self.rows_of(stream, request.uri().query()).await,
            (&Method::POST, [stream]) => self.post(stream, request).await,
            (&Method::GET, [stream, "live"]) => self.live(stream, &request),
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
        let (head, body) = request.into_parts();
        let content_type = head
            .headers
            .get(header::CONTENT_TYPE)
            .map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
        let body = std::pin::pin!(Limited::new(body, BODY_BYTES));
        let body = body.collect().await.map_err(|error| {
            if error.downcast_ref::<LengthLimitError>().is_some() {
                HttpError::TooLarge
            } else {
                HttpError::Cut
            }
        })?;
        let records = body::records(content_type.as_deref(), &body.to_bytes())?;
        let appended = self.append(stream, records).await?;
        let appended = serde_json::to_string(&appended).expect("three numbers");
        Ok(json(StatusCode::OK, appended))
    }

    async fn rows_of(
        &self,
        stream: &str,
        query: Option<&str>,
    ) -> Result<Response<StreamsBody>, HttpError> {
        let from = number(query, "from")?.unwrap_or(0);
        let limit = number(query, "limit")?.map_or(ROWS, |limit| {
            usize::try_from(limit).unwrap_or(MOST_ROWS).min(MOST_ROWS)
        });
        let mut text = String::new();
        let mut at = from;
        let mut left = limit;
        while left > 0 && text.len() < ANSWER_BYTES {
            let rows = self.read(stream, at, left).await?;
            let Some(last) = rows.last().map(|row| row.seq) else {
                break;
            };
            left -= rows.len();
            at = last + 1;
            for row in rows {
                text.push_str(&row.to_json());
                text.push('\n');
            }
        }
        Ok(answer(
            StatusCode::OK,
            "application/x-ndjson",
            Full::new(text.into()).boxed_unsync(),
        ))
    }

    /// Rows as server-sent events, from `?from` or `Last-Event-ID` on, else new ones only.
    fn live<B>(
        &self,
        stream: &str,
        request: &Request<B>,
    ) -> Result<Response<StreamsBody>, HttpError> {
        self.inner.shared.spec(stream)?;
        let client = std::sync::Arc::clone(&self.inner.live)
            .try_acquire_owned()
            .map_err(|_| HttpError::LiveClients)?;
        let resumed = request
            .headers()
            .get("last-event-id")
            .and_then(|id| id.to_str().ok()?.parse::<u64>().ok())
            .map(|last| last.saturating_add(1));
        let from = number(request.uri().query(), "from")?.or(resumed);
        let mut at = from.unwrap_or_else(|| self.inner.shared.state(stream).map_or(1, |s| s.next));

        let (events, receiver) = tokio::sync::mpsc::channel::<Bytes>(16);
        let streams = self.clone();
        let stream = stream.to_owned();
        tokio::spawn(async move {
            let _client = client;
            let mut changed = streams.changed();
            loop {
                changed.mark_unchanged();
                let Ok(rows) = streams.read(&stream, at, ROWS).await else {
                    return;
                };
                if rows.is_empty() {
                    if streams.failed().is_some() {
                        return;
                    }
                    let waited = tokio::time::timeout(LIVE_PAUSE, changed.changed());
                    tokio::select! {
                        // Nobody listens any more.
                        () = events.closed() => return,
                        waited = waited => match waited {
                            Ok(Ok(())) => {}
                            Ok(Err(_)) => return,
                            Err(_) => if events.send(Bytes::from_static(b":\n\n")).await.is_err() {
                                return;
                            },
                        }
                    }
                }
                for row in rows {
                    at = row.seq + 1;
                    let event = format!("id: {}\ndata: {}\n\n", row.seq, row.to_json());
                    if events.send(event.into()).await.is_err() {
                        return;
                    }
                }
            }
        });
        let body = StreamBody::new(
            ReceiverStream::new(receiver).map(|bytes| Ok::<_, Infallible>(Frame::data(bytes))),
        );
        let mut response = answer(StatusCode::OK, "text/event-stream", body.boxed_unsync());
        response.headers_mut().insert(
            header::CACHE_CONTROL,
            header::HeaderValue::from_static("no-store"),
        );
        Ok(response)
    }
}

fn number(query: Option<&str>, name: &'static str) -> Result<Option<u64>, HttpError> {
    let found = query
        .unwrap_or("")
        .split('&')
        .filter_map(|pair| pair.split_once('='))
        .find(|(key, _)| *key == name);
    found
        .map(|(_, value)| {
            value.parse().map_err(|_| HttpError::Number {
                name,
                value: value.to_owned(),
            })
        })
        .transpose()
}

fn json(status: StatusCode, text: String) -> Response<StreamsBody> {
    answer(
        status,
        "application/json",
        Full::new(text.into()).boxed_unsync(),
    )
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
