"""How much memory a reply takes while it leaves: known from its price, before any work."""

import math

from craft_server.logits.pricing import Quote
from craft_server.logits.results import dtype_of
from craft_server.logits.scoring import BLOCK_LOGITS, fits_a_block
from craft_shared.wire import INT16_ROW_BYTES, logits_bytes

_JSON_BYTES = 20
"""Of one logit as JSON, at most: a float32 is written as the float64 that is equal to it."""

_INT16_BYTES = 2
"""Of one logit of int16 rows, beside the float32 it is made of."""

_EMBEDDING_BYTES = 8
"""Of an encoded text, for each number of a token's embedding: float32, and in every CLIP the space
that texts share with images is at most twice as wide as a token."""


def memory_of(quote: Quote, *, width: int, tensors: bool) -> int:
    """Bytes at most: of a small reply its body; of a large one all its texts and two blocks.

    Of int16 rows there are the float32 logits beside them, and of a large reply all offsets and
    scales: they leave last.

    Args:
        quote: the request and its price.
        width: of a token's embedding.
        tensors: as what it leaves; else as JSON.
    """
    prompts, texts = quote.cost.queries, quote.cost.texts
    shape = prompts, quote.cost.logit_vectors // prompts, texts // prompts
    request = quote.order.request
    number = dtype_of(request).itemsize
    rows = shape[0] * shape[1] if tensors and request.dtype == "int16" else 0
    if fits_a_block(shape):
        packed = logits_bytes("int16", rows=rows, classes=shape[2])
        return math.prod(shape) * (number if tensors else _JSON_BYTES) + packed
    number += _INT16_BYTES if rows else 0
    return texts * width * _EMBEDDING_BYTES + 2 * BLOCK_LOGITS * number + rows * INT16_ROW_BYTES
