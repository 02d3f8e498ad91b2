"""POST /v1/logits: the only route by which a model's answers leave."""

import asyncio
from contextlib import ExitStack
from typing import Annotated, TypeVar

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
from craft_server.api.dependencies import LogitsKey, buyer, hold
from craft_server.api.responses import Writer, disconnected
from craft_server.api.services import services_of
from craft_server.concurrency import ended
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
    key: LogitsKey,
    idempotency_key: Annotated[str, Header(description="the same on every retry")] = "",
) -> Response:
    """Score P prompts of K classes on an image set. Costs P queries, once per Idempotency-Key."""
    services = services_of(request.app)
    key = await _with_room(request, services.logits, key, idempotency_key)
    message, offsets = await _read(request, services.logits, key)
    tensors, caller = wants_tensors(request), Caller.of(key)

    async def buy(key: Key) -> Reply:
        async with _Presence(request) as client:
            quote = await services.logits.price(
                key, message, offsets=offsets, idempotency_key=idempotency_key
            )
            memory = memory_of(quote, width=services.logits.card.context_width, tensors=tensors)
            with ExitStack() as held:  # before the work: what cannot leave is neither read nor done
                held.enter_context(services.replies.lease(caller, memory))
                priced = await services.logits.plan(quote)
                reply = await client.finished(services.logits.start(priced))
                hold(request, held.pop_all())
        if not reply.message.replayed:
            services.pacing.give_back(key.owner)
        return reply

    try:
        reply = await buy(key)
    except Refusal as refusal:
        if CODES[refusal.code].retryable:
            raise
        now = await buyer.now(request)
        if now.version == key.version:
            raise
        reply = await buy(now)
    writer = Writer(caller, services.writing, deadline_s=services.settings.deadline_s)
    return await writer.response(reply, tensors=tensors)


async def _with_room(
    request: Request, service: LogitsService, key: Key, idempotency_key: str
) -> Key:
    """The key, unless its budget is spent: then nothing of the body is read."""
    try:
        await service.foresee(key, idempotency_key)
    except Refusal as refusal:
        if refusal.code is not Code.INVALID_KEY:
            raise
        key = await buyer.now(request)
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
    async with _Presence(request):
        return await service.read(key, decode, body)


def _decode_json(body: bytes) -> tuple[LogitsRequest, FloatArray | None]:
    message = parse(LogitsRequest, body)
    return message, offsets_from_json(message)


class _Presence:
    """A block that is cancelled when the client hangs up; the request's body must have been read.

    Raises:
        ClientDisconnect: it did. Nothing was charged.
    """

    def __init__(self, request: Request) -> None:
        self._receive = request.receive
        self._left = False

    async def __aenter__(self) -> "_Presence":
        """Begin to watch."""
        self._block = asyncio.current_task()
        self._watcher = asyncio.ensure_future(disconnected(self._receive))
        self._watcher.add_done_callback(self._leave)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: object
    ) -> None:
        """End to watch."""
        self._watcher.remove_done_callback(self._leave)
        self._watcher.cancel()
        if not self._left or self._block is None:
            return
        if self._block.uncancel() == 0 and kind is asyncio.CancelledError:
            raise ClientDisconnect from error

    async def finished(self, task: "asyncio.Task[T]") -> T:
        """What a task comes to. It is cancelled with this block: if the client left, to its end.

        Raises:
            Refusal: `draining`, the server has cancelled it.
        """
        try:
            await ended(task)
        except asyncio.CancelledError:
            task.cancel()
            if self._left:
                await ended(task)
            raise
        if task.cancelled():
            raise Refusal(Code.DRAINING, "the server is shutting down; nothing was charged")
        return task.result()

    def _leave(self, watcher: "asyncio.Future[None]") -> None:
        watcher.exception()  # whatever ended it: there is nobody to answer
        self._left = True
        if self._block is not None:
            self._block.cancel()
