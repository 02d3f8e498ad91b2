"""The command line: `craft-server serve | keys | usage`.

Thin: reads options, calls the part that knows, shows what comes back. Only `serve` loads a model.
Exit codes: 0 done, 1 it failed, 2 it was asked wrongly.
"""

from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from pydantic import ValidationError

from craft_server.keys import UNLIMITED, Key, Keys, Scope
from craft_server.ledger import Ledger, Lines
from craft_server.output import Form, Row, say, show, show_json, write
from craft_server.settings import ModelError, Settings
from craft_server.store import Store
from craft_server.usage_rows import By, line_rows, sum_rows
from craft_shared.errors import Code, Refusal

app = typer.Typer(
    help="A metered CLIP server: prompts in, logits out, every query counted.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
keys_app = typer.Typer(help="Who may ask, and how much.", no_args_is_help=True)
app.add_typer(keys_app, name="keys")

DatabaseUrl = Annotated[
    str | None, typer.Option(help="SQLAlchemy URL of the ledger; default: craft.db in --data-dir")
]
DataDir = Annotated[Path | None, typer.Option(help="Folder of the ledger and the image store")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON")]
KeyId = Annotated[str, typer.Argument(help="Id of the key, as `keys list` shows it", metavar="ID")]

_TIME_FORMATS = ["%Y-%m-%d", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%dT%H:%M:%S%z"]
Moment = Annotated[
    datetime | None,
    typer.Option(formats=_TIME_FORMATS, metavar="TIME", help="2030-01-31T18:00:00Z, or a day"),
]


def main() -> None:
    """Run the command line; a failure is one sentence and an exit code."""
    try:
        app()
    except Refusal as refusal:
        if refusal.code is Code.NOT_READY:
            cause = getattr(refusal.__cause__, "orig", None) or refusal.detail
            _stop(f"the database does not answer: {cause}", 1)
        _stop(refusal.detail, 2)
    except (ModelError, OSError) as error:
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
    settings = _settings(
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


@keys_app.command("create")
def create_key(  # noqa: PLR0913 - one parameter per option
    *,
    owner: Annotated[str, typer.Option(help="Whom it belongs to; an owner's keys share images")],
    queries: Annotated[int, typer.Option(help="Queries (prompts) that it may buy")],
    logit_vectors: Annotated[
        int | None, typer.Option(help="Logit vectors (prompts x images) that it may buy")
    ] = None,
    scope: Annotated[list[Scope] | None, typer.Option(help="Repeatable; default: all")] = None,
    expires_at: Moment = None,
    as_json: AsJson = False,
    data_dir: DataDir = None,
    database_url: DatabaseUrl = None,
) -> None:
    """Mint a key and show it, this once."""
    with closing(_store(data_dir, database_url)) as store:
        minted = Keys(store).create(
            owner,
            queries,
            logit_vectors_limit=logit_vectors,
            scopes=scope or tuple(Scope),
            expires_at=expires_at,
        )
        row = _describe(minted.key, Ledger(store))
    if as_json:
        show_json(row | {"key": minted.token})
    else:
        say(f"{minted.key.id} for {owner}: keep it safe, it is never shown again")
        typer.echo(minted.token)


@keys_app.command("list")
def list_keys(
    *, as_json: AsJson = False, data_dir: DataDir = None, database_url: DatabaseUrl = None
) -> None:
    """Show every key, what it may do and where its budget stands."""
    with closing(_store(data_dir, database_url)) as store:
        rows = [_describe(key, Ledger(store)) for key in Keys(store).all()]
    show(rows, as_json=as_json)


@keys_app.command("set-budget")
def set_budget(
    key_id: KeyId,
    *,
    queries: Annotated[int | None, typer.Option(help="New limit on queries")] = None,
    logit_vectors: Annotated[
        str | None, typer.Option(help="New limit on logit vectors, or `unlimited`")
    ] = None,
    data_dir: DataDir = None,
    database_url: DatabaseUrl = None,
) -> None:
    """Change the limits of a key, down to what it has used and holds."""
    if queries is None and logit_vectors is None:
        raise ValueError("nothing to change: give --queries, --logit-vectors or both")
    vectors = None if logit_vectors is None else _limit(logit_vectors)
    with closing(_store(data_dir, database_url)) as store:
        Keys(store).set_budget(key_id, queries_limit=queries, logit_vectors_limit=vectors)
        budgets = Ledger(store).budgets(key_id)
    say(f"{key_id} has {budgets.queries.remaining} of {budgets.queries.limit} queries left")


@keys_app.command("revoke")
def revoke_key(
    key_id: KeyId, *, data_dir: DataDir = None, database_url: DatabaseUrl = None
) -> None:
    """Refuse a key from now on; requests in flight are finished."""
    with closing(_store(data_dir, database_url)) as store:
        key = Keys(store).revoke(key_id)
    say(f"{key.id} of {key.owner} is revoked")


@app.command()
def usage(  # noqa: PLR0913 - one parameter per option
    *,
    by: Annotated[By, typer.Option(help="A sum for each of these")] = "key",
    events: Annotated[
        bool, typer.Option("--events", help="The lines of the ledger in place of sums")
    ] = False,
    key: Annotated[str | None, typer.Option(help="Only this key, by its id")] = None,
    tag: Annotated[str | None, typer.Option(help="Only calls with this tag, as in fitness")] = None,
    run: Annotated[str | None, typer.Option(help="Only calls of this run of a tuner")] = None,
    since: Moment = None,
    until: Moment = None,
    export: Annotated[
        Form | None, typer.Option(help="For other programs; json has the audit too")
    ] = None,
    output: Annotated[Path | None, typer.Option(help="File to export to")] = None,
    data_dir: DataDir = None,
    database_url: DatabaseUrl = None,
) -> None:
    """Show what was bought, and whether the ledger agrees with the counters (1 if it does not)."""
    if output is not None and export is None:
        raise ValueError("--output needs --export csv, json or ndjson")
    lines = Lines(since=since, until=until, tag=tag, run=run)
    with closing(_store(data_dir, database_url)) as store:
        ledger, every = Ledger(store), Keys(store).all()
        found = [one for one in every if key in {None, one.id}]
        if key is not None and not found:
            raise ValueError(f"no key has the id {key!r}")
        sums = sum_rows(ledger, found, lines, by=by, key_id=key)
        rows = line_rows(ledger, found, lines) if events else sums
        faults = [fault._asdict() for fault in ledger.audit()]
        if export is None:
            show(rows)
        else:
            write(rows, export, output, name="events" if events else "usage", audit=faults)
    for fault in faults:
        say("AUDIT: {key_id} counts {counted} {counter}, its rows say {summed}".format(**fault))
    if faults:
        raise typer.Exit(1)
    say("audit: ledger == used for every key")


# --- what stands behind the options -------------------------------------------------------------


def _settings(**options: Any) -> Settings:
    return Settings(**{name: value for name, value in options.items() if value is not None})


def _store(data_dir: Path | None, database_url: str | None) -> Store:
    settings = _settings(data_dir=data_dir, database_url=database_url)
    return Store(settings.resolved_database_url)


def _limit(text: str) -> int | Literal["unlimited"]:
    if text == UNLIMITED:
        return UNLIMITED
    if not text.isdecimal():
        raise ValueError(f"--logit-vectors {text!r} is neither a whole number nor `unlimited`")
    return int(text)


# --- rows ---------------------------------------------------------------------------------------


def _describe(key: Key, ledger: Ledger) -> Row:
    budgets = ledger.budgets(key.id)
    vectors = budgets.logit_vectors
    return {
        "id": key.id,
        "owner": key.owner,
        "state": _state(key),
        "queries_limit": budgets.queries.limit,
        "queries_used": budgets.queries.used,
        "queries_held": budgets.queries.held,
        "logit_vectors_limit": None if vectors is None else vectors.limit,
        "scopes": list(key.scopes),
        "created_at": key.created_at.isoformat(timespec="seconds"),
        "expires_at": key.expires_at and key.expires_at.isoformat(timespec="seconds"),
    }


def _state(key: Key) -> str:
    if key.revoked_at is not None:
        return "revoked"
    expired = key.expires_at is not None and key.expires_at <= datetime.now(UTC)
    return "expired" if expired else "active"


# --- failures -----------------------------------------------------------------------------------


def _sentence(error: ValueError) -> str:
    if not isinstance(error, ValidationError):
        return str(error)
    from craft_shared.wire import refuse_invalid  # noqa: PLC0415 - loads numpy, for this alone

    return refuse_invalid(error).detail


def _stop(sentence: str, code: int) -> None:
    say(f"craft-server: {sentence}")
    raise SystemExit(code)
