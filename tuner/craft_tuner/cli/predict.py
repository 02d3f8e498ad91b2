"""The command line of `craft-tuner predict`. Thin, as `main.py` is."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from craft_tuner.cli.options import (
    AdapterPath,
    AllowOutside,
    ConfigFile,
    Key,
    Model,
    Server,
    Timeout,
    sources,
)
from craft_tuner.errors import UsageError

EXAMPLES = """\b
Examples:
  craft-tuner predict runs/first cat.jpg dog.jpg
  craft-tuner predict adapter.safetensors photos/ --format csv --out labels.csv
  find /data -name '*.jpg' | craft-tuner predict runs/first - --top 3
  craft-tuner predict runs/first photos/ --batch 500 --out labels.jsonl --resume
"""


def predict(
    adapter: AdapterPath,
    images: Annotated[
        list[Path],
        typer.Argument(help="Image files, folders of them, `-`: paths on standard input"),
    ],
    *,
    out: Annotated[
        Path | None, typer.Option(help="File to write; default: standard output")
    ] = None,
    form: Annotated[
        Literal["jsonl", "csv"], typer.Option("--format", help="Lines of JSON, or CSV")
    ] = "jsonl",
    top: Annotated[int, typer.Option(min=1, help="Classes to name, likeliest first")] = 1,
    batch: Annotated[
        int | None,
        typer.Option(min=1, help="Images a batch; default: as many as the server takes"),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Keep the lines of --out, ask for the rest")
    ] = False,
    anyway: Annotated[
        bool, typer.Option("--anyway", help="Begin even if the key may not pay for all")
    ] = False,
    allow_outside: AllowOutside = None,
    server: Server = None,
    key: Key = None,
    model: Model = None,
    timeout: Timeout = None,
    config: ConfigFile = None,
) -> None:
    """Classify images with an adapter; says what it costs before it asks.

    A batch costs one query for each prompt of the adapter and is written as soon as it is answered.
    Asking again costs nothing. Images that cannot be used are named and counted (exit code 2), and
    the others go on.
    """
    from craft_tuner.commands import predict as classify
    from craft_tuner.inference.writer import AnswerWriter

    if resume and out is None:
        raise UsageError("--resume goes on with the file of --out; give both")
    found = sources(
        config,
        server=server,
        key=key,
        model=model,
        timeout_s=timeout,
        allow_outside=allow_outside,
    )
    writer = AnswerWriter(out, form, top=top, resume=resume)
    classify.predict(adapter, images, found.settings, writer=writer, batch=batch, anyway=anyway)
