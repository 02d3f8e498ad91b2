"""`craft-server keys ...`: the owner's side of keys, over the same service as /v1/admin."""

from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Annotated

import typer

from craft_server.accounts.identity import UNLIMITED, Scope
from craft_server.accounts.keys import account
from craft_server.admin import Administration
from craft_server.cli import examples as cli_examples
from craft_server.cli.console import Commands, Row, say, show, show_json
from craft_server.cli.options import (
    AsJson,
    DatabaseUrl,
    DataDir,
    Moment,
    open_store,
    settings_of,
)
from craft_server.db.tables import LIMITS
from craft_shared.admin import (
    FieldChange,
    KeyChange,
    KeyRecord,
    KeyRequest,
    MintedKey,
    PolicyRequest,
)
from craft_shared.messages import Budgets

app = typer.Typer(
    cls=Commands, help="Who may ask, and how much.", no_args_is_help=True, rich_markup_mode=None
)

_OR = "NUMBER|unlimited"

KeyId = Annotated[str, typer.Argument(help="Id of the key, as `keys list` shows it", metavar="ID")]
Scopes = Annotated[
    list[str] | None, typer.Option("--scope", help="Repeatable; default: all but admin")
]
VectorsLimit = Annotated[
    str | None, typer.Option(help="Logit vectors (prompts x images) that it may buy", metavar=_OR)
]
TextsLimit = Annotated[
    str | None,
    typer.Option(help="Texts (prompts x class names) that it may ask about", metavar=_OR),
]
LogitsLimit = Annotated[
    str | None, typer.Option(help="Logits (numbers told) that it may buy", metavar=_OR)
]
PolicyText = Annotated[
    str | None,
    typer.Option(
        "--policy",
        metavar="JSON",
        help="What else it may do, or @FILE: "
        """'{"prompt_kinds": ["text"], "output": {"kind": "top_k", "k": 5}}'""",
    ),
]


@app.command("create", epilog=cli_examples.KEYS_CREATE)
def create_key(
    *,
    owner: Annotated[str, typer.Option(help="Whom it belongs to; an owner's keys share images")],
    queries: Annotated[int, typer.Option(help="Queries (prompts) that it may buy")],
    logit_vectors: VectorsLimit = None,
    texts: TextsLimit = None,
    logits: LogitsLimit = None,
    scope: Scopes = None,
    expires_at: Moment = None,
    policy: PolicyText = None,
    as_json: AsJson = False,
    data_dir: DataDir = None,
    database_url: DatabaseUrl = None,
) -> None:
    """Mint a key and show it, this once."""
    request = {
        "owner": owner,
        "queries_limit": queries,
        **_limits(logit_vectors=logit_vectors, texts=texts, logits=logits),
        "scopes": scope or None,
        "expires_at": expires_at,
        "policy": _policy(policy),
    }
    given = {name: value for name, value in request.items() if value is not None}
    with _administration(data_dir, database_url) as admin:
        minted = admin.create(KeyRequest.model_validate(given))
        _show_minted(minted, admin.place, as_json=as_json)


@app.command("create-admin", epilog=cli_examples.KEYS_CREATE_ADMIN)
def create_admin_key(
    *,
    owner: Annotated[str, typer.Option(help="Who administers; named in the audit log by its id")],
    expires_at: Moment = None,
    as_json: AsJson = False,
    data_dir: DataDir = None,
    database_url: DatabaseUrl = None,
) -> None:
    """Mint a key for /v1/admin, which can do nothing else; only this command makes one."""
    with _administration(data_dir, database_url) as admin:
        minted = admin.create_admin(owner, expires_at=expires_at)
        _show_minted(minted, admin.place, as_json=as_json)


@app.command("list", epilog=cli_examples.KEYS_LIST)
def list_keys(
    *,
    owner: Annotated[str | None, typer.Option(help="Only this owner's")] = None,
    as_json: AsJson = False,
    data_dir: DataDir = None,
    database_url: DatabaseUrl = None,
) -> None:
    """Show every key, what it may do and where its budget stands."""
    with _administration(data_dir, database_url) as admin:
        show((_row(record) for record in _all(admin, owner)), as_json=as_json)


@app.command("set-budget", epilog=cli_examples.KEYS_SET_BUDGET)
def set_budget(
    key_id: KeyId,
    *,
    queries: Annotated[int | None, typer.Option(help="New limit on queries")] = None,
    logit_vectors: VectorsLimit = None,
    texts: TextsLimit = None,
    logits: LogitsLimit = None,
    data_dir: DataDir = None,
    database_url: DatabaseUrl = None,
) -> None:
    """Change the limits of a key, down to what it has used and holds."""
    given = _limits(logit_vectors=logit_vectors, texts=texts, logits=logits)
    if queries is not None:
        given["queries_limit"] = queries
    if not given:
        raise ValueError("nothing to change: give --queries, --logit-vectors, --texts or --logits")
    with _administration(data_dir, database_url) as admin:
        record = admin.change(key_id, KeyChange.model_validate(given))
    say(f"{key_id} has left: {_left(record.budgets)}")


@app.command("change", epilog=cli_examples.KEYS_CHANGE)
def change_key(
    key_id: KeyId,
    *,
    scope: Annotated[
        list[str] | None, typer.Option("--scope", help="Repeatable: all that it may do")
    ] = None,
    expires_at: Annotated[
        str | None, typer.Option(metavar="TIME", help="2030-01-31T18:00:00Z, a day, or `never`")
    ] = None,
    policy: PolicyText = None,
    data_dir: DataDir = None,
    database_url: DatabaseUrl = None,
) -> None:
    """Change what a key may do, from its next request on; a policy replaces the whole policy."""
    wanted = {"scopes": scope or None, "expires_at": expires_at, "policy": _policy(policy)}
    given = {name: value for name, value in wanted.items() if value is not None}
    if not given:
        raise ValueError("nothing to change: give --scope, --expires-at or --policy")
    with _administration(data_dir, database_url) as admin:
        record = admin.change(key_id, KeyChange.model_validate(given))
    say(f"{key_id} of {record.owner} is changed: {', '.join(given)}")


@app.command("rotate", epilog=cli_examples.KEYS_ROTATE)
def rotate_key(
    key_id: KeyId,
    *,
    grace: Annotated[
        float, typer.Option(help="Seconds for which the old token still works", min=0)
    ] = 0,
    as_json: AsJson = False,
    data_dir: DataDir = None,
    database_url: DatabaseUrl = None,
) -> None:
    """Give a key a new token and show it, this once; budget, images and purchases stay."""
    with _administration(data_dir, database_url) as admin:
        _show_minted(admin.rotate(key_id, grace_s=grace), admin.place, as_json=as_json)


@app.command("revoke", epilog=cli_examples.KEYS_REVOKE)
def revoke_key(
    key_id: KeyId, *, data_dir: DataDir = None, database_url: DatabaseUrl = None
) -> None:
    """Refuse a key from now on; requests in flight are finished."""
    with _administration(data_dir, database_url) as admin:
        record = admin.revoke(key_id)
    say(f"{record.id} of {record.owner} is revoked")


@app.command("log", epilog=cli_examples.KEYS_LOG)
def log(
    *,
    key: Annotated[str | None, typer.Option(help="Only what was done to this key")] = None,
    as_json: AsJson = False,
    data_dir: DataDir = None,
    database_url: DatabaseUrl = None,
) -> None:
    """Show the audit log: who minted, changed, rotated or revoked which key, and when."""
    with _administration(data_dir, database_url) as admin:
        show(_acts(admin, key), as_json=as_json)


# --- what stands behind the options -------------------------------------------------------------


@contextmanager
def _administration(data_dir: Path | None, database_url: str | None) -> Iterator[Administration]:
    settings = settings_of(data_dir=data_dir, database_url=database_url)
    with closing(open_store(settings)) as store:
        yield Administration(store, actor=account(), defaults=settings.default_limits)


def _policy(text: str | None) -> PolicyRequest | None:
    if text is None:
        return None
    if text.startswith("@"):
        text = Path(text[1:]).read_text()
    return PolicyRequest.model_validate_json(text)


def _limits(**texts: str | None) -> Row:
    """Those that are given, as messages name them."""
    return {f"{name}_limit": _limit(name, text) for name, text in texts.items() if text is not None}


def _limit(name: str, text: str) -> int | str:
    if text != UNLIMITED and not text.isdecimal():
        option = name.replace("_", "-")
        raise ValueError(f"--{option} {text!r} is neither a whole number nor `unlimited`")
    return text if text == UNLIMITED else int(text)


def _left(budgets: Budgets) -> str:
    """What remains of each limit, and which counters have none."""
    stands = {name: getattr(budgets, name) for name in LIMITS}
    left = [
        f"{one.remaining} of {one.limit} {_words(name)}"
        for name, one in stands.items()
        if one is not None
    ]
    free = [f"any number of {_words(name)}" for name, one in stands.items() if one is None]
    return ", ".join(left + free)


def _words(name: str) -> str:
    return name.replace("_", " ")


def _show_minted(minted: MintedKey, place: str, *, as_json: bool) -> None:
    if as_json:
        show_json(_row(minted) | {"key": minted.key, "database": place})
        return
    say(f"{minted.id} for {minted.owner}: keep it safe, it is never shown again")
    for line in _understood(minted):
        say(f"  {line}")
    say(f"  database: {place}")
    typer.echo(minted.key)


def _understood(minted: MintedKey) -> Iterator[str]:
    """What the key is good for, so that whoever minted it sees what was understood."""
    until = "for good" if minted.expires_at is None else f"until {minted.expires_at.isoformat()}"
    yield f"may: {' '.join(minted.scopes)}, {until}"
    if Scope.ADMIN in minted.scopes:
        return
    yield f"has left: {_left(minted.budgets)}"
    yield f"policy: {minted.policy.model_dump_json(exclude_none=True)}"


def _all(admin: Administration, owner: str | None) -> Iterator[KeyRecord]:
    page = admin.page(owner=owner)
    yield from page.keys
    while page.next is not None:
        page = admin.page(owner=owner, after=page.next)
        yield from page.keys


def _acts(admin: Administration, key_id: str | None) -> Iterator[Row]:
    after: int | None = 0
    while after is not None:
        page = admin.audit_log(key_id=key_id, after=after)
        for act in page.acts:
            row = act.model_dump(mode="json", exclude={"id", "changes"})
            yield row | {"changes": "; ".join(map(_change, act.changes))}
        after = page.next


def _change(change: FieldChange) -> str:
    was = "" if change.was is None else f"{change.was} -> "
    return f"{change.field}: {was}{change.now}"


def _row(record: KeyRecord) -> Row:
    queries, every = record.budgets.queries, dict(record.budgets)
    others = {name: budget for name, budget in every.items() if name != "queries"}
    return {
        "id": record.id,
        "owner": record.owner,
        "state": record.state,
        "queries_limit": queries.limit,
        "queries_used": queries.used,
        "queries_held": queries.held,
        **{f"{name}_limit": one and one.limit for name, one in others.items()},
        "scopes": list(record.scopes),
        "created_at": record.created_at.isoformat(timespec="seconds"),
        "expires_at": record.expires_at and record.expires_at.isoformat(timespec="seconds"),
        "policy": record.policy.model_dump_json(exclude_none=True),
    }
