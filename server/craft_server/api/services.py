"""The one value by which routes reach the rest of the server: `app.state.services`."""

from dataclasses import dataclass
from typing import cast

from starlette.applications import Starlette

from craft_server.accounts.cache import KeyCache
from craft_server.accounts.keys import Keys
from craft_server.accounts.pacing import Pacing
from craft_server.accounts.rate_limit import RateLimiter
from craft_server.accounts.shares import Shares
from craft_server.api.turns import Turns
from craft_server.concurrency import Workers
from craft_server.db.group_commit import GroupCommit
from craft_server.db.store import Store
from craft_server.images.admission import UploadAdmission
from craft_server.images.store import ImageStore
from craft_server.logits.service import LogitsService
from craft_server.metering.meter import Meter
from craft_server.observability.metrics import Metrics
from craft_server.observability.probes import Health
from craft_server.observability.tracing import Tracer
from craft_server.settings import Settings


class Threads:
    """Threads for calls that use the store, a pool for each kind: none makes another wait.

    Args:
        wait_s: longest wait of a call for a thread, seconds.
    """

    def __init__(self, wait_s: float) -> None:
        self.keys = Workers("keys", threads=4, wait_s=wait_s)
        """Verification, and the few figures of one key."""
        self.admin = Workers("administration", threads=2, wait_s=wait_s)

    def close(self) -> None:
        """Finish what runs and end them."""
        for workers in (self.keys, self.admin):
            workers.close()


@dataclass(frozen=True)
class Services:
    """What a server is made of, built once by `create_app`."""

    settings: Settings
    store: Store
    group_commit: GroupCommit
    keys: Keys
    key_cache: KeyCache
    rate_limiter: RateLimiter
    pacing: Pacing
    requests: Shares
    replies: Shares
    reads: Turns
    writing: Turns
    image_sets: Turns
    meter: Meter
    images: ImageStore
    uploads: UploadAdmission
    logits: LogitsService
    metrics: Metrics
    tracer: Tracer
    threads: Threads
    health: Health


def services_of(app: Starlette) -> Services:
    """The services of an application."""
    return cast("Services", app.state.services)
