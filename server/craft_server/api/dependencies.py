"""The dependencies of every route: the caller's key with its scope, rate and share; services."""

from contextlib import AbstractContextManager
from typing import Annotated

from fastapi import Depends, Request
from fastapi.security import HTTPBearer

from craft_server.accounts.identity import Key, Scope
from craft_server.accounts.shares import Caller
from craft_server.api.services import Services, services_of
from craft_shared.errors import Code, Refusal


async def _services(request: Request) -> Services:  # async: FastAPI runs others in a thread
    return services_of(request.app)


ServicesOf = Annotated[Services, Depends(_services)]


class _KeyBearer(HTTPBearer):
    """The scheme of every route: `Authorization: Bearer craft_...`; as a dependency, the key.

    The scheme and the dependency are one object, which spares each request a step of FastAPI's.

    Args:
        scope: what the key must be allowed, if anything.
    """

    def __init__(self, scope: Scope | None = None) -> None:
        super().__init__(
            scheme_name="HTTPBearer", description="An API key: `craft_...`", auto_error=False
        )
        self._scope = scope

    async def __call__(self, request: Request) -> Key:  # type: ignore[override]  # the key itself
        """The caller's key, verified and counted.

        Raises:
            Refusal: `invalid_key`, `scope_denied`, `rate_limited`, or a share is full.
        """
        return self._allowed(await _counted(request, await self._verified(request)))

    async def now(self, request: Request) -> Key:
        """The key verified in the store again: a refusal may come from what is kept of it."""
        return self._allowed(await self._verified(request))

    async def _verified(self, request: Request) -> Key:
        services = services_of(request.app)
        token = await self._token(request)
        if not token:
            detail = "send the header Authorization: Bearer craft_..."
            raise Refusal(Code.INVALID_KEY, detail, param="Authorization")
        return await services.threads.keys.run(services.key_cache.verify, token)

    async def _token(self, request: Request) -> str:
        credentials = await super().__call__(request)
        return credentials.credentials if credentials else ""

    def _allowed(self, key: Key) -> Key:
        if self._scope is not None and self._scope not in key.scopes:
            detail = f"this call needs the scope {self._scope}; the key has {', '.join(key.scopes)}"
            raise Refusal(Code.SCOPE_DENIED, detail, param="Authorization")
        return key


class _LogitsKeyBearer(_KeyBearer):
    """As the others, but a look at the store may be a second old: buying checks the key again."""

    async def __call__(self, request: Request) -> Key:  # type: ignore[override]
        """The key as it is known, if it is allowed to buy."""
        kept = services_of(request.app).key_cache.known(await self._token(request))
        if kept is not None and Scope.LOGITS_READ in kept.scopes:
            return await _counted(request, kept)
        return await super().__call__(request)


async def _counted(request: Request, key: Key) -> Key:
    """Count a call against the key's rate and, until its reply has left, against its share.

    The middleware writes the rate into the reply. An owner who asked for much that is not paid
    waits here.
    """
    services = services_of(request.app)
    status = services.rate_limiter.take(key.id, key.policy.requests_per_minute)
    state = request.scope["state"]
    state["rate"] = status
    state["key_id"] = key.id  # for the log
    caller = Caller.of(key)
    try:
        hold(request, services.requests.lease(caller, 1))
    except Refusal:
        state["close"] = True  # to come again at once costs the client a connection
        raise
    finally:
        state["begun"]()  # what comes now is in its share
    state["caller"] = caller  # for the bodies' share
    if known := state.get("known"):
        known()  # the connection is one of this key's now
    await services.pacing.turn(key.owner)
    if status is not None and status.wait_s:
        raise status.refusal()
    return key


def hold(request: Request, held: AbstractContextManager[object]) -> None:
    """Hold something that is held already until the request's reply has left."""
    request.scope["state"]["held"].push(held)


buyer = _LogitsKeyBearer(Scope.LOGITS_READ)

AnyKey = Annotated[Key, Depends(_KeyBearer())]
TextsKey = Annotated[Key, Depends(_KeyBearer(Scope.LOGITS_READ))]
LogitsKey = Annotated[Key, Depends(buyer)]
ImagesKey = Annotated[Key, Depends(_KeyBearer(Scope.IMAGES_WRITE))]
UsageKey = Annotated[Key, Depends(_KeyBearer(Scope.USAGE_READ))]
AdminKey = Annotated[Key, Depends(_KeyBearer(Scope.ADMIN))]
