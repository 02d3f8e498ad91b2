"""`craft-server usage`: what was bought, by whom, for what and when, and if the books agree."""

from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Annotated, Literal

import typer

from craft_server.accounts.identity import Key
from craft_server.accounts.keys import Keys
from craft_server.cli.console import Form, Row, say, show, write
from craft_server.cli.options import DatabaseUrl, DataDir, Moment, open_store, settings_of
from craft_server.metering.ledger import Bucket, Label, Ledger, LedgerFilter
from craft_shared.messages import Counters

By = Literal["key", "tag", "run", "image_set", "day", "hour"]

_NOTHING = Counters(**dict.fromkeys(Counters.model_fields, 0))

_GROUPS: dict[By, tuple[Bucket, Label | None]] = {
    "tag": ("total", "tag"),
    "run": ("total", "run"),
    "image_set": ("total", "image_set"),
    "day": ("day", None),
    "hour": ("hour", None),
}


def usage(
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
    settings = settings_of(data_dir=data_dir, database_url=database_url)
    where = LedgerFilter(since=since, until=until, tag=tag, run=run)
    with closing(open_store(settings)) as store:
        ledger, every = Ledger(store), Keys(store).all()
        found = [one for one in every if key in {None, one.id}]
        if key is not None and not found:
            raise ValueError(f"no key has the id {key!r}")
        sums = sum_rows(ledger, found, where, by=by, key_id=key)
        rows = entry_rows(ledger, found, where) if events else sums
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


def sum_rows(
    ledger: Ledger, keys: Sequence[Key], where: LedgerFilter, *, by: By, key_id: str | None = None
) -> Iterator[Row]:
    """The counters for each of `by`, of one key or of all; by key also where budgets stand."""
    if by == "key":
        yield from _by_key(ledger, keys, where)
        return
    bucket, label = _GROUPS[by]
    for one in ledger.usage(key_id, where, bucket=bucket, by=label).buckets:
        found = one.model_dump(mode="json")
        yield {by: found[label or "start"], **found["counters"]}


def entry_rows(ledger: Ledger, keys: Sequence[Key], where: LedgerFilter) -> Iterator[Row]:
    """The ledger line by line, key after key."""
    for key in keys:
        after: int | None = 0
        while after is not None:
            page = ledger.events(key.id, where, after=after)
            for event in page.events:
                yield {"key": key.id, **event.model_dump(mode="json")}
            after = page.next


def _by_key(ledger: Ledger, keys: Sequence[Key], where: LedgerFilter) -> Iterator[Row]:
    totals = ledger.totals(where)
    for key in keys:
        left: Row = {}
        for name, budget in ledger.budgets(key.id):
            left[f"{name}_limit"] = budget and budget.limit
            left[f"{name}_remaining"] = budget and budget.remaining
        counters = totals.get(key.id, _NOTHING)
        yield {"key": key.id, "owner": key.owner, **counters.model_dump(), **left}
