"""Identities verified just now, so that many small requests cost few looks at the store.

For callers whose every act is checked again: the meter compares the key's version. Must not know
budgets or HTTP.
"""

import time

from craft_server.accounts.identity import Key
from craft_server.accounts.keys import Keys
from craft_server.accounts.tokens import digest

RECENT_S = 1.0
"""How long an identity may be taken as verified by who checks again what is bought."""

_RECENT_KEYS = 4096


class KeyCache:
    """Identities verified less than a second ago, for callers whose every act is checked again.

    The meter refuses what a key that was changed since wants to buy; here it only saves a look at
    the store for a client that sends many small requests.
    """

    def __init__(self, keys: Keys) -> None:
        self._keys = keys
        self._seen: dict[str, tuple[float, Key]] = {}

    def known(self, token: str) -> Key | None:
        """The key of a token seen just now."""
        verified, key = self._seen.get(digest(token), (0.0, None))
        return key if time.monotonic() - verified < RECENT_S else None

    def verify(self, token: str) -> Key:
        """As `Keys.verify`, and remembered, unless the token is on its way out."""
        key = self._keys.verify(token)
        if key.token_until is not None:
            return key
        if len(self._seen) >= _RECENT_KEYS:
            self._seen = {}
        self._seen[digest(token)] = (time.monotonic(), key)
        return key
