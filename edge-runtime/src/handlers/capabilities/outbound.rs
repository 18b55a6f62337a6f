//! Outbound wasi:http: only to the origins that the deployment allows, and only
//! where their names lead to addresses that a name may lead to.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::Uri;
use http_body::{Frame, SizeHint};
use http_body_util::BodyExt as _;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use wasmtime_wasi_http::{Error, RequestOptions, WasiBody, WasiHttpHooks};

use super::Grant;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);
const MAX_FIRST_BYTE_TIMEOUT: Duration = Duration::from_secs(600);

/// The origins that a handler may call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Origins {
    /// Every one.
    All,
    /// These, as (scheme, host, port).
    Only(BTreeSet<(String, String, u16)>),
}

/// An origin cannot be understood.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is not an origin: write scheme, host and port, as in http://10.0.0.5:8080, or \"all\""
)]
pub struct OriginError(String);

impl Origins {
    pub(crate) fn parse<'a>(
        origins: impl IntoIterator<Item = &'a str>,
    ) -> Result<Self, OriginError> {
        let mut only = BTreeSet::new();
        for text in origins {
            if matches!(text, "all" | "*") {
                return Ok(Self::All);
            }
            let uri: Uri = text.parse().map_err(|_| OriginError(text.to_owned()))?;
            let path_is_bare = matches!(uri.path(), "" | "/") && uri.query().is_none();
            match origin(&uri) {
                Some(origin) if path_is_bare => only.insert(origin),
                _ => return Err(OriginError(text.to_owned())),
            };
        }
        Ok(Self::Only(only))
    }

    fn allow(&self, uri: &Uri) -> bool {
        match (self, origin(uri)) {
            (_, None) => false,
            (Self::All, Some(_)) => true,
            (Self::Only(only), Some(origin)) => only.contains(&origin),
        }
    }
}

fn origin(uri: &Uri) -> Option<(String, String, u16)> {
    let scheme = uri.scheme_str()?.to_ascii_lowercase();
    let default = match scheme.as_str() {
        "http" => 80,
        "https" => 443,
        _ => return None,
    };
    let authority = uri.authority()?;
    if authority.as_str().contains('@') {
        return None;
    }
    let host = authority.host().trim_end_matches('.').to_ascii_lowercase();
    let port = authority.port_u16().unwrap_or(default);
    (!host.is_empty()).then_some((scheme, host, port))
}

/// Whether a name may lead there. An operator who means such an address writes
/// it as an address; a name that leads there was bent by its DNS server.
fn surprising(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => {
            v4.is_loopback()
                || v4.is_link_local()
                || v4.is_unspecified()
                || v4.is_multicast()
                || v4.is_broadcast()
        }
        IpAddr::V6(v6) => match v6.to_ipv4_mapped() {
            Some(v4) => surprising(IpAddr::V4(v4)),
            None => {
                v6.is_loopback()
                    || v6.is_unicast_link_local()
                    || v6.is_unspecified()
                    || v6.is_multicast()
            }
        },
    }
}

struct CheckedResolver;

impl Resolve for CheckedResolver {
    fn resolve(&self, name: Name) -> Resolving {
        Box::pin(async move {
            let host = name.as_str().to_owned();
            let found = tokio::net::lookup_host((host.as_str(), 0)).await?;
            let local = host.eq_ignore_ascii_case("localhost");
            let good: Vec<SocketAddr> = found.filter(|a| local || !surprising(a.ip())).collect();
            if good.is_empty() {
                return Err(format!("{host} leads to no address that a name may lead to").into());
            }
            Ok(Box::new(good.into_iter()) as Addrs)
        })
    }
}

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
                    .dns_resolver(Arc::new(CheckedResolver))
                    .build()
                    .inspect_err(|e| tracing::error!("handlers cannot call out: {e}"))
                    .ok()
            })
            .as_ref()
            .ok_or(Error::ConfigurationError)
    }
}

/// The hooks of one guest.
pub(crate) struct Outbound {
    pub(crate) grant: Arc<Grant>,
}

type Sent = (
    http::Response<WasiBody>,
    Box<dyn Future<Output = Result<(), Error>> + Send>,
);

impl WasiHttpHooks for Outbound {
    fn send_request(
        &mut self,
        request: http::Request<WasiBody>,
        options: Option<RequestOptions>,
        _written: Box<dyn Future<Output = Result<(), Error>> + Send>,
    ) -> Box<dyn Future<Output = Result<Sent, Error>> + Send> {
        let grant = Arc::clone(&self.grant);
        Box::new(async move {
            if !grant.origins.allow(request.uri()) {
                tracing::debug!(uri = %request.uri(), "outbound request denied");
                return Err(Error::HttpRequestDenied);
            }
            send(&grant.client, request, options.unwrap_or_default()).await
        })
    }
}

async fn send(
    client: &Client,
    request: http::Request<WasiBody>,
    options: RequestOptions,
) -> Result<Sent, Error> {
    let client = client.reqwest()?;
    let (parts, body) = request.into_parts();
    let (body, rest) = RequestBody::new(body);
    let request = http::Request::from_parts(parts, reqwest::Body::wrap(body));
    let request = reqwest::Request::try_from(request).map_err(|_| Error::HttpRequestUriInvalid)?;
    let patience = options
        .first_byte_timeout
        .unwrap_or(MAX_FIRST_BYTE_TIMEOUT)
        .min(MAX_FIRST_BYTE_TIMEOUT);
    let response = tokio::time::timeout(patience, client.execute(request))
        .await
        .map_err(|_| Error::ConnectionReadTimeout)?
        .map_err(|e| cause(&e))?;
    let response: http::Response<reqwest::Body> = response.into();
    let response = response.map(|body| body.map_err(|e| cause(&e)).boxed_unsync());
    Ok((response, Box::new(rest.drain())))
}

fn cause(error: &reqwest::Error) -> Error {
    tracing::debug!("outbound request failed: {error:?}");
    if error.is_timeout() {
        Error::ConnectionTimeout
    } else if error.is_connect() {
        let text = format!("{error:?}");
        if text.contains("leads to no address") {
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

/// The guest's request body. The connection may be done with it while the guest
/// still ends it; what is left is then drained, so that the guest does not see
/// a closed stream where it only finishes.
struct RequestBody {
    body: Option<Mutex<WasiBody>>,
    left: Arc<Mutex<Option<WasiBody>>>,
}

struct Rest(Arc<Mutex<Option<WasiBody>>>);

impl RequestBody {
    fn new(body: WasiBody) -> (Self, Rest) {
        let left = Arc::new(Mutex::new(None));
        let this = Self {
            body: Some(Mutex::new(body)),
            left: Arc::clone(&left),
        };
        (this, Rest(left))
    }

    fn body(&mut self) -> &mut WasiBody {
        self.body
            .as_mut()
            .expect("the body is taken only in drop")
            .get_mut()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl Rest {
    async fn drain(self) -> Result<(), Error> {
        let left = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(mut body) = left {
            while let Some(frame) = body.frame().await {
                frame?;
            }
        }
        Ok(())
    }
}

impl Drop for RequestBody {
    fn drop(&mut self) {
        let body = self.body.take();
        let body = body.map(|b| b.into_inner().unwrap_or_else(PoisonError::into_inner));
        *self.left.lock().unwrap_or_else(PoisonError::into_inner) = body;
    }
}

impl http_body::Body for RequestBody {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        Pin::new(self.body()).poll_frame(cx)
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allows(origins: &[&str], uri: &str) -> bool {
        let origins = Origins::parse(origins.iter().copied()).unwrap();
        origins.allow(&uri.parse().unwrap())
    }

    #[test]
    fn nothing_is_allowed_by_default() {
        assert!(!allows(&[], "http://10.0.0.5:8080/"));
        assert!(allows(&["all"], "https://example.com/x"));
    }

    #[test]
    fn scheme_host_and_port_all_count() {
        let origins = ["http://plc.local:8080", "https://Example.com"];
        assert!(allows(&origins, "http://PLC.local:8080/a?b"));
        assert!(allows(&origins, "https://example.com:443/"));
        assert!(allows(&origins, "https://example.com./"));
        assert!(!allows(&origins, "https://plc.local:8080/"));
        assert!(!allows(&origins, "http://plc.local/"));
        assert!(!allows(&origins, "http://example.com/"));
        assert!(!allows(&origins, "http://plc.local:8080@evil.example/"));
        assert!(!allows(&origins, "http://u@plc.local:8080/"));
    }

    #[test]
    fn refuses_what_is_no_origin() {
        for bad in [
            "example.com",
            "ftp://a",
            "http://a/path",
            "http://",
            "http://u@a",
        ] {
            assert!(Origins::parse([bad]).is_err(), "{bad}");
        }
    }

    #[test]
    fn names_may_not_lead_to_the_node_itself_or_to_link_local() {
        for bad in [
            "127.0.0.1",
            "169.254.169.254",
            "0.0.0.0",
            "::1",
            "fe80::1",
            "::ffff:127.0.0.1",
        ] {
            assert!(surprising(bad.parse().unwrap()), "{bad}");
        }
        for good in ["10.0.0.5", "192.168.1.1", "93.184.216.34", "fd00::5"] {
            assert!(!surprising(good.parse().unwrap()), "{good}");
        }
    }
}
