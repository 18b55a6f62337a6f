//! `edgectl new handler`: a project that builds, with a test.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, bail};
use serde_json::json;

use crate::cli::{Lang, NewHandlerArgs};
use crate::output::Format;

/// A file of the project and its text.
type File = (&'static str, &'static str);

/// The files of a Rust project; the guest SDK comes along, so that the project builds anywhere.
const RUST: [File; 22] = [
    (
        "Cargo.toml",
        include_str!("../templates/rust/Cargo.toml.txt"),
    ),
    ("README.md", include_str!("../templates/rust/README.md")),
    (
        "deployment.toml",
        include_str!("../templates/rust/deployment.toml.txt"),
    ),
    (".gitignore", "/target\n"),
    ("src/lib.rs", include_str!("../templates/rust/lib.rs")),
    ("sdk/Cargo.toml", include_str!("../../guest-sdk/Cargo.toml")),
    ("sdk/src/lib.rs", include_str!("../../guest-sdk/src/lib.rs")),
    (
        "sdk/src/config.rs",
        include_str!("../../guest-sdk/src/config.rs"),
    ),
    (
        "sdk/src/http.rs",
        include_str!("../../guest-sdk/src/http.rs"),
    ),
    (
        "sdk/src/keyvalue.rs",
        include_str!("../../guest-sdk/src/keyvalue.rs"),
    ),
    ("sdk/src/log.rs", include_str!("../../guest-sdk/src/log.rs")),
    (
        "sdk/src/model.rs",
        include_str!("../../guest-sdk/src/model.rs"),
    ),
    (
        "sdk/src/outbound.rs",
        include_str!("../../guest-sdk/src/outbound.rs"),
    ),
    (
        "sdk/src/router.rs",
        include_str!("../../guest-sdk/src/router.rs"),
    ),
    (
        "sdk/src/stream.rs",
        include_str!("../../guest-sdk/src/stream.rs"),
    ),
    (
        "wit/capabilities.wit",
        include_str!("../../wit/capabilities.wit"),
    ),
    ("wit/processor.wit", include_str!("../../wit/processor.wit")),
    ("wit/streams.wit", include_str!("../../wit/streams.wit")),
    (
        "wit/deps/wasi-keyvalue-0.2.0-draft/package.wit",
        include_str!("../../wit/deps/wasi-keyvalue-0.2.0-draft/package.wit"),
    ),
    (
        "wit/deps/wasi-logging-0.1.0-draft/package.wit",
        include_str!("../../wit/deps/wasi-logging-0.1.0-draft/package.wit"),
    ),
    (
        "wit/deps/wasi-nn-0.2.0-rc-2024-10-28/package.wit",
        include_str!("../../wit/deps/wasi-nn-0.2.0-rc-2024-10-28/package.wit"),
    ),
    (
        "wit/deps/wasi-config-0.2.0-rc.1/package.wit",
        include_str!("../../wit/deps/wasi-config-0.2.0-rc.1/package.wit"),
    ),
];

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
    let files: &[File] = match args.lang {
        Lang::Rust => &RUST,
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
    let file = crate_file(name);
    println!(
        "made {name}: its code is in {name}/src/lib.rs\n\n  cd {name}\n  cargo test\n  \
         cargo build --release --target wasm32-wasip2\n  \
         edge-runtime serve --watch target/wasm32-wasip2/release/{file}.wasm"
    );
    Ok(())
}

fn write(folder: &Path, name: &str, files: &[File]) -> Result<()> {
    for (path, text) in files {
        let path = folder.join(path);
        let text = text
            .replace("{{name}}", name)
            .replace("{{file}}", &crate_file(name));
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).with_context(|| format!("make {}", parent.display()))?;
        }
        fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
    }
    Ok(())
}

/// What cargo names the built file.
fn crate_file(name: &str) -> String {
    name.replace('-', "_")
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
            let inside = RUST
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
}
