use fleet_api::ids::Digest;
use reqwest::{Method, Response};
use serde_json::{Value, json};

use crate::support::{Plane, read};

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

/// A component that serves HTTP; `salt` makes it another one.
pub(crate) fn handler(salt: u32) -> Vec<u8> {
    wat::parse_str(format!(
        r#"(component
            (core module $m (memory 1) (data (i32.const 0) "{salt:08}") (func (export "f")))
            (core instance $i (instantiate $m))
            (func $f (canon lift (core func $i "f")))
            (instance $h (export "handle" (func $f)))
            (export "wasi:http/incoming-handler@0.2.3" (instance $h)))"#
    ))
    .unwrap()
}

pub(crate) async fn push_blob(plane: &Plane, repository: &str, blob: &[u8]) -> Digest {
    let digest = Digest::of(blob);
    let path = format!("/v2/{repository}/blobs/uploads/?digest={digest}");
    let request = plane.operator(Method::POST, &path).body(blob.to_vec());
    assert_eq!(request.send().await.unwrap().status(), 201);
    digest
}

fn manifest(config: &Digest, layer: &Digest, size: usize) -> Value {
    json!({
        "schemaVersion": 2, "mediaType": MANIFEST,
        "config": { "mediaType": "application/vnd.wasm.config.v0+json", "digest": config, "size": 2 },
        "layers": [{ "mediaType": "application/wasm", "digest": layer, "size": size }],
    })
}

async fn put(plane: &Plane, repository: &str, reference: &str, manifest: &Value) -> Response {
    let path = format!("/v2/{repository}/manifests/{reference}");
    let request = plane
        .operator(Method::PUT, &path)
        .header("content-type", MANIFEST);
    request.body(manifest.to_string()).send().await.unwrap()
}

/// Pushes a handler whole.
pub(crate) async fn push_handler(
    plane: &Plane,
    name: &str,
    version: &str,
    wasm: &[u8],
) -> Response {
    let repository = format!("handlers/{name}");
    let config = push_blob(plane, &repository, b"{}").await;
    let layer = push_blob(plane, &repository, wasm).await;
    put(
        plane,
        &repository,
        version,
        &manifest(&config, &layer, wasm.len()),
    )
    .await
}

async fn error(answer: Response, status: u16) -> (String, String) {
    let body = read(answer, status).await;
    let text = |key: &str| body["errors"][0][key].as_str().unwrap().to_owned();
    (text("code"), text("message"))
}

#[tokio::test]
async fn a_chunked_upload_goes_on_where_it_stopped() {
    let plane = Plane::start().await;
    let blob: Vec<u8> = (0..300_000u32).map(|i| (i % 251) as u8).collect();
    let digest = Digest::of(&blob);
    let start = plane.operator(Method::POST, "/v2/models/m/blobs/uploads/");
    let start = start.send().await.unwrap();
    assert_eq!(start.status(), 202);
    let location = start.headers()["location"].to_str().unwrap().to_owned();
    let patch = |from: usize, to: usize| {
        let request = plane.operator(Method::PATCH, &location);
        let range = format!("{from}-{}", to - 1);
        request
            .header("content-range", range)
            .body(blob[from..to].to_vec())
            .send()
    };
    let first = patch(0, 100_000).await.unwrap();
    assert_eq!(
        (first.status().as_u16(), &first.headers()["range"]),
        (202, &"0-99999".parse().unwrap())
    );
    let wrong = patch(150_000, 200_000).await.unwrap();
    assert_eq!(wrong.headers()["range"], "0-99999");
    assert_eq!(error(wrong, 416).await.0, "BLOB_UPLOAD_INVALID");
    let status = plane.operator(Method::GET, &location).send().await.unwrap();
    assert_eq!(
        (status.status().as_u16(), &status.headers()["range"]),
        (204, &"0-99999".parse().unwrap())
    );
    assert_eq!(patch(100_000, 200_000).await.unwrap().status(), 202);
    let finish = plane.operator(Method::PUT, &format!("{location}?digest={digest}"));
    let finish = finish.body(blob[200_000..].to_vec()).send().await.unwrap();
    assert_eq!(finish.status(), 201);
    assert_eq!(finish.headers()["docker-content-digest"], digest.as_str());

    let path = format!("/v2/models/m/blobs/{digest}");
    let head = plane.operator(Method::HEAD, &path).send().await.unwrap();
    assert_eq!(head.headers()["content-length"], "300000");
    let whole = plane.operator(Method::GET, &path).send().await.unwrap();
    assert_eq!(whole.bytes().await.unwrap(), blob);
    let part = plane
        .operator(Method::GET, &path)
        .header("range", "bytes=299990-");
    let part = part.send().await.unwrap();
    assert_eq!(part.status(), 206);
    assert_eq!(
        part.headers()["content-range"],
        "bytes 299990-299999/300000"
    );
    assert_eq!(part.bytes().await.unwrap(), blob[299_990..]);
    let outside = plane
        .operator(Method::GET, &path)
        .header("range", "bytes=300000-");
    let outside = outside.send().await.unwrap();
    assert_eq!(outside.headers()["content-range"], "bytes */300000");
    assert_eq!(error(outside, 416).await.0, "RANGE_INVALID");
}

#[tokio::test]
async fn a_changed_blob_leaves_nothing_behind() {
    let plane = Plane::start().await;
    let claimed = Digest::of(b"what was meant");
    let path = format!("/v2/models/m/blobs/uploads/?digest={claimed}");
    let answer = plane
        .operator(Method::POST, &path)
        .body("what came")
        .send()
        .await
        .unwrap();
    assert_eq!(error(answer, 400).await.0, "DIGEST_INVALID");
    let uploads = std::fs::read_dir(plane.data().join("uploads")).unwrap();
    assert_eq!(uploads.count(), 0);
    let path = format!("/v2/models/m/blobs/{claimed}");
    let answer = plane.operator(Method::GET, &path).send().await.unwrap();
    assert_eq!(error(answer, 404).await.0, "BLOB_UNKNOWN");
}

#[tokio::test]
async fn blobs_are_mounted_across_repositories() {
    let plane = Plane::start().await;
    let digest = push_blob(&plane, "handlers/a", b"shared").await;
    let mount = |from: &str| {
        let path = format!("/v2/handlers/b/blobs/uploads/?mount={digest}&from={from}");
        plane.operator(Method::POST, &path).send()
    };
    assert_eq!(
        mount("handlers/none").await.unwrap().status(),
        202,
        "an upload instead"
    );
    assert_eq!(mount("handlers/a").await.unwrap().status(), 201);
    let path = format!("/v2/handlers/b/blobs/{digest}");
    let answer = plane.operator(Method::GET, &path).send().await.unwrap();
    assert_eq!(answer.text().await.unwrap(), "shared");
}

#[tokio::test]
async fn versions_do_not_change() {
    let plane = Plane::start().await;
    assert_eq!(
        push_handler(&plane, "hello", "1.0.0", &handler(1))
            .await
            .status(),
        201
    );
    assert_eq!(
        push_handler(&plane, "hello", "1.0.0", &handler(1))
            .await
            .status(),
        201
    );
    let (code, message) = error(
        push_handler(&plane, "hello", "1.0.0", &handler(2)).await,
        409,
    )
    .await;
    assert_eq!(code, "TAG_IMMUTABLE");
    assert!(message.contains("another version"), "{message}");
    assert_eq!(
        push_handler(&plane, "hello", "1.1.0", &handler(2))
            .await
            .status(),
        201
    );
    let tags = plane.get("/v2/handlers/hello/tags/list").await;
    assert_eq!(tags["tags"], json!(["1.0.0", "1.1.0"]));
    let page = plane.operator(Method::GET, "/v2/handlers/hello/tags/list?n=1");
    let page = page.send().await.unwrap();
    assert_eq!(
        page.headers()["link"],
        "</v2/handlers/hello/tags/list?n=1&last=1.0.0>; rel=\"next\""
    );
    let artifacts = plane.get("/api/v1/artifacts").await;
    assert_eq!(artifacts.as_array().unwrap().len(), 2);
    assert_eq!(artifacts[0]["digest"], Digest::of(&handler(1)).as_str());
    assert!(
        artifacts[0]["description"]
            .as_str()
            .unwrap()
            .contains("wasi:http/incoming-handler")
    );
    for path in [
        "manifests/1.0.0",
        &format!("blobs/{}", Digest::of(&handler(1))),
    ] {
        let path = format!("/v2/handlers/hello/{path}");
        let answer = plane.operator(Method::DELETE, &path).send().await.unwrap();
        assert_eq!(error(answer, 405).await.0, "UNSUPPORTED");
    }
}

#[tokio::test]
async fn what_cannot_run_is_refused_with_the_reason() {
    let plane = Plane::start().await;
    let module = wat::parse_str("(module)").unwrap();
    let (code, message) = error(push_handler(&plane, "core", "1", &module).await, 400).await;
    assert_eq!(code, "MANIFEST_INVALID");
    assert!(message.contains("core module"), "{message}");
    let layer = push_blob(&plane, "models/m", b"no model").await;
    let config = push_blob(&plane, "models/m", b"{}").await;
    let answer = put(&plane, "models/m", "1", &manifest(&config, &layer, 8)).await;
    let (_, message) = error(answer, 400).await;
    assert!(message.contains("not an ONNX model"), "{message}");
    assert_eq!(plane.get("/api/v1/artifacts").await, json!([]));
}

#[tokio::test]
async fn manifests_name_only_what_is_there() {
    let plane = Plane::start().await;
    let wasm = handler(1);
    let layer = push_blob(&plane, "handlers/a", &wasm).await;
    let absent = Digest::of(b"absent");
    let answer = put(
        &plane,
        "handlers/a",
        "1",
        &manifest(&absent, &layer, wasm.len()),
    )
    .await;
    assert_eq!(error(answer, 400).await.0, "MANIFEST_BLOB_UNKNOWN");
    let config = push_blob(&plane, "handlers/a", b"{}").await;
    let answer = put(&plane, "handlers/a", "1", &manifest(&config, &layer, 3)).await;
    assert_eq!(error(answer, 400).await.0, "MANIFEST_INVALID");
    let wrong = format!("sha256:{}", "0".repeat(64));
    let answer = put(
        &plane,
        "handlers/a",
        &wrong,
        &manifest(&config, &layer, wasm.len()),
    )
    .await;
    assert_eq!(error(answer, 400).await.0, "DIGEST_INVALID");
    let answer = plane
        .operator(Method::GET, "/v2/handlers/a/manifests/1")
        .send()
        .await
        .unwrap();
    assert_eq!(error(answer, 404).await.0, "MANIFEST_UNKNOWN");
}

#[tokio::test]
async fn what_refers_to_a_manifest_is_found() {
    let plane = Plane::start().await;
    let answer = push_handler(&plane, "a", "1", &handler(1)).await;
    let subject = answer.headers()["docker-content-digest"]
        .to_str()
        .unwrap()
        .to_owned();
    let signature = push_blob(&plane, "handlers/a", b"signature").await;
    let config = push_blob(&plane, "handlers/a", b"{}").await;
    let referrer = json!({
        "schemaVersion": 2, "mediaType": MANIFEST, "artifactType": "application/x-signature",
        "config": { "mediaType": "application/vnd.oci.empty.v1+json", "digest": config, "size": 2 },
        "layers": [{ "mediaType": "text/plain", "digest": signature, "size": 9 }],
        "subject": { "mediaType": MANIFEST, "digest": subject, "size": 1 },
    });
    let digest = Digest::of(referrer.to_string().as_bytes());
    let answer = put(&plane, "handlers/a", digest.as_str(), &referrer).await;
    assert_eq!(answer.headers()["oci-subject"], subject.as_str());
    let path = format!("/v2/handlers/a/referrers/{subject}");
    let list = plane.get(&path).await;
    assert_eq!(list["manifests"][0]["digest"], digest.as_str());
    let none = plane.get(&format!("{path}?artifactType=other")).await;
    assert_eq!(none["manifests"], json!([]));
}

#[tokio::test]
async fn odd_paths_get_the_registrys_own_errors() {
    let plane = Plane::start().await;
    for path in [
        "/v2/library/x/tags/list",
        "/v2/handlers/UPPER/tags/list",
        "/v2/a/b/c/d",
    ] {
        let answer = plane.operator(Method::GET, path).send().await.unwrap();
        assert_eq!(error(answer, 404).await.0, "NAME_INVALID", "{path}");
    }
    let answer = plane
        .operator(Method::GET, "/v2/handlers/none/tags/list")
        .send()
        .await
        .unwrap();
    assert_eq!(error(answer, 404).await.0, "NAME_UNKNOWN");
    let answer = plane.anonymous(Method::GET, "/v2/").send().await.unwrap();
    assert_eq!(error(answer, 401).await.0, "UNAUTHORIZED");
    let answer = plane
        .operator(Method::GET, "/v2/handlers/a/blobs/md5:x")
        .send()
        .await
        .unwrap();
    assert_eq!(error(answer, 400).await.0, "DIGEST_INVALID");
}

#[tokio::test]
async fn a_blob_over_the_limit_is_refused_and_gone() {
    let dir = std::sync::Arc::new(tempfile::tempdir().unwrap());
    let limit =
        |config: &mut control_plane::Config| config.limits.blob = fleet_api::units::ByteSize(1000);
    let plane = Plane::start_with(dir, limit).await;
    let digest = Digest::of(&[7; 1001]);
    let path = format!("/v2/models/m/blobs/uploads/?digest={digest}");
    let answer = plane
        .operator(Method::POST, &path)
        .body(vec![7; 1001])
        .send()
        .await
        .unwrap();
    assert_eq!(error(answer, 413).await.0, "SIZE_INVALID");
    let uploads = std::fs::read_dir(plane.data().join("uploads")).unwrap();
    assert_eq!(uploads.count(), 0);
}

#[tokio::test]
async fn a_refusal_reaches_a_client_that_sends_everything_first() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let dir = std::sync::Arc::new(tempfile::tempdir().unwrap());
    let address = crate::support::free_address();
    let plane = Plane::start_with(dir, |config| config.registry_http_listen = Some(address)).await;
    let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let size = 30 << 20;
    let head = format!(
        "PUT /v2/handlers/a/blobs/uploads/x HTTP/1.1\r\nhost: x\r\ncontent-length: {size}\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    for _ in 0..30 {
        stream.write_all(&vec![7; 1 << 20]).await.unwrap();
    }
    let mut answer = vec![0; 12];
    stream.read_exact(&mut answer).await.unwrap();
    assert_eq!(answer, b"HTTP/1.1 401");
    drop(plane);
}

#[tokio::test]
async fn artifacts_outlive_a_restart() {
    let plane = Plane::start().await;
    push_handler(&plane, "hello", "1.0.0", &handler(1)).await;
    let plane = Plane::start_in(plane.stop().await).await;
    let path = format!("/v2/handlers/hello/blobs/{}", Digest::of(&handler(1)));
    let answer = plane.operator(Method::GET, &path).send().await.unwrap();
    assert_eq!(answer.bytes().await.unwrap(), handler(1));
    assert_eq!(
        push_handler(&plane, "hello", "1.0.0", &handler(1))
            .await
            .status(),
        201
    );
}

/// The smallest model that can run.
fn model() -> Vec<u8> {
    // graph { node { output: "y" op_type: "Constant" } output { name: "y" } }
    let graph = b"\x0a\x0d\x12\x01y\x22\x08Constant\x62\x03\x0a\x01y";
    let head = b"\x08\x08\x3a\x14";
    [&head[..], graph, b"\x42\x02\x10\x11"].concat()
}

/// Pushes a model with one more layer of `media_type` for each of `titles`; its content is of no use.
async fn push_with(plane: &Plane, media_type: &str, titles: &[Option<&str>]) -> Response {
    let repository = "models/m";
    let config = push_blob(plane, repository, b"{}").await;
    let layer = push_blob(plane, repository, &model()).await;
    let mut manifest = manifest(&config, &layer, model().len());
    manifest["layers"][0]["mediaType"] = "application/vnd.onnx.model.v1".into();
    for title in titles {
        let digest = push_blob(plane, repository, b"#").await;
        let mut layer = json!({ "mediaType": media_type, "digest": digest, "size": 1 });
        if let Some(title) = title {
            layer["annotations"] = json!({ "org.opencontainers.image.title": title });
        }
        manifest["layers"].as_array_mut().unwrap().push(layer);
    }
    put(plane, repository, "1", &manifest).await
}

const CARD: &str = "application/vnd.edge.model.card.v1+toml";
const DATA: &str = "application/vnd.edge.model.data.v1";

#[tokio::test]
async fn files_beside_a_model_need_names_that_stay_in_its_folder() {
    let plane = Plane::start().await;
    let mut said = Vec::new();
    for (media_type, titles) in [
        (DATA, &[None][..]),
        (DATA, &[Some("../w.bin")]),
        (DATA, &[Some("/etc/w.bin")]),
        (DATA, &[Some("w.bin"), Some("w.bin")]),
        (DATA, &[Some("w.bin")]),
        (CARD, &[Some("a.toml"), Some("b.toml")]),
    ] {
        let (code, message) = error(push_with(&plane, media_type, titles).await, 400).await;
        assert_eq!(code, "MANIFEST_INVALID");
        said.push(message.replace(Digest::of(b"#").as_str(), "sha256:.."));
    }
    insta::assert_snapshot!(said.join("\n"));
}

#[tokio::test]
async fn layers_of_other_types_and_cards_without_a_name_are_taken() {
    let plane = Plane::start().await;
    let answer = push_with(&plane, "text/markdown", &[None, Some("../README")]).await;
    assert_eq!(answer.status(), 201);
    let plane = Plane::start().await;
    assert_eq!(push_with(&plane, CARD, &[None]).await.status(), 201);
    let list = plane.operator(Method::GET, "/api/v1/artifacts");
    let list = read(list.send().await.unwrap(), 200).await;
    assert_eq!(list[0]["files"][0]["name"], "model.card.toml");
    assert_eq!(list[0]["files"][0]["role"], "card");
}
