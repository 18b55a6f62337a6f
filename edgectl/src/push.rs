use anyhow::{Context, Result, bail};
use bytes::Bytes;
use fleet_api::artifact::{
    ArtifactKind, OCI_MANIFEST, ONNX_CONFIG, ONNX_LAYER, Reference, WASM_CONFIG, WASM_LAYER,
};
use fleet_api::ids::Digest;
use fleet_api::rest::ArtifactSummary;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::{Value, json};

use crate::cli::PushArgs;
use crate::client::Client;
use crate::output::{self, Format};
use crate::registry::{Repository, Tagged};

/// Uploads a file and makes it a version.
pub(crate) async fn run(client: &Client, args: PushArgs, format: Format) -> Result<()> {
    let PushArgs {
        kind,
        reference,
        file,
    } = args;
    let content =
        std::fs::read(&file).with_context(|| format!("{} cannot be read", file.display()))?;
    if content.is_empty() {
        bail!("{} is empty", file.display());
    }
    let artifact = Packed::new(kind, &reference, content.into());
    let repository = Repository {
        client,
        name: kind.repository(&reference.name),
    };

    let progress = progress_bar(artifact.content.len() as u64, format);
    progress.set_message(format!("{kind} {reference}"));
    let uploaded = repository
        .ensure_blob(&artifact.content, &artifact.digest, &progress)
        .await;
    progress.finish_and_clear();
    let uploaded = uploaded?;
    let quiet = ProgressBar::hidden();
    repository
        .ensure_blob(&artifact.config, &Digest::of(&artifact.config), &quiet)
        .await?;
    let tagged = repository
        .tag(reference.version.as_str(), OCI_MANIFEST, artifact.manifest)
        .await?;
    if let Tagged::Taken(reason) = tagged {
        let rule = "a version never changes once it is pushed: push the file under a new version";
        // The registry's own words may say so already.
        bail!(
            "{}",
            if reason.contains("version") {
                reason
            } else {
                format!("{reason}; {rule}")
            }
        );
    }
    let pushed = find(client, kind, &reference).await?;
    if format == Format::Json {
        return output::print_json(&json!({ "artifact": pushed, "uploaded": uploaded }));
    }
    output::emit(&format!(
        "{} {kind} {reference} ({}, {})\n{}\n",
        if uploaded {
            "pushed"
        } else {
            "content was there already:"
        },
        output::bytes(pushed.size),
        pushed.digest,
        pushed.description,
    ))
}

/// What the control plane made of the push.
async fn find(client: &Client, kind: ArtifactKind, wanted: &Reference) -> Result<ArtifactSummary> {
    let all: Vec<ArtifactSummary> = client.get("/api/v1/artifacts").await?;
    all.into_iter()
        .find(|a| a.kind == kind && a.name == wanted.name && a.version == wanted.version)
        .with_context(|| {
            format!(
                "{kind} {wanted} was accepted but is not listed: look at the control plane's log"
            )
        })
}

/// An artifact as the registry takes it. Nothing in it depends on time or place, so that the
/// same file under the same name gives the same digests.
struct Packed {
    content: Bytes,
    digest: Digest,
    config: Bytes,
    manifest: Vec<u8>,
}

impl Packed {
    fn new(kind: ArtifactKind, reference: &Reference, content: Bytes) -> Self {
        let digest = Digest::of(&content);
        let (config_type, layer_type, extension) = match kind {
            ArtifactKind::Handler => (WASM_CONFIG, WASM_LAYER, "wasm"),
            ArtifactKind::Model => (ONNX_CONFIG, ONNX_LAYER, "onnx"),
        };
        let config = Bytes::from(config(kind, &digest).to_string());
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "artifactType": config_type,
            "config": {
                "mediaType": config_type,
                "digest": Digest::of(&config),
                "size": config.len(),
            },
            "layers": [{
                "mediaType": layer_type,
                "digest": digest,
                "size": content.len(),
                "annotations": { "org.opencontainers.image.title": format!("{}.{extension}", reference.name) },
            }],
        });
        let manifest = manifest.to_string().into_bytes();
        Self {
            content,
            digest,
            config,
            manifest,
        }
    }
}

fn config(kind: ArtifactKind, digest: &Digest) -> Value {
    match kind {
        // CNCF Wasm OCI artifact layout; `created` is required there.
        ArtifactKind::Handler => json!({
            "created": "1970-01-01T00:00:00Z",
            "architecture": "wasm",
            "os": "wasip2",
            "layerDigests": [digest],
        }),
        ArtifactKind::Model => json!({ "format": "onnx" }),
    }
}

fn progress_bar(len: u64, format: Format) -> ProgressBar {
    // indicatif draws nothing where standard error is no terminal.
    let target = match format {
        Format::Table => ProgressDrawTarget::stderr(),
        Format::Json => ProgressDrawTarget::hidden(),
    };
    let style = ProgressStyle::with_template(
        "{msg} [{bar:30}] {binary_bytes}/{binary_total_bytes} {binary_bytes_per_sec} {eta}",
    )
    .expect("the template is valid")
    .progress_chars("=> ");
    ProgressBar::with_draw_target(Some(len), target).with_style(style)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_file_packs_to_the_same_manifest() {
        let reference: Reference = "hello:1.0.0".parse().expect("valid");
        let pack = || {
            Packed::new(
                ArtifactKind::Handler,
                &reference,
                Bytes::from_static(b"\0asm"),
            )
        };
        assert_eq!(pack().manifest, pack().manifest);
        let manifest: Value = serde_json::from_slice(&pack().manifest).expect("JSON");
        assert_eq!(manifest["config"]["mediaType"], WASM_CONFIG);
        assert_eq!(manifest["layers"][0]["mediaType"], WASM_LAYER);
        assert_eq!(manifest["layers"][0]["digest"], pack().digest.as_str());
        assert_eq!(manifest["config"]["size"], pack().config.len());
    }

    #[test]
    fn the_progress_bar_has_a_valid_template() {
        progress_bar(10, Format::Json).finish();
    }
}
