"""The tables of metering, and the constraints that hold whatever the code does.

A budget is overdrawn, a request sold twice or a counter negative only if the database says so,
and it does not. Times are microseconds since 1970 UTC; counts are exact integers.
"""

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    UniqueConstraint,
    text,
)
from sqlalchemy.schema import SchemaItem

from craft_shared.limits import MAX_IDEMPOTENCY_KEY_CHARS, MAX_OWNER_CHARS, MAX_TAG_CHARS
from craft_shared.messages import Budgets, Counters

metadata = MetaData()
"""Every table of the server, once `craft_server.db.schema` is imported."""

COUNTERS = tuple(Counters.model_fields)
"""What a call costs: columns of `requests` and `ledger`."""

LIMITS = tuple(Budgets.model_fields)
"""The counters that can be limits: each has `_limit`, `_used` and `_held` in `keys`."""


def _count(name: str) -> Column[int]:
    return Column(name, BigInteger, nullable=False)


def _total(name: str) -> Column[int]:
    return Column(name, BigInteger, nullable=False, server_default="0")


def _text(name: str, length: int | None = None) -> Column[str]:
    return Column(name, String(length), nullable=False)


def _counter(name: str) -> Column[int]:
    """One that came after the first release has a default, for replicas that do not know it."""
    return _count(name) if Counters.model_fields[name].is_required() else _total(name)


def _budget(name: str) -> list[SchemaItem]:
    """A limit, where it stands, and that it holds; NULL is no limit where a key may have none."""
    needed = Budgets.model_fields[name].is_required()
    fits = f"{name}_used + {name}_held <= {name}_limit"
    return [
        Column(f"{name}_limit", BigInteger, nullable=not needed),
        _total(f"{name}_used"),
        _total(f"{name}_held"),
        CheckConstraint(f"{name}_used >= 0 AND {name}_held >= 0", f"{name}_count"),
        CheckConstraint(fits if needed else f"{name}_limit IS NULL OR {fits}", f"{name}_fit"),
    ]


keys = Table(
    "keys",
    metadata,
    Column("id", String(32), primary_key=True),
    _text("owner", MAX_OWNER_CHARS),
    Column("token_sha256", String(64), nullable=False, unique=True),
    _text("scopes", 256),
    _count("created_at"),
    Column("expires_at", BigInteger),
    Column("revoked_at", BigInteger),
    Column("version", Integer, nullable=False, server_default="0"),
    Column("policy", String, nullable=False, server_default="{}"),
    Column("previous_sha256", String(64), unique=True),
    Column("previous_until", BigInteger),
    CheckConstraint("(previous_sha256 IS NULL) = (previous_until IS NULL)", "previous_token_until"),
    *(item for name in LIMITS for item in _budget(name)),
)
"""Who a key is (keys.py writes) and what it has spent (meter.py alone changes used and held).

`used` is settled, `held` is reserved by requests in flight; a limit of NULL is no limit. `version`
changes with all that a key may do, so that nobody buys by what it was. The token before a rotation
is good until `previous_until`. `policy` is a `craft_shared.messages.Policy` in JSON.
"""

admin_acts = Table(
    "admin_acts",
    metadata,
    Column("id", BigInteger().with_variant(Integer, "sqlite"), primary_key=True),
    _count("at"),
    _text("actor", 160),
    _text("act", 32),
    _text("key_id", 32),
    _text("details"),
)
"""The audit log: who changed which key, in the transaction that did; never changed itself.

The table keeps the name that migrations gave it.
"""

Index("admin_acts_of_key", admin_acts.c.key_id, admin_acts.c.id)

requests = Table(
    "requests",
    metadata,
    Column("key_id", String(32), ForeignKey("keys.id"), primary_key=True),
    Column(
        "idem_key",
        String(MAX_IDEMPOTENCY_KEY_CHARS),
        key="idempotency_key",
        primary_key=True,
    ),
    _text("fingerprint", 128),
    _text("state", 8),
    Column("attempt", Integer, nullable=False),
    _text("holder", 64),
    _count("held_at"),
    _count("expires_at"),
    *(_counter(name) for name in COUNTERS),
    Column("settled_at", BigInteger),
    Column("reply_sha256", String(64)),
    Column("reply", LargeBinary),  # last, so that reading the others never touches its pages
    CheckConstraint("state IN ('held', 'settled', 'released', 'expired')", "state_known"),
    CheckConstraint("(state = 'settled') = (settled_at IS NOT NULL)", "settled_when"),
    CheckConstraint("(state = 'settled') = (reply_sha256 IS NOT NULL)", "settled_what"),
    CheckConstraint(
        "queries >= 0 AND calls >= 0 AND logit_vectors >= 0 AND texts >= 0", "cost_count"
    ),
    CheckConstraint("logits >= 0", "logits_count"),
)
"""One row per Idempotency-Key of a key, kept for good: what was bought once is never sold again."""

Index(
    "requests_held",
    requests.c.key_id,
    requests.c.expires_at,
    sqlite_where=text("state = 'held'"),
    postgresql_where=text("state = 'held'"),
)
Index(
    "requests_replies",
    requests.c.settled_at,
    sqlite_where=text("reply IS NOT NULL"),
    postgresql_where=text("reply IS NOT NULL"),
)

ledger = Table(
    "ledger",
    metadata,
    Column("id", BigInteger().with_variant(Integer, "sqlite"), primary_key=True),
    _count("at"),
    _text("key_id", 32),
    Column(
        "request_id",
        String(MAX_IDEMPOTENCY_KEY_CHARS),
        key="idempotency_key",
        nullable=False,
    ),
    _text("model"),
    _text("image_set"),
    _count("prompts"),
    _count("images"),
    _count("classes"),
    *(_counter(name) for name in COUNTERS),
    _text("tag", MAX_TAG_CHARS),
    Column("run", String(MAX_TAG_CHARS), nullable=False, server_default=""),
    _count("milliseconds"),
    ForeignKeyConstraint(
        ["key_id", "idempotency_key"], ["requests.key_id", "requests.idempotency_key"]
    ),
    UniqueConstraint("key_id", "idempotency_key", name="charged_once"),
)
"""One line per settled request, never changed.

The Idempotency-Key stands in the columns `idem_key` and `request_id`, as migrations made them; code
says `idempotency_key` of both.
"""

Index("ledger_pages", ledger.c.key_id, ledger.c.id)
Index("ledger_runs", ledger.c.key_id, ledger.c.run)


images = Table(
    "images",
    metadata,
    Column("owner", String, primary_key=True),
    Column("digest", String(64), primary_key=True),
    Column("bytes", BigInteger, nullable=False),
    Column("width", Integer, nullable=False),
    Column("height", Integer, nullable=False),
)

Index("images_of_digest", images.c.digest)

image_sets = Table(
    "image_sets",
    metadata,
    Column("owner", String, primary_key=True),
    Column("id", String(36), primary_key=True),
    Column("name", String, nullable=False),
    Column("count", Integer, nullable=False),
    Column("digests", LargeBinary, nullable=False),
)

image_claims = Table(
    "image_claims",
    metadata,
    Column("owner", String, primary_key=True),
    Column("digest", String(64), primary_key=True),
    _count("bytes"),
    _count("since"),
)
"""Bytes that may be kept though no row of `images` of this owner announces them.

An upload that is being written, one that failed, or an image that was deleted. They count for the
owner until the bytes are taken away.
"""

Index("image_claims_since", image_claims.c.since)

image_totals = Table(
    "image_totals",
    metadata,
    Column("owner", String, primary_key=True),
    _total("images"),
    _total("bytes"),
    _total("sets"),
    _total("set_images"),
    _total("sets_made"),
    _total("images_removed"),
)
"""What an owner has, changed in the transaction that changes the rows, so that nobody counts them.

`images` and `bytes` are those of `images` and `image_claims`, `set_images` the ids in all sets. The
last two only grow: whoever looked before it writes sees by them that another came between.
"""
