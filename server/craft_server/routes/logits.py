"""POST /v1/logits: the only door through which a model's answers leave."""

import asyncio
from collections.abc import Coroutine
from typing import Annotated, Any, TypeVar

from fastapi import APIRouter, Header, Request, Response

from craft_server.blackbox import FloatArray
from craft_server.routes.access import LogitsKey, PartsOf
from craft_server.routes.bodies import JSON_MEDIA_TYPE, describe, media_type, wants_tensors
from craft_server.service import Delivery
from craft_shared.errors import Code, Refusal
from craft_shared.messages import LogitsReply, LogitsRequest
from craft_shared.tensors import TENSOR_MEDIA_TYPE
from craft_shared.wire import decode_request, encode_reply, offsets_from_json, parse

router = APIRouter(tags=["logits"])

T = TypeVar("T")


@router.post(
    "/v1/logits",
    response_model=LogitsReply,
    responses={200: {"content": {TENSOR_MEDIA_TYPE: {}}}},
    openapi_extra=describe(LogitsRequest, tensors=True),
)
async def logits(
    request: Request,
    parts: PartsOf,
    key: LogitsKey,
    idempotency_key: Annotated[str, Header(description="the same on every retry")] = "",
) -> Response:
    """Score P prompts of K classes on an image set. Costs P queries, once per Idempotency-Key."""
    message, offsets = await _read(request)
    order = await parts.service.order(
        key, message, offsets=offsets, idempotency_key=idempotency_key
    )
    delivery = await _unless_left(request, parts.service.buy(order))
    body, media = await asyncio.to_thread(_encode, delivery, tensors=wants_tensors(request))
    return Response(body, media_type=media, headers=_headers(delivery))


async def _read(request: Request) -> tuple[LogitsRequest, FloatArray | None]:
    kind = media_type(request, JSON_MEDIA_TYPE, TENSOR_MEDIA_TYPE)
    body = await request.body()
    if kind == TENSOR_MEDIA_TYPE:
        return await asyncio.to_thread(decode_request, body)
    message = await asyncio.to_thread(parse, LogitsRequest, body)
    return message, offsets_from_json(message)


async def _unless_left(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """Await work, cancelling it if the client hangs up meanwhile."""
    task = asyncio.ensure_future(work)
    watcher = asyncio.ensure_future(_left(request))
    try:
        await asyncio.wait([task, watcher], return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            task.cancel()
            await asyncio.wait([task])
    finally:
        watcher.cancel()
        task.cancel()
    if task.cancelled():
        raise Refusal(Code.DEADLINE_EXCEEDED, "the client hung up; nothing was charged")
    return task.result()


async def _left(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _encode(delivery: Delivery, *, tensors: bool) -> tuple[bytes, str]:
    if tensors:
        return encode_reply(delivery.reply, delivery.logits), TENSOR_MEDIA_TYPE
    reply = delivery.reply.model_copy(update={"logits": delivery.logits.tolist()})
    return reply.model_dump_json(exclude_none=True).encode(), JSON_MEDIA_TYPE


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
