"""Who is asking, and what a handler may reach: the dependencies of every route."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Annotated, cast

from fastapi import Depends, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from craft_server.accounts.cache import RecentKeys
from craft_server.accounts.identity import Key, Scope
from craft_server.accounts.keys import Keys
from craft_server.accounts.rate_limit import Rates
from craft_server.db.store import Store
from craft_server.images.admission import UploadDoor
from craft_server.images.store import ImageStore
from craft_server.logits.service import LogitsService
from craft_server.metering.ledger import Ledger
from craft_server.settings import Settings
from craft_shared.errors import Code, Refusal


@dataclass(frozen=True)
class Parts:
    """The server's parts, built once by `create_app`."""

    settings: Settings
    store: Store
    keys: Keys
    recent_keys: RecentKeys
    rates: Rates
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
    parts = await _parts(request)
    key = await asyncio.to_thread(parts.recent_keys.verify, _token(credentials))
    return _counted(request, parts, key)


async def _logits_key(request: Request, credentials: _Credentials) -> Key:
    """As the others, but a look at the store may be a second old: buying checks the key again."""
    parts = await _parts(request)
    recent = parts.recent_keys.known(_token(credentials))
    if recent is not None and Scope.LOGITS_READ in recent.scopes:
        return _counted(request, parts, recent)
    return _with_scope(await _any_key(request, credentials), Scope.LOGITS_READ)


async def _logits_key_now(
    request: Request, credentials: _Credentials
) -> Callable[[], Awaitable[Key]]:
    """Look at the store again: whoever was refused may meet a key that was changed just now."""
    parts = await _parts(request)

    async def again() -> Key:
        key = await asyncio.to_thread(parts.recent_keys.verify, _token(credentials))
        return _with_scope(key, Scope.LOGITS_READ)

    return again


async def _images_key(request: Request, credentials: _Credentials) -> Key:
    return _with_scope(await _any_key(request, credentials), Scope.IMAGES_WRITE)


async def _usage_key(request: Request, credentials: _Credentials) -> Key:
    return _with_scope(await _any_key(request, credentials), Scope.USAGE_READ)


async def _admin_key(request: Request, credentials: _Credentials) -> Key:
    return _with_scope(await _any_key(request, credentials), Scope.ADMIN)


def _token(credentials: HTTPAuthorizationCredentials | None) -> str:
    if credentials is None:
        detail = "send the header Authorization: Bearer craft_..."
        raise Refusal(Code.INVALID_KEY, detail, param="Authorization")
    return credentials.credentials


def _counted(request: Request, parts: Parts, key: Key) -> Key:
    """Count a call against the key's rate; the middleware tells the client where it stands."""
    standing = parts.rates.take(key.id, key.policy.requests_per_minute)
    request.state.rate = standing
    request.state.key_id = key.id  # for the log
    if standing is not None and standing.wait_s:
        raise standing.refusal()
    return key


def _with_scope(key: Key, scope: Scope) -> Key:
    if scope not in key.scopes:
        detail = f"this call needs the scope {scope}; the key has {', '.join(key.scopes)}"
        raise Refusal(Code.SCOPE_DENIED, detail, param="Authorization")
    return key


AnyKey = Annotated[Key, Depends(_any_key)]
LogitsKey = Annotated[Key, Depends(_logits_key)]
ImagesKey = Annotated[Key, Depends(_images_key)]
UsageKey = Annotated[Key, Depends(_usage_key)]
AdminKey = Annotated[Key, Depends(_admin_key)]
LogitsKeyNow = Annotated[Callable[[], Awaitable[Key]], Depends(_logits_key_now)]
