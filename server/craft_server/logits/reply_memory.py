"""How much memory a reply takes while it leaves: known from its price, before any work."""

import math

from craft_server.logits.pricing import Quote
from craft_server.logits.results import dtype_of
from craft_server.logits.scoring import BLOCK_LOGITS, fits_a_block

_JSON_BYTES = 20
"""Of one logit as JSON, at most: a float32 is written as the float64 that is equal to it."""

_EMBEDDING_BYTES = 8
"""Of an encoded text, for each number of a token's embedding: float32, and in every CLIP the space
that texts share with images is at most twice as wide as a token."""


def memory_of(quote: Quote, *, width: int, tensors: bool) -> int:
    """Bytes at most: of a small reply its body; of a large one all its texts and two blocks.

    Args:
        quote: the request and its price.
        width: of a token's embedding.
        tensors: as what it leaves; else as JSON.
    """
    prompts, texts = quote.cost.queries, quote.cost.texts
    shape = prompts, quote.cost.logit_vectors // prompts, texts // prompts
    number = dtype_of(quote.order.request).itemsize
    if fits_a_block(shape):
        return math.prod(shape) * (number if tensors else _JSON_BYTES)
    return texts * width * _EMBEDDING_BYTES + 2 * BLOCK_LOGITS * number
