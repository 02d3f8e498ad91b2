"""Options and arguments that several commands of `craft-tuner` share, and settings from them."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from craft_tuner.cli.output import say
from craft_tuner.config.settings import Sources, gather, misspellings, parse_assignments
from craft_tuner.errors import UsageError

Shots = Annotated[
    str | None, typer.Option(help="Training images per class: a number, 'up to 16', or all")
]
Server = Annotated[str | None, typer.Option(help="Address of the server [CRAFT_SERVER_URL]")]
Key = Annotated[str | None, typer.Option(help="API key [CRAFT_API_KEY]")]
Model = Annotated[str | None, typer.Option(help="Model to ask, if there are several [CRAFT_MODEL]")]
Timeout = Annotated[float | None, typer.Option(help="Seconds to wait for a reply")]
ConfigFile = Annotated[Path | None, typer.Option("--config", help="TOML file of settings")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON")]
AdapterPath = Annotated[Path, typer.Argument(help="A run directory or an adapter.safetensors")]
ClassNames = Annotated[
    Path | None, typer.Option(help="File of lines `folder = class name`; default: folder names")
]
AllowOutside = Annotated[
    list[Path] | None,
    typer.Option(
        help="Folder that images may be in beside the dataset's own; repeatable "
        "[CRAFT_ALLOW_OUTSIDE]"
    ),
]
Budget = Annotated[int | None, typer.Option(help="Queries for the whole run")]
Validation = Annotated[
    str | None,
    typer.Option(
        help="Images that choices are made on: none, split, a share such as 0.2, or a folder or "
        "table"
    ),
]
Assignments = Annotated[
    list[str] | None, typer.Option("--set", help="NAME=VALUE, any setting; repeatable")
]


def sources(
    config: Path | None, *, environ: Mapping[str, str] = os.environ, **flags: Any
) -> Sources:
    """Settings from flags, environment and the file of --config."""
    for sentence in misspellings(environ):
        say(f"warning: {sentence}")
    flags = {name: value for name, value in flags.items() if value != []}
    return gather(flags, environ=environ, config=config)


def extra(arguments: list[str], *, command: str) -> dict[str, Any]:
    """Settings given as flags of their own: `--sigma 0.5`, `--head-depth=3`.

    Raises:
        UsageError: something is no flag; `command` is where flags are explained.
    """
    assignments: list[str] = []
    rest = iter(arguments)
    for argument in rest:
        name, equals, value = argument.partition("=")
        if not name.startswith("--"):
            raise UsageError(
                f"unexpected argument {argument!r}; see `craft-tuner {command} --help`"
            )
        value = value if equals else next(rest, "")
        assignments.append(f"{name.removeprefix('--').replace('-', '_')}={value}")
    return parse_assignments(assignments)
