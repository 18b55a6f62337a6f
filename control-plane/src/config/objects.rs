use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// Where the registry's blobs and the archive's files lie.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ObjectsConfig {
    /// `s3://BUCKET` or `s3://BUCKET/PREFIX`, or a folder. Default: `objects` in the data folder.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// Address of the S3 service, such as `https://minio.plant:9000`; `http` on loopback only.
    /// Default: Amazon's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
    /// Region. Default: `AWS_REGION` of the environment, else us-east-1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub region: Option<String>,
    /// Whether the bucket stands in the path and not in the host name. Default: yes where
    /// `endpoint` is given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path_style: Option<bool>,
    /// TOML file with `access_key_id`, `secret_access_key` and, if need be, `session_token`.
    /// Default: what the environment says (`AWS_ACCESS_KEY_ID` and so on, or the machine's role).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub credentials: Option<PathBuf>,
    /// PEM file with the CA of the service. Default: those of the system.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca: Option<PathBuf>,
}

/// What an URL names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Place {
    Folder(PathBuf),
    Bucket { bucket: String, prefix: String },
}

impl ObjectsConfig {
    /// What `url` names, if it is given.
    pub(crate) fn place(&self) -> Option<Place> {
        let url = self.url.as_deref()?;
        let Some(rest) = url.strip_prefix("s3://") else {
            let folder = url.strip_prefix("file://").unwrap_or(url);
            return Some(Place::Folder(PathBuf::from(folder)));
        };
        let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        Some(Place::Bucket {
            bucket: bucket.to_owned(),
            prefix: prefix.trim_matches('/').to_owned(),
        })
    }

    /// Whether the bucket stands in the path.
    pub(crate) fn is_path_style(&self) -> bool {
        self.path_style.unwrap_or(self.endpoint.is_some())
    }

    /// The rule that a value breaks, with its key.
    pub(crate) fn broken_rule(&self) -> Option<(&'static str, &'static str)> {
        let is_bucket = match self.place() {
            Some(Place::Bucket { bucket, .. }) if bucket.is_empty() => {
                return Some((
                    "objects.url",
                    "must name a bucket, as in s3://BUCKET/PREFIX",
                ));
            }
            Some(Place::Folder(folder)) if folder.to_string_lossy().contains("://") => {
                return Some(("objects.url", "must be s3://BUCKET/PREFIX or a folder"));
            }
            Some(Place::Bucket { .. }) => true,
            Some(Place::Folder(_)) | None => false,
        };
        let of_bucket = self.endpoint.is_some()
            || self.region.is_some()
            || self.credentials.is_some()
            || self.ca.is_some();
        if of_bucket && !is_bucket {
            return Some((
                "objects.url",
                "must be s3://BUCKET/PREFIX where other keys of [objects] are given",
            ));
        }
        if let Some(endpoint) = &self.endpoint
            && !endpoint.starts_with("https://")
            && !self.is_plain_loopback()
        {
            return Some((
                "objects.endpoint",
                "must be an https:// address; http:// on loopback only",
            ));
        }
        None
    }

    /// Whether the service is on this machine, without TLS.
    pub(crate) fn is_plain_loopback(&self) -> bool {
        let rest = self
            .endpoint
            .as_deref()
            .and_then(|e| e.strip_prefix("http://"));
        rest.is_some_and(|rest| {
            let authority = rest.split('/').next().unwrap_or(rest);
            let host = match authority.strip_prefix('[') {
                Some(v6) => v6.split(']').next().unwrap_or(v6),
                None => authority.split(':').next().unwrap_or(authority),
            };
            host == "localhost"
                || host
                    .parse()
                    .is_ok_and(|a: std::net::IpAddr| a.is_loopback())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(url: &str, endpoint: Option<&str>) -> ObjectsConfig {
        ObjectsConfig {
            url: Some(url.to_owned()),
            endpoint: endpoint.map(str::to_owned),
            ..ObjectsConfig::default()
        }
    }

    #[test]
    fn a_url_names_a_folder_or_a_bucket_with_a_prefix() {
        let bucket = |bucket: &str, prefix: &str| Place::Bucket {
            bucket: bucket.to_owned(),
            prefix: prefix.to_owned(),
        };
        assert_eq!(with("s3://b", None).place(), Some(bucket("b", "")));
        assert_eq!(with("s3://b/x/y/", None).place(), Some(bucket("b", "x/y")));
        let folder = Some(Place::Folder(PathBuf::from("/srv/objects")));
        assert_eq!(with("/srv/objects", None).place(), folder);
        assert_eq!(with("file:///srv/objects", None).place(), folder);
        assert_eq!(ObjectsConfig::default().place(), None);
    }

    #[test]
    fn refuses_what_leads_nowhere_or_in_the_clear() {
        let rule = |config: &ObjectsConfig| config.broken_rule().map(|(key, _)| key);
        for endpoint in [
            "http://127.0.0.1:9000",
            "http://[::1]:9000",
            "http://localhost:1/",
            "https://s3.plant",
        ] {
            assert_eq!(rule(&with("s3://b", Some(endpoint))), None, "{endpoint}");
        }
        for endpoint in [
            "http://10.0.0.5:9000",
            "http://127.0.0.1.evil:9000",
            "s3.plant",
            "http://",
        ] {
            let broken = rule(&with("s3://b", Some(endpoint)));
            assert_eq!(broken, Some("objects.endpoint"), "{endpoint}");
        }
        for url in ["s3://", "gs://b", "https://b"] {
            assert_eq!(rule(&with(url, None)), Some("objects.url"), "{url}");
        }
        assert_eq!(
            rule(&with("/srv", Some("https://s3.plant"))),
            Some("objects.url")
        );
        assert_eq!(rule(&ObjectsConfig::default()), None);
    }
}
