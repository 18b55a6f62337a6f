mod beside;

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use fleet_api::artifact::{
    ArtifactKind, OCI_MANIFEST, ONNX_CONFIG, ONNX_LAYER, Reference, TITLE, WASM_CONFIG, WASM_LAYER,
};
use fleet_api::ids::Digest;
use fleet_api::rest::ArtifactSummary;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::{Value, json};

use crate::cli::PushArgs;
use crate::client::Client;
use crate::output::{self, Format};
use crate::registry::{Repository, Tagged};

/// Uploads a file, with what lies beside a model, and makes it a version.
pub(crate) async fn run(client: &Client, args: PushArgs, format: Format) -> Result<()> {
    let content = read(&args.file)?;
    let layers = match args.kind {
        ArtifactKind::Model => beside::layers(&args, content)?,
        ArtifactKind::Handler => {
            beside::refuse(&args)?;
            vec![Layer {
                media_type: WASM_LAYER,
                title: format!("{}.wasm", args.reference.name),
                content,
            }]
        }
    };
    let PushArgs {
        kind, reference, ..
    } = args;
    let artifact = Packed::new(kind, &layers);
    let repository = Repository {
        client,
        name: kind.repository(&reference.name),
    };

    let progress = progress_bar(layers.iter().map(Layer::len).sum(), format);
    let mut uploaded = false;
    for layer in &layers {
        progress.set_message(layer.title.clone());
        let digest = Digest::of(&layer.content);
        let sent = repository
            .ensure_blob(&layer.content, &digest, &progress)
            .await;
        if sent.is_err() {
            progress.finish_and_clear();
        }
        uploaded |= sent?;
    }
    progress.finish_and_clear();
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
        "{} {kind} {reference} ({}, {})\n{}\n{}",
        if uploaded {
            "pushed"
        } else {
            "content was there already:"
        },
        output::bytes(pushed.size),
        pushed.digest,
        pushed.description,
        files(&pushed),
    ))
}

/// What was pushed beside a model, as a table.
fn files(pushed: &ArtifactSummary) -> String {
    if pushed.files.is_empty() {
        return String::new();
    }
    let mut table = output::table(["WITH", "FILE", "SIZE", "DIGEST"]);
    for file in &pushed.files {
        table.add_row([
            file.role.to_string(),
            file.name.to_string(),
            output::bytes(file.size),
            file.digest.hex()[..12].to_owned(),
        ]);
    }
    format!("{}\n", table.trim_fmt())
}

fn read(file: &std::path::Path) -> Result<Bytes> {
    let content =
        std::fs::read(file).with_context(|| format!("{} cannot be read", file.display()))?;
    if content.is_empty() {
        bail!("{} is empty", file.display());
    }
    Ok(content.into())
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

/// A file of an artifact.
#[derive(Debug)]
struct Layer {
    media_type: &'static str,
    /// Its name when the artifact is pulled into a folder.
    title: String,
    content: Bytes,
}

impl Layer {
    fn len(&self) -> u64 {
        self.content.len() as u64
    }
}

/// An artifact as the registry takes it. Nothing in it depends on time or place, so that the
/// same files under the same name give the same digests.
struct Packed {
    config: Bytes,
    manifest: Vec<u8>,
}

impl Packed {
    /// The first layer is the artifact itself.
    fn new(kind: ArtifactKind, layers: &[Layer]) -> Self {
        let config_type = match kind {
            ArtifactKind::Handler => WASM_CONFIG,
            ArtifactKind::Model => ONNX_CONFIG,
        };
        let layers: Vec<_> = layers
            .iter()
            .map(|layer| {
                json!({
                    "mediaType": layer.media_type,
                    "digest": Digest::of(&layer.content),
                    "size": layer.content.len(),
                    "annotations": { TITLE: layer.title },
                })
            })
            .collect();
        let config = Bytes::from(config(kind, &layers[0]["digest"]).to_string());
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "artifactType": config_type,
            "config": {
                "mediaType": config_type,
                "digest": Digest::of(&config),
                "size": config.len(),
            },
            "layers": layers,
        });
        let manifest = manifest.to_string().into_bytes();
        Self { config, manifest }
    }
}

fn config(kind: ArtifactKind, digest: &Value) -> Value {
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
        let layer = Layer {
            media_type: WASM_LAYER,
            title: "hello.wasm".to_owned(),
            content: Bytes::from_static(b"\0asm"),
        };
        let pack = || Packed::new(ArtifactKind::Handler, std::slice::from_ref(&layer));
        assert_eq!(pack().manifest, pack().manifest);
        let manifest: Value = serde_json::from_slice(&pack().manifest).expect("JSON");
        let digest = Digest::of(b"\0asm");
        assert_eq!(manifest["config"]["mediaType"], WASM_CONFIG);
        assert_eq!(manifest["layers"][0]["mediaType"], WASM_LAYER);
        assert_eq!(manifest["layers"][0]["digest"], digest.as_str());
        assert_eq!(manifest["layers"][0]["annotations"][TITLE], "hello.wasm");
        assert_eq!(manifest["config"]["size"], pack().config.len());
    }

    #[test]
    fn the_progress_bar_has_a_valid_template() {
        progress_bar(10, Format::Json).finish();
    }
}
