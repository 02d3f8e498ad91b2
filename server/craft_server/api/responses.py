"""How logits leave: whole in one response, or block by block as the reader takes them.

A body in blocks has a Content-Length where its size is known before its values are, so that a
reader notices one that was cut short; what was cut short is bought already and can be had again.
"""

import asyncio
import json
import logging
from collections.abc import AsyncIterator

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from craft_server.api.bodies import JSON_MEDIA_TYPE
from craft_server.logits.results import Logits, Reply
from craft_shared.messages import LogitsReply
from craft_shared.tensors import TENSOR_MEDIA_TYPE
from craft_shared.wire import begin_reply, encode_reply

_LOG = logging.getLogger(__name__)

_SMALL = 4096
"""So few logits are written as JSON in less time than handing them to another thread takes."""


async def response_to(reply: Reply, *, tensors: bool, deadline_s: float) -> Response:
    """The response that carries a reply; `deadline_s` is how long a reader may take."""
    headers = _headers(reply)
    media = TENSOR_MEDIA_TYPE if tensors else JSON_MEDIA_TYPE
    if reply.logits is None:
        return _StreamedResponse(reply, headers, media, tensors=tensors, deadline_s=deadline_s)
    if tensors:
        body = encode_reply(reply.message, reply.logits)
    elif reply.logits.size <= _SMALL:
        body = _json(reply.message, reply.logits)
    else:
        body = await asyncio.to_thread(_json, reply.message, reply.logits)
    return Response(body, headers=headers, media_type=media)


class _StreamedResponse(Response):
    """Sends a reply's blocks, each computed when the one before is on its way."""

    def __init__(
        self,
        reply: Reply,
        headers: dict[str, str],
        media: str,
        *,
        tensors: bool,
        deadline_s: float,
    ) -> None:
        super().__init__(headers=headers, media_type=media)
        del self.headers["content-length"]
        self._reply = reply
        self._deadline_s = deadline_s
        if tensors:
            begin = begin_reply(reply.message, reply.dtype, reply.shape)
            prompts, images, classes = reply.shape
            size = prompts * images * classes * reply.dtype.itemsize
            self.headers["content-length"] = str(len(begin) + size)
            self._parts = _tensor_parts(reply, begin)
        else:
            self._parts = _json_parts(reply)

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


async def _tensor_parts(reply: Reply, begin: bytes) -> AsyncIterator[bytes]:
    yield begin
    async for block in reply.blocks():
        yield block.tobytes()


async def _json_parts(reply: Reply) -> AsyncIterator[bytes]:
    """The same document as `_json`, row by row."""
    head = reply.message.model_dump_json(exclude_none=True).removesuffix("}")
    separator = head + ',"logits":[['
    row = 0
    async for block in reply.blocks():
        for images in block.tolist():
            text = json.dumps(images, separators=(",", ":"))[1:-1].replace("-Infinity", "null")
            yield (separator + text).encode()
            row += len(images)
            separator = "],[" if row % reply.shape[1] == 0 else ","
    yield b"]]}"


def _json(message: LogitsReply, logits: Logits) -> bytes:
    whole = message.model_copy(update={"logits": logits.tolist()})
    return whole.model_dump_json(exclude_none=True).encode()


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
