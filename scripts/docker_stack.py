"""docker-compose.yml in a project of its own, and what its containers say of keys and books."""

import json
import os
import secrets
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from scripts.docker_engine import LOCAL, run, works

ROOT = Path(__file__).parents[1]
PROFILES = ("gpu", "obs", "scale", "tuner")
PORTS = {
    "CRAFT_PORT": "18000",
    "CRAFT_SCALE_PORT": "18080",
    "CRAFT_PROMETHEUS_PORT": "19090",
    "CRAFT_FAULTS_DATABASE_PORT": "15432",
}
BUDGET = 8000
FIT = f"fit --data digits --preset digits --shots 16 --seed 1 --budget {BUDGET}".split()


class Key(NamedTuple):
    """Its id in the ledger, and what opens the server."""

    id: str
    token: str


class Stack:
    """docker-compose.yml in a project of its own, with what this machine needs laid over it."""

    def __init__(self, compose: list[str], folder: Path) -> None:
        self._compose = compose
        self._folder = folder
        self._command = [*compose, "-p", LOCAL, "-f", "docker-compose.yml", "-f", str(self.overlay)]
        self._password = secrets.token_hex(24)
        password = folder / "database_password"
        password.write_text(self._password)
        password.chmod(0o644)
        foreign = {k: v for k, v in os.environ.items() if not k.startswith("CRAFT_")}
        self._environment = foreign | PORTS | {"CRAFT_DATABASE_PASSWORD_FILE": str(password)}
        # docker-compose takes a file without any services for its version 1
        self._services: dict[str, dict[str, Any]] = {"server": {}}
        self.lay_over({})

    @property
    def overlay(self) -> Path:
        """The file that is laid over docker-compose.yml."""
        return self._folder / "overlay.yml"

    @property
    def compose(self) -> str:
        """Which Compose it is."""
        version = run(*self._compose, "version", "--short")
        return f"{' '.join(self._compose)} {version}"

    def check(self, profile: str) -> None:
        """See that docker-compose.yml is valid by itself, with a profile if one is named."""
        named = ("--profile", profile) if profile else ()
        run(*self._compose, *named, "config", "-q", cwd=ROOT)

    def lay_over(self, services: Mapping[str, Mapping[str, Any]]) -> None:
        """Replace parts of services, beside what was replaced before; JSON is YAML."""
        for name, parts in services.items():
            self._services.setdefault(name, {}).update(parts)
        self.overlay.write_text(json.dumps({"services": self._services}))

    def __call__(self, *arguments: str, **environment: str) -> str:
        """Run Compose with all profiles and give what it printed."""
        profiles = [word for profile in PROFILES for word in ("--profile", profile)]
        return run(
            *self._command,
            *profiles,
            *arguments,
            cwd=ROOT,
            env=self._environment | environment,
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

    @property
    def database_url(self) -> str:
        """SQLAlchemy's, of Postgres where its port is published."""
        port = PORTS["CRAFT_FAULTS_DATABASE_PORT"]
        return f"postgresql+psycopg://craft:{self._password}@127.0.0.1:{port}/craft"

    def remove(self) -> None:
        """Remove containers, volumes and networks: as Compose does, then whatever it left."""
        with suppress(SystemExit):
            self("down", "-v", "--remove-orphans", "-t", "50")
        for kind, force in (("container", ["-f"]), ("volume", ["-f"]), ("network", [])):
            if left := self._list(kind):
                works("docker", kind, "rm", *force, *left)

    def tell(self) -> None:
        """Print the end of what each container said."""
        for container in self._list("container"):
            form = "{{.Name}} is {{.State.Status}}, exit code {{.State.ExitCode}}; its log ends:"
            with suppress(SystemExit):
                print(run("docker", "inspect", "--format", form, container), flush=True)
                run("docker", "logs", "--tail", "40", container, quiet=False)

    def _list(self, kind: str) -> list[str]:
        every = ["-a"] if kind == "container" else []
        own = f"label=com.docker.compose.project={LOCAL}"
        return run("docker", kind, "ls", "-q", *every, "--filter", own).split()

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
