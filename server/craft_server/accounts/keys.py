"""API keys: mint, verify, list, change, rotate, revoke; every change is in the audit log.

Owns the identity, the limits and the policy in the table `keys`. Nothing is cached here, so a
change holds from the next request on. The meter compares a key's `version`, which stops what was
verified just before.
"""

import getpass
import hmac
import secrets
from collections.abc import Iterable
from datetime import datetime
from typing import Any, Literal, NamedTuple, Unpack

from sqlalchemy import Connection, Row, bindparam, insert, or_, select, update

from craft_server.accounts import audit_log
from craft_server.accounts.audit_log import AuditRecord
from craft_server.accounts.identity import (
    ANYTHING,
    CLIENT_SCOPES,
    MAY_BE_UNLIMITED,
    NEVER,
    Key,
    Scope,
    check_limit,
    check_moment,
    check_owner,
    check_spent,
    invalid_key,
    is_live,
    key_in,
    limits_in,
    no_such_key,
    scopes_in,
    shown,
)
from craft_server.accounts.tokens import checksum_fits, digest, mint_token
from craft_server.db.store import Clock, Store, from_us, wall_clock
from craft_server.db.tables import keys
from craft_shared.admin import OtherLimits
from craft_shared.errors import Code, Refusal
from craft_shared.messages import Policy

_BY_TOKEN = select(keys).where(
    or_(
        keys.c.token_sha256 == bindparam("sha256"),
        keys.c.previous_sha256 == bindparam("sha256"),
    )
)


class Minted(NamedTuple):
    """A key and its new token, which nobody can ever show again."""

    key: Key
    token: str


def all_in(tx: Connection) -> list[Key]:
    """Every key of a database, the revoked and expired ones too, oldest first."""
    found = select(keys).order_by(keys.c.created_at, keys.c.id)
    return [key_in(row) for row in tx.execute(found)]


class Keys:
    """The keys in a store.

    Args:
        store: where they are.
        clock: of the store.
        actor: who acts, for the audit log: an admin key's id or an account.
    """

    def __init__(self, store: Store, *, clock: Clock = wall_clock, actor: str = "server") -> None:
        self._store = store
        self._clock = clock
        self._actor = actor

    def by(self, actor: str) -> "Keys":
        """The same keys, changed by somebody else."""
        return Keys(self._store, clock=self._clock, actor=actor)

    # --- who is it? -----------------------------------------------------------------------------

    def verify(self, token: str) -> Key:
        """The key that a token belongs to.

        Raises:
            Refusal: `invalid_key`, in the same words and after the same work whether the token is
                unknown, revoked, rotated away or expired.
        """
        if not checksum_fits(token):
            raise invalid_key()
        sha256 = digest(token)
        with self._store.read() as tx:
            row = tx.execute(_BY_TOKEN, {"sha256": sha256}).first()
        now = self._clock()
        if row is None or not is_live(now, revoked_at=row.revoked_at, expires_at=row.expires_at):
            raise invalid_key()
        if hmac.compare_digest(sha256, row.token_sha256):
            return key_in(row)
        known = hmac.compare_digest(sha256, row.previous_sha256 or "")
        if not known or now >= row.previous_until:
            raise invalid_key()
        return key_in(row, token_until=from_us(row.previous_until))

    def find(self, key_id: str) -> Key:
        """A key by its id.

        Raises:
            Refusal: `not_found`.
        """
        with self._store.read() as tx:
            return key_in(_find(tx, key_id))

    def all(self) -> list[Key]:
        """Every key, the revoked and expired ones too, oldest first."""
        with self._store.read() as tx:
            return all_in(tx)

    # --- what changes ---------------------------------------------------------------------------

    def create(
        self,
        owner: str,
        queries_limit: int,
        *,
        scopes: Iterable[Scope] = CLIENT_SCOPES,
        expires_at: datetime | None = None,
        policy: Policy = ANYTHING,
        **limits: Unpack[OtherLimits],
    ) -> Minted:
        """Mint a key.

        Args:
            owner: whom it belongs to; keys of one owner share images.
            queries_limit: queries it may buy, 0 to 10^15.
            scopes: what it may do: one or more of the client's, or `admin` alone.
            expires_at: until when, in UTC if it has no time zone; None is for good.
            policy: what else it may do.
            limits: of other counters, the same range; none, if they are not said or "unlimited".

        Raises:
            Refusal: `invalid_request`, with `param`.
        """
        check_owner(owner)
        token = mint_token()
        facts = {
            "owner": owner,
            "scopes": scopes_in(scopes),
            "expires_at": None if expires_at is None else check_moment("expires_at", expires_at),
            "queries_limit": check_limit("queries_limit", queries_limit),
            **dict.fromkeys(MAY_BE_UNLIMITED),
            **limits_in(limits),
            "policy": policy.model_dump_json(exclude_defaults=True),
        }
        key_id = f"key_{secrets.token_hex(8)}"
        row = facts | {
            "id": key_id,
            "token_sha256": digest(token),
            "created_at": self._clock(),
        }
        with self._store.write() as tx:
            tx.execute(insert(keys).values(row))
            self._record(tx, AuditRecord("create", key_id, shown(facts)))
            return Minted(key_in(_find(tx, key_id)), token)

    def change(
        self,
        key_id: str,
        *,
        queries_limit: int | None = None,
        scopes: Iterable[Scope] | None = None,
        expires_at: datetime | Literal["never"] | None = None,
        policy: Policy | None = None,
        **limits: Unpack[OtherLimits],
    ) -> Key:
        """Change what is given; None leaves a thing as it is.

        Args:
            key_id: of the key.
            queries_limit: at least what it has used and holds.
            scopes: all that it may do from now on.
            expires_at: a moment, or "never".
            policy: replaces the whole policy.
            limits: of other counters: the same, or "unlimited".

        Raises:
            Refusal: `not_found`, or `invalid_request`: out of range, or below what is spent.
        """
        now: dict[str, Any] = {}
        if scopes is not None:
            now["scopes"] = scopes_in(scopes)
        if isinstance(expires_at, datetime):
            now["expires_at"] = check_moment("expires_at", expires_at)
        elif expires_at == NEVER:
            now["expires_at"] = None
        if policy is not None:
            now["policy"] = policy.model_dump_json(exclude_defaults=True)
        terms = bool(now)
        now |= limits_in({"queries_limit": queries_limit, **limits})
        with self._store.write() as tx:
            before = _locked(tx, key_id)
            row = before._asdict()
            check_spent(row, now)
            if not now:
                return key_in(before)
            was = {name: row[name] for name in now}
            self._record(tx, AuditRecord("change", key_id, shown(now), shown(was)))
            version = before.version + terms
            return key_in(_update(tx, key_id, now | {"version": version}))

    def rotate(self, key_id: str, *, grace_s: float = 0) -> Minted:
        """A new token for the same key, which keeps its budget, its images and what it bought.

        Args:
            key_id: of the key.
            grace_s: seconds for which the token until now still works; one before it does not.

        Raises:
            Refusal: `not_found`, or `invalid_request`: the key is revoked.
        """
        token, now = mint_token(), self._clock()
        with self._store.write() as tx:
            before = _locked(tx, key_id)
            if before.revoked_at is not None:
                detail = f"{key_id} is revoked for good; create a key instead"
                raise Refusal(Code.INVALID_REQUEST, detail, param="key_id")
            row = {
                "token_sha256": digest(token),
                "previous_sha256": before.token_sha256 if grace_s else None,
                "previous_until": now + round(grace_s * 1_000_000) if grace_s else None,
                "version": before.version + 1,
            }
            self._record(tx, AuditRecord("rotate", key_id, {"grace_s": grace_s}))
            return Minted(key_in(_update(tx, key_id, row)), token)

    def revoke(self, key_id: str) -> Key:
        """Refuse the key from now on; what it bought stays bought, what is in flight may settle.

        Raises:
            Refusal: `not_found`.
        """
        with self._store.write() as tx:
            before = _locked(tx, key_id)
            if before.revoked_at is not None:
                return key_in(before)
            row = {"revoked_at": self._clock(), "version": before.version + 1}
            when = from_us(row["revoked_at"]).isoformat()
            self._record(tx, AuditRecord("revoke", key_id, {"revoked_at": when}))
            return key_in(_update(tx, key_id, row))

    def _record(self, tx: Connection, record: AuditRecord) -> None:
        audit_log.write(tx, record, at=self._clock(), actor=self._actor)


def account() -> str:
    """Who acts at a command line, for the audit log."""
    try:
        return f"cli:{getpass.getuser()}"
    except (KeyError, OSError):  # a container's user need have no name
        return "cli"


# --- rows ---------------------------------------------------------------------------------------


def _find(tx: Connection, key_id: str) -> Row[Any]:
    return _one(tx, key_id, select(keys).where(keys.c.id == key_id))


def _locked(tx: Connection, key_id: str) -> Row[Any]:
    """The row as it will stay until this transaction ends; no reservation slips between."""
    return _one(tx, key_id, select(keys).where(keys.c.id == key_id).with_for_update())


def _one(tx: Connection, key_id: str, statement: Any) -> Row[Any]:
    row: Row[Any] | None = tx.execute(statement).first()
    if row is None:
        raise no_such_key(key_id)
    return row


def _update(tx: Connection, key_id: str, row: dict[str, Any]) -> Row[Any]:
    tx.execute(update(keys).where(keys.c.id == key_id).values(row))
    return _find(tx, key_id)
