//! Requests to other systems, of those that the deployment allows:
//! `allow = { http = ["http://10.0.0.5:8080"] }`.
//!
//! The runtime adds the request id and the trace context of the call.

use std::fmt;
use std::io::{self, Read as _, Write as _};
use std::time::Duration;

use serde::{Serialize, de::DeserializeOwned};
use wasip2::http::outgoing_handler;
use wasip2::http::types::{
    ErrorCode, Fields, Method, OutgoingBody, OutgoingRequest, RequestOptions, Scheme,
};

/// A request that is to be sent.
#[derive(Debug)]
#[must_use]
pub struct Outbound {
    method: Method,
    url: String,
    headers: Vec<(String, Vec<u8>)>,
    body: Vec<u8>,
    timeout: Option<Duration>,
    max_bytes: u64,
}

/// What came back.
#[derive(Debug, Clone)]
pub struct Answer {
    /// The status.
    pub status: u16,
    /// The whole body.
    pub body: Vec<u8>,
    headers: Vec<(String, Vec<u8>)>,
}

/// Why there is no answer.
#[derive(Debug)]
pub enum OutboundError {
    /// The URL is not `http://` or `https://` with a host.
    Url(String),
    /// A header or the method cannot be sent.
    Request(String),
    /// The request was denied, or failed on its way.
    Failed(ErrorCode),
    /// The answer's body broke off, or is larger than what is read.
    Body(String),
}

impl fmt::Display for OutboundError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Url(url) => write!(f, "{url:?} is no address: write http://HOST[:PORT]/PATH"),
            Self::Request(what) => f.write_str(what),
            Self::Failed(ErrorCode::HttpRequestDenied) => {
                f.write_str("the deployment does not allow it: name the origin in allow.http")
            }
            Self::Failed(code) => write!(f, "the request failed: {code}"),
            Self::Body(reason) => f.write_str(reason),
        }
    }
}

impl std::error::Error for OutboundError {}

/// A GET request to `url`.
pub fn get(url: impl Into<String>) -> Outbound {
    Outbound::new(Method::Get, url)
}

/// A POST request to `url`.
pub fn post(url: impl Into<String>) -> Outbound {
    Outbound::new(Method::Post, url)
}

impl Outbound {
    /// A request without headers and body.
    pub fn new(method: Method, url: impl Into<String>) -> Self {
        Self {
            method,
            url: url.into(),
            headers: Vec::new(),
            body: Vec::new(),
            timeout: None,
            max_bytes: 16 << 20,
        }
    }

    /// The same request with one more header.
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.into()));
        self
    }

    /// The same request with this body.
    pub fn body(mut self, content_type: &str, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        self.header("content-type", content_type)
    }

    /// The same request with a value as its JSON body.
    pub fn json(self, value: &impl Serialize) -> Self {
        let body = serde_json::to_vec(value).unwrap_or_default();
        self.body("application/json", body)
    }

    /// The same request, given up when connection, first byte or next bytes
    /// take longer than this.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// Sends it and waits for the whole answer, whatever its status.
    ///
    /// # Errors
    /// [`OutboundError`]
    pub fn send(self) -> Result<Answer, OutboundError> {
        let (scheme, authority, path) = split(&self.url)?;
        let fields = Fields::from_list(&self.headers)
            .map_err(|error| OutboundError::Request(format!("a header cannot be sent: {error}")))?;
        let length = self.body.len().to_string();
        let _ = fields.set("content-length", &[length.into_bytes()]);
        let request = OutgoingRequest::new(fields);
        let unfit = |what: &str| OutboundError::Request(format!("the {what} cannot be sent"));
        request
            .set_method(&self.method)
            .map_err(|()| unfit("method"))?;
        request
            .set_scheme(Some(&scheme))
            .map_err(|()| unfit("scheme"))?;
        request
            .set_authority(Some(authority))
            .map_err(|()| unfit("host"))?;
        request
            .set_path_with_query(Some(path))
            .map_err(|()| unfit("path"))?;
        let body = request.body().map_err(|()| unfit("body"))?;
        let pending =
            outgoing_handler::handle(request, self.options()).map_err(OutboundError::Failed)?;
        // The answer tells why, if the other side does not take the whole body.
        if write(&body, &self.body).is_ok() {
            let _ = OutgoingBody::finish(body, None);
        }
        pending.subscribe().block();
        let response = match pending.get() {
            Some(Ok(Ok(response))) => response,
            Some(Ok(Err(code))) => return Err(OutboundError::Failed(code)),
            _ => return Err(OutboundError::Failed(ErrorCode::InternalError(None))),
        };
        let body = response.consume().map_err(|()| unfit("body"))?;
        let stream = body.stream().map_err(|()| unfit("body"))?;
        let mut bytes = Vec::new();
        let read = stream.take(self.max_bytes + 1).read_to_end(&mut bytes);
        read.map_err(|error| OutboundError::Body(format!("the answer broke off: {error}")))?;
        if bytes.len() as u64 > self.max_bytes {
            let reason = format!("the answer is larger than {} bytes", self.max_bytes);
            return Err(OutboundError::Body(reason));
        }
        Ok(Answer {
            status: response.status(),
            headers: response.headers().entries(),
            body: bytes,
        })
    }

    fn options(&self) -> Option<RequestOptions> {
        let timeout = u64::try_from(self.timeout?.as_nanos()).ok();
        let options = RequestOptions::new();
        // Each is refused only by a host that does not have it.
        let _ = options.set_connect_timeout(timeout);
        let _ = options.set_first_byte_timeout(timeout);
        let _ = options.set_between_bytes_timeout(timeout);
        Some(options)
    }
}

impl Answer {
    /// The first header of this name, if it is text.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut headers = self.headers.iter();
        let (_, value) = headers.find(|(key, _)| key.eq_ignore_ascii_case(name))?;
        std::str::from_utf8(value).ok()
    }

    /// Whether its status is 200 to 299.
    #[must_use]
    pub fn is_success(&self) -> bool {
        (200..300).contains(&self.status)
    }

    /// The body as JSON.
    ///
    /// # Errors
    /// What is wrong and where.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T, serde_json::Error> {
        serde_json::from_slice(&self.body)
    }
}

fn write(body: &OutgoingBody, bytes: &[u8]) -> io::Result<()> {
    let mut stream = body
        .write()
        .map_err(|()| io::Error::other("the body is taken"))?;
    stream.write_all(bytes)?;
    io::Write::flush(&mut stream)
}

/// Scheme, host with port, and path with query.
fn split(url: &str) -> Result<(Scheme, &str, &str), OutboundError> {
    let (scheme, rest) = match url.split_once("://") {
        Some(("http", rest)) => (Scheme::Http, rest),
        Some(("https", rest)) => (Scheme::Https, rest),
        _ => return Err(OutboundError::Url(url.to_owned())),
    };
    let (authority, path) = match rest.find(['/', '?']) {
        Some(at) => rest.split_at(at),
        None => (rest, "/"),
    };
    if authority.is_empty() {
        return Err(OutboundError::Url(url.to_owned()));
    }
    Ok((scheme, authority, path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_scheme_host_and_path() {
        let parts = |url| {
            let (scheme, authority, path) = split(url).ok()?;
            Some((matches!(scheme, Scheme::Https), authority, path))
        };
        assert_eq!(parts("http://a:1"), Some((false, "a:1", "/")));
        assert_eq!(parts("https://a/b?c=d"), Some((true, "a", "/b?c=d")));
        assert_eq!(parts("http://a?c"), Some((false, "a", "?c")));
        for bad in ["a/b", "ftp://a", "http:///b", ""] {
            assert_eq!(parts(bad), None, "{bad}");
        }
    }
}
