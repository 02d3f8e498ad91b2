"""Who is asking, and what a handler may reach: the dependencies of every route."""

import asyncio
from dataclasses import dataclass
from typing import Annotated, cast

from fastapi import Depends, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from craft_server.image_store import ImageStore
from craft_server.keys import Key, Keys, RecentKeys, Scope
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
    recent_keys: RecentKeys
    ledger: Ledger
    images: ImageStore
    uploads: UploadDoor
    service: LogitsService


async def _parts(request: Request) -> Parts:  # async: FastAPI runs others in a thread
    return cast("Parts", request.app.state.parts)


PartsOf = Annotated[Parts, Depends(_parts)]

_bearer = HTTPBearer(auto_error=False, description="An API key: `craft_...`")
_Credentials = Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)]


async def _any_key(request: Request, credentials: _Credentials) -> Key:
    if credentials is None:
        detail = "send the header Authorization: Bearer craft_..."
        raise Refusal(Code.INVALID_KEY, detail, param="Authorization")
    parts = await _parts(request)
    key = await asyncio.to_thread(parts.recent_keys.verify, credentials.credentials)
    request.state.key_id = key.id  # for the log
    return key


async def _logits_key(request: Request, credentials: _Credentials) -> Key:
    """As the others, but a look at the store may be a second old: buying checks the key again."""
    parts, token = await _parts(request), credentials.credentials if credentials else ""
    key = parts.recent_keys.known(token) or await _any_key(request, credentials)
    request.state.key_id = key.id
    return _with_scope(key, Scope.LOGITS_READ)


async def _images_key(request: Request, credentials: _Credentials) -> Key:
    return _with_scope(await _any_key(request, credentials), Scope.IMAGES_WRITE)


async def _usage_key(request: Request, credentials: _Credentials) -> Key:
    return _with_scope(await _any_key(request, credentials), Scope.USAGE_READ)


def _with_scope(key: Key, scope: Scope) -> Key:
    if scope not in key.scopes:
        detail = f"this call needs the scope {scope}; the key has {', '.join(key.scopes)}"
        raise Refusal(Code.SCOPE_DENIED, detail, param="Authorization")
    return key


AnyKey = Annotated[Key, Depends(_any_key)]
LogitsKey = Annotated[Key, Depends(_logits_key)]
ImagesKey = Annotated[Key, Depends(_images_key)]
UsageKey = Annotated[Key, Depends(_usage_key)]
