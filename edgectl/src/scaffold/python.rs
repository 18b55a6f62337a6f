//! A project in Python.

use super::File;

/// The files of a Python project; the interfaces that it is built against come along.
pub(super) const FILES: [File; 14] = [
    ("build.sh", include_str!("../../templates/python/build.sh")),
    (
        "requirements.txt",
        include_str!("../../templates/python/requirements.txt"),
    ),
    (
        "README.md",
        include_str!("../../templates/python/README.md"),
    ),
    (
        "deployment.toml",
        include_str!("../../templates/deployment.toml.txt"),
    ),
    (".gitignore", "/.venv\n/*.wasm\n__pycache__/\n"),
    (
        "src/handler.py",
        include_str!("../../templates/python/handler.py"),
    ),
    (
        "src/test_handler.py",
        include_str!("../../templates/python/test_handler.py"),
    ),
    (
        "src/edge.py",
        include_str!("../../templates/python/edge.py"),
    ),
    (
        "src/main.py",
        include_str!("../../templates/python/main.py"),
    ),
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
pub(super) const NEXT: &str = "python3 -m unittest discover src
bash build.sh
edge-runtime serve --watch {{name}}.wasm";
