"""Where a command's settings come from: flags over environment over a TOML file over defaults.

    flag        environment         file (--config)
    --server    CRAFT_SERVER_URL    server = "http://127.0.0.1:8000"
    --key       CRAFT_API_KEY       key = "craft_..."
    --model     CRAFT_MODEL         model = "RN50::openai"
    --timeout   CRAFT_TIMEOUT_S     timeout_s = 630
    --track     CRAFT_TRACK         track = "tensorboard"
    --allow-outside  CRAFT_ALLOW_OUTSIDE  allow_outside = ["/archive/photos"]

The same file may hold settings of the fit (`shots = 8`, see `craft_tuner.config.fit_config`), and
so may the environment (`CRAFT_FIT_SHOTS=8`); whatever is in neither list is an error.
"""

import difflib
import os
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, field_validator

from craft_tuner.config.connection import READ_TIMEOUT_S, Connection
from craft_tuner.errors import UsageError

DEFAULT_SERVER = "http://127.0.0.1:8000"

ENVIRONMENT = {
    "server": "CRAFT_SERVER_URL",
    "key": "CRAFT_API_KEY",
    "model": "CRAFT_MODEL",
    "timeout_s": "CRAFT_TIMEOUT_S",
    "track": "CRAFT_TRACK",
    "allow_outside": "CRAFT_ALLOW_OUTSIDE",
}


class Settings(BaseModel):
    """How a command reaches its server, and what else follows a fit."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    server: str | None = Field(default=None, description="address of the craft-server")
    key: SecretStr | None = Field(default=None, description="API key, as in craft_...")
    model: str | None = Field(
        default=None, description="model to ask; needed if the server has several"
    )
    timeout_s: float = Field(
        default=READ_TIMEOUT_S, gt=0, le=86_400, description="longest wait for one reply in seconds"
    )
    track: str | None = Field(
        default=None, description="tracker of a fit: tensorboard, module:callable, or none"
    )

    allow_outside: tuple[Path, ...] = Field(
        default=(), description="folders that a dataset's images may be in beside its own"
    )

    @field_validator("allow_outside", mode="before")
    @classmethod
    def _listed(cls, value: Any) -> Any:
        """A variable has several folders as PATH has them."""
        return tuple(filter(None, value.split(os.pathsep))) if isinstance(value, str) else value

    @field_validator("allow_outside")
    @classmethod
    def _absolute(cls, value: tuple[Path, ...]) -> tuple[Path, ...]:
        """A run that goes on from another working directory means the same folders."""
        return tuple(folder.expanduser().absolute() for folder in value)

    def address(self, server: str | None = None) -> str:
        """The server's address as it was given; `server` is the address if none is set."""
        return (server or DEFAULT_SERVER) if self.server is None else self.server

    def connection(self, server: str | None = None) -> Connection:
        """Address, key and time-out; `server` is the address if none is set.

        Raises:
            UsageError: there is no key.
        """
        url = self.address(server)
        if self.key is None:
            raise UsageError(
                f"no API key for {url}; give one with --key or CRAFT_API_KEY (its owner makes one "
                "with `craft-server keys create`)"
            )
        return Connection(url, self.key.get_secret_value(), self.timeout_s)


FIT_PREFIX = "CRAFT_FIT_"
"""Of variables that hold settings of a fit: CRAFT_FIT_SIGMA=0.5 is --sigma 0.5."""


@dataclass(frozen=True)
class Sources:
    """Settings of the connection, and what file and environment say of the fit."""

    settings: Settings
    fit: Mapping[str, Any] = field(default_factory=dict)
    fit_environment: Mapping[str, Any] = field(default_factory=dict)
    origins: Mapping[str, str] = field(default_factory=dict)
    """Where each setting of the connection comes from: a flag, a variable, or the file."""


def gather(
    flags: Mapping[str, Any], *, environ: Mapping[str, str], config: Path | None = None
) -> Sources:
    """Merge the three sources.

    Args:
        flags: by field of Settings; None where a flag is not given.
        environ: the process's environment; empty variables count as not set.
        config: a TOML file.

    Raises:
        UsageError: the file cannot be read, or a value is out of bounds; unknown keys of the file
            and variables are left for `craft_tuner.config.fit_config.build` to refuse.
    """
    file = read_toml(config) if config else {}
    layers = {
        f"the file {config}": {n: file[n] for n in Settings.model_fields if n in file},
        "the environment": {n: environ[v] for n, v in ENVIRONMENT.items() if environ.get(v)},
        "a flag": {name: value for name, value in flags.items() if value is not None},
    }
    mine = {name: value for layer in layers.values() for name, value in layer.items()}
    fit = {name: value for name, value in file.items() if name not in Settings.model_fields}
    try:
        settings = Settings.model_validate(mine)
        return Sources(settings, fit, _fit_settings(environ), _origins(layers))
    except ValidationError as error:
        fault = error.errors(include_input=False)[0]
        name = str(fault["loc"][0])
        origin = next(who for who in reversed(layers) if name in layers[who])
        value = "" if name == "key" else f" = {mine[name]!r}"
        raise UsageError(
            f"{name}{value} of {origin}: {fault['msg']} ({Settings.model_fields[name].description})"
            f"; set it with {_flag(name)}, {ENVIRONMENT[name]} or the file of --config"
        ) from error


def _origins(layers: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """By setting: the flag, the variable or the file that has it; the last layer wins."""
    words = {"a flag": _flag, "the environment": ENVIRONMENT.__getitem__}
    return {
        name: words[who](name) if who in words else who
        for who, layer in layers.items()
        for name in layer
    }


def _flag(name: str) -> str:
    return f"--{name.removesuffix('_s').replace('_', '-')}"


def misspellings(environ: Mapping[str, str]) -> Iterator[str]:
    """A sentence for each variable that `misspelt` finds."""
    for name, meant in misspelt(environ).items():
        yield f"{name} is no variable of craft-tuner and is not read; did you mean {meant}?"


def misspelt(environ: Mapping[str, str]) -> dict[str, str]:
    """Variables that nobody reads but that are nearly called like one: the name that is meant.

    Those of a server (CRAFT_SERVER_...) are its own, unless they are a letter away.
    """
    found = {}
    for name in environ:
        short = name.upper().removeprefix("CRAFT").lstrip("_")
        if name in _SHORT or short == name or name.upper().startswith(FIT_PREFIX):
            continue
        cutoff = 0.9 if short.startswith("SERVER_") else 0.6
        near = difflib.get_close_matches(short, _SHORT.values(), n=1, cutoff=cutoff)
        if near:
            found[name] = f"CRAFT_{near[0]}"
    return found


_SHORT = {variable: variable.removeprefix("CRAFT_") for variable in ENVIRONMENT.values()}


def _fit_settings(environ: Mapping[str, str]) -> dict[str, Any]:
    return parse_assignments(
        [
            f"{name.removeprefix(FIT_PREFIX).lower()}={value}"
            for name, value in environ.items()
            if name.startswith(FIT_PREFIX) and value
        ]
    )


def read_toml(file: Path) -> dict[str, Any]:
    """The content of a TOML file.

    Raises:
        UsageError: it cannot be read, or is not TOML.
    """
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"cannot read the configuration {file}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"the configuration {file} is not TOML: {error}") from error


def parse_assignments(assignments: list[str]) -> dict[str, Any]:
    """`--set sigma=0.5 --set bound=none` as values: TOML where it is TOML, else the text itself.

    Raises:
        UsageError: an assignment without `=`.
    """
    values: dict[str, Any] = {}
    for assignment in assignments:
        name, equals, text = (part.strip() for part in assignment.partition("="))
        if not (name and equals and text):
            raise UsageError(f"--set {assignment!r}; needed: --set NAME=VALUE, as in sigma=0.5")
        try:
            values[name] = tomllib.loads(f"value = {text}")["value"]
        except tomllib.TOMLDecodeError:
            values[name] = text
    return values
