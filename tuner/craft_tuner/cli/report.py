"""`craft-tuner report`: a page of runs. Thin, as `main.py` is; no server is asked."""

from pathlib import Path
from typing import Annotated

import typer

from craft_tuner.cli.options import AllowOutside, sources
from craft_tuner.cli.output import give

EXAMPLES = """\b
Examples:
  craft-tuner report runs/first
  craft-tuner report runs/* --out comparison.html
  craft-tuner report runs/old runs/new --data photos/
"""


def report(
    runs: Annotated[
        list[Path], typer.Argument(metavar="RUN...", help="Directories of fits, finished or not")
    ],
    *,
    out: Annotated[
        Path | None,
        typer.Option(help="File to write; default: RUN/report.html, of several: report.html"),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(help="The runs' --data: pictures of examples of which a run kept none"),
    ] = None,
    allow_outside: AllowOutside = None,
) -> None:
    """Write one HTML page that compares runs; it needs no network and nothing beside it.

    A verdict, accuracies and costs, curves, calibration, classes, images gained, lost and left
    wrong, confusion, settings with what differs. Asks no server and changes no run, so a run may
    still be at work.
    """
    from craft_tuner.data.sources import read_dataset
    from craft_tuner.report import compare

    allowed = sources(None, allow_outside=allow_outside).settings.allow_outside
    items = read_dataset(data, outside=allowed).test if data else ()
    pictures = {item.picture.name: item.picture for item in items}
    give(compare(runs, out, pictures=pictures))
