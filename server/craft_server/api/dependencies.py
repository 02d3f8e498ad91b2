"""The dependencies of every route: the caller's key with its scope, rate and share; services."""

from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager
from typing import Annotated

from fastapi import Depends, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from craft_server.accounts.identity import Key, Scope
from craft_server.accounts.shares import Caller
from craft_server.api.services import Services, services_of
from craft_shared.errors import Code, Refusal


async def _services(request: Request) -> Services:  # async: FastAPI runs others in a thread
    return services_of(request.app)


ServicesOf = Annotated[Services, Depends(_services)]

_bearer = HTTPBearer(auto_error=False, description="An API key: `craft_...`")
_Credentials = Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)]


async def _any_key(request: Request, credentials: _Credentials) -> Key:
    services = services_of(request.app)
    key = await services.threads.keys.run(services.key_cache.verify, _token(credentials))
    return await _counted(request, services, key)


async def _logits_key(request: Request, credentials: _Credentials) -> Key:
    """As the others, but a look at the store may be a second old: buying checks the key again."""
    services = services_of(request.app)
    token = credentials.credentials if credentials else ""
    cached = services.key_cache.known(token)
    if cached is not None and Scope.LOGITS_READ in cached.scopes:
        return await _counted(request, services, cached)
    return _with_scope(await _any_key(request, credentials), Scope.LOGITS_READ)


async def _logits_key_now(
    request: Request, credentials: _Credentials
) -> Callable[[], Awaitable[Key]]:
    """Verify the key in the store again: a refusal may come from what the cache holds of it."""
    services = services_of(request.app)

    async def again() -> Key:
        key = await services.threads.keys.run(services.key_cache.verify, _token(credentials))
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


async def _counted(request: Request, services: Services, key: Key) -> Key:
    """Count a call against the key's rate and, until its reply has left, against its share.

    The middleware writes the rate into the reply. An owner who asked for much that is not paid
    waits here.
    """
    status = services.rate_limiter.take(key.id, key.policy.requests_per_minute)
    request.state.rate = status
    request.state.key_id = key.id  # for the log
    caller = Caller.of(key)
    try:
        hold(request, services.requests.lease(caller, 1))
    except Refusal:
        request.state.close = True  # to come again at once costs the client a connection
        raise
    finally:
        request.state.begun()  # what comes now is in its share
    request.state.caller = caller  # for the bodies' share
    if known := getattr(request.state, "known", None):
        known()  # the connection is one of this key's now
    await services.pacing.turn(key.owner)
    if status is not None and status.wait_s:
        raise status.refusal()
    return key


def hold(request: Request, held: AbstractContextManager[object]) -> None:
    """Hold something that is held already until the request's reply has left."""
    request.state.held.push(held)


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
