use anyhow::Result;
use fleet_api::ids::Name;
use fleet_api::rest::{ApplyResult, DeploymentStatus};
use reqwest::Method;

use crate::client::{Client, json};
use crate::output::{self, Format, ago, or_dash};

/// Lists deployments and how far their nodes are.
pub(crate) async fn list(client: &Client, format: Format) -> Result<()> {
    let deployments: Vec<DeploymentStatus> = client.get("/api/v1/deployments").await?;
    if format == Format::Json {
        return output::print_json(&deployments);
    }
    let mut table = output::table([
        "DEPLOYMENT",
        "SELECT",
        "NODES",
        "COMMITTED",
        "FAILED",
        "HANDLERS",
        "MODELS",
        "STREAMS",
        "APPLIED",
    ]);
    for d in &deployments {
        let handlers = d
            .spec
            .handlers
            .iter()
            .map(|h| format!("{}:{}", h.name, h.version));
        let models = d
            .spec
            .models
            .iter()
            .map(|m| format!("{}:{}", m.name, m.version));
        let streams = d.spec.streams.iter().map(|s| s.name.to_string());
        table.add_row([
            d.spec.deployment.name.to_string(),
            d.spec.deployment.select.to_string(),
            d.nodes.to_string(),
            d.committed.to_string(),
            d.failed.to_string(),
            join(handlers),
            join(models),
            join(streams),
            ago(d.applied_ms),
        ]);
    }
    output::print_table(&table, "nothing is deployed yet: `edgectl apply -f FILE`")
}

/// Takes a deployment off its nodes.
pub(crate) async fn delete(client: &Client, name: &Name, format: Format) -> Result<()> {
    let request = client.request(Method::DELETE, &format!("/api/v1/deployments/{name}"));
    let result: ApplyResult = json(client.send(request).await?).await?;
    if format == Format::Json {
        return output::print_json(&result);
    }
    output::emit(&format!(
        "deployment {name} is deleted, {} nodes change\n",
        result.updated.len()
    ))
}

fn join(words: impl Iterator<Item = String>) -> String {
    or_dash(words.collect::<Vec<_>>().join(", "))
}
