"""Options that several commands have, and what they open."""

import difflib
import os
import re
from collections.abc import Iterable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from craft_server.cli.console import say
from craft_server.db.store import Store
from craft_server.settings import Settings

DatabaseUrl = Annotated[
    str | None, typer.Option(help="SQLAlchemy URL of the ledger; default: craft.db in --data-dir")
]
DataDir = Annotated[Path | None, typer.Option(help="Folder of the ledger and the image store")]
Moment = Annotated[
    datetime | None,
    typer.Option(
        formats=["%Y-%m-%d", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%dT%H:%M:%S%z"],
        metavar="TIME",
        help="2030-01-31T18:00:00Z, or a day",
    ),
]
Host = Annotated[str | None, typer.Option(help="Address to listen on")]
Port = Annotated[int | None, typer.Option(help="Port to listen on")]
Model = Annotated[
    str | None, typer.Option(help="`embedded`, an open_clip name, or the path of a config")
]
Pretrained = Annotated[str | None, typer.Option(help="open_clip tag, or the path of a checkpoint")]
PretrainedLike = Annotated[
    str | None, typer.Option(help="open_clip tag whose checkpoint that file is")
]
Device = Annotated[str | None, typer.Option(help="auto, cpu, cuda, cuda:N or mps")]
Precision = Annotated[
    str | None, typer.Option(help="float32, float16 or bfloat16: arithmetic of the model")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON")]


_PREFIX = "CRAFT_SERVER_"
_OF_OTHERS = re.compile(r"URL|SERVICE_(HOST|PORT\w*)|PORT_\d+_\w+")
"""Variables that the tuner reads, or that Kubernetes sets for a service called craft-server."""


def settings_of(**options: Any) -> Settings:
    """The settings of the environment, with the options that were given instead.

    Variables that look like settings and are none are named on standard error.
    """
    for sentence in misspelt(os.environ):
        say(f"craft-server: {sentence}")
    return Settings(**{name: value for name, value in options.items() if value is not None})


def open_store(settings: Settings) -> Store:
    """The store that the settings name; one that is made anew is said to be."""
    store = Store(settings.resolved_database_url, migrate=settings.migrate)
    if store.made:
        say(
            f"a new database was made: {store.place}; "
            "a server uses it only with the same --data-dir or --database-url"
        )
    return store


def misspelt(variables: Iterable[str]) -> Iterator[str]:
    """A sentence for each variable that is called like a setting, and is none."""
    known = [name.upper() for name in Settings.model_fields]
    for variable in sorted(variables):
        name = variable.upper().removeprefix(_PREFIX)
        if name in known or not variable.upper().startswith(_PREFIX) or _OF_OTHERS.fullmatch(name):
            continue
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {_PREFIX}{near[0]}?" if near else "docs/reference/settings.md has all"
        yield f"{variable} is no setting and changes nothing; {hint}"
