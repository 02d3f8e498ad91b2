"""Probes: alive means the process answers, ready means the device does."""

from fastapi import APIRouter

from craft_server.api.dependencies import ServicesOf
from craft_shared.messages import Health

router = APIRouter(tags=["health"])


@router.get("/livez")
async def alive() -> Health:
    """Say that the process answers."""
    return Health(status="ok")


@router.get("/readyz")
async def ready(services: ServicesOf) -> Health:
    """Say that the model scores: a canary forward runs unless real work succeeded just now."""
    await services.logits.check_ready()
    return Health(status="ok")
