"""Keys get a version, a policy and a second token, the ledger a run, and admin acts a table."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Add them; the ledger, which may be long, is not written anew."""
    _keys()
    op.add_column("ledger", sa.Column("run", sa.String(64), nullable=False, server_default=""))
    op.create_index("ledger_runs", "ledger", ["key_id", "run"])
    op.create_table(
        "admin_acts",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer, "sqlite"), nullable=False),
        sa.Column("at", sa.BigInteger, nullable=False),
        sa.Column("actor", sa.String(160), nullable=False),
        sa.Column("act", sa.String(32), nullable=False),
        sa.Column("key_id", sa.String(32), nullable=False),
        sa.Column("details", sa.String, nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("admin_acts_of_key", "admin_acts", ["key_id", "id"])


def _keys() -> None:
    """SQLite adds no constraint to a table: there, it is copied into a new one."""
    with op.batch_alter_table("keys", copy_from=_keys_before()) as keys:
        keys.add_column(sa.Column("version", sa.Integer, nullable=False, server_default="0"))
        keys.add_column(sa.Column("policy", sa.String, nullable=False, server_default="{}"))
        keys.add_column(sa.Column("previous_sha256", sa.String(64)))
        keys.add_column(sa.Column("previous_until", sa.BigInteger))
        keys.create_unique_constraint("keys_previous_sha256_key", ["previous_sha256"])
        keys.create_check_constraint(
            "previous_token_until", "(previous_sha256 IS NULL) = (previous_until IS NULL)"
        )


def _keys_before() -> sa.Table:
    """Written out, because alembic does not read check constraints from a database."""
    return sa.Table(
        "keys",
        sa.MetaData(),
        sa.Column("id", sa.String(32), primary_key=True),
        sa.Column("owner", sa.String(128), nullable=False),
        sa.Column("token_sha256", sa.String(64), nullable=False),
        sa.Column("scopes", sa.String(256), nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("expires_at", sa.BigInteger),
        sa.Column("revoked_at", sa.BigInteger),
        sa.Column("queries_limit", sa.BigInteger, nullable=False),
        sa.Column("queries_used", sa.BigInteger, nullable=False, server_default="0"),
        sa.Column("queries_held", sa.BigInteger, nullable=False, server_default="0"),
        sa.Column("logit_vectors_limit", sa.BigInteger),
        sa.Column("logit_vectors_used", sa.BigInteger, nullable=False, server_default="0"),
        sa.Column("logit_vectors_held", sa.BigInteger, nullable=False, server_default="0"),
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
    )
