"""Pages of the ledger as JSON, NDJSON or CSV.

A page is read and written slice by slice, and every line by a call of its own: one call for 10,000
lines, or the collector's look at all their objects, would keep the interpreter from all other
threads until it ends.
"""

import csv
import io
import json
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

from craft_shared.csv_cells import spreadsheet_safe
from craft_shared.messages import UsageEvent, UsageEvents

CSV = "text/csv"
NDJSON = "application/x-ndjson"
JSON = "application/json"

SliceOf = Callable[[int, int], UsageEvents]

_SLICE = 250
"""Lines that are in memory as objects at a time: some 5 ms of work."""

_LONGEST_REST_S = 0.02
"""After a slice the thread rests as long as that took, but no longer. On a busy machine a thread
that never rests keeps the interpreter while the system lets others run (docs/decisions/0024)."""


class Page(NamedTuple):
    """A page as it leaves, and the id after which the next one begins, if there is one."""

    body: bytes
    next: int | None


def form_of(accept: str) -> str:
    """The media type that an Accept header asks for."""
    return next((form for form in (CSV, NDJSON) if form in accept), JSON)


def read(slice_of: SliceOf, form: str, *, after: int, limit: int) -> Page:
    """Read a page and write it in one of the three forms.

    Args:
        slice_of: reads lines of the ledger: at most so many, from the one after this id.
        form: a media type that `form_of` gave.
        after: an id.
        limit: most lines.
    """
    parts: list[str] = [_BEGIN[form]]
    following: int | None = after
    while limit and following is not None:
        began = time.monotonic()
        lines = slice_of(following, min(limit, _SLICE))
        parts.append(_WRITERS[form](lines.events))
        limit -= len(lines.events)
        following = lines.next
        if following is not None:
            time.sleep(min(time.monotonic() - began, _LONGEST_REST_S))
    if form == JSON:
        written = ",".join(part for part in parts if part)
        return Page(f'{{"events":[{written}],"next":{json.dumps(following)}}}'.encode(), following)
    return Page("".join(parts).encode(), following)


def _as_json(events: Sequence[UsageEvent]) -> str:
    return ",".join(event.model_dump_json() for event in events)


def _as_ndjson(events: Sequence[UsageEvent]) -> str:
    return "".join(event.model_dump_json() + "\n" for event in events)


def _as_csv(events: Sequence[UsageEvent]) -> str:
    return _csv_lines(_cells(event).values() for event in events)


def _csv_lines(lines: Iterable[Iterable[Any]]) -> str:
    buffer = io.StringIO()
    csv.writer(buffer).writerows(lines)
    return buffer.getvalue()


def _cells(event: UsageEvent) -> dict[str, Any]:
    """Numbers as numbers; what a client wrote is text in every spreadsheet."""
    cells = event.model_dump(mode="json")
    return {
        name: spreadsheet_safe(value) if isinstance(value, str) else value
        for name, value in cells.items()
    }


_WRITERS = {CSV: _as_csv, NDJSON: _as_ndjson, JSON: _as_json}
_BEGIN = {CSV: _csv_lines([UsageEvent.model_fields]), NDJSON: "", JSON: ""}
