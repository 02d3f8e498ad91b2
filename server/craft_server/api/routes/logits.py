"""POST /v1/logits: the only route by which a model's answers leave."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from typing import Annotated, Any, TypeVar

from fastapi import APIRouter, Header, Request, Response
from starlette.requests import ClientDisconnect

from craft_server.accounts.identity import Key
from craft_server.accounts.shares import Caller
from craft_server.api.bodies import (
    JSON_MEDIA_TYPE,
    SMALL_BYTES,
    describe,
    media_type,
    wants_tensors,
)
from craft_server.api.dependencies import LogitsKey, LogitsKeyNow, ServicesOf, hold
from craft_server.api.responses import Writer, disconnected
from craft_server.engine.blackbox import FloatArray
from craft_server.logits.reply_memory import memory_of
from craft_server.logits.results import Reply
from craft_server.logits.service import LogitsService
from craft_shared.errors import CODES, Code, Refusal
from craft_shared.messages import LogitsReply, LogitsRequest
from craft_shared.tensors import TENSOR_MEDIA_TYPE
from craft_shared.wire import decode_request, offsets_from_json, parse

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
    services: ServicesOf,
    key: LogitsKey,
    key_now: LogitsKeyNow,
    idempotency_key: Annotated[str, Header(description="the same on every retry")] = "",
) -> Response:
    """Score P prompts of K classes on an image set. Costs P queries, once per Idempotency-Key."""
    key = await _with_room(services.logits, key, key_now, idempotency_key)
    message, offsets = await _read(request, services.logits, key)
    tensors, caller = wants_tensors(request), Caller.of(key)

    async def buy(key: Key) -> Reply:
        pricing = services.logits.price(
            key, message, offsets=offsets, idempotency_key=idempotency_key
        )
        priced = await _unless_disconnected(request, asyncio.ensure_future(pricing))
        memory = memory_of(priced, width=services.logits.card.context_width, tensors=tensors)
        with ExitStack() as held:  # before the work: what cannot leave is not computed
            held.enter_context(services.replies.lease(caller, memory))
            reply = await _unless_disconnected(request, services.logits.start(priced))
            hold(request, held.pop_all())
        if not reply.message.replayed:
            services.pacing.give_back(key.owner)
        return reply

    try:
        reply = await buy(key)
    except Refusal as refusal:
        if CODES[refusal.code].retryable:
            raise
        now = await key_now()
        if now.version == key.version:
            raise
        reply = await buy(now)
    writer = Writer(caller, services.writing, deadline_s=services.settings.deadline_s)
    return await writer.response(reply, tensors=tensors)


async def _with_room(
    service: LogitsService, key: Key, key_now: Callable[[], Awaitable[Key]], idempotency_key: str
) -> Key:
    """The key, unless its budget is spent: then nothing of the body is read."""
    try:
        await service.foresee(key, idempotency_key)
    except Refusal as refusal:
        if refusal.code is not Code.INVALID_KEY:
            raise
        key = await key_now()
        await service.foresee(key, idempotency_key)
    return key


async def _read(
    request: Request, service: LogitsService, key: Key
) -> tuple[LogitsRequest, FloatArray | None]:
    kind = media_type(request, JSON_MEDIA_TYPE, TENSOR_MEDIA_TYPE)
    decode = decode_request if kind == TENSOR_MEDIA_TYPE else _decode_json
    body = await request.body()
    if len(body) <= SMALL_BYTES:
        return decode(body)
    reading = asyncio.ensure_future(service.read(key, decode, body))
    return await _unless_disconnected(request, reading)


def _decode_json(body: bytes) -> tuple[LogitsRequest, FloatArray | None]:
    message = parse(LogitsRequest, body)
    return message, offsets_from_json(message)


async def _unless_disconnected(request: Request, task: "asyncio.Future[T]") -> T:
    """Await work, cancelling it if the client hangs up meanwhile."""
    watcher = asyncio.ensure_future(disconnected(request.receive))
    both: list[asyncio.Future[Any]] = [task, watcher]
    try:
        await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            task.cancel()
            await asyncio.wait([task])
    finally:
        watcher.cancel()
        task.cancel()
    if task.cancelled() and watcher.done():
        raise ClientDisconnect  # nothing was charged
    if task.cancelled():
        raise Refusal(Code.DRAINING, "the server is shutting down; nothing was charged")
    return task.result()
