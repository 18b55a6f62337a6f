use anyhow::Result;
use fleet_api::model_files::in_words;
use fleet_api::rest::ArtifactSummary;

use crate::client::Client;
use crate::output::{self, Format, ago, bytes, or_dash};

/// Lists what has been pushed.
pub(crate) async fn list(client: &Client, format: Format) -> Result<()> {
    let artifacts: Vec<ArtifactSummary> = client.get("/api/v1/artifacts").await?;
    if format == Format::Json {
        return output::print_json(&artifacts);
    }
    let mut table = output::table([
        "KIND",
        "NAME",
        "VERSION",
        "SIZE",
        "DIGEST",
        "PUSHED",
        "WITH",
        "WHAT IT IS",
    ]);
    for a in &artifacts {
        table.add_row([
            a.kind.to_string(),
            a.name.to_string(),
            a.version.to_string(),
            bytes(a.size + a.files.iter().map(|file| file.size).sum::<u64>()),
            a.digest.hex()[..12].to_owned(),
            ago(a.created_ms),
            or_dash(in_words(&a.files)),
            a.description.clone(),
        ]);
    }
    output::print_table(
        &table,
        "nothing has been pushed yet: `edgectl push handler NAME:VERSION FILE`",
    )
}
