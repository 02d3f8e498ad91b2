"""Reading request bodies by the protocol, and describing them in the OpenAPI document."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, TypeVar, cast

from fastapi import Request
from pydantic import BaseModel
from starlette.types import Message, Receive

from craft_server.accounts.identity import Key
from craft_server.api.services import services_of
from craft_shared.errors import Code, Refusal
from craft_shared.tensors import TENSOR_MEDIA_TYPE
from craft_shared.wire import parse

JSON_MEDIA_TYPE = "application/json"

SMALL_BYTES = 2**16
"""A body that is read in less time than handing it to another thread takes."""

_PIECE_BYTES = 4096
_PARTS = 32
"""Of a multipart body: to read so many takes as long as to refuse a request."""

M = TypeVar("M", bound=BaseModel)


def media_type(request: Request, *allowed: str) -> str:
    """The body's media type, without parameters.

    Raises:
        Refusal: `media_type`, it is none of those allowed.
    """
    given = request.headers.get("content-type", "").split(";")[0].strip().lower()
    if given not in allowed:
        detail = f"Content-Type {given!r}; allowed: {', '.join(allowed)}"
        raise Refusal(Code.MEDIA_TYPE, detail, param="Content-Type")
    return given


async def read_json(request: Request, model: type[M], *, key: Key | None = None) -> M:
    """Read a JSON body as a message of the protocol: a client's large one in turns of owners."""
    media_type(request, JSON_MEDIA_TYPE)
    body, decode = await request.body(), partial(parse, model)
    if key is None or len(body) <= SMALL_BYTES:
        return decode(body)
    services = services_of(request.app)
    for _ in range(len(body) // SMALL_BYTES):  # as much work as so many requests
        await services.pacing.turn(key.owner)
    return await services.logits.read(key, decode, body)


def in_turns(request: Request, turn: Callable[[], Awaitable[None]]) -> Request:
    """The request, whose body of many parts is read in turns.

    A multipart body may have a thousand parts in what the socket gave at once, and each is made
    into a file on the event loop. So it comes in small pieces, everybody else has the event loop
    between them, and `turn` is awaited for every so many parts: they are work like a request.
    """
    return Request(request.scope, _InTurns(request.receive, turn))


class _InTurns:
    def __init__(self, receive: Receive, turn: Callable[[], Awaitable[None]]) -> None:
        self._receive = receive
        self._turn = turn
        self._parts = 0
        self._pieces: deque[Message] = deque()

    async def __call__(self) -> Message:
        if not self._pieces:
            self._pieces.extend(_pieces_of(await self._receive()))
        piece = self._pieces.popleft()
        self._parts += _parts_in(piece)
        while self._parts >= _PARTS:
            self._parts -= _PARTS
            await self._turn()
            await asyncio.sleep(0)
        return piece


def _parts_in(message: Message) -> int:
    return cast("bytes", message.get("body", b"")).count(b"\r\n--")


def _pieces_of(message: Message) -> list[Message]:
    """A piece of a body of many parts as many pieces; any other message as it is."""
    if _parts_in(message) <= _PARTS:
        return [message]
    body: bytes = message["body"]
    starts = range(0, len(body), _PIECE_BYTES)
    pieces: list[Message] = [
        {**message, "body": body[start : start + _PIECE_BYTES], "more_body": True}
        for start in starts
    ]
    pieces[-1]["more_body"] = message.get("more_body", False)
    return pieces


def wants_tensors(request: Request) -> bool:
    """Does the Accept header name tensors?"""
    return TENSOR_MEDIA_TYPE in request.headers.get("accept", "")


def describe(model: type[BaseModel], *, tensors: bool = False) -> dict[str, Any]:
    """`openapi_extra` for a route that reads `model` itself."""
    content: dict[str, Any] = {
        JSON_MEDIA_TYPE: {"schema": {"$ref": f"#/components/schemas/{model.__name__}"}}
    }
    if tensors:
        content[TENSOR_MEDIA_TYPE] = {"schema": {"type": "string", "format": "binary"}}
    return {"requestBody": {"required": True, "content": content}}


def schemas(*models: type[BaseModel]) -> dict[str, Any]:
    """Component schemas of messages that no handler names as a parameter."""
    found: dict[str, Any] = {}
    for model in models:
        schema = model.model_json_schema(ref_template="#/components/schemas/{model}")
        found |= schema.pop("$defs", {})
        found[model.__name__] = schema
    return found
