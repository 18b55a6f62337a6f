use anyhow::Result;
use fleet_api::rest::{TokenCreated, TokenRequest};

use crate::cli::TokenArgs;
use crate::client::Client;
use crate::output::{self, Format, span};

/// Makes a join token. Only the token goes to standard output, so that a script can take it.
pub(crate) async fn create(client: &Client, args: TokenArgs, format: Format) -> Result<()> {
    let request = TokenRequest {
        labels: args.labels.into_iter().collect(),
        ttl_s: Some(args.ttl.ms().div_ceil(1000)),
        uses: Some(args.uses),
    };
    let created: TokenCreated = client.post("/api/v1/tokens", &request).await?;
    if format == Format::Json {
        return output::print_json(&created);
    }
    output::emit(&format!("{}\n", created.token))?;
    let nodes = if created.uses == 1 {
        "one node".to_owned()
    } else {
        format!("{} nodes", created.uses)
    };
    eprintln!(
        "lets {nodes} join within {}: edge-runtime enroll --token TOKEN --node ID --data-dir DIR",
        span(args.ttl.ms())
    );
    Ok(())
}
