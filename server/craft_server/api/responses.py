"""How logits leave: whole in one response, or block by block as the reader takes them.

A body in blocks has a Content-Length where its size is known before its values are, so that a
reader notices one that was cut short; what was cut short is bought already and can be had again.

Large JSON is written on threads, in turns of owners, and by calls that are short each: while one
call writes, no other thread of the process runs.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator
from functools import partial
from itertools import islice
from typing import Any

from numpy.typing import NDArray
from pydantic import TypeAdapter
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from craft_server.accounts.shares import Caller
from craft_server.api.bodies import JSON_MEDIA_TYPE
from craft_server.api.turns import Turns
from craft_server.logits.results import Logits, Reply
from craft_shared.int16_rows import Int16Rows, encode
from craft_shared.messages import LogitsReply, ReplyDtype
from craft_shared.tensors import TENSOR_MEDIA_TYPE, little_endian
from craft_shared.wire import begin_reply, encode_reply, logits_bytes

_LOG = logging.getLogger(__name__)

_SMALL = 4096
"""So few logits are written as JSON in less time than handing them to another thread takes."""


_PIECES = 16
"""Pieces of `_SMALL` logits that are written in one turn of a stream: some 1 MB of text."""

_ROWS = TypeAdapter(list[list[float]])


class Writer:
    """Writes the replies of one caller.

    Args:
        caller: whose turns are taken.
        turns: in which large JSON is written.
        deadline_s: how long a reader may take for a reply in blocks.
    """

    def __init__(self, caller: Caller, turns: Turns, *, deadline_s: float) -> None:
        self._caller = caller
        self._turns = turns
        self._deadline_s = deadline_s

    async def response(self, reply: Reply, *, tensors: bool) -> Response:
        """The response that carries a reply."""
        headers = _headers(reply)
        if reply.logits is None:
            media = TENSOR_MEDIA_TYPE if tensors else JSON_MEDIA_TYPE
            if tensors:
                headers["Content-Length"] = str(_size(reply))
            parts = _tensor_parts(reply) if tensors else self._json_parts(reply)
            return _StreamedResponse(reply, parts, headers, media, deadline_s=self._deadline_s)
        if tensors:
            logits = await _as_asked(reply.logits, reply.dtype)
            body = encode_reply(reply.message, logits)
            return Response(body, headers=headers, media_type=TENSOR_MEDIA_TYPE)
        body = await self._json(reply.message, reply.logits)
        return Response(body, headers=headers, media_type=JSON_MEDIA_TYPE)

    async def _json(self, message: LogitsReply, logits: Logits) -> bytes:
        if logits.size <= _SMALL:
            whole = message.model_copy(update={"logits": logits.tolist()})
            return whole.model_dump_json(exclude_none=True).encode()

        def write() -> bytes:
            return b"".join(_json_of(logits, _head(message), 0, logits.shape[1])) + b"]]}"

        return await self._turns.run(self._caller, write)

    async def _json_parts(self, reply: Reply) -> AsyncIterator[bytes]:
        """The same document, block by block."""
        row, head = 0, _head(reply.message)
        async for block in reply.blocks():
            pieces = _json_of(block, head, row, reply.shape[1])
            while part := await self._turns.run(self._caller, partial(_joined, pieces)):
                yield part
            row += block.shape[0] * block.shape[1]
        yield b"]]}"


class _StreamedResponse(Response):
    """Sends a reply's parts, each computed when the one before is on its way."""

    def __init__(
        self,
        reply: Reply,
        parts: AsyncIterator[bytes],
        headers: dict[str, str],
        media: str,
        *,
        deadline_s: float,
    ) -> None:
        super().__init__(headers=headers, media_type=media)
        if "Content-Length" not in headers:
            del self.headers["content-length"]
        self._reply = reply
        self._parts = parts
        self._deadline_s = deadline_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send head, parts and end; stop computing for a reader that left or is too slow."""
        del scope
        left = asyncio.ensure_future(disconnected(receive))
        try:
            async with asyncio.timeout(self._deadline_s):
                await self._send(send, left)
        except TimeoutError:
            _LOG.warning("a reader took longer than %g s and was cut off", self._deadline_s)
        finally:
            left.cancel()
            self._reply.close()

    async def _send(self, send: Send, left: "asyncio.Future[None]") -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        async for part in self._parts:
            await send({"type": "http.response.body", "body": part, "more_body": True})
            if left.done():
                return
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def disconnected(receive: Receive) -> None:
    """Return when the client hangs up; its request's body must have been read."""
    while (await receive())["type"] != "http.disconnect":
        pass


def _size(reply: Reply) -> int:
    prompts, images, classes = reply.shape
    begin = begin_reply(reply.message, reply.dtype, reply.shape)
    return len(begin) + logits_bytes(reply.dtype, rows=prompts * images, classes=classes)


async def _tensor_parts(reply: Reply) -> AsyncIterator[bytes]:
    yield begin_reply(reply.message, reply.dtype, reply.shape)
    offsets: list[bytes] = []
    scales: list[bytes] = []
    async for block in reply.blocks():
        part = await _as_asked(block, reply.dtype)
        if isinstance(part, Int16Rows):
            offsets.append(little_endian(part.offset).tobytes())
            scales.append(little_endian(part.scale).tobytes())
        yield little_endian(_values(part)).tobytes()
    for each in (*offsets, *scales):
        yield each


def _values(logits: Logits | Int16Rows) -> NDArray[Any]:
    return logits.values if isinstance(logits, Int16Rows) else logits


async def _as_asked(logits: Logits, dtype: ReplyDtype) -> Logits | Int16Rows:
    """Logits in the form in which they leave as tensors."""
    return await asyncio.to_thread(encode, logits) if dtype == "int16" else logits


def _head(message: LogitsReply) -> str:
    return message.model_dump_json(exclude_none=True).removesuffix("}") + ',"logits":[['


def _json_of(block: Logits, head: str, row: int, images: int) -> Iterator[bytes]:
    """A block's rows as JSON, in pieces of at most `_SMALL` logits, or of one row.

    Args:
        block: (p, n, K), whole rows of the reply in its order.
        head: what comes before the reply's first row.
        row: the number of the block's first row, counted over prompts and images.
        images: rows of a prompt.
    """
    rows = block.reshape(-1, block.shape[2])
    together = max(1, _SMALL // block.shape[2])
    start = 0
    while start < len(rows):
        within = (row + start) % images
        stop = min(start + together, start + images - within, len(rows))
        separator = head if row + start == 0 else "," if within else "],["
        yield separator.encode() + _ROWS.dump_json(rows[start:stop].tolist())[1:-1]
        start = stop


def _joined(pieces: Iterator[bytes]) -> bytes:
    return b"".join(islice(pieces, _PIECES))


def _headers(reply: Reply) -> dict[str, str]:
    message = reply.message
    timing = [f"{name};dur={1000 * spent:.1f}" for name, spent in reply.seconds.items()]
    headers = {
        "X-Query-Cost": str(0 if message.replayed else message.cost.queries),
        "X-Query-Remaining": str(message.budgets.queries.remaining),
    }
    if timing:
        headers["Server-Timing"] = ", ".join(timing)
    if message.replayed:
        headers["Idempotent-Replayed"] = "true"
    return headers
