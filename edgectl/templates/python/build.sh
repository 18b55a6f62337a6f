#!/usr/bin/env bash
# Builds {{name}}.wasm. The first time, and when requirements.txt has changed,
# it also fetches the builder into .venv/.
set -euo pipefail
cd "$(dirname "$0")"
if [ ! .venv/ready -nt requirements.txt ]; then
  python3 -m venv --clear .venv
  .venv/bin/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
  touch .venv/ready
fi
.venv/bin/componentize-py --quiet -d wit -w handler componentize main -p src -o {{name}}.new
mv {{name}}.new {{name}}.wasm
