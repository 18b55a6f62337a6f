//! A project in Rust.

use super::File;

/// The files of a Rust project; the guest SDK comes along, so that the project builds anywhere.
pub(super) const FILES: [File; 22] = [
    (
        "Cargo.toml",
        include_str!("../../templates/rust/Cargo.toml.txt"),
    ),
    ("README.md", include_str!("../../templates/rust/README.md")),
    (
        "deployment.toml",
        include_str!("../../templates/deployment.toml.txt"),
    ),
    (".gitignore", "/target\n"),
    ("src/lib.rs", include_str!("../../templates/rust/lib.rs")),
    (
        "sdk/Cargo.toml",
        include_str!("../../../guest-sdk/Cargo.toml"),
    ),
    (
        "sdk/src/lib.rs",
        include_str!("../../../guest-sdk/src/lib.rs"),
    ),
    (
        "sdk/src/config.rs",
        include_str!("../../../guest-sdk/src/config.rs"),
    ),
    (
        "sdk/src/http.rs",
        include_str!("../../../guest-sdk/src/http.rs"),
    ),
    (
        "sdk/src/keyvalue.rs",
        include_str!("../../../guest-sdk/src/keyvalue.rs"),
    ),
    (
        "sdk/src/log.rs",
        include_str!("../../../guest-sdk/src/log.rs"),
    ),
    (
        "sdk/src/model.rs",
        include_str!("../../../guest-sdk/src/model.rs"),
    ),
    (
        "sdk/src/outbound.rs",
        include_str!("../../../guest-sdk/src/outbound.rs"),
    ),
    (
        "sdk/src/router.rs",
        include_str!("../../../guest-sdk/src/router.rs"),
    ),
    (
        "sdk/src/stream.rs",
        include_str!("../../../guest-sdk/src/stream.rs"),
    ),
    (
        "wit/capabilities.wit",
        include_str!("../../../wit/capabilities.wit"),
    ),
    (
        "wit/processor.wit",
        include_str!("../../../wit/processor.wit"),
    ),
    ("wit/streams.wit", include_str!("../../../wit/streams.wit")),
    (
        "wit/deps/wasi-keyvalue-0.2.0-draft/package.wit",
        include_str!("../../../wit/deps/wasi-keyvalue-0.2.0-draft/package.wit"),
    ),
    (
        "wit/deps/wasi-logging-0.1.0-draft/package.wit",
        include_str!("../../../wit/deps/wasi-logging-0.1.0-draft/package.wit"),
    ),
    (
        "wit/deps/wasi-nn-0.2.0-rc-2024-10-28/package.wit",
        include_str!("../../../wit/deps/wasi-nn-0.2.0-rc-2024-10-28/package.wit"),
    ),
    (
        "wit/deps/wasi-config-0.2.0-rc.1/package.wit",
        include_str!("../../../wit/deps/wasi-config-0.2.0-rc.1/package.wit"),
    ),
];

/// The commands that lead to an answer.
pub(super) const NEXT: &str = "cargo test
cargo build --release --target wasm32-wasip2
edge-runtime serve --watch target/wasm32-wasip2/release/{{file}}.wasm";
