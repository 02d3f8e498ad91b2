"""What the server's parts report of their work: a port that does nothing by itself.

metrics.py counts what is reported. Figures that can be read at any time are not reported: they are
a `ServerStats`, read when somebody looks.
"""

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

from craft_shared.errors import Code

UnitState = Literal["settled", "released", "expired", "replayed"]
"""What became of the price of a request; one that expired can still be settled later."""


class Tier(NamedTuple):
    """A tier of the feature cache: images found and not found in it, and its size."""

    name: str
    hits: int
    misses: int
    bytes: int


class ServerStats(NamedTuple):
    """The load and the caches of a server at this moment."""

    requests: int
    """Requests admitted, waiting and running."""
    texts: int
    """Texts (prompts x classes) of those."""
    queue: int
    """Device tasks that wait."""
    busy_s: float
    """Seconds since the batch that runs now began; 0 if none does."""
    tiers: Sequence[Tier]


class Telemetry:
    """Receives events from any thread; what it does must be quick and must not fail."""

    def request(self, method: str, route: str, status: int, seconds: float) -> None:
        """An HTTP request has ended; `route` is its template."""

    def refused(self, code: Code) -> None:
        """A request was refused."""

    def outage(self) -> None:
        """The store did not answer."""

    def units(self, state: UnitState, price: Mapping[str, int]) -> None:
        """The price of a request, by the limit that it counts in, was settled or given back."""

    def launched(self, waited_s: Sequence[float]) -> None:
        """A batch went to the device; how long each of its tasks had waited."""

    def finished(self, seconds: float) -> None:
        """A batch came back from the device."""

    def held(self, holds: int, oldest_s: float) -> None:
        """So many holds are open in the store, the oldest for so long."""

    def audited(self, discrepancies: int) -> None:
        """The ledger was held against the counters of the keys."""

    def loop_lag(self, seconds: float) -> None:
        """The event loop came so much later than it was asked to."""
