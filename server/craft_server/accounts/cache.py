"""Keys verified just now, so that many small requests cost few looks at the store.

Owns for how long a key counts as verified. It is for callers whose every purchase is checked again:
the meter refuses what a key that was changed since wants to buy.
"""

import threading
import time
from collections.abc import Callable

from cachetools import TTLCache

from craft_server.accounts.identity import Key
from craft_server.accounts.keys import Keys
from craft_server.accounts.tokens import digest

TTL_S = 1.0
"""How long a verified key is kept."""

_MAX_KEYS = 4096


class KeyCache:
    """Keys verified less than a second ago, by their tokens' digests; thread-safe.

    Args:
        keys: verifies.
        max_keys: most keys kept.
        timer: seconds that only grow.
    """

    def __init__(
        self,
        keys: Keys,
        *,
        max_keys: int = _MAX_KEYS,
        timer: Callable[[], float] = time.monotonic,
    ) -> None:
        self._keys = keys
        self._cache: TTLCache[str, Key] = TTLCache(max_keys, TTL_S, timer)
        self._lock = threading.Lock()

    def known(self, token: str) -> Key | None:
        """The key of a token verified just now."""
        with self._lock:
            return self._cache.get(digest(token))

    def verify(self, token: str) -> Key:
        """As `Keys.verify`, and kept, unless the token was rotated and will soon stop working."""
        key = self._keys.verify(token)
        if key.token_until is None:
            with self._lock:
                self._cache[digest(token)] = key
        return key
