"""Reading request bodies by the protocol, and describing them in the OpenAPI document."""

from typing import Any, TypeVar

from fastapi import Request
from pydantic import BaseModel

from craft_shared.errors import Code, Refusal
from craft_shared.tensors import TENSOR_MEDIA_TYPE
from craft_shared.wire import parse

JSON_MEDIA_TYPE = "application/json"

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


async def read_json(request: Request, model: type[M]) -> M:
    """Read a JSON body as a message of the protocol."""
    media_type(request, JSON_MEDIA_TYPE)
    return parse(model, await request.body())


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
