"""HTTP in, messages out: parse, call, return. The rules are in service, meter and stores."""

from fastapi import APIRouter

from craft_server.api.routes import admin, health, images, logits, models, texts, usage

ROUTERS: tuple[APIRouter, ...] = (
    logits.router,
    texts.router,
    images.router,
    models.router,
    usage.router,
    admin.router,
    health.router,
)
