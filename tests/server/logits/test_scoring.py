"""Blocks cover a reply exactly, in its order, and none is larger than it may be."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from craft_server.logits.scoring import cut


@given(
    pieces=st.lists(st.integers(1, 5), min_size=1, max_size=4),
    images=st.integers(1, 30),
    classes=st.integers(1, 7),
    limit=st.integers(1, 60),
)
def test_blocks_are_the_reply_in_order(pieces, images, classes, limit):
    ends = np.cumsum(pieces)
    runs = [slice(int(end) - size, int(end)) for size, end in zip(pieces, ends, strict=True)]
    reply = np.arange(ends[-1] * images * classes).reshape(-1, images, classes)
    found = []
    for block in cut(runs, images, classes=classes, limit=limit):
        part = reply[runs[block.piece]][block.prompts, block.images]
        assert 0 < part.size <= max(limit, classes)
        found.append(part.ravel())
    np.testing.assert_array_equal(np.concatenate(found), reply.ravel())
