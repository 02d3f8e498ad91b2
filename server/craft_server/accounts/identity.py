"""Who a key is: owns its fields, how a row holds them, and which values are allowed."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Literal

from sqlalchemy import Row

from craft_server.db.store import from_us, to_us
from craft_server.db.tables import LIMITS
from craft_shared import admin
from craft_shared.admin import OtherLimits
from craft_shared.errors import Code, Refusal
from craft_shared.limits import MAX_LIMIT, MAX_OWNER_CHARS
from craft_shared.messages import Policy

_LAST_US = to_us(datetime(9999, 12, 31, tzinfo=UTC))

UNLIMITED: Literal["unlimited"] = "unlimited"
NEVER: Literal["never"] = "never"

MAY_BE_UNLIMITED = tuple(OtherLimits.__annotations__)
"""The limits that a key need not have."""

ANYTHING = Policy()
"""The policy of a key that has none."""


_COUNTED = ("_limit", "_used", "_held")
"""How the columns end that say what a key may buy, and what it has."""

ANY_VERSION = -1
"""Instead of a key's version: whatever it is."""


class Scope(StrEnum):
    """What a key may do."""

    LOGITS_READ = "logits:read"
    IMAGES_WRITE = "images:write"
    USAGE_READ = "usage:read"
    ADMIN = "admin"


CLIENT_SCOPES = tuple(Scope(name) for name in admin.CLIENT_SCOPES)
"""All but `admin`, which a key has alone or not at all."""


@dataclass(frozen=True)
class Key:
    """Who is asking, and what they may do; times are UTC.

    `version` changes with all of it but the budget. `token_until` is when the token that was shown
    stops working, where a rotation left it some time. `counted` holds the limits and where they
    stood when the row was read, by column: what a request is measured with before anybody works
    for it. The meter alone decides.
    """

    id: str
    owner: str
    scopes: tuple[Scope, ...]
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None
    version: int = 0
    policy: Policy = ANYTHING
    token_until: datetime | None = None
    counted: Mapping[str, int | None] = field(default_factory=dict, compare=False, repr=False)


def invalid_key() -> Refusal:
    """The one answer to every token that buys nothing."""
    detail = "the API key is unknown, revoked or expired, or was not copied whole"
    return Refusal(Code.INVALID_KEY, detail, param="Authorization")


def no_such_key(key_id: str) -> Refusal:
    """No row has this id: the key was never made in this database."""
    return Refusal(Code.NOT_FOUND, f"no key has the id {key_id!r}", param="key_id")


def is_live(now: int, *, revoked_at: int | None, expires_at: int | None) -> bool:
    """Is a key neither revoked nor expired? All in microseconds, as they are stored."""
    return revoked_at is None and (expires_at is None or now < expires_at)


def key_in(row: Row[Any], *, token_until: datetime | None = None) -> Key:
    """The key in a row."""
    return Key(
        id=row.id,
        owner=row.owner,
        scopes=tuple(scope for scope in Scope if scope in row.scopes.split()),
        created_at=from_us(row.created_at),
        expires_at=None if row.expires_at is None else from_us(row.expires_at),
        revoked_at=None if row.revoked_at is None else from_us(row.revoked_at),
        version=row.version,
        policy=Policy.model_validate_json(row.policy),
        token_until=token_until,
        counted={name: value for name, value in row._asdict().items() if name.endswith(_COUNTED)},
    )


def shown(row: Mapping[str, Any]) -> dict[str, Any]:
    """Columns as the audit log shows them."""
    moment = row.get("expires_at")
    return dict(row) if moment is None else {**row, "expires_at": from_us(moment).isoformat()}


# --- what is allowed ----------------------------------------------------------------------------


def scopes_in(scopes: Iterable[Scope]) -> str:
    """Scopes as they are stored."""
    wanted = sorted(set(scopes))
    if not wanted or (Scope.ADMIN in wanted and len(wanted) > 1):
        allowed = f"one or more of {', '.join(CLIENT_SCOPES)}, or {Scope.ADMIN} alone"
        detail = f"scopes {', '.join(wanted) or 'none'}; needed: {allowed}"
        raise Refusal(Code.INVALID_REQUEST, detail, param="scopes")
    return " ".join(wanted)


def check_moment(name: str, moment: datetime) -> int:
    """A moment as it is stored; refuses one that no calendar shows in UTC."""
    stored = to_us(moment)
    if not 0 <= stored <= _LAST_US:
        detail = f"{name} {moment.isoformat()} is not a moment from 1970 to 9999, UTC"
        raise Refusal(Code.INVALID_REQUEST, detail, param=name)
    return stored


def check_spent(row: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Refuse a limit in `now` below what a key's row says is spent already."""
    for counter in LIMITS:
        name, spent, waiting = (f"{counter}_{word}" for word in ("limit", "used", "held"))
        limit, total = now.get(name), row[spent] + row[waiting]
        if limit is not None and limit < total:
            detail = (
                f"{name} {limit} is below {row[spent]} used + {row[waiting]} held = {total}; "
                "set at least that"
            )
            raise Refusal(Code.INVALID_REQUEST, detail, param=name)


def limits_in(given: Mapping[str, Any]) -> dict[str, int | None]:
    """Limits as they are stored, of those that are given: `unlimited` is NULL, None is not given.

    Raises:
        Refusal: one is out of range, or is `unlimited` though every key has it.
    """
    unknown = given.keys() - {f"{name}_limit" for name in LIMITS}
    if unknown:
        raise TypeError(f"no key has {', '.join(sorted(unknown))}")
    return {
        name: None if limit == UNLIMITED and name in MAY_BE_UNLIMITED else check_limit(name, limit)
        for name, limit in given.items()
        if limit is not None
    }


def check_limit(name: str, limit: Any) -> int:
    """Refuse a budget out of range."""
    if type(limit) is not int or not 0 <= limit <= MAX_LIMIT:
        detail = f"{name} {limit!r} is not a whole number from 0 to {MAX_LIMIT}"
        raise Refusal(Code.INVALID_REQUEST, detail, param=name)
    return limit


def check_owner(owner: str) -> None:
    """Refuse the name of an owner that cannot be stored or shown."""
    if not 0 < len(owner) <= MAX_OWNER_CHARS or not owner.isprintable():
        detail = f"owner {owner!r} is not 1 to {MAX_OWNER_CHARS} printable characters"
        raise Refusal(Code.INVALID_REQUEST, detail, param="owner")
