"""The tables of the first release, whose databases have no revision written in them.

Its command line made the tables of keys alone, and the server those of images when it first
started. So whatever is there stays as it is, and what is missing is made.
"""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Create what is missing of the first release."""
    _keys()
    _requests()
    _ledger()
    _images()


def _count(name: str) -> sa.Column[int]:
    return sa.Column(name, sa.BigInteger, nullable=False)


def _total(name: str) -> sa.Column[int]:
    return sa.Column(name, sa.BigInteger, nullable=False, server_default="0")


def _text(name: str, length: int | None = None) -> sa.Column[str]:
    return sa.Column(name, sa.String(length), nullable=False)


def _keys() -> None:
    op.create_table(
        "keys",
        _text("id", 32),
        _text("owner", 128),
        _text("token_sha256", 64),
        _text("scopes", 256),
        _count("created_at"),
        sa.Column("expires_at", sa.BigInteger),
        sa.Column("revoked_at", sa.BigInteger),
        _count("queries_limit"),
        _total("queries_used"),
        _total("queries_held"),
        sa.Column("logit_vectors_limit", sa.BigInteger),
        _total("logit_vectors_used"),
        _total("logit_vectors_held"),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("token_sha256"),
        sa.CheckConstraint("queries_used >= 0 AND queries_held >= 0", "queries_count"),
        sa.CheckConstraint("queries_used + queries_held <= queries_limit", "queries_fit"),
        sa.CheckConstraint(
            "logit_vectors_used >= 0 AND logit_vectors_held >= 0", "logit_vectors_count"
        ),
        sa.CheckConstraint(
            "logit_vectors_limit IS NULL"
            " OR logit_vectors_used + logit_vectors_held <= logit_vectors_limit",
            "logit_vectors_fit",
        ),
        if_not_exists=True,
    )


def _requests() -> None:
    op.create_table(
        "requests",
        _text("key_id", 32),
        _text("idem_key", 128),
        _text("fingerprint", 128),
        _text("state", 8),
        sa.Column("attempt", sa.Integer, nullable=False),
        _text("holder", 64),
        _count("held_at"),
        _count("expires_at"),
        _count("queries"),
        _count("calls"),
        _count("logit_vectors"),
        _count("texts"),
        sa.Column("settled_at", sa.BigInteger),
        sa.Column("reply_sha256", sa.String(64)),
        sa.Column("reply", sa.LargeBinary),
        sa.PrimaryKeyConstraint("key_id", "idem_key"),
        sa.ForeignKeyConstraint(["key_id"], ["keys.id"]),
        sa.CheckConstraint("state IN ('held', 'settled', 'released', 'expired')", "state_known"),
        sa.CheckConstraint("(state = 'settled') = (settled_at IS NOT NULL)", "settled_when"),
        sa.CheckConstraint("(state = 'settled') = (reply_sha256 IS NOT NULL)", "settled_what"),
        sa.CheckConstraint(
            "queries >= 0 AND calls >= 0 AND logit_vectors >= 0 AND texts >= 0", "cost_count"
        ),
        if_not_exists=True,
    )
    for name, columns, where in (
        ("requests_held", ["key_id", "expires_at"], sa.text("state = 'held'")),
        ("requests_replies", ["settled_at"], sa.text("reply IS NOT NULL")),
    ):
        op.create_index(
            name,
            "requests",
            columns,
            if_not_exists=True,
            sqlite_where=where,
            postgresql_where=where,
        )


def _ledger() -> None:
    op.create_table(
        "ledger",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer, "sqlite"), nullable=False),
        _count("at"),
        _text("key_id", 32),
        _text("request_id", 128),
        _text("model"),
        _text("image_set"),
        _count("prompts"),
        _count("images"),
        _count("classes"),
        _count("queries"),
        _count("calls"),
        _count("logit_vectors"),
        _count("texts"),
        _text("tag", 64),
        _count("milliseconds"),
        sa.PrimaryKeyConstraint("id"),
        sa.ForeignKeyConstraint(["key_id", "request_id"], ["requests.key_id", "requests.idem_key"]),
        sa.UniqueConstraint("key_id", "request_id", name="charged_once"),
        if_not_exists=True,
    )
    op.create_index("ledger_pages", "ledger", ["key_id", "id"], if_not_exists=True)


def _images() -> None:
    op.create_table(
        "images",
        _text("owner"),
        _text("digest", 64),
        _count("bytes"),
        sa.Column("width", sa.Integer, nullable=False),
        sa.Column("height", sa.Integer, nullable=False),
        sa.PrimaryKeyConstraint("owner", "digest"),
        if_not_exists=True,
    )
    op.create_table(
        "image_sets",
        _text("owner"),
        _text("id", 36),
        _text("name"),
        sa.Column("count", sa.Integer, nullable=False),
        sa.Column("digests", sa.LargeBinary, nullable=False),
        sa.PrimaryKeyConstraint("owner", "id"),
        if_not_exists=True,
    )
