"""How much to send at a time on a line whose speed nobody knows beforehand.

Proxies end requests that take long, and refuse those that are large: by how much, they do not say.
So the first piece is small, the next ones are what the line carried in `TARGET_S`, and a piece that
did not get through is halved. Must not know what is sent.
"""

TARGET_S = 20.0
"""How long a request should take: a third of the minute after which most proxies hang up."""

FIRST_BYTES = 256 * 2**10
"""The first piece: 20 s of a line of 13 kB/s."""

LARGEST_BYTES = 16 * 2**20
"""The largest piece, and bytes of images held in memory at a time."""

_TELLING_BYTES = 64 * 2**10
"""Of less than this, the time is that of a round trip and says nothing of the line."""

_REGAIN = 1.1
"""By how much the bound of a halved piece grows with each that gets through."""


class Pace:
    """The size of the next piece, learnt from those before."""

    def __init__(self) -> None:
        self._room = FIRST_BYTES
        self._most = LARGEST_BYTES
        self._bytes_per_s: float | None = None

    @property
    def room(self) -> int:
        """Bytes that the next piece may have."""
        return min(self._room, self._most)

    @property
    def bytes_per_s(self) -> float | None:
        """What the line carried, the server's work included; None as long as nothing tells."""
        return self._bytes_per_s

    def sent(self, size: int, seconds: float) -> None:
        """A piece of so many bytes was answered after so long."""
        self._most = min(LARGEST_BYTES, int(self._most * _REGAIN))
        if size >= _TELLING_BYTES:
            self._bytes_per_s = size / max(seconds, 1e-6)
            self._room = min(LARGEST_BYTES, int(self._bytes_per_s * TARGET_S))

    def failed(self, size: int) -> None:
        """A piece of so many bytes did not get through."""
        self._most = max(1, size // 2)
