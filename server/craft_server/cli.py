"""The command line: `craft-server serve | keys | usage`.

Thin: reads options, calls the part that knows, shows what comes back. Only `serve` loads a model.
Exit codes: 0 done, 1 it failed, 2 it was asked wrongly.
"""

from collections.abc import Iterable, Iterator
from contextlib import closing
from typing import Annotated

import typer
from pydantic import ValidationError

from craft_server import cli_db, cli_keys
from craft_server.cli_options import AsJson, DatabaseUrl, DataDir, open_store, settings_of
from craft_server.identity import Key
from craft_server.keys import Keys
from craft_server.ledger import Ledger
from craft_server.output import Row, say, show, show_json
from craft_server.schema import SchemaError
from craft_server.settings import ModelError
from craft_shared.errors import Code, Refusal

app = typer.Typer(
    help="A metered CLIP server: prompts in, logits out, every query counted.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(cli_keys.app, name="keys")
app.add_typer(cli_db.app, name="db")


def main() -> None:
    """Run the command line; a failure is one sentence and an exit code."""
    try:
        app()
    except Refusal as refusal:
        if refusal.code is Code.NOT_READY:
            cause = getattr(refusal.__cause__, "orig", None) or refusal.detail
            _stop(f"the database does not answer: {cause}", 1)
        _stop(refusal.detail, 2)
    except (ModelError, SchemaError, OSError) as error:
        _stop(str(error), 1)
    except ValueError as error:
        _stop(_sentence(error), 2)


@app.command()
def serve(  # noqa: PLR0913 - one parameter per option
    *,
    host: Annotated[str | None, typer.Option(help="Address to listen on")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on")] = None,
    model: Annotated[
        str | None, typer.Option(help="`embedded`, an open_clip name, or the path of a config")
    ] = None,
    pretrained: Annotated[
        str | None, typer.Option(help="open_clip tag, or the path of a checkpoint")
    ] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda, cuda:N or mps")] = None,
    precision: Annotated[
        str | None, typer.Option(help="float32, float16 or bfloat16: arithmetic of the model")
    ] = None,
    data_dir: DataDir = None,
    database_url: DatabaseUrl = None,
) -> None:
    """Serve a model until SIGTERM; what is not given here comes from CRAFT_SERVER_* or defaults."""
    settings = settings_of(
        host=host,
        port=port,
        model=model,
        pretrained=pretrained,
        device=device,
        precision=precision,
        data_dir=data_dir,
        database_url=database_url,
    )
    from craft_server import app as server  # noqa: PLC0415 - the other commands load no server

    server.serve(settings)


@app.command()
def usage(
    *,
    key: Annotated[str | None, typer.Option(help="Only this key, by its id")] = None,
    events: Annotated[bool, typer.Option("--events", help="The ledger line by line")] = False,
    as_json: AsJson = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV")] = False,
    data_dir: DataDir = None,
    database_url: DatabaseUrl = None,
) -> None:
    """Show what every key has bought, and whether the ledger agrees with the counters."""
    with closing(open_store(data_dir, database_url)) as store:
        ledger = Ledger(store)
        found = [one for one in Keys(store).all() if key in {None, one.id}]
        if key is not None and not found:
            raise ValueError(f"no key has the id {key!r}")
        rows = _events(found, ledger) if events else _totals(found, ledger)
        faults = [fault._asdict() for fault in ledger.audit()]
        if as_json:
            name = "events" if events else "keys"
            show_json({name: list(rows), "audit": faults})
        else:
            show(rows, as_csv=as_csv)
    for fault in faults:
        say("AUDIT: {key_id} counts {counted} {counter}, its rows say {summed}".format(**fault))
    if faults:
        raise typer.Exit(1)
    say("audit: ledger == used for every key")


# --- rows ---------------------------------------------------------------------------------------


def _totals(keys: Iterable[Key], ledger: Ledger) -> Iterator[Row]:
    totals = ledger.totals()
    nothing = dict.fromkeys(("queries", "calls", "logit_vectors", "texts"), 0)
    for key in keys:
        budget = ledger.budgets(key.id).queries
        counters = totals[key.id].model_dump() if key.id in totals else nothing
        left = {"queries_limit": budget.limit, "queries_remaining": budget.remaining}
        yield {"key": key.id, "owner": key.owner, **counters, **left}


def _events(keys: Iterable[Key], ledger: Ledger) -> Iterator[Row]:
    for key in keys:
        after: int | None = 0
        while after is not None:
            page = ledger.events(key.id, after=after)
            for event in page.events:
                yield {"key": key.id, **event.model_dump(mode="json")}
            after = page.next


# --- failures -----------------------------------------------------------------------------------


def _sentence(error: ValueError) -> str:
    if not isinstance(error, ValidationError):
        return str(error)
    from craft_shared.wire import refuse_invalid  # noqa: PLC0415 - loads numpy, for this alone

    return refuse_invalid(error).detail


def _stop(sentence: str, code: int) -> None:
    say(f"craft-server: {sentence}")
    raise SystemExit(code)
