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

from craft_shared.limits import MAX_IDEMPOTENCY_KEY_CHARS, MAX_OWNER_CHARS, MAX_TAG_CHARS

metadata = MetaData()
"""Every table of the server, once `craft_server.db.schema` is imported."""


def _count(name: str) -> Column[int]:
    return Column(name, BigInteger, nullable=False)


def _total(name: str) -> Column[int]:
    return Column(name, BigInteger, nullable=False, server_default="0")


def _text(name: str, length: int | None = None) -> Column[str]:
    return Column(name, String(length), nullable=False)


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
    _count("queries_limit"),
    _total("queries_used"),
    _total("queries_held"),
    Column("logit_vectors_limit", BigInteger),
    _total("logit_vectors_used"),
    _total("logit_vectors_held"),
    CheckConstraint("(previous_sha256 IS NULL) = (previous_until IS NULL)", "previous_token_until"),
    CheckConstraint("queries_used >= 0 AND queries_held >= 0", "queries_count"),
    CheckConstraint("queries_used + queries_held <= queries_limit", "queries_fit"),
    CheckConstraint("logit_vectors_used >= 0 AND logit_vectors_held >= 0", "logit_vectors_count"),
    CheckConstraint(
        "logit_vectors_limit IS NULL"
        " OR logit_vectors_used + logit_vectors_held <= logit_vectors_limit",
        "logit_vectors_fit",
    ),
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
    _count("queries"),
    _count("calls"),
    _count("logit_vectors"),
    _count("texts"),
    Column("settled_at", BigInteger),
    Column("reply_sha256", String(64)),
    Column("reply", LargeBinary),  # last, so that reading the others never touches its pages
    CheckConstraint("state IN ('held', 'settled', 'released', 'expired')", "state_known"),
    CheckConstraint("(state = 'settled') = (settled_at IS NOT NULL)", "settled_when"),
    CheckConstraint("(state = 'settled') = (reply_sha256 IS NOT NULL)", "settled_what"),
    CheckConstraint(
        "queries >= 0 AND calls >= 0 AND logit_vectors >= 0 AND texts >= 0", "cost_count"
    ),
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
    _count("queries"),
    _count("calls"),
    _count("logit_vectors"),
    _count("texts"),
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


image_sets = Table(
    "image_sets",
    metadata,
    Column("owner", String, primary_key=True),
    Column("id", String(36), primary_key=True),
    Column("name", String, nullable=False),
    Column("count", Integer, nullable=False),
    Column("digests", LargeBinary, nullable=False),
)
