"""The logits of a priced request, computed as a whole or in blocks, and what leaves with them.

Owns the forms of a result, its number format and the proof that stands for it in the ledger.
"""

import weakref
from collections.abc import AsyncIterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from craft_server.engine.blackbox import FloatArray
from craft_server.logits.pricing import PricedRequest
from craft_shared.messages import LogitsReply, LogitsRequest, ReplyDtype

Logits = NDArray[np.floating]

_DTYPES: dict[str, np.dtype[Any]] = {
    "float32": np.dtype("<f4"),
    "float16": np.dtype("<f2"),
    "int16": np.dtype("<f4"),
}


def dtype_of(request: LogitsRequest) -> np.dtype[Any]:
    """The number format that logits are computed and kept in, little-endian.

    It is the one asked for, but for int16: its rows are made of float32 as they leave.
    """
    return _DTYPES[request.dtype]


class WholeResult(NamedTuple):
    """All logits of a request (P, N, K), and the seconds spent waiting and computing."""

    logits: Logits
    seconds: dict[str, float]


@dataclass(frozen=True)
class StreamedResult:
    """A request whose texts are encoded: its logits can be had block by block.

    Attributes:
        proof: float32 (P, K), the logits of every prompt and class on the first image. They are
            finite, and so are all others then; their digest stands for the reply's.
        blocks: logits in the reply's order, each computed when it is asked for.
        seconds: spent waiting and computing so far.
    """

    proof: FloatArray
    blocks: AsyncIterator[Logits]
    seconds: dict[str, float]


Result = WholeResult | StreamedResult


def proof_of(result: Result) -> bytes:
    """What is the same whenever the request is computed: all logits, or a stream's proof."""
    return (result.logits if isinstance(result, WholeResult) else result.proof).tobytes()


class Reply:
    """What leaves: the protocol's message and the logits, whole or block by block.

    Attributes:
        message: the message.
        shape: of the logits, (P, N, K).
        dtype: of the logits, if they leave as tensors.
        logits: all of them, if the reply is small.
        seconds: where the time went.
    """

    def __init__(self, message: LogitsReply, priced: PricedRequest, result: Result) -> None:
        self.message = message
        self.shape = priced.shape
        self.dtype: ReplyDtype = priced.request.dtype
        self.logits = result.logits if isinstance(result, WholeResult) else None
        self.seconds = result.seconds
        self._result = result
        self._held = ExitStack()
        self.close = weakref.finalize(self, self._held.close)
        """Lets a drain go on that waits for a streamed reply to leave."""

    def hold(self, held: ExitStack) -> None:
        """Hold on to something until closed."""
        self._held.push(held)

    async def blocks(self) -> AsyncIterator[Logits]:
        """The logits in the reply's order."""
        if isinstance(self._result, WholeResult):
            yield self._result.logits
        else:
            async for block in self._result.blocks:
                yield block
