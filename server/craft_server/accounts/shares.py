"""Shares of what is finite: what one key, one owner and all together may hold of it at a time.

Owns counting and the refusal beyond. It does not know what is counted: requests, bytes, threads.
Counts live in one process's memory, on one thread, as those of rate_limit.py do.
"""

from dataclasses import dataclass
from typing import NamedTuple

from craft_server.accounts.identity import Key
from craft_shared.errors import Code, Refusal

RETRY_AFTER_S = 1
"""Of a refusal: a request of the same key may end at any moment."""


class Caller(NamedTuple):
    """Who holds: a key and its owner; both empty before a key is known."""

    key_id: str = ""
    owner: str = ""

    @staticmethod
    def of(key: Key) -> "Caller":
        """The holder of this key."""
        return Caller(key.id, key.owner)


NOBODY = Caller()


@dataclass(frozen=True)
class ShareLimits:
    """What may be held at a time: by one key, by all keys of one owner, by all; None is any."""

    key: int
    owner: int
    everybody: int | None = None


class Shares:
    """What is held of one finite thing.

    Args:
        what: the thing with its unit, as a refusal names it: "requests in work".
        limits: how much of it.
    """

    def __init__(self, what: str, limits: ShareLimits) -> None:
        self._what = what
        self._limits = limits
        self._held: dict[tuple[str, str], int] = {}

    @property
    def held(self) -> int:
        """What all hold."""
        return self._held.get(_EVERYBODY, 0)

    def lease(self, caller: Caller, amount: int = 0) -> "Lease":
        """Hold an amount until the lease is closed.

        Raises:
            Refusal: as `Lease.grow`; nothing is held then.
        """
        lease = Lease(self, caller)
        lease.grow(amount)
        return lease

    def add(self, caller: Caller, amount: int) -> None:
        """Count an amount without a check; a negative one gives back."""
        for holder in _holders(caller):
            held = self._held.get(holder, 0) + amount
            if held:
                self._held[holder] = held
            else:
                self._held.pop(holder, None)

    def check(self, caller: Caller, amount: int, *, own: int) -> None:
        """Refuse what exceeds a share, unless `own` is all that is held of that share."""
        limits = self._limits
        key, owner, everybody = _holders(caller)
        shares = ((key, limits.key), (owner, limits.owner), (everybody, limits.everybody))
        for holder, most in shares:
            held = self._held.get(holder, 0)
            if most is not None and held > own and held + amount > most:
                raise self._refusal(holder[0], held, amount, most)

    def _refusal(self, whose: str, held: int, amount: int, most: int) -> Refusal:
        detail = (
            f"{whose} has {held} {self._what} and asks for {amount} more; "
            f"at most {most} are allowed at a time; try again when some have ended"
        )
        code = Code.OVERLOADED if whose == _EVERYBODY[0] else Code.RATE_LIMITED
        return Refusal(code, detail, param="share", retry_after_s=RETRY_AFTER_S)


class Lease:
    """What one request holds of a share; a context manager that gives all of it back."""

    def __init__(self, shares: Shares, caller: Caller) -> None:
        self._shares = shares
        self._caller = caller
        self.amount = 0

    def grow(self, amount: int) -> None:
        """Hold so much more. Who holds nothing else is let in, whatever it asks for.

        Raises:
            Refusal: `rate_limited` beyond the key's or owner's share, `overloaded` beyond what all
                may hold, both with Retry-After; the lease stays as it was.
        """
        self._shares.check(self._caller, amount, own=self.amount)
        self._shares.add(self._caller, amount)
        self.amount += amount

    def close(self) -> None:
        """Give all back; a second time does nothing."""
        self._shares.add(self._caller, -self.amount)
        self.amount = 0

    def __enter__(self) -> "Lease":
        """The lease."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close."""
        self.close()


_EVERYBODY = ("this server", "")


def _holders(caller: Caller) -> tuple[tuple[str, str], ...]:
    return ("this key", caller.key_id), ("this key's owner", caller.owner), _EVERYBODY
