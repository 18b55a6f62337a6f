use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use fleet_api::deployment::Deployment;
use fleet_api::ids::Name;
use fleet_api::rest::{ApplyResult, Change};
use reqwest::Method;
use reqwest::header::CONTENT_TYPE;

use crate::cli::ApplyArgs;
use crate::client::{Client, json};
use crate::output::{self, Format};
use crate::session;

/// A deployment file that has passed the local checks.
#[derive(Debug)]
struct File {
    path: PathBuf,
    text: String,
}

/// Checks all files, then applies one after the other and stops at the first that is refused.
pub(crate) async fn run(
    args: &ApplyArgs,
    client: impl FnOnce() -> Result<Client>,
    format: Format,
) -> Result<()> {
    let files = read_all(&args.file)?;
    let client = client()?;
    let mut results = Vec::new();
    let mut refused = None;
    for file in &files {
        match apply(&client, file, args.dry_run).await {
            Ok(result) => results.push(result),
            Err(error) => {
                refused = Some(error.context(format!("{} is refused", file.path.display())));
                break;
            }
        }
    }
    match format {
        Format::Json => output::print_json(&results)?,
        Format::Table if results.is_empty() => {}
        Format::Table => print(&results)?,
    }
    match refused {
        None => Ok(()),
        Some(error) if files.len() == 1 => Err(error),
        Some(error) => Err(error.context(format!(
            "{} of {} files were applied",
            results.len(),
            files.len()
        ))),
    }
}

async fn apply(client: &Client, file: &File, dry_run: bool) -> Result<ApplyResult> {
    let path = if dry_run {
        "/api/v1/deployments?dry_run=true"
    } else {
        "/api/v1/deployments"
    };
    let request = client
        .request(Method::POST, path)
        .header(CONTENT_TYPE, "application/toml")
        .body(file.text.clone());
    json(client.send(request).await?).await
}

fn print(results: &[ApplyResult]) -> Result<()> {
    let mut table = output::table(["DEPLOYMENT", "CHANGE", "NODES", "UPDATED"]);
    for result in results {
        let change = match result.change {
            Change::Created => "created",
            Change::Changed => "changed",
            Change::Unchanged => "unchanged",
            Change::Deleted => "deleted",
        };
        let updated: Vec<_> = result
            .updated
            .iter()
            .map(|u| format!("{} to generation {}", u.node, u.generation))
            .collect();
        table.add_row([
            result.deployment.to_string(),
            format!("{change}{}", if result.dry_run { " (dry run)" } else { "" }),
            result.nodes.len().to_string(),
            output::or_dash(updated.join(", ")),
        ]);
    }
    output::print_table(&table, "")?;
    for warning in results.iter().flat_map(|r| &r.warnings) {
        eprintln!("warning: {warning}");
    }
    Ok(())
}

/// Reads and checks a file, or every `*.toml` of a folder; all faults at once.
fn read_all(path: &Path) -> Result<Vec<File>> {
    let paths = if path.is_dir() {
        toml_files(path)?
    } else {
        vec![path.to_owned()]
    };
    let mut files = Vec::new();
    let mut faults = Vec::new();
    let mut names: BTreeMap<Name, PathBuf> = BTreeMap::new();
    for path in paths {
        let text = session::read(&path)?;
        match Deployment::from_toml(&text, &path.display().to_string()) {
            Err(fault) => faults.push(named(&path, &fault.to_string())),
            Ok(deployment) => {
                match names.insert(deployment.deployment.name.clone(), path.clone()) {
                    Some(first) => faults.push(format!(
                        "{} and {} are both deployment {}: give each its own name",
                        first.display(),
                        path.display(),
                        deployment.deployment.name
                    )),
                    None => files.push(File { path, text }),
                }
            }
        }
    }
    if !faults.is_empty() {
        bail!("nothing was applied\n{}", faults.join("\n"));
    }
    Ok(files)
}

fn named(path: &Path, fault: &str) -> String {
    let name = path.display().to_string();
    if fault.starts_with(&name) {
        fault.to_owned()
    } else {
        format!("{name}: {fault}")
    }
}

fn toml_files(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = std::fs::read_dir(folder)
        .and_then(Iterator::collect::<std::io::Result<Vec<_>>>)
        .with_context(|| format!("{} cannot be read", folder.display()))?;
    let mut files: Vec<_> = entries
        .into_iter()
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|e| e == "toml") && path.is_file())
        .collect();
    if files.is_empty() {
        bail!("{} holds no *.toml file", folder.display());
    }
    files.sort();
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "[deployment]\nname = \"a\"\nselect = \"*\"\n";

    fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().expect("a temporary folder");
        for (name, text) in files {
            std::fs::write(dir.path().join(name), text).expect("writes");
        }
        dir
    }

    #[test]
    fn faults_of_all_files_are_told_at_once() {
        let dir = folder(&[
            ("1.toml", GOOD),
            ("2.toml", "[deployment]\nname = \"b\"\nselect = \"==\"\n"),
            (
                "3.toml",
                "[deployment]\nname = \"c\"\nselect = \"*\"\nselct = \"*\"\n",
            ),
            ("4.toml", GOOD),
            ("notes.txt", "not a deployment"),
        ]);
        let error = read_all(dir.path()).expect_err("refused").to_string();
        assert!(
            error.contains("2.toml") && error.contains("line 3"),
            "{error}"
        );
        assert!(error.contains("line 4: deployment.selct"), "{error}");
        assert!(error.contains("both deployment a"), "{error}");
    }

    #[test]
    fn files_come_in_the_order_of_their_names() {
        let dir = folder(&[
            ("b.toml", &GOOD.replace("\"a\"", "\"b\"")),
            ("a.toml", GOOD),
        ]);
        let files = read_all(dir.path()).expect("valid");
        assert!(files[0].path.ends_with("a.toml") && files[1].path.ends_with("b.toml"));
        assert!(read_all(&dir.path().join("c.toml")).is_err());
        assert!(read_all(folder(&[]).path()).is_err());
    }
}
