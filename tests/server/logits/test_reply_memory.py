"""What a reply takes is known before it is made, in every form in which it may leave."""

from types import SimpleNamespace

import pytest

from craft_server.logits.reply_memory import memory_of
from craft_server.logits.scoring import BLOCK_LOGITS
from craft_shared.messages import Counters
from craft_shared.wire import logits_bytes


def a_quote(dtype, prompts, images, classes):
    rows, texts = prompts * images, prompts * classes
    cost = Counters(queries=prompts, calls=1, logit_vectors=rows, texts=texts)
    return SimpleNamespace(cost=cost, order=SimpleNamespace(request=SimpleNamespace(dtype=dtype)))


@pytest.mark.parametrize("dtype", ["float32", "float16", "int16"])
@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 100, 2), (8, 128, 1000)])
def test_a_small_reply_takes_its_body_at_least(dtype, shape):
    memory = memory_of(a_quote(dtype, *shape), width=512, tensors=True)
    rows = shape[0] * shape[1]
    body = logits_bytes(dtype, rows=rows, classes=shape[2])
    logits = 4 * rows * shape[2] if dtype == "int16" else 0
    assert memory == body + logits


def test_a_large_reply_of_int16_rows_takes_all_their_ends_and_its_blocks():
    shape = (16, 50_000, 5)
    whole, rows = (
        memory_of(a_quote(dtype, *shape), width=512, tensors=True) for dtype in ("float32", "int16")
    )
    assert rows - whole == 16 * 50_000 * 8 + 2 * 2 * BLOCK_LOGITS


@pytest.mark.parametrize("shape", [(3, 100, 2), (16, 50_000, 5)])
def test_json_takes_the_same_whatever_the_tensors_would_be(shape):
    taken = {
        memory_of(a_quote(dtype, *shape), width=512, tensors=False)
        for dtype in ("float32", "int16")
    }
    assert len(taken) == 1
