"""Probes: alive means that loop and device get on, ready means that device and store answer.

The same are on the port of the metrics, where they answer in time whatever the server has to do.
"""

from fastapi import APIRouter

from craft_server.api.dependencies import ServicesOf
from craft_shared.messages import Health

router = APIRouter(tags=["health"])


@router.get("/livez")
@router.head("/livez", include_in_schema=False)
async def alive(services: ServicesOf) -> Health:
    """Say that the process answers, and that its device does not hang."""
    services.health.check_alive()
    return Health(status="ok")


@router.get("/readyz")
@router.head("/readyz", include_in_schema=False)
async def ready(services: ServicesOf) -> Health:
    """Say that the store answers and the model scores.

    A canary forward runs unless real work succeeded just now.
    """
    services.health.check_store()
    await services.logits.check_ready()
    return Health(status="ok")
