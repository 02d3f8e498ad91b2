"""Pages of the ledger as JSON, NDJSON or CSV.

Every line is written by a call of its own: one call for a page of 10,000 would keep the interpreter
from all other threads until it ends.
"""

import csv
import io
from typing import Any, NamedTuple

from craft_shared.csv_cells import spreadsheet_safe
from craft_shared.messages import UsageEvent, UsageEvents

CSV = "text/csv"
NDJSON = "application/x-ndjson"
JSON = "application/json"


class Page(NamedTuple):
    """A page as it leaves, and the id after which the next one begins, if there is one."""

    body: bytes
    next: int | None


def form_of(accept: str) -> str:
    """The media type that an Accept header asks for."""
    return next((form for form in (CSV, NDJSON) if form in accept), JSON)


def render(page: UsageEvents, form: str) -> Page:
    """Write a page in one of the three forms."""
    if form == CSV:
        text = _as_csv(page)
    elif form == NDJSON:
        text = "".join(event.model_dump_json() + "\n" for event in page.events)
    else:
        lines = ",".join(event.model_dump_json() for event in page.events)
        empty = page.model_copy(update={"events": []}).model_dump_json()
        text = empty.replace("[]", f"[{lines}]", 1)
    return Page(text.encode(), page.next)


def _as_csv(page: UsageEvents) -> str:
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, fieldnames=list(UsageEvent.model_fields))
    writer.writeheader()
    writer.writerows(_cells(event) for event in page.events)
    return buffer.getvalue()


def _cells(event: UsageEvent) -> dict[str, Any]:
    """Numbers as numbers; what a client wrote is text in every spreadsheet."""
    cells = event.model_dump(mode="json")
    return {
        name: spreadsheet_safe(value) if isinstance(value, str) else value
        for name, value in cells.items()
    }
