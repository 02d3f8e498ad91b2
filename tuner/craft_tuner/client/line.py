"""How fast the line to a server is, by a question that costs nothing and leaves no trace."""

import secrets

from craft_shared.messages import CardLimits
from craft_tuner.client.transport import Transport
from craft_tuner.client.uploads import lacking

_IDS = 2000
"""Ids of no image that are asked about; nobody has them, so all come back."""

_ID_BYTES = 67

MEASURED_BYTES = 2 * _IDS * _ID_BYTES
"""What the question moves, there and back, where the server takes bodies of its size."""


def measured_bytes(limits: CardLimits) -> int:
    """What the question moves to and from a server of these limits."""
    return 2 * _count(limits) * _ID_BYTES


def measure(transport: Transport, limits: CardLimits) -> float:
    """Bytes per second, the server's work included; the call before gives the round trip."""
    round_trip_s = transport.took_s
    lacking(transport, [secrets.token_hex(32) for _ in range(_count(limits))])
    return measured_bytes(limits) / max(1e-3, transport.took_s - round_trip_s)


def _count(limits: CardLimits) -> int:
    return min(_IDS, limits.body_bytes // (2 * _ID_BYTES))
