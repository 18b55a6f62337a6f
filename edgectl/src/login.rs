use std::io::Read as _;
use std::path::Path;

use anyhow::{Context, Result, bail};
use fleet_api::rest::Info;
use serde::Deserialize;
use serde_json::json;

use crate::cli::LoginArgs;
use crate::client::Client;
use crate::output::{self, Format};
use crate::session::{self, Session};

/// What a control plane leaves in its data folder for programs on the same machine.
#[derive(Deserialize)]
struct Endpoint {
    url: String,
}

/// Checks the login against the control plane and saves it.
pub(crate) async fn run(args: LoginArgs, format: Format) -> Result<()> {
    let session = match &args.data_dir {
        Some(folder) => from_data_folder(folder)?,
        None => from_arguments(args)?,
    };
    let info: Info = Client::new(&session)?.get("/api/v1/info").await?;
    let path = session.save()?;
    if format == Format::Json {
        return output::print_json(&json!({
            "url": session.url, "version": info.version, "config": path,
        }));
    }
    output::emit(&format!(
        "logged in to {} (control plane {}), saved in {}\n",
        session.url,
        info.version,
        path.display()
    ))
}

fn from_data_folder(folder: &Path) -> Result<Session> {
    let hint = || {
        format!(
            "{} is not the data folder of a running control plane: start one with `control-plane serve --data-dir {0}`",
            folder.display()
        )
    };
    let endpoint = session::read(&folder.join("endpoint.json")).with_context(hint)?;
    let endpoint: Endpoint = serde_json::from_str(&endpoint).with_context(hint)?;
    Ok(Session {
        url: session::trim(&endpoint.url),
        token: session::read(&folder.join("admin-token"))?
            .trim()
            .to_owned(),
        ca: session::read(&folder.join("ca/ca.pem"))?,
    })
}

fn from_arguments(args: LoginArgs) -> Result<Session> {
    let (Some(url), Some(ca)) = (args.url, args.ca) else {
        bail!("give the control plane's address and --ca FILE");
    };
    let token = match (args.token, args.token_file) {
        (Some(token), _) => token,
        (None, Some(file)) if file.as_os_str() == "-" => {
            let mut token = String::new();
            std::io::stdin().read_to_string(&mut token)?;
            token
        }
        (None, Some(file)) => session::read(&file)?,
        (None, None) => bail!("give --token-file FILE"),
    };
    if token.trim().is_empty() {
        bail!("the token is empty: give the content of the control plane's admin-token");
    }
    Ok(Session {
        url: session::trim(&url),
        token: token.trim().to_owned(),
        ca: session::read(&ca)?,
    })
}
