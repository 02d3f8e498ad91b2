"""Keys get limits on texts and logits, and calls a count of the logits that they told.

Keys of before have neither limit, but what they used is counted from their lines, so that a limit
set later starts from the truth. Lines of before say the most that they can have told: all logits.
What is held now is held by releases that take neither from a key and give neither back, and who go
on during the upgrade: such a row has no logits.
"""

# ruff: noqa: S608 - the names put into SQL stand in this file

from alembic import op

revision = "0003"
down_revision = "0002"

_NEW = ("texts", "logits")


def upgrade() -> None:
    """Add them where tables stand: SQLite, too, adds a column together with what it must hold."""
    op.execute(
        "ALTER TABLE requests ADD COLUMN logits BIGINT DEFAULT '0' NOT NULL"
        " CONSTRAINT logits_count CHECK (logits >= 0)"
    )
    op.execute("ALTER TABLE ledger ADD COLUMN logits BIGINT DEFAULT '0' NOT NULL")
    op.execute("UPDATE ledger SET logits = texts * images")
    op.execute(
        "UPDATE requests SET logits = texts * (logit_vectors / queries)"
        " WHERE state = 'settled' AND queries > 0"
    )
    for name in _NEW:
        _add_limit(name)
    _count_what_was_sold()


def _add_limit(name: str) -> None:
    op.execute(f"ALTER TABLE keys ADD COLUMN {name}_limit BIGINT")
    op.execute(f"ALTER TABLE keys ADD COLUMN {name}_used BIGINT DEFAULT '0' NOT NULL")
    op.execute(
        f"ALTER TABLE keys ADD COLUMN {name}_held BIGINT DEFAULT '0' NOT NULL"
        f" CONSTRAINT {name}_count CHECK ({name}_used >= 0 AND {name}_held >= 0)"
        f" CONSTRAINT {name}_fit"
        f" CHECK ({name}_limit IS NULL OR {name}_used + {name}_held <= {name}_limit)"
    )


def _count_what_was_sold() -> None:
    sums = ", ".join(
        f"{name}_used = coalesce((SELECT sum({name}) FROM ledger WHERE key_id = keys.id), 0)"
        for name in _NEW
    )
    op.execute(f"UPDATE keys SET {sums}")
