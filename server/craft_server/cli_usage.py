"""`craft-server usage`: what was bought, by whom, for what and when, and if the books agree."""

from contextlib import closing
from pathlib import Path
from typing import Annotated

import typer

from craft_server.cli_options import DatabaseUrl, DataDir, Moment, open_store
from craft_server.keys import Keys
from craft_server.ledger import Ledger, Lines
from craft_server.output import Form, say, show, write
from craft_server.usage_rows import By, line_rows, sum_rows


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
    with closing(open_store(data_dir, database_url)) as store:
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
