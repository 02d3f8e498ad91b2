"""What an owner does with keys, in the protocol's messages: the one service of API and CLI.

Every change is written together with its record in the audit log, which names the actor.
"""

from datetime import UTC, datetime
from typing import Any, cast

from sqlalchemy import Row, select, tuple_

from craft_server.accounts import audit_log
from craft_server.accounts.identity import MAY_BE_UNLIMITED, Key, Scope, key_in
from craft_server.accounts.keys import Keys, Minted
from craft_server.db.store import Store
from craft_server.db.tables import keys
from craft_server.metering.ledger import Ledger, budgets_in
from craft_shared.admin import (
    Acts,
    Audit,
    Discrepancy,
    KeyChange,
    KeyRecord,
    KeyRecords,
    KeyRequest,
    KeyState,
    MintedKey,
    OtherLimits,
)
from craft_shared.messages import Budgets


class Administration:
    """Keys, their budgets and their history, as `actor` sees and changes them.

    Args:
        store: where they are.
        actor: who acts, for the audit log.
        defaults: limits of a new key, of those that its request does not say.
    """

    def __init__(self, store: Store, *, actor: str, defaults: OtherLimits | None = None) -> None:
        self._defaults: OtherLimits = defaults or {}
        self._store = store
        self._keys = Keys(store, actor=actor)
        self._ledger = Ledger(store)

    @property
    def place(self) -> str:
        """Which database it is, to be told to people."""
        return self._store.place

    def create(self, request: KeyRequest) -> MintedKey:
        """Mint a key; see `Keys.create`."""
        minted = self._keys.create(
            request.owner,
            request.queries_limit,
            scopes=[Scope(scope) for scope in request.scopes],
            expires_at=request.expires_at,
            policy=request.policy,
            **_other_limits(request, self._defaults),
        )
        return self._minted(minted)

    def create_admin(self, owner: str, *, expires_at: datetime | None = None) -> MintedKey:
        """Mint a key that administers and can do nothing else."""
        scopes = [Scope.ADMIN]
        return self._minted(self._keys.create(owner, 0, scopes=scopes, expires_at=expires_at))

    def find(self, key_id: str) -> KeyRecord:
        """A key; refuses an unknown one with `not_found`."""
        return self._record(self._keys.find(key_id))

    def page(
        self, *, owner: str | None = None, after: str | None = None, limit: int = 1000
    ) -> KeyRecords:
        """At most `limit` keys, oldest first, from the one after the key `after`.

        Raises:
            Refusal: `not_found`, there is no key `after`.
        """
        found = select(keys).order_by(keys.c.created_at, keys.c.id).limit(limit + 1)
        if owner is not None:
            found = found.where(keys.c.owner == owner)
        if after is not None:
            self._keys.find(after)
            last = select(keys.c.created_at, keys.c.id).where(keys.c.id == after).subquery()
            place = tuple_(keys.c.created_at, keys.c.id) > select(last).scalar_subquery()
            found = found.where(place)
        with self._store.read() as tx:
            rows = tx.execute(found).all()
        records = [_record_of(row) for row in rows[:limit]]
        return KeyRecords(keys=records, next=records[-1].id if len(rows) > limit else None)

    def change(self, key_id: str, change: KeyChange) -> KeyRecord:
        """Change what is given; see `Keys.change`."""
        scopes = None if change.scopes is None else [Scope(scope) for scope in change.scopes]
        changed = self._keys.change(
            key_id,
            queries_limit=change.queries_limit,
            scopes=scopes,
            expires_at=change.expires_at,
            policy=change.policy,
            **_other_limits(change, {}),
        )
        return self._record(changed)

    def rotate(self, key_id: str, *, grace_s: float) -> MintedKey:
        """A new token; see `Keys.rotate`."""
        return self._minted(self._keys.rotate(key_id, grace_s=grace_s))

    def revoke(self, key_id: str) -> KeyRecord:
        """Refuse a key from now on."""
        return self._record(self._keys.revoke(key_id))

    def audit_log(self, *, key_id: str | None = None, after: int = 0, limit: int = 1000) -> Acts:
        """A page of the audit log."""
        return audit_log.read(self._store, key_id=key_id, after=after, limit=limit)

    def audit(self) -> Audit:
        """Hold every counter against the rows it counts; reads the whole ledger."""
        found = self._ledger.audit()
        return Audit(discrepancies=[Discrepancy(**fault._asdict()) for fault in found])

    def _record(self, key: Key) -> KeyRecord:
        return record_of(key, self._ledger.budgets(key.id))

    def _minted(self, minted: Minted) -> MintedKey:
        record = self._record(minted.key)
        return MintedKey(**dict(record), key=minted.token)


def record_of(key: Key, budgets: Budgets) -> KeyRecord:
    """A key as an administrator sees it."""
    return KeyRecord(
        id=key.id,
        owner=key.owner,
        state=_state(key),
        scopes=list(key.scopes),
        budgets=budgets,
        policy=key.policy,
        created_at=key.created_at,
        expires_at=key.expires_at,
        revoked_at=key.revoked_at,
    )


def _record_of(row: Row[Any]) -> KeyRecord:
    return record_of(key_in(row), budgets_in(row._asdict()))


def _other_limits(said: KeyRequest | KeyChange, defaults: OtherLimits) -> OtherLimits:
    """The limits beside queries: those that are said, else the defaults."""
    found = {name: getattr(said, name) for name in MAY_BE_UNLIMITED}
    given = {name: limit for name, limit in found.items() if limit is not None}
    return cast("OtherLimits", {**defaults, **given})


def _state(key: Key) -> KeyState:
    if key.revoked_at is not None:
        return "revoked"
    expired = key.expires_at is not None and key.expires_at <= datetime.now(UTC)
    return "expired" if expired else "active"
