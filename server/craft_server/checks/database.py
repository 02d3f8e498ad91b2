"""The database: that it can be had, is of the right schema, takes writes, and has keys."""

from datetime import datetime
from typing import Any

from craft_server.accounts.identity import Key, Scope, is_live
from craft_server.accounts.keys import all_in
from craft_server.checks.findings import Check
from craft_server.db import schema
from craft_server.db.holders import living
from craft_server.db.look import clock_ahead_s, file_of, looking, unwritable
from craft_server.db.store import StoreDown, to_us, wall_clock
from craft_server.settings import DATABASE_EXAMPLES, Settings

_WRONG_S = 60.0
"""Clocks that differ by more make keys expire at other times on other machines."""
_CREATE = "craft-server keys create --owner NAME --queries 1000"


def check_database(settings: Settings) -> Check:
    """Look at the database and change nothing."""
    check = Check("database")
    with check.refused(f"CRAFT_SERVER_DATABASE_URL is like {DATABASE_EXAMPLES}"):
        url = settings.resolved_database_url
        path = file_of(url)
        place = url.render_as_string() if path is None else str(path.absolute())
        try:
            _look_at(check, settings, url, place)
        except StoreDown as error:
            check.fail(
                f"the database {place} does not answer: {error.reason}",
                f"start it, or name another: CRAFT_SERVER_DATABASE_URL is like {DATABASE_EXAMPLES}",
            )
        if path is not None and (others := living(path)):
            check.warn(
                f"{others} other server(s) that run have the database {place}",
                "stop what should not run; several servers of one machine may share it",
            )
    return check


def _look_at(check: Check, settings: Settings, url: Any, place: str) -> None:
    with looking(url) as tx:
        found = None if tx is None else schema.revision(tx)
        schema.check(found, migrate=settings.migrate)
        if found is None:
            check.warn(
                f"the database {place} has no tables yet, and so no keys; a server makes them",
                "name the folder or database that has the keys, or make some with the same "
                f"--data-dir or --database-url: {_CREATE}",
            )
        if tx is not None:
            _check_state(check, tx, place, found)


def _check_state(check: Check, tx: Any, place: str, found: str | None) -> None:
    if (why := unwritable(tx)) is not None:
        check.fail(
            f"the database {place} is read-only: {why}",
            "give the server's account the right to write, or name the primary",
        )
    if abs(ahead := clock_ahead_s(tx)) > _WRONG_S:
        check.warn(
            f"the database's clock is {ahead:.0f} s ahead of this machine's",
            "set both by NTP: keys and holds expire by them",
        )
    if found == schema.HEAD:
        check.ok(f"the database {place} is at revision {found}")
        _check_keys(check, all_in(tx))
    elif found is not None:
        check.warn(
            f"the database {place} is at revision {found}, and a server brings it to {schema.HEAD}",
            "make a backup, then run `craft-server db upgrade`",
        )


def _check_keys(check: Check, keys: list[Key]) -> None:
    now = wall_clock()
    live = [
        key
        for key in keys
        if is_live(now, revoked_at=_us(key.revoked_at), expires_at=_us(key.expires_at))
    ]
    admins = [key for key in live if Scope.ADMIN in key.scopes]
    if newest := max((to_us(key.created_at) for key in keys), default=0):
        behind = (newest - now) / 1e6
        if behind > _WRONG_S:
            check.warn(
                f"the newest key was made {behind:.0f} s in the future: the clock is behind",
                "set the clock, as by NTP",
            )
    if not live:
        ended = f", {len(keys)} are revoked or expired" if keys else ""
        check.warn(f"no key is good in this database{ended}", f"make one: {_CREATE}")
        return
    if not admins:
        check.warn(
            "there is no key of an administrator: keys are managed on this machine alone",
            "if that is not meant: craft-server keys create-admin --owner NAME",
        )
    clients = len(live) - len(admins)
    check.ok(f"keys that are good: {clients} of clients, {len(admins)} of administrators")


def _us(moment: datetime | None) -> int | None:
    return None if moment is None else to_us(moment)
