//! `edgectl new handler`: a project that builds, with a test.

mod js;
mod python;
mod rust;

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, bail};
use serde_json::json;

use crate::cli::{Lang, NewHandlerArgs};
use crate::output::Format;

/// A file of the project and its text.
type File = (&'static str, &'static str);

/// Makes the project in a folder of its name.
///
/// # Errors
/// If the folder exists or cannot be written; nothing is left of it then.
pub(crate) fn handler(args: &NewHandlerArgs, format: Format) -> Result<()> {
    let name = args.name.as_str();
    let folder = Path::new(name);
    if folder.exists() {
        bail!("{name} exists already: choose another name, or remove it");
    }
    if !name.starts_with(|c: char| c.is_ascii_alphabetic()) {
        bail!("{name} cannot be the name of a project: let it begin with a letter");
    }
    let (files, code, next): (&[File], _, _) = match args.lang {
        Lang::Rust => (&rust::FILES, "src/lib.rs", rust::NEXT),
        Lang::Js => (&js::FILES, "src/handler.js", js::NEXT),
        Lang::Python => (&python::FILES, "src/handler.py", python::NEXT),
    };
    if let Err(error) = write(folder, name, files) {
        let _ = fs::remove_dir_all(folder);
        return Err(error);
    }
    if format == Format::Json {
        println!(
            "{}",
            json!({ "name": name, "files": files.iter().map(|f| f.0).collect::<Vec<_>>() })
        );
        return Ok(());
    }
    println!("made {name}: its code is in {name}/{code}\n\n  cd {name}");
    for command in filled(next, name).lines() {
        println!("  {command}");
    }
    Ok(())
}

fn write(folder: &Path, name: &str, files: &[File]) -> Result<()> {
    for (path, text) in files {
        let path = folder.join(path);
        let text = filled(text, name);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).with_context(|| format!("make {}", parent.display()))?;
        }
        fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
    }
    Ok(())
}

/// A text with the project's name in its places; cargo names files by the other form.
fn filled(text: &str, name: &str) -> String {
    text.replace("{{name}}", name)
        .replace("{{file}}", &name.replace('-', "_"))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn the_whole_sdk_comes_along() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let files = |folder: &str| -> BTreeSet<String> {
            let entries = fs::read_dir(root.join(folder)).expect("a folder of the checkout");
            let name = |entry: fs::DirEntry| entry.file_name().to_string_lossy().into_owned();
            entries
                .map(|entry| name(entry.expect("an entry")))
                .collect()
        };
        let given = |prefix: &str| -> BTreeSet<String> {
            let inside = rust::FILES
                .iter()
                .filter_map(|(path, _)| path.strip_prefix(prefix));
            inside
                .filter_map(|path| path.split('/').next())
                .map(str::to_owned)
                .collect()
        };
        assert_eq!(given("sdk/src/"), files("guest-sdk/src"));
        assert_eq!(given("wit/deps/"), files("wit/deps"));
        assert_eq!(given("wit/"), files("wit"));
    }

    #[test]
    fn a_locked_tool_is_the_one_asked_for_and_comes_from_wherever_npm_is_told_to_look() {
        let read = |name: &str| -> serde_json::Value {
            let (_, text) = js::FILES
                .iter()
                .find(|(path, _)| *path == name)
                .expect(name);
            serde_json::from_str(text).expect(name)
        };
        let (project, lock) = (read("package.json"), read("package-lock.json"));
        assert_eq!(
            lock["packages"][""]["devDependencies"],
            project["devDependencies"]
        );
        let packages = lock["packages"].as_object().expect("packages");
        for (name, package) in packages.iter().filter(|(name, _)| !name.is_empty()) {
            assert!(package["integrity"].is_string(), "{name} has no digest");
            assert!(package["resolved"].is_null(), "{name} names a registry");
        }
    }
}
