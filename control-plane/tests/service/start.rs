use std::sync::Arc;

use control_plane::App;
use serde_json::Value;

use crate::support::{Plane, config};

async fn refusal(config: control_plane::Config) -> String {
    match App::build(config).await {
        Ok(_) => panic!("it started"),
        Err(error) => error.to_string(),
    }
}

#[tokio::test]
async fn says_where_it_listens_while_it_runs() {
    let plane = Plane::start().await;
    let file = plane.data().join("endpoint.json");
    let wait = async {
        while !file.exists() {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(crate::support::PATIENCE, wait)
        .await
        .unwrap();
    let endpoint: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    assert_eq!(endpoint["url"], plane.url);
    plane.stop().await;
    assert!(!file.exists());
}

#[tokio::test]
async fn a_folder_in_use_is_left_alone() {
    let plane = Plane::start().await;
    let error = refusal(config(plane.dir.path())).await;
    assert!(error.contains("in use by a running process"), "{error}");
}

#[tokio::test]
async fn a_taken_port_is_named() {
    let plane = Plane::start().await;
    let dir = tempfile::tempdir().unwrap();
    let mut config = config(dir.path());
    config.listen = plane.url.trim_start_matches("https://").parse().unwrap();
    let error = refusal(config).await;
    assert!(
        error.contains("--listen") && error.contains("HTTPS"),
        "{error}"
    );
    assert!(!dir.path().join("cp").exists(), "nothing was made");
}

#[tokio::test]
async fn secrets_are_for_the_owner_only() {
    use std::os::unix::fs::PermissionsExt as _;
    let plane = Plane::start().await;
    for file in ["admin-token", "ca/ca.key", "ca/director.key"] {
        let mode = std::fs::metadata(plane.data().join(file))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600, "{file}");
    }
}

#[tokio::test]
async fn plain_http_has_the_registry_only() {
    let dir = Arc::new(tempfile::tempdir().unwrap());
    let address = crate::support::free_address();
    let plane = Plane::start_with(dir, |config| config.registry_http_listen = Some(address)).await;
    let token = std::fs::read_to_string(plane.data().join("admin-token")).unwrap();
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let get = |path: &str| {
        let request = client.get(format!("http://{address}{path}"));
        request.basic_auth("x", Some(token.trim())).send()
    };
    assert_eq!(get("/v2/").await.unwrap().status(), 200);
    assert_eq!(get("/api/v1/nodes").await.unwrap().status(), 404);
    let anonymous = client
        .get(format!("http://{address}/v2/"))
        .send()
        .await
        .unwrap();
    assert_eq!(anonymous.status(), 401);
}
