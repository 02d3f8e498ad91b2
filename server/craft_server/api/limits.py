"""The settings' limits on requests, bodies and replies, as the parts of this package take them."""

from typing import Any

from craft_server.accounts.shares import ShareLimits, Shares
from craft_server.api.connection_limits import ConnectionLimits
from craft_server.api.least_rate import LeastRate
from craft_server.api.middleware import BodyLimits
from craft_server.api.turns import Turns
from craft_server.settings import Settings

_WRITERS = 2
"""Threads that write large replies as JSON: more would only take the interpreter from the rest."""

_SET_THREADS, _SET_CALLS = 3, 16
"""Threads for looks at images and sets, and such calls of one key that wait or run."""

_WAITING = 2**30
"""Nothing is refused for want of a writer: a reply that is written has its share of memory."""


def connection_limits(settings: Settings) -> Any:  # uvicorn wants a class; it calls it
    """What uvicorn takes for its protocol: HTTP with limits on connections."""
    return ConnectionLimits(
        head_s=settings.head_s,
        reply_s=settings.deadline_s,
        connections=settings.connections,
        least=LeastRate(settings.least_reply_rate, settings.stall_s),
    )


def body_limits(settings: Settings) -> BodyLimits:
    """What bodies may take."""
    return BodyLimits(
        bytes=settings.max_body_bytes,
        json_bytes=min(settings.max_json_bytes, settings.max_body_bytes),
        all_bytes=settings.bodies_bytes,
        seconds=settings.body_s,
        least=LeastRate(settings.least_body_rate, settings.stall_s),
    )


def request_shares(settings: Settings) -> Shares:
    """Requests, from when the key is known until the reply has left."""
    owner = settings.owner_connections or max(1, settings.connections // 4)
    return Shares("requests in work", ShareLimits(settings.key_connections, owner))


def reply_shares(settings: Settings) -> Shares:
    """Bytes of replies that leave."""
    limits = ShareLimits(
        settings.key_replies_bytes, settings.owner_replies_bytes, settings.replies_bytes
    )
    return Shares("bytes of replies in work", limits)


def usage_turns(settings: Settings) -> Turns:
    """Reads of usage."""
    most = settings.key_usage_reads
    return Turns(
        "usage",
        threads=settings.usage_readers,
        shares=Shares("reads of usage in work", ShareLimits(most, 2 * most)),
        deadline_s=settings.deadline_s,
    )


def image_set_turns(settings: Settings) -> Turns:
    """Looks at images, and sets."""
    return Turns(
        "image-sets",
        threads=_SET_THREADS,
        shares=Shares("calls about images in work", ShareLimits(_SET_CALLS, 2 * _SET_CALLS)),
        deadline_s=settings.deadline_s,
    )


def writing_turns(settings: Settings) -> Turns:
    """Replies that are written as JSON."""
    return Turns(
        "json",
        threads=_WRITERS,
        shares=Shares("replies to be written", ShareLimits(_WAITING, _WAITING)),
        deadline_s=settings.deadline_s,
    )
