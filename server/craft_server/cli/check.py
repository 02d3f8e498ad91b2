"""`craft-server check`: what would keep `serve` from serving, and what to do about it."""

import os
from collections.abc import Iterator
from typing import Annotated, Any

import typer
from pydantic import ValidationError

from craft_server.checks.findings import Check, Finding
from craft_server.cli.console import say, show_json
from craft_server.cli.options import (
    AsJson,
    DatabaseUrl,
    DataDir,
    Device,
    Host,
    Model,
    Port,
    Precision,
    Pretrained,
    PretrainedLike,
    misspelt,
)
from craft_server.settings import Settings

Load = Annotated[
    bool, typer.Option("--load", help="Load the model too, and score one image on one text")
]


def check(
    *,
    host: Host = None,
    port: Port = None,
    model: Model = None,
    pretrained: Pretrained = None,
    pretrained_like: PretrainedLike = None,
    device: Device = None,
    precision: Precision = None,
    data_dir: DataDir = None,
    database_url: DatabaseUrl = None,
    load: Load = False,
    as_json: AsJson = False,
) -> None:
    """Try all that `serve` needs, with the same options and variables, and change nothing.

    A line for each finding: ok, warn or fail, what was found, and what to do. The exit code is 1 if
    one is a fail, with which `serve` would not serve.
    """
    given = {
        "host": host,
        "port": port,
        "model": model,
        "pretrained": pretrained,
        "pretrained_like": pretrained_like,
        "device": device,
        "precision": precision,
        "data_dir": data_dir,
        "database_url": database_url,
    }
    given = {name: each for name, each in given.items() if each is not None}
    found = []
    for finding in _findings(given, load=load):
        found.append(finding)
        if not as_json:
            typer.echo(finding.line)
    if as_json:
        show_json([finding._asdict() for finding in found])
    count = {state: sum(each.state == state for each in found) for state in ("fail", "warn")}
    say(f"{len(found)} findings: {count['fail']} fail, {count['warn']} warn")
    raise typer.Exit(1 if count["fail"] else 0)


def _findings(given: dict[str, Any], *, load: bool) -> Iterator[Finding]:
    """Those of the variables and settings, then all others if there are settings."""
    settings, check = _settings(given)
    yield from check.findings
    if settings is not None:
        from craft_server.checks.screen import findings

        yield from findings(settings, load=load)


def _settings(given: dict[str, Any]) -> tuple[Settings | None, Check]:
    """The settings, with the default for each that is out of range; None if they cannot be read."""
    check = Check("settings")
    for sentence in misspelt(os.environ):
        check.warn(*sentence.split("; ", 1))
    while True:
        try:
            settings = Settings(**given)
        except ValidationError as error:
            fault = error.errors(include_url=False)[0]
            name = str(fault["loc"][0])
            check.fail(
                f"{name}: {fault['msg']}, got {fault['input']!r}",
                f"CRAFT_SERVER_{name.upper()} is in docs/reference/settings.md",
            )
            given = given | {name: Settings.model_fields[name].default}
        except ValueError as error:  # a variable that is no JSON where a list is wanted
            check.fail(" ".join(str(error).split()), "see docs/reference/settings.md")
            return None, check
        else:
            if not check.findings:
                check.ok("the settings can be read")
            return settings, check
