"""How fast uploads go, and so how large the next request may be.

Owns the estimate of the upload rate. A request should take some seconds: what one takes longer is
lost with the connection, and most proxies hang up after a minute.
"""

TARGET_S = 20.0
"""How long a request should take: a third of the minute after which most proxies hang up."""

FIRST_BYTES = 256 * 2**10
"""The first piece: 20 s of a line of 13 kB/s."""

LARGEST_BYTES = 16 * 2**20
"""The largest piece."""

_LEAST_BYTES = 64 * 2**10
"""Of less than this, the time is that of a round trip and says nothing of the rate."""

_REGAIN = 1.1
"""By how much the bound of a halved piece grows with each that gets through."""


class UploadRate:
    """Bytes per second of an upload and the size of its next piece, by the pieces before."""

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
        """What was sent in a second, the server's work included; None while it is unknown."""
        return self._bytes_per_s

    def sent(self, size: int, seconds: float) -> None:
        """A piece of so many bytes was answered after so long."""
        self._most = min(LARGEST_BYTES, int(self._most * _REGAIN))
        if size >= _LEAST_BYTES:
            self._bytes_per_s = size / max(seconds, 1e-6)
            self._room = min(LARGEST_BYTES, int(self._bytes_per_s * TARGET_S))

    def failed(self, size: int) -> None:
        """A piece of so many bytes did not get through."""
        self._most = max(1, size // 2)
