"""The command line of `craft-tuner export`. Thin, as `main.py` is."""

from pathlib import Path
from typing import Annotated

import typer

from craft_tuner.activity import doing
from craft_tuner.cli.output import give

EXAMPLES = """\b
Examples:
  craft-tuner export runs/first --out flowers-adapter
"""


def export(
    run: Annotated[Path, typer.Argument(help="A run directory")],
    *,
    out: Annotated[Path, typer.Option(help="Folder to write to; made if it is not there")],
) -> None:
    """Write a run's adapter with a model card: what it is for, how good it is, how to use it.

    The folder has adapter.safetensors, adapter.json and README.md, and nothing of the server, the
    key or this machine. An unfinished run is exported as far as it came, and its card says so.
    """
    from craft_tuner.report import export as exporting

    with doing("writing the adapter with its card"):
        files = exporting.export(run, out)
    for file in files:
        give(str(file))
