"""Pages of the ledger: the same lines in three forms, and no formula in the one for spreadsheets."""

import csv
import io
import json
from datetime import UTC, datetime

import pytest

from craft_server.api.ledger_pages import CSV, JSON, NDJSON, form_of, render
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


@pytest.mark.parametrize("following", [None, 7])
@pytest.mark.parametrize("count", [0, 1, 3])
def test_json_is_the_messages(count, following):
    page = UsageEvents(events=[EVENT] * count, next=following)
    rendered = render(page, JSON)
    assert rendered.body.decode() == page.model_dump_json()
    assert rendered.next == following


def test_ndjson_has_a_line_for_each_event():
    page = UsageEvents(events=[EVENT, EVENT], next=None)
    lines = render(page, NDJSON).body.decode().splitlines()
    assert [UsageEvent.model_validate(json.loads(line)) for line in lines] == [EVENT, EVENT]


def test_what_a_client_wrote_opens_in_a_spreadsheet_as_text_and_numbers_stay_numbers():
    text = render(UsageEvents(events=[EVENT], next=None), CSV).body.decode()
    (row,) = csv.DictReader(io.StringIO(text))
    assert (row["request_id"], row["tag"], row["run"]) == ("'=HYPERLINK(1)", "'@SUM(1)", "'-1+1")
    assert (row["model"], row["queries"], row["seconds"]) == ("stub::0", "2", "0.5")


@pytest.mark.parametrize(
    ("accept", "form"), [("", JSON), ("*/*", JSON), ("text/csv", CSV), ("a, " + NDJSON, NDJSON)]
)
def test_accept_chooses(accept, form):
    assert form_of(accept) == form
