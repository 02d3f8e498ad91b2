"""Options that several commands have, and what they open."""

from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import typer

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
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON")]


def settings_of(**options: Any) -> Settings:
    """The settings of the environment, with the options that were given instead."""
    return Settings(**{name: value for name, value in options.items() if value is not None})


def open_store(data_dir: Path | None, database_url: str | None) -> Store:
    """The store that the options and the environment name."""
    settings = settings_of(data_dir=data_dir, database_url=database_url)
    return Store(settings.resolved_database_url, migrate=settings.migrate)
