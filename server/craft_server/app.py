"""The application: parts put together, errors turned into problem documents, start and stop."""

import asyncio
import logging
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import uvicorn
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from craft_server import environment, memory
from craft_server.blackbox import BlackBox
from craft_server.image_store import ImageStore
from craft_server.images import ImageLimits
from craft_server.keys import Keys
from craft_server.meter import Meter
from craft_server.middleware import BodyCap, RequestId
from craft_server.rates import Rates
from craft_server.recent_keys import RecentKeys
from craft_server.routes import ROUTERS
from craft_server.routes.access import Parts
from craft_server.routes.bodies import schemas
from craft_server.service import LogitsService
from craft_server.settings import Settings
from craft_server.store import Store
from craft_server.stub import StubBlackBox
from craft_server.teller import Teller
from craft_server.uploads import UploadDoor
from craft_shared.admin import KeyChange, KeyRequest, KeyRotation
from craft_shared.errors import PROBLEM_MEDIA_TYPE, Code, Problem, Refusal
from craft_shared.messages import CardLimits, ImageSetRequest, LogitsRequest, Manifest

_LOG = logging.getLogger(__name__)
_HTTP_CODES = {404: Code.NOT_FOUND, 405: Code.METHOD_NOT_ALLOWED, 413: Code.TOO_LARGE}


def create_app(settings: Settings, blackbox: BlackBox) -> FastAPI:
    """The server's application around a black box; it opens the store, but no socket."""
    store = Store(settings.resolved_database_url, migrate=settings.migrate)
    meter = Meter(store, holder=settings.replica, reply_bytes=settings.reply_bytes)
    images = ImageStore(
        store,
        settings.image_place,
        limits=_image_limits(settings),
        decoders=settings.decode_workers,
    )
    uploads = UploadDoor(images, places=settings.uploads, deadline_s=settings.deadline_s)
    teller = Teller(store)
    service = LogitsService(settings, blackbox, meter=meter, images=images, teller=teller)
    app = FastAPI(
        title="craft-server",
        summary="Prompts in, logits out, every query counted.",
        version="1",
        lifespan=_lifespan,
        responses={"4XX": {"model": Problem}, "5XX": {"model": Problem}},
    )
    keys = Keys(store)
    app.state.parts = Parts(
        settings=settings,
        store=store,
        keys=keys,
        recent_keys=RecentKeys(keys),
        rates=Rates(settings.requests_per_minute),
        ledger=meter,
        images=images,
        uploads=uploads,
        service=service,
    )
    app.state.teller = teller
    app.state.store = store
    app.state.meter = meter
    for router in ROUTERS:
        app.include_router(router)
    _describe_bodies(app)
    app.add_exception_handler(Exception, _on_error)
    app.add_exception_handler(Refusal, _on_error)
    app.add_exception_handler(RequestValidationError, _on_error)
    app.add_exception_handler(HTTPException, _on_error)
    app.add_middleware(BodyCap, max_bytes=settings.max_body_bytes)
    app.add_middleware(RequestId)
    return app


def card_limits(settings: Settings) -> CardLimits:
    """What the model card says of this server's limits."""
    return CardLimits(
        prompts=settings.max_prompts,
        classes=settings.max_classes,
        texts=settings.max_texts,
        images=settings.max_images,
        image_bytes=settings.max_image_bytes,
        image_pixels=settings.max_image_pixels,
        body_bytes=settings.max_body_bytes,
        logits=settings.max_logits,
    )


def load_blackbox(settings: Settings) -> BlackBox:
    """The black box that the settings name; torch is imported only if it is a real model."""
    limits = card_limits(settings)
    if settings.model == "stub":
        return StubBlackBox(limits, seconds_per_query=settings.stub_seconds_per_query)
    environment.tell()
    from craft_server.clip.load import load_clip  # noqa: PLC0415 - see the docstring

    return load_clip(settings, limits)


def serve(settings: Settings) -> None:
    """Load the model, then serve until SIGTERM or SIGINT; running work is finished first."""
    blackbox = load_blackbox(settings)
    sys.stderr.write(f"craft-server: serving {blackbox.card.id} ({blackbox.card.text_path})\n")
    uvicorn.run(
        create_app(settings, blackbox),
        host=settings.host,
        port=settings.port,
        server_header=False,
        access_log=settings.access_log,
        timeout_graceful_shutdown=int(settings.drain_s),
    )


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    parts: Parts = app.state.parts
    _log_given_back(app.state.meter.recover())
    sweeper = asyncio.create_task(_sweep(app.state.meter, parts.settings.sweep_s))
    try:
        await parts.service.check_ready()
        yield
    finally:
        await parts.service.drain(parts.settings.drain_s)
        sweeper.cancel()
        parts.uploads.close()
        parts.images.close()
        await asyncio.to_thread(app.state.teller.close)
        app.state.store.close()


async def _sweep(meter: Meter, every_s: float) -> None:
    """Give back the holds of requests whose server died, and freed memory, regularly."""
    while True:
        await asyncio.to_thread(memory.give_back)
        try:
            expired = await asyncio.to_thread(meter.expire)
        except Refusal as refusal:
            _LOG.warning("sweep failed, trying again: %s", refusal)
        else:
            _log_given_back(expired)
        await asyncio.sleep(every_s)


def _log_given_back(holds: int) -> None:
    if holds:
        _LOG.warning("%d holds of requests that never ended were given back", holds)


async def _on_error(request: Request, error: Exception) -> JSONResponse:
    refusal = _as_refusal(error)
    if refusal.code is Code.NOT_READY:
        _LOG.error("not ready: %s (%s)", refusal, refusal.__cause__)
    headers = {}
    if refusal.retry_after_s is not None:
        headers["Retry-After"] = str(refusal.retry_after_s)
    if refusal.code is Code.INVALID_KEY:
        headers["WWW-Authenticate"] = "Bearer"
    problem = refusal.problem(request_id=request.scope.get("state", {}).get("request_id"))
    return JSONResponse(
        problem.model_dump(exclude_none=True),
        status_code=problem.status,
        headers=headers,
        media_type=PROBLEM_MEDIA_TYPE,
    )


def _as_refusal(error: Exception) -> Refusal:
    if isinstance(error, Refusal):
        return error
    if isinstance(error, RequestValidationError):
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"][1:])
        detail = f"{where}: {first['msg']}; got {first.get('input')!r}"
        return Refusal(Code.INVALID_REQUEST, detail, param=where)
    if isinstance(error, HTTPException):
        code = _HTTP_CODES.get(error.status_code, Code.INVALID_REQUEST)
        return Refusal(code, str(error.detail))
    detail = f"{type(error).__name__}; ask again with the same Idempotency-Key, if it had one"
    return Refusal(Code.INTERNAL, detail)


def _describe_bodies(app: FastAPI) -> None:
    """Add the messages that routes read themselves to the OpenAPI document's components."""
    generate = app.openapi

    def openapi() -> dict[str, Any]:
        document = generate()
        components = document.setdefault("components", {}).setdefault("schemas", {})
        components |= schemas(
            LogitsRequest, ImageSetRequest, Manifest, KeyRequest, KeyChange, KeyRotation
        )
        return document

    app.openapi = openapi  # type: ignore[method-assign]  # FastAPI's documented way to extend it


def _image_limits(settings: Settings) -> ImageLimits:
    return ImageLimits(
        bytes=settings.max_image_bytes,
        pixels=settings.max_image_pixels,
        owner_bytes=settings.owner_image_bytes,
        owner_images=settings.owner_images,
        images_per_set=settings.max_images,
    )
