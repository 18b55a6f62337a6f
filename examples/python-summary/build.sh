#!/usr/bin/env bash
# Builds artifacts/modules/python-summary.wasm. Needs Python 3.10 or later with
# pip and venv, and cargo.
set -euo pipefail
cd "$(dirname "$0")/../.."

version=0.25.1
tools=artifacts/tools/componentize-py-$version
if [ ! -x "$tools/bin/componentize-py" ]; then
  python3 -m venv "$tools"
  "$tools/bin/python" -m pip install --quiet --disable-pip-version-check "componentize-py==$version"
fi

# The interfaces of WASI 0.2, as the crate brings them that the Rust guests use.
wasi=$(cargo metadata --format-version 1 --locked --manifest-path modules/Cargo.toml |
  python3 -c 'import json, os, sys
packages = json.load(sys.stdin)["packages"]
print(next(os.path.dirname(p["manifest_path"]) for p in packages if p["name"] == "wasip2"))')/wit

wit=$(mktemp -d)
trap 'rm -rf "$wit"' EXIT
mkdir "$wit/deps"
cp examples/python-summary/wit/summary.wit "$wit/"
cp -r "$wasi"/deps/* wit/deps/wasi-config-* "$wit/deps/"

mkdir -p artifacts/modules
"$tools/bin/componentize-py" -d "$wit" -w summary \
  componentize app -p examples/python-summary -o artifacts/modules/python-summary.wasm
