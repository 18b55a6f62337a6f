use std::time::Duration;

use fleet_api::desired::Envelope;
use tokio_util::sync::CancellationToken;

use crate::agent::AgentHandle;
use crate::causes::chain;
use crate::identity::Identity;

/// Asks for the desired state over HTTPS every `period`, a second path beside MQTT.
pub async fn poll(
    identity: Identity,
    client: reqwest::Client,
    agent: AgentHandle,
    period: Duration,
    stop: CancellationToken,
) {
    let url = format!("{}/api/v1/nodes/{}/desired", identity.url, identity.node);
    // Nodes that start together do not ask together.
    let mut byte = [0_u8; 1];
    let _ = getrandom::fill(&mut byte);
    let mut delay = period.mul_f64(0.5 + 0.5 * f64::from(byte[0]) / 255.0);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(delay) => {}
        }
        delay = period;
        match ask(&client, &url).await {
            Ok(Some(envelope)) => agent.offer(envelope).await,
            Ok(None) => {}
            Err(error) => tracing::debug!(error = chain(&error), "no desired state over HTTPS"),
        }
    }
}

/// The desired state, if there is one yet.
async fn ask(client: &reqwest::Client, url: &str) -> Result<Option<Envelope>, reqwest::Error> {
    let answer = client.get(url).send().await?;
    if answer.status() == reqwest::StatusCode::NOT_FOUND {
        return Ok(None);
    }
    answer.error_for_status()?.json().await.map(Some)
}
