"""What `craft-server usage` shows: sums of the ledger by key, label or time, or its lines.

Reads the ledger and the keys. Must not know options or how rows are shown.
"""

from collections.abc import Iterator, Sequence
from typing import Literal

from craft_server.identity import Key
from craft_server.ledger import Bucket, Label, Ledger, Lines
from craft_server.output import Row
from craft_shared.messages import Counters

By = Literal["key", "tag", "run", "image_set", "day", "hour"]

_NOTHING = Counters(queries=0, calls=0, logit_vectors=0, texts=0)
_GROUPS: dict[By, tuple[Bucket, Label | None]] = {
    "tag": ("total", "tag"),
    "run": ("total", "run"),
    "image_set": ("total", "image_set"),
    "day": ("day", None),
    "hour": ("hour", None),
}


def sum_rows(
    ledger: Ledger, keys: Sequence[Key], lines: Lines, *, by: By, key_id: str | None = None
) -> Iterator[Row]:
    """The four counters for each of `by`, of one key or of all; by key also where budgets stand."""
    if by == "key":
        yield from _by_key(ledger, keys, lines)
        return
    bucket, label = _GROUPS[by]
    for one in ledger.usage(key_id, lines, bucket=bucket, by=label).buckets:
        found = one.model_dump(mode="json")
        yield {by: found[label or "start"], **found["counters"]}


def line_rows(ledger: Ledger, keys: Sequence[Key], lines: Lines) -> Iterator[Row]:
    """The ledger line by line, key after key."""
    for key in keys:
        after: int | None = 0
        while after is not None:
            page = ledger.events(key.id, lines, after=after)
            for event in page.events:
                yield {"key": key.id, **event.model_dump(mode="json")}
            after = page.next


def _by_key(ledger: Ledger, keys: Sequence[Key], lines: Lines) -> Iterator[Row]:
    totals = ledger.totals(lines)
    for key in keys:
        budget = ledger.budgets(key.id).queries
        left = {"queries_limit": budget.limit, "queries_remaining": budget.remaining}
        counters = totals.get(key.id, _NOTHING)
        yield {"key": key.id, "owner": key.owner, **counters.model_dump(), **left}
