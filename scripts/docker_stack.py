"""docker-compose.yml in a project of its own, and what its containers say of keys and books."""

import json
import os
import secrets
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from docker_engine import LOCAL, run

ROOT = Path(__file__).parents[1]
PROFILES = ("gpu", "obs", "scale", "tuner")
PORTS = {"CRAFT_PORT": "18000", "CRAFT_SCALE_PORT": "18080", "CRAFT_PROMETHEUS_PORT": "19090"}
BUDGET = 8000
FIT = f"fit --data digits --preset digits --shots 16 --seed 1 --budget {BUDGET}".split()


class Key(NamedTuple):
    """Its id in the ledger, and what opens the server."""

    id: str
    token: str


class Stack:
    """docker-compose.yml in a project of its own, with what this machine needs laid over it."""

    def __init__(self, compose: list[str], folder: Path) -> None:
        self._folder = folder
        self._command = [*compose, "-p", LOCAL, "-f", "docker-compose.yml", "-f", str(self.overlay)]
        password = folder / "database_password"
        password.write_text(secrets.token_hex(24))
        password.chmod(0o644)
        foreign = {k: v for k, v in os.environ.items() if not k.startswith("CRAFT_")}
        self._environment = foreign | PORTS | {"CRAFT_DATABASE_PASSWORD_FILE": str(password)}
        self.lay_over({})

    @property
    def overlay(self) -> Path:
        """The file that is laid over docker-compose.yml."""
        return self._folder / "overlay.yml"

    def lay_over(self, services: Mapping[str, Any]) -> None:
        """Replace parts of services; JSON is YAML."""
        some = services or {
            "server": {}
        }  # docker-compose takes a file without any for its version 1
        self.overlay.write_text(json.dumps({"services": some}))

    def __call__(self, *arguments: str, **environment: str) -> str:
        """Run Compose with all profiles and give what it printed."""
        profiles = [word for profile in PROFILES for word in ("--profile", profile)]
        return run(
            *self._command,
            *profiles,
            *arguments,
            cwd=ROOT,
            env=self._environment | environment,
            stdin=subprocess.DEVNULL,
        )

    def json(self, service: str, *arguments: str) -> Any:
        """What a command of craft-server prints in a service's container."""
        return json.loads(self("exec", "-T", service, "craft-server", *arguments))

    def mint(self, service: str) -> Key:
        """A key for one fit."""
        flags = ("--owner", "test", "--queries", str(BUDGET), "--json")
        made = self.json(service, "keys", "create", *flags)
        return Key(made["id"], made["key"])

    def fit(self, name: str, key: Key, url: str) -> dict[str, Any]:
        """A fit by the tuner's container; the content of its result.json."""
        run_tuner = ("run", "--rm", "-T", "-e", f"CRAFT_SERVER_URL={url}", "-e", "CRAFT_API_KEY")
        self(*run_tuner, "tuner", *FIT, "--run", name, CRAFT_API_KEY=key.token)
        read = ("run", "--rm", "-T", "--entrypoint", "cat", "tuner", f"{name}/result.json")
        return dict(json.loads(self(*read)))

    def containers(self, service: str) -> list[str]:
        """Ids of a service's containers."""
        return self("ps", "-q", service).split()

    def sold(self, service: str, key: Key) -> int:
        """Queries that the ledger says a key has bought."""
        rows = self.json(service, "usage", "--key", key.id, "--export", "json")["usage"]
        return int(rows[0]["queries"]) if rows else 0

    def healthy(self, service: str) -> int:
        """How many of a service's containers are healthy."""
        state = ("docker", "inspect", "--format", "{{.State.Health.Status}}")
        states = [run(*state, container) for container in self.containers(service)]
        return states.count("healthy")
