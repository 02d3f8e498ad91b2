"""The OpenAPI document: what FastAPI cannot know of this protocol is put right here.

Routes read their bodies themselves, so their messages are named here; every error is a problem
document, of its own media type, and FastAPI's own 422 does not exist.
"""

from functools import cache
from typing import Any

from fastapi import FastAPI

from craft_server.api.bodies import schemas
from craft_shared.admin import KeyChange, KeyRequest, KeyRotation
from craft_shared.errors import PROBLEM_MEDIA_TYPE, Problem
from craft_shared.limits import MAX_IDEMPOTENCY_KEY_CHARS
from craft_shared.messages import ImageSetRequest, LogitsRequest, Manifest, TextsRequest

_OURS = (
    LogitsRequest,
    TextsRequest,
    ImageSetRequest,
    Manifest,
    KeyRequest,
    KeyChange,
    KeyRotation,
    Problem,
)
_FASTAPIS = ("HTTPValidationError", "ValidationError")
_PROBLEM = {"schema": {"$ref": f"#/components/schemas/{Problem.__name__}"}}
_ERRORS = {
    "4XX": {"description": "Refused", "content": {PROBLEM_MEDIA_TYPE: _PROBLEM}},
    "5XX": {"description": "Failed", "content": {PROBLEM_MEDIA_TYPE: _PROBLEM}},
}
_OVERRIDES: dict[str, dict[str, Any]] = {
    "idempotency-key": {
        "required": True,
        "schema": {"type": "string", "pattern": f"^[ -~]{{1,{MAX_IDEMPOTENCY_KEY_CHARS}}}$"},
    }
}
"""Parameters whose absence has a code of its own, so that routes must not require them."""


def complete(app: FastAPI) -> None:
    """Make `app.openapi` give the whole document."""
    generate = app.openapi

    @cache
    def openapi() -> dict[str, Any]:
        document = generate()
        components = document.setdefault("components", {}).setdefault("schemas", {})
        components |= schemas(*_OURS)
        for name in _FASTAPIS:
            components.pop(name, None)
        for path in document["paths"].values():
            for operation in path.values():
                operation["responses"].pop("422", None)
                operation["responses"] |= _ERRORS
                for parameter in operation.get("parameters", []):
                    parameter.update(_OVERRIDES.get(parameter["name"], {}))
        return document

    app.openapi = openapi  # type: ignore[method-assign]  # FastAPI's documented way to extend it
