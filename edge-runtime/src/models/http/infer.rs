//! `infer`: from the request's head and body to the answer's.

use std::error::Error;
use std::time::{Duration, Instant};

use ::http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, VARY};
use ::http::request::Parts;
use ::http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use bytes::Bytes;
use fleet_api::units::Span;
use http_body::Body;
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use tokio::runtime::{Handle, RuntimeFlavor};

use super::super::compression::{Coding, CodingError};
use super::super::error::ModelError;
use super::super::picture::{self, PictureError};
use super::super::pool::LoadedModel;
use super::super::protocol::{self, Decoded};
use super::super::stats::FailureReason;
use super::super::tensor::Tensor;
use super::super::{InferResponse, Models, Via, classes};
use super::{Answer, Refusal};

const JSON_LENGTH: &str = "inference-header-content-length";
const TIMEOUT: &str = "request-timeout";

/// With bodies larger than this, decoding takes long enough to hand a worker's other tasks to another thread first.
const HEAVY_BYTES: usize = 256 << 10;

impl Models {
    pub(super) async fn infer_http<B>(
        &self,
        name: &str,
        version: Option<&str>,
        request: Request<B>,
    ) -> Result<Answer, Refusal>
    where
        B: Body<Data = Bytes>,
        B::Error: Into<Box<dyn Error + Send + Sync>>,
    {
        let came = Instant::now();
        // Looked up before the body is read, so that a wrong name does not cost a transfer; and kept, so that body and
        // run meet the same version when models are switched in between.
        let model = self.find(name, version)?;
        let (head, body) = request.into_parts();
        let limit = self.shared.config.max_body_bytes;
        let body = read(body, &head.headers, limit).await?;
        let picture = is_picture(&head.headers);
        let decoder = match picture {
            true => self.shared.scheduler.decoders.acquire().await.ok(),
            false => None,
        };
        let decoded = apart_if(picture || body.len() > HEAVY_BYTES, || {
            take_apart(&model, &head, body, limit, came)
        });
        drop(decoder);
        let Decoded { request, answer } = decoded.inspect_err(|_| {
            model.stats.came(Via::Http);
            model.stats.failed(FailureReason::Other, Duration::ZERO);
        })?;
        let mut outputs = model.infer(request).await?;
        for output in &mut outputs {
            if let Some(count) = answer.classes(&output.name) {
                *output = classes::best(output, count, &model.description)?;
            }
        }
        let response = InferResponse {
            model: model.name.to_string(),
            version: model.version.to_string(),
            outputs,
        };
        let size: usize = response.outputs.iter().map(|o| o.data.len()).sum();
        apart_if(size > HEAVY_BYTES, || {
            write(&response, &answer, &head.headers)
        })
    }
}

/// Makes a request of a body that came whole.
fn take_apart(
    model: &LoadedModel,
    head: &Parts,
    body: Bytes,
    limit: usize,
    came: Instant,
) -> Result<Decoded, Refusal> {
    let json_length = json_length(&head.headers)?;
    let deadline = deadline(&head.headers, came)?;
    let body = match Coding::of_request(&head.headers)? {
        Some(coding) => coding.inflate(&body, limit)?,
        None => body,
    };
    let mut decoded = if is_picture(&head.headers) {
        Decoded::inputs(vec![picture_input(model, &head.headers, &body, limit)?])
    } else {
        protocol::decode(&body, json_length, &model.inputs, came)?
    };
    if let Some(count) = classification(head, model)? {
        let scores = model.description.scores_of(&model.outputs);
        let scores = scores.ok_or_else(|| several_outputs(model))?;
        decoded.answer.want_classes(scores, count);
    }
    let asked = decoded.request.deadline;
    decoded.request.deadline = [deadline, asked].into_iter().flatten().min();
    decoded
        .answer
        .check(&model.outputs, &decoded.request.outputs)?;
    Ok(decoded)
}

fn is_picture(headers: &HeaderMap) -> bool {
    picture_type(headers).is_some()
}

/// What stands behind `image/` in the content type.
fn picture_type(headers: &HeaderMap) -> Option<String> {
    let value = headers.get(CONTENT_TYPE)?.to_str().ok()?;
    let kind = value.split(';').next()?.trim().to_ascii_lowercase();
    kind.strip_prefix("image/").map(str::to_owned)
}

fn picture_input(
    model: &LoadedModel,
    headers: &HeaderMap,
    body: &[u8],
    limit: usize,
) -> Result<Tensor, Refusal> {
    let refuse = |problem: String| Refusal::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, problem);
    let kind = picture_type(headers).unwrap_or_default();
    if !["jpeg", "jpg", "pjpeg", "png", "*"].contains(&kind.as_str()) {
        return Err(refuse(format!(
            "image/{kind} is not decoded here; send image/jpeg or image/png"
        )));
    }
    let Some(card) = &model.description.image else {
        return Err(refuse(format!(
            "model '{}' takes no pictures: no card beside it says how one becomes its input; send tensors",
            model.name
        )));
    };
    picture::tensor(body, card, limit).map_err(|problem| {
        let status = match problem {
            PictureError::UnknownFormat => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            PictureError::TooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            PictureError::Broken { .. } => StatusCode::BAD_REQUEST,
        };
        Refusal::new(status, format!("the picture {problem}"))
    })
}

/// How many classes the query asks for: `?classification=3`, or as many as the card says.
fn classification(head: &Parts, model: &LoadedModel) -> Result<Option<usize>, ModelError> {
    let items = head.uri.query().unwrap_or_default().split('&');
    let mut pairs = items.map(|item| item.split_once('=').unwrap_or((item, "")));
    match pairs.find(|(name, _)| *name == "classification") {
        None => Ok(None),
        Some((_, "")) => Ok(Some(model.description.top())),
        Some((_, count)) => count.parse().map(Some).map_err(|_| {
            ModelError::Request(format!(
                "classification in the query is '{count}', expected a number of classes"
            ))
        }),
    }
}

fn several_outputs(model: &LoadedModel) -> ModelError {
    ModelError::Request(format!(
        "model '{}' has {} outputs and no card that says which one has scores of classes; \
         name one by outputs[].parameters.classification",
        model.name,
        model.outputs.len()
    ))
}

fn write(
    response: &InferResponse,
    form: &protocol::AnswerForm,
    headers: &HeaderMap,
) -> Result<Answer, Refusal> {
    let encoded = protocol::encode(response, form)?;
    let (mut body, mut coding) = (encoded.body, None);
    if let Some(wanted) = Coding::for_answer(headers)
        && let Some(smaller) = wanted.deflate(&body)
    {
        (body, coding) = (smaller, Some(wanted));
    }
    let mut answer = Response::new(Full::new(body));
    let headers = answer.headers_mut();
    let content_type = if let Some(length) = encoded.json_length {
        headers.insert(JSON_LENGTH, length.into());
        "application/octet-stream"
    } else {
        "application/json"
    };
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    if let Some(coding) = coding {
        headers.insert(CONTENT_ENCODING, HeaderValue::from_static(coding.name()));
        headers.insert(VARY, HeaderValue::from_static("accept-encoding"));
    }
    Ok(answer)
}

/// Runs `work` here; if it is `heavy`, without holding up the tasks that wait for this thread.
fn apart_if<T>(heavy: bool, work: impl FnOnce() -> T) -> T {
    let here = Handle::try_current().map(|runtime| runtime.runtime_flavor());
    if heavy && matches!(here, Ok(RuntimeFlavor::MultiThread)) {
        tokio::task::block_in_place(work)
    } else {
        work()
    }
}

fn json_length(headers: &HeaderMap) -> Result<Option<usize>, ModelError> {
    let Some(value) = headers.get(JSON_LENGTH) else {
        return Ok(None);
    };
    let length = value
        .to_str()
        .ok()
        .and_then(|text| text.trim().parse().ok());
    let bad = || {
        ModelError::Request(format!(
            "Inference-Header-Content-Length is {value:?}, expected a number of bytes"
        ))
    };
    length.map(Some).ok_or_else(bad)
}

/// What the client's `Request-Timeout` says; a timeout of zero is none, as in the protocol's own parameter.
fn deadline(headers: &HeaderMap, came: Instant) -> Result<Option<Instant>, ModelError> {
    let Some(value) = headers.get(TIMEOUT) else {
        return Ok(None);
    };
    let span: Option<Span> = value.to_str().ok().and_then(|text| text.parse().ok());
    let span = span.ok_or_else(|| {
        ModelError::Request(format!(
            "Request-Timeout is {value:?}, expected a duration with its unit, such as 250ms"
        ))
    })?;
    Ok(Some(span.duration())
        .filter(|span| !span.is_zero())
        .and_then(|span| came.checked_add(span)))
}

/// Reads a body of at most `limit` bytes.
pub(super) async fn read<B>(body: B, headers: &HeaderMap, limit: usize) -> Result<Bytes, Refusal>
where
    B: Body<Data = Bytes>,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    let too_large = || {
        let problem =
            format!("the request body is larger than {limit} bytes, the most that is taken");
        Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, problem)
    };
    let length = headers
        .get(CONTENT_LENGTH)
        .and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    if length.is_some_and(|length| length > limit as u64) {
        return Err(too_large());
    }
    match Limited::new(body, limit).collect().await {
        Ok(body) => Ok(body.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => Err(too_large()),
        Err(error) => Err(Refusal::new(
            StatusCode::BAD_REQUEST,
            format!("the request body broke off: {error}"),
        )),
    }
}

impl From<CodingError> for Refusal {
    fn from(error: CodingError) -> Refusal {
        let status = match error {
            CodingError::Unsupported(_) => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            CodingError::TooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            CodingError::Broken { .. } => StatusCode::BAD_REQUEST,
        };
        Refusal::new(status, error.to_string())
    }
}
