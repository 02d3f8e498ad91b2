"""The command line: `craft-server serve | check | keys | usage | db`.

Thin: reads options, calls the part that knows, shows what comes back. Only `serve` loads a model.
"""

import importlib.metadata
from typing import Annotated

import typer
from pydantic import ValidationError

from craft_server.cli import db as cli_db
from craft_server.cli import examples as cli_examples
from craft_server.cli import keys as cli_keys
from craft_server.cli.check import check
from craft_server.cli.console import Commands, say
from craft_server.cli.options import (
    DatabaseUrl,
    DataDir,
    Device,
    Host,
    Model,
    Port,
    Precision,
    Pretrained,
    PretrainedLike,
    settings_of,
)
from craft_server.cli.usage import usage
from craft_server.db.schema import SchemaError
from craft_server.db.store import StoreDown
from craft_server.settings import ModelError
from craft_shared.errors import Refusal

_EXIT_CODES = """\b
Exit codes:
  0 done
  1 it failed; of check: something would keep a server from serving
  2 options, settings or what was asked cannot be meant
  3 nothing can listen there, or the server could not start
"""

app = typer.Typer(
    cls=Commands,
    epilog=_EXIT_CODES,
    help="A metered CLIP server: prompts in, logits out, every query counted.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
app.add_typer(cli_keys.app, name="keys")
app.add_typer(cli_db.app, name="db")
app.command(epilog=cli_examples.CHECK)(check)
app.command(epilog=cli_examples.USAGE)(usage)


def main() -> None:
    """Run the command line; a failure is one sentence and an exit code."""
    try:
        app()
    except Refusal as refusal:
        if isinstance(refusal, StoreDown):
            _stop(f"the database does not answer: {refusal.reason}", 1)
        _stop(refusal.detail, 2)
    except (ModelError, SchemaError, OSError) as error:
        _stop(str(error), 1)
    except ValueError as error:
        _stop(_sentence(error), 2)


def _show_version(asked: bool) -> None:  # noqa: FBT001 - as typer calls it
    if asked:
        typer.echo(f"craft-server {importlib.metadata.version('craft-blackbox')}")
        raise typer.Exit


@app.callback()
def options(
    *,
    version: Annotated[
        bool,
        typer.Option("--version", help="Show the version", callback=_show_version, is_eager=True),
    ] = False,
) -> None:
    """What can be asked without a command."""


@app.command(epilog=cli_examples.SERVE)
def serve(
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
) -> None:
    """Serve a model until SIGTERM; what is not given here comes from CRAFT_SERVER_* or defaults."""
    settings = settings_of(
        host=host,
        port=port,
        model=model,
        pretrained=pretrained,
        pretrained_like=pretrained_like,
        device=device,
        precision=precision,
        data_dir=data_dir,
        database_url=database_url,
    )
    from craft_server import app as server

    server.serve(settings)


# --- failures -----------------------------------------------------------------------------------


def _sentence(error: ValueError) -> str:
    if not isinstance(error, ValidationError):
        return str(error)
    from craft_shared.wire import refuse_invalid

    return refuse_invalid(error).detail


def _stop(sentence: str, code: int) -> None:
    say(f"craft-server: {sentence}")
    raise SystemExit(code)
