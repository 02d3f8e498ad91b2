"""API keys: mint, verify, list, change the budget, revoke.

    craft_ + 43 base62 characters (256 bits of chance) + 6 base62 digits (CRC-32 of all before)

Owns the identity and the limits in the table `keys`. Must not know how budgets are spent or HTTP.
A token is shown once and only its SHA-256 is stored, which is enough since a token cannot be
guessed. The checksum stops typing errors, and scans for leaked keys, without asking the store.
"""

import hashlib
import hmac
import secrets
import string
import time
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, Literal, NamedTuple

from sqlalchemy import Connection, Row, bindparam, insert, select, update

from craft_server.store import Clock, Store, from_us, to_us, wall_clock
from craft_server.tables import keys
from craft_shared.errors import Code, Refusal
from craft_shared.messages import Policy

PREFIX = "craft_"
SECRET_CHARS = 43
CHECKSUM_CHARS = 6
BASE62 = string.digits + string.ascii_uppercase + string.ascii_lowercase

MAX_LIMIT = 10**15
"""Largest budget: sums of three such numbers are exact in every database and in JSON."""

MAX_OWNER_CHARS = 128

RECENT_S = 1.0
"""How long an identity may be taken as verified by who checks again what is bought."""

_RECENT_KEYS = 4096

_BY_TOKEN = select(keys).where(keys.c.token_sha256 == bindparam("token_sha256"))

UNLIMITED: Literal["unlimited"] = "unlimited"


_ANYTHING = Policy()


class Scope(StrEnum):
    """What a key may do."""

    LOGITS_READ = "logits:read"
    IMAGES_WRITE = "images:write"
    USAGE_READ = "usage:read"


@dataclass(frozen=True)
class Key:
    """Who is asking, and what they may do; times are UTC."""

    id: str
    owner: str
    scopes: tuple[Scope, ...]
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None
    version: int = 0
    policy: Policy = _ANYTHING


class Minted(NamedTuple):
    """A new key and its token, which nobody can ever show again."""

    key: Key
    token: str


class Keys:
    """The keys in a store; nothing is cached, so a change holds from the next request on."""

    def __init__(self, store: Store, *, clock: Clock = wall_clock) -> None:
        self._store = store
        self._clock = clock

    def create(
        self,
        owner: str,
        queries_limit: int,
        *,
        logit_vectors_limit: int | None = None,
        scopes: Iterable[Scope] = tuple(Scope),
        expires_at: datetime | None = None,
    ) -> Minted:
        """Mint a key.

        Args:
            owner: whom it belongs to; keys of one owner share images.
            queries_limit: queries it may buy, 0 to 10^15.
            logit_vectors_limit: rows of logits it may buy, the same range; None is no limit.
            scopes: what it may do.
            expires_at: until when, in UTC if it has no time zone; None is for good.

        Raises:
            Refusal: `invalid_request`, with `param`.
        """
        _check_owner(owner)
        _check_limit("queries_limit", queries_limit)
        if logit_vectors_limit is not None:
            _check_limit("logit_vectors_limit", logit_vectors_limit)
        token = mint_token()
        key_id = f"key_{secrets.token_hex(8)}"
        row = {
            "id": key_id,
            "owner": owner,
            "token_sha256": _digest(token),
            "scopes": " ".join(sorted(set(scopes))),
            "created_at": self._clock(),
            "expires_at": None if expires_at is None else to_us(expires_at),
            "queries_limit": queries_limit,
            "logit_vectors_limit": logit_vectors_limit,
        }
        with self._store.write() as tx:
            tx.execute(insert(keys).values(row))
            return Minted(_key(_find(tx, key_id)), token)

    def verify(self, token: str) -> Key:
        """The key that a token belongs to.

        Raises:
            Refusal: `invalid_key`, in the same words and after the same work whether the token is
                unknown, revoked or expired.
        """
        if not checksum_fits(token):
            raise invalid_key()
        digest = _digest(token)
        with self._store.read() as tx:
            row = tx.execute(_BY_TOKEN, {"token_sha256": digest}).first()
        known = hmac.compare_digest(digest, "" if row is None else row.token_sha256)
        if row is None or not known or not is_live(row, self._clock()):
            raise invalid_key()
        return _key(row)

    def all(self) -> list[Key]:
        """Every key, the revoked and expired ones too, oldest first."""
        with self._store.read() as tx:
            rows = tx.execute(select(keys).order_by(keys.c.created_at, keys.c.id)).all()
        return [_key(row) for row in rows]

    def set_budget(
        self,
        key_id: str,
        *,
        queries_limit: int | None = None,
        logit_vectors_limit: int | Literal["unlimited"] | None = None,
    ) -> None:
        """Change limits; None leaves a limit as it is, "unlimited" takes it away.

        Raises:
            Refusal: `not_found`, or `invalid_request`: out of range, or below what is spent.
        """
        with self._store.write() as tx:
            if queries_limit is not None:
                _set_limit(tx, key_id, "queries", queries_limit)
            if logit_vectors_limit is not None:
                _set_limit(tx, key_id, "logit_vectors", logit_vectors_limit)
            _find(tx, key_id)

    def revoke(self, key_id: str) -> Key:
        """Refuse the key from now on; what it bought stays bought, what is in flight may settle.

        Raises:
            Refusal: `not_found`.
        """
        now = self._clock()
        with self._store.write() as tx:
            live = keys.c.id == key_id, keys.c.revoked_at.is_(None)
            tx.execute(update(keys).where(*live).values(revoked_at=now))
            return _key(_find(tx, key_id))


class RecentKeys:
    """Identities verified less than a second ago, for callers whose every act is checked again.

    The meter refuses what a revoked or expired key wants to buy; here it only saves a look at the
    store for a client that sends many small requests.
    """

    def __init__(self, keys: Keys) -> None:
        self._keys = keys
        self._seen: dict[str, tuple[float, Key]] = {}

    def known(self, token: str) -> Key | None:
        """The key of a token seen just now."""
        verified, key = self._seen.get(_digest(token), (0.0, None))
        return key if time.monotonic() - verified < RECENT_S else None

    def verify(self, token: str) -> Key:
        """As `Keys.verify`, and remembered."""
        key = self._keys.verify(token)
        if len(self._seen) >= _RECENT_KEYS:
            self._seen = {}
        self._seen[_digest(token)] = (time.monotonic(), key)
        return key


def mint_token() -> str:
    """A token nobody has seen."""
    secret = "".join(secrets.choice(BASE62) for _ in range(SECRET_CHARS))
    return PREFIX + secret + checksum(PREFIX + secret)


def checksum(text: str) -> str:
    """CRC-32 of ASCII text as 6 base62 digits, most significant first."""
    number = zlib.crc32(text.encode())
    digits = ""
    for _ in range(CHECKSUM_CHARS):
        number, digit = divmod(number, len(BASE62))
        digits = BASE62[digit] + digits
    return digits


def checksum_fits(token: str) -> bool:
    """Whether a string can be a token at all."""
    body, check = token[:-CHECKSUM_CHARS], token[-CHECKSUM_CHARS:]
    length = len(PREFIX) + SECRET_CHARS + CHECKSUM_CHARS
    shaped = len(token) == length and token.startswith(PREFIX) and token.isascii()
    return shaped and checksum(body) == check


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


def invalid_key() -> Refusal:
    """The one answer to every token that buys nothing."""
    detail = "the API key is unknown, revoked or expired, or was not copied whole"
    return Refusal(Code.INVALID_KEY, detail, param="Authorization")


def is_live(row: Row[Any], now: int) -> bool:
    """Is the key in this row neither revoked nor expired?"""
    return row.revoked_at is None and (row.expires_at is None or now < row.expires_at)


def _find(tx: Connection, key_id: str) -> Row[Any]:
    row = tx.execute(select(keys).where(keys.c.id == key_id)).first()
    if row is None:
        raise Refusal(Code.NOT_FOUND, f"no key has the id {key_id!r}", param="key_id")
    return row


def _key(row: Row[Any]) -> Key:
    return Key(
        id=row.id,
        owner=row.owner,
        scopes=tuple(scope for scope in Scope if scope in row.scopes.split()),
        created_at=from_us(row.created_at),
        expires_at=None if row.expires_at is None else from_us(row.expires_at),
        revoked_at=None if row.revoked_at is None else from_us(row.revoked_at),
        version=row.version,
        policy=Policy.model_validate_json(row.policy),
    )


def _set_limit(tx: Connection, key_id: str, counter: str, limit: int | str) -> None:
    """Set one limit in the statement that also checks it, so that no reservation slips between."""
    name = f"{counter}_limit"
    used, held = keys.c[f"{counter}_used"], keys.c[f"{counter}_held"]
    change = update(keys).where(keys.c.id == key_id)
    if limit == UNLIMITED:
        tx.execute(change.values({name: None}))
        return
    _check_limit(name, limit)
    fits = change.where(used + held <= limit).values({name: limit}).returning(keys.c.id)
    if tx.execute(fits).first() is None:
        row = _find(tx, key_id)._asdict()
        spent, waiting = row[used.name], row[held.name]
        detail = (
            f"{name} {limit} is below {spent} used + {waiting} held = {spent + waiting}; "
            "set at least that"
        )
        raise Refusal(Code.INVALID_REQUEST, detail, param=name)


def _check_limit(name: str, limit: Any) -> None:
    if type(limit) is not int or not 0 <= limit <= MAX_LIMIT:
        detail = f"{name} {limit!r} is not a whole number from 0 to {MAX_LIMIT}"
        raise Refusal(Code.INVALID_REQUEST, detail, param=name)


def _check_owner(owner: str) -> None:
    if not 0 < len(owner) <= MAX_OWNER_CHARS or not owner.isprintable():
        detail = f"owner {owner!r} is not 1 to {MAX_OWNER_CHARS} printable characters"
        raise Refusal(Code.INVALID_REQUEST, detail, param="owner")
