"""Pushes a file with oras, lists its tags, and pulls it again.

usage: oras_push_pull.py REGISTRY CA TOKEN handlers|models NAME FILE OUTDIR [FILE:TYPE]...

Further files go along as layers of their types.
"""

import json
import pathlib
import sys
import tempfile

import oras.client
from requests.exceptions import RequestException

VERSION = "1.0.0-oras"
TYPES = {
    "handlers": ("application/vnd.wasm.config.v0+json", "application/wasm"),
    "models": ("application/vnd.onnx.config.v1+json", "application/vnd.onnx.model.v1"),
}


def client(registry, ca, token):
    new = oras.client.OrasClient(hostname=registry, tls_verify=ca, auth_backend="basic")
    new.auth.set_basic_auth("admin", token)
    return new


def main():
    registry, ca, token, kind, name, file, out, *beside = sys.argv[1:]
    config_type, layer_type = TYPES[kind]
    target = f"{registry}/{kind}/{name}:{VERSION}"
    with tempfile.TemporaryDirectory() as folder:
        config = pathlib.Path(folder, "config.json")
        config.write_text(json.dumps({"created": "2026-01-01T00:00:00Z", "architecture": "wasm", "os": "wasip2"}))
        push = {
            "target": target,
            "files": [f"{file}:{layer_type}", *beside],
            "manifest_config": f"{config}:{config_type}",
            "disable_path_validation": True,
        }
        # One kind goes up in one piece, the other in chunks.
        chunks = {"do_chunked": True, "chunk_size": 65536} if kind == "models" else {}
        client(registry, ca, token).push(**push, **chunks)
        try:
            client(registry, ca, "guessed").push(**push)
        except (ValueError, RequestException) as refused:
            print(f"a guessed token is refused: {refused}")
        else:
            sys.exit("a guessed token was taken")
    tags = client(registry, ca, token).get_tags(f"{registry}/{kind}/{name}")
    if VERSION not in tags:
        sys.exit(f"{VERSION} is not among the tags {tags}")
    client(registry, ca, token).pull(target=target, outdir=out)


main()
