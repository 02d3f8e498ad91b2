"""The command that asks for a run again, from what its directory knows; no server and no key.

Owns what of the settings has to be said: those that differ from the defaults of the same preset and
method. Paths below the working directory are said from there, below the home directory with ~.
"""

import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from craft_tuner.config.fit_config import build
from craft_tuner.config.settings import parse_assignments
from craft_tuner.config.validation import NONE
from craft_tuner.data.sources import COOP, DIGITS, HUB
from craft_tuner.errors import UsageError
from craft_tuner.report.read import RunRecord

_BASE = ("preset", "paper_exact", "method")
_FIRST = (*_BASE, "shots", "seed", "budget", "validation")
"""Options of their own, whose values are no TOML."""


def command(run: RunRecord) -> str | None:
    """`craft-tuner fit ...` in one line; None where the run was started by another program."""
    data = run.setup.get("data")
    if not data:
        return None
    words = ["craft-tuner", "fit", "--data", _source(str(data))]
    if names := run.setup.get("class_names"):
        words += ["--class-names", _path(str(names))]
    if model := run.setup.get("model"):
        words += ["--model", shlex.quote(str(model))]
    for folder in run.setup.get("allow_outside", ()):
        words += ["--allow-outside", _path(str(folder))]
    for name, value in _said({**run.config, "validation": run.validation or NONE}).items():
        words += _flag(name, value)
    place = _path(str(run.path.resolve()))
    words += ["--run", run.name if place.startswith(("/", "~", "'/")) else place]
    return " ".join(words)


def _said(config: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that have to be given, the usual ones first."""
    base = {name: config[name] for name in _BASE if config.get(name)}
    try:
        usual = {"validation": NONE, **build(base).model_dump(mode="json")}
    except UsageError:  # a method or a preset of a package that is not here
        usual = {}
    differing = {
        name: value
        for name, value in config.items()
        if name in base or (name in usual and usual[name] != value)
    }
    first = {
        name: config[name] for name in _FIRST if name in config and (name in differing or not usual)
    }
    return first | ({"shots": config["shots"]} if "shots" in config else {}) | differing


def _flag(name: str, value: Any) -> list[str]:
    if name == "paper_exact":
        return ["--paper-exact"]
    if value is None and name in _FIRST:
        return []
    if name == "validation" and Path(value).is_absolute():
        place = _path(value)
        return ["--validation", place if place.startswith(("/", "~", "'/")) else f"./{place}"]
    said = "none" if value is None else str(value) if name in _FIRST else _typed(value)
    return [f"--{name.replace('_', '-')}", shlex.quote(said)]


def _typed(value: Any) -> str:
    """As a flag is read: TOML, or text that is none (`parse_assignments`)."""
    text = value if isinstance(value, str) else json.dumps(value)
    same = text.strip() and parse_assignments([f"v={text}"])["v"] == value
    return text if same else json.dumps(value)


def _source(source: str) -> str:
    if source.startswith(COOP):
        name, _, root = source.partition("@")
        return f"{shlex.quote(name)}@{_path(root)}" if root else shlex.quote(name)
    if source.startswith(HUB) or source == DIGITS:
        return shlex.quote(source)
    return _path(source)


def _path(path: str) -> str:
    """Quoted for a shell."""
    place = Path(path)
    if place.is_relative_to(here := Path.cwd()):
        return shlex.quote(str(place.relative_to(here)))
    if place.is_relative_to(home := Path.home()) and place != home:
        return f"~/{shlex.quote(str(place.relative_to(home)))}"
    return shlex.quote(path)
