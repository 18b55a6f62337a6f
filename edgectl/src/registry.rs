use anyhow::{Context, Result, bail};
use bytes::Bytes;
use fleet_api::ids::Digest;
use indicatif::ProgressBar;
use reqwest::header::{CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, LOCATION};
use reqwest::{Method, Response, StatusCode};

use crate::client::{Client, refusal};

/// Bytes in one request of an upload.
const CHUNK_BYTES: usize = 4 << 20;

/// One repository of the control plane's OCI registry (distribution-spec 1.1).
#[derive(Debug)]
pub(crate) struct Repository<'a> {
    pub(crate) client: &'a Client,
    pub(crate) name: String,
}

/// What became of a manifest that was put under a tag.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Tagged {
    /// The tag points at it now.
    Stored,
    /// The tag points at something else already, and tags do not move; with the registry's reason.
    Taken(String),
}

impl Repository<'_> {
    /// Uploads a blob in chunks unless it is there; true if it had to be uploaded. Its bytes are added to `progress`.
    pub(crate) async fn ensure_blob(
        &self,
        blob: &Bytes,
        digest: &Digest,
        progress: &ProgressBar,
    ) -> Result<bool> {
        let head = self
            .client
            .request(Method::HEAD, &format!("/v2/{}/blobs/{digest}", self.name));
        let found = self.client.send_any(head).await?;
        match found.status() {
            StatusCode::OK => {
                progress.inc(blob.len() as u64);
                return Ok(false);
            }
            StatusCode::NOT_FOUND => {}
            _ => return Err(refusal(found).await),
        }
        let start = self
            .client
            .request(Method::POST, &format!("/v2/{}/blobs/uploads/", self.name));
        let mut place = location(&self.client.send(start.header(CONTENT_LENGTH, 0)).await?)?;
        let mut sent = 0;
        while sent < blob.len() {
            let end = (sent + CHUNK_BYTES).min(blob.len());
            let request = self
                .client
                .request(Method::PATCH, &place)
                .header(CONTENT_TYPE, "application/octet-stream")
                .header(CONTENT_RANGE, format!("{sent}-{}", end - 1))
                .body(blob.slice(sent..end));
            place = location(&self.client.send(request).await?)?;
            progress.inc((end - sent) as u64);
            sent = end;
        }
        let separator = if place.contains('?') { '&' } else { '?' };
        let finish = self
            .client
            .request(Method::PUT, &format!("{place}{separator}digest={digest}"));
        self.client.send(finish.header(CONTENT_LENGTH, 0)).await?;
        Ok(true)
    }

    /// Puts a manifest under a tag.
    pub(crate) async fn tag(
        &self,
        tag: &str,
        media_type: &str,
        manifest: Vec<u8>,
    ) -> Result<Tagged> {
        let request = self
            .client
            .request(Method::PUT, &format!("/v2/{}/manifests/{tag}", self.name))
            .header(CONTENT_TYPE, media_type)
            .body(manifest);
        let response = self.client.send_any(request).await?;
        match response.status() {
            status if status.is_success() => Ok(Tagged::Stored),
            StatusCode::CONFLICT => Ok(Tagged::Taken(refusal(response).await.to_string())),
            _ => Err(refusal(response).await),
        }
    }
}

fn location(response: &Response) -> Result<String> {
    let Some(place) = response.headers().get(LOCATION) else {
        bail!(
            "the registry does not say where the upload goes on: look at the control plane's log"
        );
    };
    Ok(place
        .to_str()
        .context("the registry's Location is not text")?
        .to_owned())
}
