"""Who is asking, and what a handler may reach: the dependencies of every route."""

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Annotated, Any, cast

from fastapi import Depends, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from craft_server.image_store import ImageStore
from craft_server.keys import Key, Keys, Scope
from craft_server.ledger import Ledger
from craft_server.service import LogitsService
from craft_server.settings import Settings
from craft_server.uploads import UploadDoor
from craft_shared.errors import Code, Refusal


@dataclass(frozen=True)
class Parts:
    """The server's parts, built once by `create_app`."""

    settings: Settings
    keys: Keys
    ledger: Ledger
    images: ImageStore
    uploads: UploadDoor
    service: LogitsService


def _parts(request: Request) -> Parts:
    return cast("Parts", request.app.state.parts)


PartsOf = Annotated[Parts, Depends(_parts)]

_bearer = HTTPBearer(auto_error=False, description="An API key: `craft_...`")
_Credentials = Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)]


async def _any_key(parts: PartsOf, credentials: _Credentials) -> Key:
    if credentials is None:
        detail = "send the header Authorization: Bearer craft_..."
        raise Refusal(Code.INVALID_KEY, detail, param="Authorization")
    return await asyncio.to_thread(parts.keys.verify, credentials.credentials)


AnyKey = Annotated[Key, Depends(_any_key)]


def _with(scope: Scope) -> Callable[[AnyKey], Coroutine[Any, Any, Key]]:
    async def check(key: AnyKey) -> Key:
        if scope not in key.scopes:
            detail = f"this call needs the scope {scope}; the key has {', '.join(key.scopes)}"
            raise Refusal(Code.SCOPE_DENIED, detail, param="Authorization")
        return key

    return check


LogitsKey = Annotated[Key, Depends(_with(Scope.LOGITS_READ))]
ImagesKey = Annotated[Key, Depends(_with(Scope.IMAGES_WRITE))]
UsageKey = Annotated[Key, Depends(_with(Scope.USAGE_READ))]
