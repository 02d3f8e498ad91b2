"""Write .env.example from the code: what docker-compose.yml reads, and every setting of the server.

    python -m scripts.write_env .env.example

A test compares the file with what this writes, so that no setting stays undocumented.
"""

import json
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from craft_server.settings import Settings

COMPOSE = {
    "CRAFT_PORT": ("8000", "port of this machine for `server`"),
    "CRAFT_GPU_PORT": ("8001", "for `gpu`"),
    "CRAFT_SCALE_PORT": ("8080", "for `scale`"),
    "CRAFT_PROMETHEUS_PORT": ("9090", "for `prometheus`, on the loopback address"),
    "CRAFT_GRAFANA_PORT": ("3000", "for `grafana`, on the loopback address"),
    "CRAFT_MEMORY": ("8g", "most memory of a server or tuner"),
    "CRAFT_TORCH_BACKEND": (
        "cpu",
        "PyTorch in the images, as `uv pip install --torch-backend` has it; empty: the index's own",
    ),
    "CRAFT_TORCH_BACKEND_GPU": ("", "the same for `gpu`"),
    "CRAFT_DATABASE_PASSWORD_FILE": (
        "./deploy/secrets/database_password",
        "file with the password of Postgres; the containers' users must be able to read it",
    ),
    "CRAFT_WORK": ("runs", "folder (with a slash in it) or volume in which `tuner` works"),
    "CRAFT_SERVER_URL": ("http://server:8000", "server that `tuner` asks"),
    "CRAFT_API_KEY": ("", "its key; better in the shell than in a file"),
}
"""Variable -> default and meaning."""

HEAD = """\
# Settings for Docker Compose: copy to .env and change what you need. Lines like `# NAME=VALUE`
# show defaults. Written by scripts/write_env.py.

# The servers read this file as well:
CRAFT_ENV_FILE=.env
"""


def lines() -> Iterator[str]:
    """The file, block by block."""
    yield HEAD
    yield "# --- docker-compose.yml ---\n"
    for name, (default, meaning) in COMPOSE.items():
        yield block(name, default, meaning)
    yield "# --- craft-server; Compose sets host, port, data_dir, metrics_*, replica itself ---\n"
    for name, field in Settings.model_fields.items():
        yield block(f"CRAFT_SERVER_{name.upper()}", written(field.default), field.description)


def block(name: str, default: str, meaning: str | None) -> str:
    """A variable, commented out, under its meaning."""
    wrapped = textwrap.fill(meaning or "", 98, initial_indent="# ", subsequent_indent="# ")
    return f"{wrapped}\n# {name}={default}\n"


def written(value: Any) -> str:
    """A default as a variable has it: text as it is, the rest in JSON."""
    if value is None:
        return ""
    if isinstance(value, str | Path):
        return str(value)
    return json.dumps(value)


def main() -> None:
    """Write the file given."""
    file = Path(sys.argv[1])
    file.write_text("\n".join(lines()))
    print(file)


if __name__ == "__main__":
    main()
