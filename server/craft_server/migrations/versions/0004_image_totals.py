"""Sums of what owners keep, counted once, here; they change with the rows. Claims on bytes."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"

_COUNT_ALL = """
    INSERT INTO image_totals (owner, images, bytes, sets, set_images)
    SELECT owner, SUM(images), SUM(bytes), SUM(sets), SUM(set_images) FROM (
        SELECT owner, COUNT(*) AS images, SUM(bytes) AS bytes, 0 AS sets, 0 AS set_images
        FROM images GROUP BY owner
        UNION ALL
        SELECT owner, 0, 0, COUNT(*), SUM(count) FROM image_sets GROUP BY owner
    ) AS counted GROUP BY owner
"""


def upgrade() -> None:
    """Add them; the images, which may be many, are read once."""
    op.create_index("images_of_digest", "images", ["digest"])
    op.create_table(
        "image_claims",
        sa.Column("owner", sa.String, nullable=False),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("bytes", sa.BigInteger, nullable=False),
        sa.Column("since", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("owner", "digest"),
    )
    op.create_index("image_claims_since", "image_claims", ["since"])
    op.create_table(
        "image_totals",
        sa.Column("owner", sa.String, nullable=False),
        *map(_total, ("images", "bytes", "sets", "set_images", "sets_made", "images_removed")),
        sa.PrimaryKeyConstraint("owner"),
    )
    op.execute(_COUNT_ALL)


def _total(name: str) -> "sa.Column[int]":
    return sa.Column(name, sa.BigInteger, nullable=False, server_default="0")
