"""The application: parts put together, errors turned into problem documents, start and stop."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import uvicorn
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from craft_server import environment, logs, openapi
from craft_server.background import sweep, tell_given_back, watch_loop
from craft_server.blackbox import BlackBox
from craft_server.connections import Door
from craft_server.image_store import ImageStore
from craft_server.images import ImageLimits
from craft_server.keys import Keys
from craft_server.meter import Meter
from craft_server.metrics import Metrics
from craft_server.middleware import BodyCap, BodyLimits, RequestId
from craft_server.rates import Rates
from craft_server.recent_keys import RecentKeys
from craft_server.request_log import RequestLog
from craft_server.routes import ROUTERS
from craft_server.routes.access import Parts
from craft_server.service import LogitsService
from craft_server.settings import ModelError, Settings
from craft_server.store import Store, StoreDown
from craft_server.stub import StubBlackBox
from craft_server.teller import Teller
from craft_server.tracing import Tracer
from craft_server.uploads import UploadDoor
from craft_shared.errors import PROBLEM_MEDIA_TYPE, Code, Refusal
from craft_shared.messages import CardLimits

_LOG = logging.getLogger(__name__)
_HTTP_CODES = {404: Code.NOT_FOUND, 405: Code.METHOD_NOT_ALLOWED, 413: Code.TOO_LARGE}


def create_app(settings: Settings, blackbox: BlackBox) -> FastAPI:
    """The server's application around a black box; it opens the store, but no socket."""
    tracer = make_tracer(settings)
    store = Store(settings.resolved_database_url, migrate=settings.migrate)
    metrics = Metrics(blackbox.card.id)
    meter = Meter(
        store, holder=settings.replica, reply_bytes=settings.reply_bytes, telemetry=metrics
    )
    images = ImageStore(
        store,
        settings.image_place,
        limits=_image_limits(settings),
        decoders=settings.decode_workers,
    )
    uploads = UploadDoor(images, places=settings.uploads, deadline_s=settings.deadline_s)
    teller = Teller(store)
    service = LogitsService(
        settings,
        blackbox,
        meter=meter,
        images=images,
        teller=teller,
        telemetry=metrics,
        tracer=tracer,
    )
    metrics.show(service.standing)
    app = FastAPI(
        title="craft-server",
        summary="Prompts in, logits out, every query counted.",
        version="1",
        redoc_url=None,
        swagger_ui_oauth2_redirect_url=None,
        redirect_slashes=False,
        lifespan=_lifespan,
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
    app.state.metrics = metrics
    app.state.tracer = tracer
    for router in ROUTERS:
        app.include_router(router)
    openapi.complete(app)
    app.add_exception_handler(Exception, _on_error)
    app.add_exception_handler(Refusal, _on_error)
    app.add_exception_handler(RequestValidationError, _on_error)
    app.add_exception_handler(HTTPException, _on_error)
    app.add_middleware(BodyCap, limits=_body_limits(settings))
    app.add_middleware(RequestLog, telemetry=metrics, tracer=tracer, lines=settings.access_log)
    app.add_middleware(RequestId, trusting=settings.trust_request_id)
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


def make_tracer(settings: Settings) -> Tracer:
    """The tracer that the settings ask for; OpenTelemetry is imported only for one that sends.

    Raises:
        ModelError: the extra is not installed.
    """
    if settings.otel_endpoint is None:
        return Tracer()
    try:
        from craft_server.otel import connect  # noqa: PLC0415 - see the docstring
    except ModuleNotFoundError as error:
        raise ModelError(
            f"otel_endpoint needs the extra `otel`, and {error.name} is not installed: "
            "pip install 'craft-blackbox[server,otel]'"
        ) from error
    return connect(settings.otel_endpoint, instance=settings.replica)


def serve(settings: Settings) -> None:
    """Load the model, then serve until SIGTERM or SIGINT; running work is finished first."""
    logs.configure(settings.log_format, settings.log_level)
    run(settings, load_blackbox(settings))


def run(settings: Settings, blackbox: BlackBox) -> None:
    """Serve a black box on the settings' address."""
    _LOG.info("serving %s (%s)", blackbox.card.id, blackbox.card.text_path)
    uvicorn.run(
        create_app(settings, blackbox),
        host=settings.host,
        port=settings.port,
        server_header=False,
        access_log=False,  # request_log.py writes it
        log_config=None,
        timeout_graceful_shutdown=int(settings.drain_s),
        http=connection_door(settings),
        ws="none",
    )


def connection_door(settings: Settings) -> Any:
    """What uvicorn takes for its protocol: bounds on connections that send no request."""
    return Door(
        head_s=settings.head_s, reply_s=settings.deadline_s, connections=settings.connections
    )


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    parts: Parts = app.state.parts
    settings, metrics = parts.settings, app.state.metrics
    asyncio.get_running_loop().set_exception_handler(logs.on_loop_error)
    tell_given_back(app.state.meter.recover())
    async with AsyncExitStack() as running:
        if settings.metrics_port is not None:
            listening = metrics.listening(settings.metrics_host, settings.metrics_port)
            port = running.enter_context(listening)
            _LOG.info("metrics on http://%s:%d/metrics", settings.metrics_host, port)
        running.push_async_callback(_stop, app)
        sweeps = sweep(app.state.meter, metrics, every_s=settings.sweep_s, audit_s=settings.audit_s)
        for background in (sweeps, watch_loop(metrics)):
            running.callback(asyncio.create_task(background).cancel)
        await parts.service.check_ready()
        yield


async def _stop(app: FastAPI) -> None:
    """Finish running work, then close what it used."""
    parts: Parts = app.state.parts
    await parts.service.drain(parts.settings.drain_s)
    parts.uploads.close()
    parts.images.close()
    await asyncio.to_thread(app.state.teller.close)
    app.state.store.close()
    await asyncio.to_thread(app.state.tracer.close)


async def _on_error(request: Request, error: Exception) -> JSONResponse:
    refusal = _as_refusal(error)
    _report(refusal, request.app.state.metrics)
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


def _report(refusal: Refusal, metrics: Metrics) -> None:
    metrics.refused(refusal.code)
    if isinstance(refusal, StoreDown):
        metrics.outage()
        cause = refusal.__cause__
        _LOG.error("%s (%s)", refusal, getattr(cause, "orig", cause))  # SQLAlchemy's quotes values
    elif refusal.code is Code.NOT_READY:
        _LOG.error("not ready: %s", refusal)


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


def _body_limits(settings: Settings) -> BodyLimits:
    return BodyLimits(
        bytes=settings.max_body_bytes,
        json_bytes=min(settings.max_json_bytes, settings.max_body_bytes),
        all_bytes=settings.bodies_bytes,
        seconds=settings.body_s,
    )


def _image_limits(settings: Settings) -> ImageLimits:
    return ImageLimits(
        bytes=settings.max_image_bytes,
        pixels=settings.max_image_pixels,
        owner_bytes=settings.owner_image_bytes,
        owner_images=settings.owner_images,
        images_per_set=settings.max_images,
    )
