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
from craft_server.logits.scoring import Logits
from craft_server.logits.service import Delivery
from craft_shared.messages import LogitsReply
from craft_shared.tensors import TENSOR_MEDIA_TYPE
from craft_shared.wire import begin_reply, encode_reply

_LOG = logging.getLogger(__name__)

_SMALL = 4096
"""So few logits are written as JSON in less time than handing them to another thread takes."""


async def response_to(delivery: Delivery, *, tensors: bool, deadline_s: float) -> Response:
    """The response that carries a delivery; `deadline_s` is how long a reader may take."""
    headers = _headers(delivery)
    media = TENSOR_MEDIA_TYPE if tensors else JSON_MEDIA_TYPE
    if delivery.logits is None:
        return _InBlocks(delivery, headers, media, tensors=tensors, deadline_s=deadline_s)
    if tensors:
        body = encode_reply(delivery.reply, delivery.logits)
    elif delivery.logits.size <= _SMALL:
        body = _json(delivery.reply, delivery.logits)
    else:
        body = await asyncio.to_thread(_json, delivery.reply, delivery.logits)
    return Response(body, headers=headers, media_type=media)


class _InBlocks(Response):
    """Sends a delivery's blocks, each computed when the one before is on its way."""

    def __init__(
        self,
        delivery: Delivery,
        headers: dict[str, str],
        media: str,
        *,
        tensors: bool,
        deadline_s: float,
    ) -> None:
        super().__init__(headers=headers, media_type=media)
        del self.headers["content-length"]
        self._delivery = delivery
        self._deadline_s = deadline_s
        if tensors:
            begin = begin_reply(delivery.reply, delivery.dtype, delivery.shape)
            prompts, images, classes = delivery.shape
            size = prompts * images * classes * delivery.dtype.itemsize
            self.headers["content-length"] = str(len(begin) + size)
            self._parts = _tensor_parts(delivery, begin)
        else:
            self._parts = _json_parts(delivery)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send head, parts and end; stop computing for a reader that left or is too slow."""
        del scope
        left = asyncio.ensure_future(hung_up(receive))
        try:
            async with asyncio.timeout(self._deadline_s):
                await self._send(send, left)
        except TimeoutError:
            _LOG.warning("a reader took longer than %g s and was cut off", self._deadline_s)
        finally:
            left.cancel()
            self._delivery.close()

    async def _send(self, send: Send, left: "asyncio.Future[None]") -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        async for part in self._parts:
            await send({"type": "http.response.body", "body": part, "more_body": True})
            if left.done():
                return
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def hung_up(receive: Receive) -> None:
    """Return when the client hangs up; its request's body must have been read."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def _tensor_parts(delivery: Delivery, begin: bytes) -> AsyncIterator[bytes]:
    yield begin
    async for block in delivery.blocks():
        yield block.tobytes()


async def _json_parts(delivery: Delivery) -> AsyncIterator[bytes]:
    """The same document as `_json`, row by row."""
    head = delivery.reply.model_dump_json(exclude_none=True).removesuffix("}")
    separator = head + ',"logits":[['
    row = 0
    async for block in delivery.blocks():
        for images in block.tolist():
            text = json.dumps(images, separators=(",", ":"))[1:-1].replace("-Infinity", "null")
            yield (separator + text).encode()
            row += len(images)
            separator = "],[" if row % delivery.shape[1] == 0 else ","
    yield b"]]}"


def _json(reply: LogitsReply, logits: Logits) -> bytes:
    whole = reply.model_copy(update={"logits": logits.tolist()})
    return whole.model_dump_json(exclude_none=True).encode()


def _headers(delivery: Delivery) -> dict[str, str]:
    reply = delivery.reply
    timing = [f"{name};dur={1000 * spent:.1f}" for name, spent in delivery.seconds.items()]
    headers = {
        "X-Query-Cost": str(0 if reply.replayed else reply.cost.queries),
        "X-Query-Remaining": str(reply.budgets.queries.remaining),
    }
    if timing:
        headers["Server-Timing"] = ", ".join(timing)
    if reply.replayed:
        headers["Idempotent-Replayed"] = "true"
    return headers
