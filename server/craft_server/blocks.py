"""How a reply (P, N, K) is cut into blocks that are computed and sent one after the other.

Blocks follow each other in the reply's own order, row-major, and none is larger than a limit
(except a single row), so that memory does not grow with the reply. They depend on the order alone,
never on the reader's speed or on other clients.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple


class Block(NamedTuple):
    """Some prompts of one encoded piece on some images; only a single prompt's images are cut."""

    piece: int
    prompts: slice
    images: slice


def cut(pieces: Sequence[slice], images: int, *, classes: int, limit: int) -> Iterator[Block]:
    """Blocks of at most `limit` logits, or one row of `classes` where that is more.

    Args:
        pieces: runs of prompts; a block's prompts are counted from its piece's start.
        images: N.
        classes: K.
        limit: logits in a block.
    """
    rows = max(1, limit // classes)
    together = max(1, rows // images)
    for index, piece in enumerate(pieces):
        count = piece.stop - piece.start
        for start in range(0, count, together):
            prompts = slice(start, min(start + together, count))
            for first in range(0, images, rows):
                yield Block(index, prompts, slice(first, min(first + rows, images)))
