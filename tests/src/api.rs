use anyhow::{Result, bail};
use fleet_api::rest::{ArchiveStream, NodeDetail, NodeSummary};
use reqwest::{Client, Method, Response};
use serde::de::DeserializeOwned;

/// The REST API, as a program would use it.
#[derive(Debug, Clone)]
pub struct Api {
    http: Client,
    base: String,
    token: String,
}

impl Api {
    /// An API at `base` for the holder of `token`.
    pub fn new(http: Client, base: String, token: String) -> Self {
        Self { http, base, token }
    }

    /// The access token.
    pub fn token(&self) -> &str {
        &self.token
    }

    /// Sends a request and leaves the status to the caller.
    ///
    /// # Errors
    /// If no answer comes.
    pub async fn send(
        &self,
        method: Method,
        path: &str,
        body: impl Into<reqwest::Body>,
    ) -> Result<Response> {
        let request = self.http.request(method, format!("{}{path}", self.base));
        Ok(request.bearer_auth(&self.token).body(body).send().await?)
    }

    /// A JSON document.
    ///
    /// # Errors
    /// If the answer is not a success or not as expected.
    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T> {
        let response = self.send(Method::GET, path, "").await?;
        let (status, body) = (response.status(), response.bytes().await?);
        if !status.is_success() {
            bail!(
                "GET {path} answers {status}: {}",
                String::from_utf8_lossy(&body)
            );
        }
        Ok(serde_json::from_slice(&body)?)
    }

    /// All nodes.
    ///
    /// # Errors
    /// As [`Self::get`].
    pub async fn nodes(&self) -> Result<Vec<NodeSummary>> {
        self.get("/api/v1/nodes").await
    }

    /// One node.
    ///
    /// # Errors
    /// As [`Self::get`].
    pub async fn node(&self, id: &str) -> Result<NodeDetail> {
        self.get(&format!("/api/v1/nodes/{id}")).await
    }

    /// What the archive has.
    ///
    /// # Errors
    /// As [`Self::get`].
    pub async fn archive(&self) -> Result<Vec<ArchiveStream>> {
        self.get("/api/v1/archive").await
    }
}
