"""The commands `craft-server db status | upgrade`: the schema of the database."""

from contextlib import closing

import typer

from craft_server.cli import examples as cli_examples
from craft_server.cli.console import Commands, say, show, show_json
from craft_server.cli.options import AsJson, DatabaseUrl, DataDir, settings_of
from craft_server.db.look import looking
from craft_server.db.schema import HEAD, pending, revision
from craft_server.db.store import Store

app = typer.Typer(
    cls=Commands, help="The schema of the database.", no_args_is_help=True, rich_markup_mode=None
)


@app.command(epilog=cli_examples.DB_STATUS)
def status(
    *, as_json: AsJson = False, data_dir: DataDir = None, database_url: DatabaseUrl = None
) -> None:
    """Show the revision of the database, the newest one, and those between them.

    A database without tables has no revision: it is given the newest at once.
    """
    settings = settings_of(data_dir=data_dir, database_url=database_url)
    with looking(settings.resolved_database_url) as tx:
        found = None if tx is None else revision(tx)
    row = {"revision": found, "head": HEAD, "pending": pending(found)}
    if as_json:
        show_json(row)
    else:
        show([row])


@app.command(epilog=cli_examples.DB_UPGRADE)
def upgrade(*, data_dir: DataDir = None, database_url: DatabaseUrl = None) -> None:
    """Bring the database to the newest revision; all of it is done, or nothing."""
    settings = settings_of(data_dir=data_dir, database_url=database_url)
    with closing(Store(settings.resolved_database_url, migrate=True)) as store:
        made = ", made anew," if store.made else ""
        say(f"the database {store.place}{made} is at revision {HEAD}")
