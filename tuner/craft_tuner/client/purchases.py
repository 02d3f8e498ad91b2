"""What this tuner believes it has bought: every settled call once, however often it was answered.

The belief is kept beside the run as JSON lines, so that a run which was killed and resumed knows
what it spent before; `server ledger == key used == this` is checked at the end. A line is written
after the reply and before the logits are used: a call that was paid but not written is asked again
under the same Idempotency-Key, replayed free by the server, and written then.
"""

import sys
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from craft_shared.messages import Counters
from craft_tuner import files
from craft_tuner.blackbox import Purpose
from craft_tuner.errors import RunError

PURCHASES = "purchases.jsonl"
"""Name of the file in a run directory."""

_ALL = sys.maxsize


class Purchase(BaseModel):
    """One settled call."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    key: str
    purpose: Purpose
    step: str
    cost: Counters


class Purchases:
    """Purchases by Idempotency-Key, in memory and, given a file, on disk.

    Raises:
        RunError: the file has a line that is no purchase (a last line cut short is dropped).
    """

    def __init__(self, file: Path | None = None) -> None:
        self._file = file
        self._bought = {purchase.key: purchase for purchase in _load(file)}

    def record(self, purchase: Purchase) -> None:
        """Count a purchase, unless it is counted already."""
        if purchase.key in self._bought:
            return
        if self._file is not None:
            files.append(self._file, purchase.model_dump_json())
        self._bought[purchase.key] = purchase

    @property
    def total(self) -> Counters:
        """All purchases together."""
        return add(purchase.cost for purchase in self._bought.values())

    def by_purpose(self) -> dict[Purpose, Counters]:
        """The counters for each purpose, in order of the first purchase."""
        costs: defaultdict[Purpose, list[Counters]] = defaultdict(list)
        for purchase in self._bought.values():
            costs[purchase.purpose].append(purchase.cost)
        return {purpose: add(bought) for purpose, bought in costs.items()}


def add(costs: Iterable[Counters]) -> Counters:
    """The sum of several counters."""
    total = dict.fromkeys(Counters.model_fields, 0)
    for cost in costs:
        for name, value in cost:
            total[name] += value
    return Counters(**total)


def subtract(cost: Counters, paid: Counters) -> Counters:
    """What of a price is not paid yet; never below 0."""
    return Counters(**{name: max(0, value - getattr(paid, name)) for name, value in cost})


def _load(file: Path | None) -> list[Purchase]:
    if file is None:
        return []
    try:
        return [Purchase.model_validate_json(line) for line in files.keep_lines(file, _ALL)]
    except ValueError as error:
        raise RunError(f"{file} is damaged: {error}; start a new run") from error
