"""Pages of the ledger: the same lines in three forms, and no formula in CSV."""

import csv
import io
import json
from datetime import UTC, datetime

import pytest

from craft_server.api.ledger_pages import CSV, JSON, NDJSON, form_of, read
from craft_shared.messages import UsageEvent, UsageEvents

EVENT = UsageEvent(
    id=1,
    at=datetime(2026, 11, 28, tzinfo=UTC),
    request_id="=HYPERLINK(1)",
    model="stub::0",
    image_set="set_[]",
    prompts=2,
    images=3,
    classes=4,
    queries=2,
    logit_vectors=6,
    texts=8,
    tag="@SUM(1)",
    run="-1+1",
    seconds=0.5,
)


class LedgerOf:
    """Some lines; reading gives at most as many as asked for, as the real one does."""

    def __init__(self, count):
        self.events = [EVENT.model_copy(update={"id": number + 1}) for number in range(count)]

    def slice_of(self, after, limit):
        found = self.events[after : after + limit + 1]
        more = len(found) > limit
        return UsageEvents(events=found[:limit], next=found[limit - 1].id if more else None)


@pytest.fixture(autouse=True)
def small_slices(monkeypatch):
    monkeypatch.setattr("craft_server.api.ledger_pages._SLICE", 2)


@pytest.mark.parametrize("limit", [1, 2, 3, 4, 5, 9])
@pytest.mark.parametrize("count", [0, 1, 4, 5])
def test_json_is_the_messages_however_it_is_sliced(count, limit):
    ledger = LedgerOf(count)
    page = read(ledger.slice_of, JSON, after=0, limit=limit)
    assert page.body.decode() == ledger.slice_of(0, limit).model_dump_json()
    assert page.next == (limit if count > limit else None)


def test_ndjson_has_a_line_for_each_event():
    ledger = LedgerOf(5)
    lines = read(ledger.slice_of, NDJSON, after=1, limit=3).body.decode().splitlines()
    assert [UsageEvent.model_validate(json.loads(line)) for line in lines] == ledger.events[1:4]


def test_what_a_client_wrote_opens_in_a_spreadsheet_as_text_and_numbers_stay_numbers():
    text = read(LedgerOf(3).slice_of, CSV, after=0, limit=9).body.decode()
    row, *rows = csv.DictReader(io.StringIO(text))
    assert len(rows) == 2
    assert (row["request_id"], row["tag"], row["run"]) == ("'=HYPERLINK(1)", "'@SUM(1)", "'-1+1")
    assert (row["model"], row["queries"], row["seconds"]) == ("stub::0", "2", "0.5")


@pytest.mark.parametrize(
    ("accept", "form"), [("", JSON), ("*/*", JSON), ("text/csv", CSV), ("a, " + NDJSON, NDJSON)]
)
def test_accept_chooses(accept, form):
    assert form_of(accept) == form
