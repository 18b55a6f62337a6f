use reqwest::Method;
use serde_json::json;

use crate::support::{Plane, read, request_for};

async fn code(answer: reqwest::Response, status: u16) -> String {
    let body = read(answer, status).await;
    body["error"]["code"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_join_token_admits_as_often_as_it_says() {
    let plane = Plane::start().await;
    let token = plane
        .join_token(json!({ "uses": 2, "labels": { "site": "a" } }))
        .await;
    let (_, csr) = request_for("x");
    for node in ["n1", "n2"] {
        let answer = plane.try_enroll(&token.bearer(), node, &csr).await;
        assert_eq!(answer.status(), 200);
    }
    let answer = plane.try_enroll(&token.bearer(), "n3", &csr).await;
    assert_eq!(code(answer, 403).await, "used_token");
    let nodes = plane.get("/api/v1/nodes").await;
    assert_eq!(nodes.as_array().unwrap().len(), 2);
    assert_eq!(nodes[0]["labels"]["site"], "a");
    assert_eq!(nodes[0]["state"], "new");
}

#[tokio::test]
async fn bad_tokens_have_their_own_words_and_change_nothing() {
    let plane = Plane::start().await;
    let (_, csr) = request_for("x");
    assert_eq!(
        code(plane.try_enroll("made-up", "n1", &csr).await, 401).await,
        "unknown_token"
    );

    let short = plane.join_token(json!({ "ttl_s": 1 })).await;
    let answer = plane.try_enroll(&short.bearer(), "N1 is no id", &csr).await;
    assert_eq!(answer.status(), 422, "a bad id uses nothing up");
    // A request that is none shows whether the token still counts, and uses nothing up.
    let expired = async {
        while plane
            .try_enroll(&short.bearer(), "n1", "none")
            .await
            .status()
            != 401
        {
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(crate::support::PATIENCE, expired)
        .await
        .unwrap();
    let answer = plane.try_enroll(&short.bearer(), "n1", &csr).await;
    assert_eq!(code(answer, 401).await, "expired_token");

    let good = plane.join_token(json!({})).await;
    let answer = plane
        .try_enroll(&good.bearer(), "n1", "no request at all")
        .await;
    assert_eq!(code(answer, 422).await, "invalid_request");
    let answer = plane.try_enroll(&good.bearer(), "n1", &csr).await;
    assert_eq!(
        answer.status(),
        200,
        "a refused request has not used the token up"
    );
    let another = plane.join_token(json!({})).await;
    let answer = plane.try_enroll(&another.bearer(), "n1", &csr).await;
    let body = read(answer, 409).await;
    assert!(
        body["error"]["message"]
            .as_str()
            .unwrap()
            .contains("edgectl delete node n1")
    );
    assert_eq!(
        plane.get("/api/v1/nodes").await.as_array().unwrap().len(),
        1
    );
}

#[tokio::test]
async fn the_certificate_names_the_node_whatever_the_request_says() {
    let plane = Plane::start().await;
    let node = plane.join("n1", json!({})).await;
    let answer = node.get("/api/v1/nodes/n1/desired").await;
    assert_eq!(code(answer, 404).await, "no_desired_state");
    let answer = node.get("/api/v1/nodes/n2/desired").await;
    assert_eq!(code(answer, 403).await, "forbidden");
    let answer = node.get("/api/v1/nodes").await;
    assert_eq!(code(answer, 403).await, "forbidden");
    assert_eq!(node.get("/v2/").await.status(), 200);
}

#[tokio::test]
async fn a_removed_node_is_out_at_once() {
    let plane = Plane::start().await;
    let node = plane.join("n1", json!({})).await;
    let session = node.connect("n1").await;
    let answer = plane
        .operator(Method::DELETE, "/api/v1/nodes/n1")
        .send()
        .await
        .unwrap();
    assert_eq!(answer.status(), 204);
    session.ended().await;
    assert_eq!(
        code(node.get("/api/v1/nodes/n1/desired").await, 401).await,
        "unauthorized"
    );
    let again = plane.join("n1", json!({})).await;
    assert_eq!(
        node.get("/v2/").await.status(),
        401,
        "the old certificate stays out"
    );
    assert_eq!(again.get("/v2/").await.status(), 200);
}

#[tokio::test]
async fn operators_need_the_admin_token() {
    let plane = Plane::start().await;
    let answer = plane.anonymous(Method::GET, "/").send().await.unwrap();
    assert_eq!(answer.status(), 401);
    let challenge = answer.headers()["www-authenticate"].to_str().unwrap();
    assert!(challenge.starts_with("Basic "), "{challenge}");
    let wrong = plane
        .anonymous(Method::GET, "/api/v1/nodes")
        .bearer_auth("wrong");
    assert_eq!(wrong.send().await.unwrap().status(), 401);
    let token = std::fs::read_to_string(plane.data().join("admin-token")).unwrap();
    let basic = plane
        .anonymous(Method::GET, "/")
        .basic_auth("anyone", Some(token.trim()));
    let page = basic.send().await.unwrap();
    assert_eq!(page.status(), 200);
    assert!(page.text().await.unwrap().contains("/api/v1/nodes"));
    let ca = plane
        .anonymous(Method::GET, "/api/v1/ca")
        .send()
        .await
        .unwrap();
    assert!(
        ca.text()
            .await
            .unwrap()
            .starts_with("-----BEGIN CERTIFICATE-----")
    );
}

#[tokio::test]
async fn identities_outlive_a_restart() {
    let plane = Plane::start().await;
    let node = plane.join("n1", json!({})).await;
    let plane = Plane::start_in(plane.stop().await).await;
    assert_eq!(node.at(&plane).get("/v2/").await.status(), 200);
}
