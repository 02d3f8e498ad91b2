"""Options that several commands of `craft-tuner` share, and how they become settings."""

import os
from pathlib import Path
from typing import Annotated, Any

import typer

from craft_tuner.settings import Sources, gather

Server = Annotated[str | None, typer.Option(help="Address of the server [CRAFT_SERVER_URL]")]
Key = Annotated[str | None, typer.Option(help="API key [CRAFT_API_KEY]")]
Model = Annotated[str | None, typer.Option(help="Model to ask, if there are several [CRAFT_MODEL]")]
Timeout = Annotated[float | None, typer.Option(help="Seconds to wait for a reply")]
ConfigFile = Annotated[Path | None, typer.Option("--config", help="TOML file of settings")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON")]


def sources(config: Path | None, **flags: Any) -> Sources:
    """Settings from flags, environment and the file of --config."""
    return gather(flags, environ=os.environ, config=config)
