use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use fleet_api::rest::ErrorBody;
use reqwest::{Method, RequestBuilder, Response, StatusCode};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::session::Session;

/// The control plane, over HTTPS with only its own CA trusted.
#[derive(Debug, Clone)]
pub(crate) struct Client {
    http: reqwest::Client,
    base: String,
    token: String,
}

impl Client {
    /// A client for a session; nothing is sent yet.
    pub(crate) fn new(session: &Session) -> Result<Self> {
        let mut builder = reqwest::Client::builder()
            .tls_backend_preconfigured(tls(&session.ca)?)
            .user_agent(concat!("edgectl/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(Duration::from_secs(10))
            .read_timeout(Duration::from_secs(120))
            .redirect(reqwest::redirect::Policy::none());
        if is_loopback(&session.url)? {
            builder = builder.no_proxy();
        }
        Ok(Self {
            http: builder.build()?,
            base: session.url.clone(),
            token: session.token.clone(),
        })
    }

    /// A request to `path`, or to a whole address that the control plane has given.
    pub(crate) fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let url = if path.starts_with('/') {
            format!("{}{path}", self.base)
        } else {
            path.to_owned()
        };
        let own = url
            .strip_prefix(&self.base)
            .is_some_and(|rest| rest.starts_with('/'));
        let request = self.http.request(method, url);
        // The token is for the control plane alone, wherever it may point us.
        if own {
            request.bearer_auth(&self.token)
        } else {
            request
        }
    }

    /// Sends; an answer that is not a success becomes an error that says what to do.
    pub(crate) async fn send(&self, request: RequestBuilder) -> Result<Response> {
        let response = self.send_any(request).await?;
        if response.status().is_success() {
            return Ok(response);
        }
        Err(refusal(response).await)
    }

    /// Sends, and leaves the status to the caller.
    pub(crate) async fn send_any(&self, request: RequestBuilder) -> Result<Response> {
        request
            .send()
            .await
            .map_err(|error| self.unreachable(&error))
    }

    /// `GET` of a JSON document.
    pub(crate) async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T> {
        let response = self.send(self.request(Method::GET, path)).await?;
        json(response).await
    }

    /// `POST` of a JSON document, answered by another.
    pub(crate) async fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T> {
        let response = self
            .send(self.request(Method::POST, path).json(body))
            .await?;
        json(response).await
    }

    fn unreachable(&self, error: &reqwest::Error) -> anyhow::Error {
        let mut cause: &dyn std::error::Error = error;
        while let Some(source) = cause.source() {
            cause = source;
        }
        let hint = match cause.downcast_ref::<rustls::Error>() {
            Some(rustls::Error::InvalidCertificate(_)) => {
                "its certificate is not from the CA of your login: if the control plane was set up anew, log in again"
            }
            _ if error.is_timeout() => "it does not answer in time: look whether it is overloaded",
            _ => "look whether it runs, and whether `edgectl login` names the right address",
        };
        anyhow!(
            "the control plane at {} cannot be reached ({cause}): {hint}",
            self.base
        )
    }
}

/// Reads the JSON body of a success.
pub(crate) async fn json<T: DeserializeOwned>(response: Response) -> Result<T> {
    let url = response.url().clone();
    let body = response.bytes().await?;
    serde_json::from_slice(&body).with_context(|| {
        format!("the answer of {url} is not understood: edgectl and the control plane are of different versions")
    })
}

/// What an answer that is not a success says.
pub(crate) async fn refusal(response: Response) -> anyhow::Error {
    let status = response.status();
    let body = response.bytes().await.unwrap_or_default();
    let said = message(&body);
    match (status, said) {
        (StatusCode::UNAUTHORIZED, said) => anyhow!(
            "the control plane does not accept your token{}: log in again",
            said.map(|m| format!(" ({m})")).unwrap_or_default()
        ),
        (_, Some(message)) => anyhow!(message),
        (_, None) => {
            anyhow!("the control plane answers {status} without a reason: look at its log")
        }
    }
}

/// The reason in an error body of the REST API or of the registry.
fn message(body: &[u8]) -> Option<String> {
    #[derive(Deserialize)]
    struct Registry {
        errors: Vec<RegistryError>,
    }
    #[derive(Deserialize)]
    struct RegistryError {
        #[serde(default)]
        message: String,
    }
    if let Ok(body) = serde_json::from_slice::<ErrorBody>(body) {
        return Some(body.error.message);
    }
    let body: Registry = serde_json::from_slice(body).ok()?;
    let messages: Vec<_> = body.errors.into_iter().map(|e| e.message).collect();
    let text = messages.join("; ");
    (!text.is_empty()).then_some(text)
}

fn tls(ca: &str) -> Result<rustls::ClientConfig> {
    let mut roots = rustls::RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(ca.as_bytes()) {
        roots
            .add(certificate.context("the CA's certificate is not valid PEM")?)
            .context("the CA's certificate is not usable")?;
    }
    if roots.is_empty() {
        bail!("the CA file holds no certificate: give the control plane's ca/ca.pem");
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    Ok(rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth())
}

fn is_loopback(url: &str) -> Result<bool> {
    let url = reqwest::Url::parse(url)
        .with_context(|| format!("{url:?} is not an address: write https://HOST:PORT"))?;
    if url.scheme() != "https" {
        bail!("{url} is not an https address: write https://HOST:PORT");
    }
    let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']);
    Ok(host == "localhost"
        || host
            .parse()
            .is_ok_and(|ip: std::net::IpAddr| ip.is_loopback()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_reason_out_of_both_kinds_of_error_body() {
        let rest = serde_json::to_vec(&ErrorBody::new("conflict", "do this")).expect("serializes");
        assert_eq!(message(&rest).as_deref(), Some("do this"));
        let oci = br#"{"errors":[{"code":"X","message":"one"},{"code":"Y","message":"two"}]}"#;
        assert_eq!(message(oci).as_deref(), Some("one; two"));
        assert_eq!(message(b"<html>"), None);
        assert_eq!(message(br#"{"errors":[]}"#), None);
    }

    #[test]
    fn only_https_addresses_are_taken() {
        assert!(is_loopback("https://127.0.0.1:8443").expect("valid"));
        assert!(is_loopback("https://[::1]:8443").expect("valid"));
        assert!(!is_loopback("https://fleet.example").expect("valid"));
        assert!(is_loopback("http://127.0.0.1:8443").is_err());
        assert!(is_loopback("fleet.example").is_err());
    }

    #[test]
    fn a_ca_file_without_a_certificate_is_refused() {
        assert!(tls("").expect_err("refused").to_string().contains("ca.pem"));
    }
}
