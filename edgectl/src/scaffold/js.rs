//! A project in JavaScript.

use super::File;

/// The files of a JavaScript project; the interfaces that it is built against come along.
pub(super) const FILES: [File; 14] = [
    (
        "package.json",
        include_str!("../../templates/js/package.json"),
    ),
    (
        "package-lock.json",
        include_str!("../../templates/js/package-lock.json"),
    ),
    ("README.md", include_str!("../../templates/js/README.md")),
    (
        "deployment.toml",
        include_str!("../../templates/deployment.toml.txt"),
    ),
    (".gitignore", "/node_modules\n/*.wasm\n"),
    (
        "src/handler.js",
        include_str!("../../templates/js/handler.js"),
    ),
    (
        "src/handler.test.js",
        include_str!("../../templates/js/handler.test.js"),
    ),
    ("src/edge.js", include_str!("../../templates/js/edge.js")),
    ("src/main.js", include_str!("../../templates/js/main.js")),
    (
        "wit/handler.wit",
        include_str!("../../templates/wit/handler.wit"),
    ),
    (
        "wit/deps/wasi-clocks.wit",
        include_str!("../../templates/wit/deps/clocks.wit"),
    ),
    (
        "wit/deps/wasi-config.wit",
        include_str!("../../../wit/deps/wasi-config-0.2.0-rc.1/package.wit"),
    ),
    (
        "wit/deps/wasi-http.wit",
        include_str!("../../templates/wit/deps/http.wit"),
    ),
    (
        "wit/deps/wasi-io.wit",
        include_str!("../../templates/wit/deps/io.wit"),
    ),
];

/// The commands that lead to an answer.
pub(super) const NEXT: &str = "npm install
npm test
npm run build
edge-runtime serve --watch {{name}}.wasm";
