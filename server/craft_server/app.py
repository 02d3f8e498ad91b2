"""The application: services put together, a server around them, start and stop."""

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager

import uvicorn
from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from craft_server import private_files, runtime
from craft_server.accounts.cache import KeyCache
from craft_server.accounts.keys import Keys
from craft_server.accounts.pacing import Pacing
from craft_server.accounts.rate_limit import RateLimiter
from craft_server.api import limits, openapi
from craft_server.api.access_log import AccessLog
from craft_server.api.deadlines import Deadlines
from craft_server.api.deliveries import Deliveries
from craft_server.api.errors import on_disconnect, on_error
from craft_server.api.listening import bound, check_free, serve_on
from craft_server.api.middleware import BodyCap, KeylessTurns, RequestId
from craft_server.api.routes import ROUTERS
from craft_server.api.services import Services, Threads, services_of
from craft_server.api.starts import Starts
from craft_server.db import schema
from craft_server.db.group_commit import GroupCommit
from craft_server.db.holders import Holder
from craft_server.db.store import Store, revision
from craft_server.engine.blackbox import BlackBox
from craft_server.images import claims
from craft_server.images.admission import UploadAdmission
from craft_server.images.blobs import place_for
from craft_server.images.decoding import ImageLimits
from craft_server.images.sets import KEPT_S
from craft_server.images.store import ImageStore
from craft_server.logits.service import LogitsService
from craft_server.metering.maintenance import (
    recover,
    sweep,
    watch_device,
    watch_loop,
    watching_store,
)
from craft_server.metering.meter import Meter
from craft_server.models.stub import StubBlackBox
from craft_server.observability import logs
from craft_server.observability.metrics import Metrics
from craft_server.observability.probes import Health, answering
from craft_server.observability.tracing import Tracer
from craft_server.settings import EMBEDDED, ModelError, Settings
from craft_shared.errors import Refusal
from craft_shared.messages import CardLimits

_LOG = logging.getLogger(__name__)


def create_app(settings: Settings, blackbox: BlackBox) -> FastAPI:
    """The server's application around a black box; it opens the store, but no socket."""
    tracer = make_tracer(settings)
    private_files.prepare(settings.data_dir)
    store = Store(
        settings.resolved_database_url,
        busy_timeout_s=settings.store_wait_s,
        migrate=settings.migrate,
    )
    _LOG.info("the ledger is %s%s", store.place, ", made anew" if store.made else "")
    metrics = Metrics(blackbox.card.id)
    meter = Meter(store, reply_bytes=settings.reply_bytes, telemetry=metrics)
    images = ImageStore(
        store,
        settings.image_place,
        limits=_image_limits(settings),
        decoders=settings.decode_workers,
        linger_s=2 * settings.deadline_s + KEPT_S,
    )
    uploads = UploadAdmission(images, slots=settings.uploads, deadline_s=settings.deadline_s)
    group_commit = GroupCommit(store, wait_s=settings.store_wait_s)
    logits = LogitsService(
        settings,
        blackbox,
        meter=meter,
        images=images,
        group_commit=group_commit,
        telemetry=metrics,
        tracer=tracer,
    )
    metrics.show(logits.stats)
    app = FastAPI(
        title="craft-server",
        summary="Prompts in, logits out, every query counted.",
        version="1",
        redoc_url=None,
        swagger_ui_oauth2_redirect_url=None,
        redirect_slashes=False,
        lifespan=_lifespan,
    )
    keys, pacing = Keys(store), Pacing(settings.unpaid_per_second)
    app.state.services = Services(
        settings=settings,
        store=store,
        group_commit=group_commit,
        keys=keys,
        key_cache=KeyCache(keys),
        rate_limiter=RateLimiter(settings.requests_per_minute),
        pacing=pacing,
        requests=limits.request_shares(settings),
        replies=limits.reply_shares(settings),
        reads=limits.usage_turns(settings),
        writing=limits.writing_turns(settings),
        image_sets=limits.image_set_turns(settings),
        meter=meter,
        images=images,
        uploads=uploads,
        logits=logits,
        metrics=metrics,
        tracer=tracer,
        threads=Threads(settings.store_wait_s),
        health=Health(stalled_s=settings.device_stalled_s, busy_s=lambda: logits.device_busy_s),
    )
    for router in ROUTERS:
        app.include_router(router)
    openapi.complete(app)
    app.add_exception_handler(Exception, on_error)
    app.add_exception_handler(Refusal, on_error)
    app.add_exception_handler(ClientDisconnect, on_disconnect)
    app.add_exception_handler(RequestValidationError, on_error)
    app.add_exception_handler(HTTPException, on_error)
    app.add_middleware(BodyCap, limits=limits.body_limits(settings))
    app.add_middleware(Deliveries)
    app.add_middleware(KeylessTurns, pacing=pacing)
    app.add_middleware(Starts)
    app.add_middleware(Deadlines, seconds=settings.deadline_s)
    app.add_middleware(AccessLog, telemetry=metrics, tracer=tracer, write_log=settings.access_log)
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
        offset=settings.max_offset,
    )


def load_blackbox(settings: Settings) -> BlackBox:
    """The black box that the settings name; torch is imported only if it is a real model.

    Raises:
        ModelError: the settings name no model that can be used.
    """
    limits = card_limits(settings)
    check_names(settings)
    if settings.model == "stub":
        return StubBlackBox(limits, seconds_per_query=settings.stub_seconds_per_query)
    runtime.configure_libraries()
    from craft_server.models.clip.load import load_clip  # noqa: PLC0415 - see the docstring

    return load_clip(settings, limits)


def check_names(settings: Settings) -> None:
    """Refuse weights for a model that takes none.

    Raises:
        ModelError: there are some.
    """
    if settings.pretrained is not None and settings.model in {EMBEDDED, "stub"}:
        raise ModelError(
            f"--pretrained {settings.pretrained} needs --model, the open_clip name of what it was "
            f"trained for; the model {settings.model!r} takes no weights"
        )


def make_tracer(settings: Settings) -> Tracer:
    """The tracer that the settings ask for; OpenTelemetry is imported only for one that sends.

    Raises:
        ModelError: the extra is not installed.
    """
    if settings.otel_endpoint is None:
        return Tracer()
    try:
        from craft_server.observability.otel import connect  # noqa: PLC0415 - see the docstring
    except ModuleNotFoundError as error:
        raise ModelError(
            f"otel_endpoint needs the extra `otel`, and {error.name} is not installed: "
            "pip install 'craft-blackbox[server,otel]'"
        ) from error
    return connect(settings.otel_endpoint, instance=settings.replica)


def serve(settings: Settings) -> None:
    """Load the model, then serve until SIGTERM, SIGINT or SIGHUP; running work is finished."""
    logs.configure(settings.log_format, settings.log_level)
    _check_places(settings)
    run(settings, load_blackbox(settings))


def _check_places(settings: Settings) -> None:
    """Find out now what would end the server once its model is loaded.

    Raises:
        ValueError: the URL of the database or of the images cannot be used.
        ModelError: the extra for traces is not installed.
        SchemaError: the database has another schema.
        Refusal: `not_ready`, the database does not answer.
    """
    metrics_port = settings.metrics_port
    probes = None if metrics_port is None else (settings.metrics_host, metrics_port)
    check_free((settings.host, settings.port), probes)
    make_tracer(settings).close()
    place_for(settings.image_place).close()
    schema.check(revision(settings.resolved_database_url), migrate=settings.migrate)


def run(settings: Settings, blackbox: BlackBox) -> None:
    """Serve a black box on the settings' address, which is bound before the store is touched."""
    runtime.share_interpreter()
    sockets = bound(settings.host, settings.port)
    _LOG.info("serving %s (%s)", blackbox.card.id, blackbox.card.text_path)
    app = create_app(settings, blackbox)
    config = uvicorn.Config(
        app,
        server_header=False,
        access_log=False,  # api/access_log.py writes it
        log_config=None,
        timeout_graceful_shutdown=int(settings.drain_s),
        http=limits.connection_limits(settings),
        ws="none",
    )
    serve_on(sockets, config, on_exit=services_of(app).health.drain)


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    services = services_of(app)
    settings, metrics, meter = services.settings, services.metrics, services.meter
    asyncio.get_running_loop().set_exception_handler(logs.on_loop_error)
    async with AsyncExitStack() as running:
        holder = Holder(services.store, settings.replica)
        running.callback(holder.close)
        recover(meter, holder)
        services.health.store_answered()
        running.enter_context(watching_store(services.store, services.health))
        running.enter_context(_probes(services))
        running.push_async_callback(_stop, services)
        sweeps = sweep(
            meter, metrics, every_s=settings.sweep_s, audit_s=settings.audit_s, holder=holder
        )
        removals = claims.sweep(services.images.remove_old_claims, every_s=settings.sweep_s)
        await services.logits.check_ready()
        looks = [sweeps, removals, watch_loop(metrics, services.health)]
        if settings.metrics_port is not None:
            looks.append(watch_device(services.logits.check_ready, services.health))
        for look in looks:
            running.callback(asyncio.create_task(look).cancel)
        yield


@contextmanager
def _probes(services: Services) -> Iterator[None]:
    """Answer probes and Prometheus on a port of their own, if they have one."""
    settings = services.settings
    if settings.metrics_port is None:
        yield
        return
    host, port = settings.metrics_host, settings.metrics_port
    with (
        services.metrics.listening("127.0.0.1", 0) as inner,
        answering(host, port, state=services.health.state, metrics_port=inner) as bound,
    ):
        _LOG.info("probes and metrics on http://%s:%d/metrics", host, bound)
        yield


async def _stop(services: Services) -> None:
    """Finish running work, then close what it used."""
    services.health.drain()
    await services.logits.drain(services.settings.drain_s)
    services.uploads.close()
    await asyncio.to_thread(services.reads.close)
    await asyncio.to_thread(services.writing.close)
    await asyncio.to_thread(services.image_sets.close)
    services.images.close()
    await asyncio.to_thread(services.group_commit.close)
    await asyncio.to_thread(services.threads.close)
    services.store.close()
    await asyncio.to_thread(services.tracer.close)


def _image_limits(settings: Settings) -> ImageLimits:
    return ImageLimits(
        bytes=settings.max_image_bytes,
        pixels=settings.max_image_pixels,
        owner_bytes=settings.owner_image_bytes,
        owner_images=settings.owner_images,
        images_per_set=settings.max_images,
        owner_sets=settings.owner_sets,
        owner_set_images=settings.owner_set_images,
    )
