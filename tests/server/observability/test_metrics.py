"""What Prometheus reads: the documented metrics, and no label that a client picks."""

import asyncio
import re
import threading
import urllib.request

import httpx
import numpy as np
import pytest
from starlette.testclient import TestClient

from craft_server.accounts.keys import Keys
from craft_server.api.services import services_of
from craft_server.app import create_app
from craft_server.db.store import Store, StoreDown
from craft_server.metering.ledger import Discrepancy, Holds
from craft_server.metering.maintenance import sweep, sweep_once, watch_loop
from craft_server.metering.meter import Meter
from craft_server.observability.metrics import Metrics
from craft_server.observability.telemetry import Telemetry
from craft_shared.errors import Code
from craft_shared.messages import Counters
from tests.support.paths import ROOT
from tests.support.serving import (
    free_port,
    image_set,
    running,
    settings_in,
    soft_body,
    stub_box,
    tensor_headers,
    text_request,
)

OPERATIONS = ROOT / "docs" / "operations.md"


@pytest.fixture
def metrics(app):
    return services_of(app).metrics


@pytest.fixture
def value(metrics):
    """A sample's value now: `value("craft_holds", state=...)`."""
    return lambda name, **labels: metrics.registry.get_sample_value(name, labels)


def ask(client, request, key, **headers):
    return client.post("/v1/logits", json=request, headers={"Idempotency-Key": key} | headers)


def test_the_documented_metrics_are_the_metrics(metrics):
    rows = re.findall(
        r"^\| `((?:craft|process)_\w+)` \| (\w+) \| (.*?) \|", OPERATIONS.read_text(), re.MULTILINE
    )
    documented = {name: kind for name, kind, _ in rows}
    families = {
        family.name + ("_total" if family.type == "counter" else ""): family.type
        for family in metrics.registry.collect()
    }
    assert documented == families


def test_labels_are_those_documented_and_tell_no_tenants_apart(app, client, metrics):
    """After requests of every kind, each label is in the table and no value is a client's."""
    set_id = image_set(client)
    ask(client, text_request(set_id) | {"tag": "my-tag", "run": "my-run"}, "my-key")
    client.get("/v1/my-path")
    client.request("BREW", "/v1/key")
    rows = re.findall(r"^\| `(craft_\w+)` \| \w+ \| (.*?) \|", OPERATIONS.read_text(), re.MULTILINE)
    documented = {name: set(re.findall(r"`(\w+)`", labels)) for name, labels in rows}
    values = set()
    for family in metrics.registry.collect():
        if family.name.startswith("craft_"):
            name = family.name + ("_total" if family.type == "counter" else "")
            for sample in family.samples:
                assert set(sample.labels) - {"le"} == documented[name], name
                values |= set(sample.labels.values())
    (row,) = services_of(app).keys.all()
    assert not {value for value in values if "my-" in value or row.id in value or value == "ann"}


def test_requests_are_counted_by_template_method_and_status(client, value):
    set_id = image_set(client)
    client.get(f"/v1/image-sets/{set_id}")
    client.get("/v1/image-sets/other")
    for path in ("/a", "/b/c"):
        client.get(path)
    client.delete("/v1/key")
    client.request("BREW", "/v1/key")
    requests = "craft_http_requests_total"
    template = "/v1/image-sets/{set_id}"
    assert value(requests, method="GET", route=template, status="200") == 1
    assert value(requests, method="GET", route=template, status="404") == 1
    assert value(requests, method="GET", route="unmatched", status="404") == 2
    assert value(requests, method="DELETE", route="/v1/key", status="405") == 1
    assert value(requests, method="other", route="/v1/key", status="405") == 1
    assert value("craft_http_request_seconds_count", route="unmatched") == 2
    assert value("craft_refusals_total", code="method_not_allowed") == 2
    assert value("craft_refusals_total", code="not_found") == 2


def test_a_failure_is_a_500_and_a_refusal(client, box, value):
    box.encode_texts = lambda pieces: 1 / 0
    assert ask(client, text_request(image_set(client)), "one").status_code == 500
    requests = {"method": "POST", "route": "/v1/logits", "status": "500"}
    assert value("craft_http_requests_total", **requests) == 1
    assert value("craft_refusals_total", code="internal") == 1
    assert value("craft_queries_total", state="released") == 2
    assert value("craft_logit_vectors_total", state="released") == 6


def test_units_are_counted_by_what_became_of_them(client, value):
    request = text_request(image_set(client))
    assert value("craft_queries_total", state="settled") is None
    for key in ("one", "two", "one"):
        assert ask(client, request, key).status_code == 200
    assert value("craft_queries_total", state="settled") == 4
    assert value("craft_logit_vectors_total", state="settled") == 12
    assert value("craft_texts_total", state="settled") == 8
    assert value("craft_logits_total", state="settled") == 24
    assert value("craft_queries_total", state="replayed") == 2
    assert value("craft_queries_total", state="released") is None


def test_the_device_and_the_cache_are_seen_at_work(client, value):
    set_id = image_set(client, 3)
    before = value("craft_batch_works_count")
    for key in ("one", "two"):
        ask(client, text_request(set_id), key)
    batches = value("craft_batch_works_count") - before
    assert batches == 4  # encode, load, and the texts of two requests
    for name in ("craft_queue_seconds_count", "craft_device_seconds_count"):
        assert value(name) - before == batches
    lookups = "craft_feature_lookups_total"
    assert value(lookups, tier="device", result="miss") == 3
    assert value(lookups, tier="device", result="hit") == 3
    assert value(lookups, tier="memory", result="miss") == 3
    assert value(lookups, tier="memory", result="hit") == 0
    assert value(lookups, tier="disk", result="miss") == 3
    record = value("craft_feature_cache_bytes", tier="memory") / 3
    assert record > 0
    assert value("craft_feature_cache_bytes", tier="device") == 3 * record
    assert value("craft_feature_cache_bytes", tier="disk") > 0
    assert value("craft_admitted_requests") == value("craft_queue_works") == 0


def test_what_is_in_work_is_seen_while_it_is(client, box, value):
    inside, go_on = threading.Event(), threading.Event()
    encode = box.encode_texts

    def slow(pieces):
        inside.set()
        assert go_on.wait(30)
        return encode(pieces)

    set_id = image_set(client)
    box.encode_texts = slow
    asking = threading.Thread(target=ask, args=(client, text_request(set_id), "one"))
    asking.start()
    assert inside.wait(30)
    assert value("craft_admitted_requests") == 1
    assert value("craft_admitted_texts") == 4
    assert value("craft_device_busy_seconds") > 0
    go_on.set()
    asking.join()
    assert value("craft_admitted_requests") == 0


def test_a_store_that_does_not_answer_is_counted(app, client, value, monkeypatch):
    def down(*_, **__):
        raise StoreDown(Code.NOT_READY, "the store does not answer", retry_after_s=1)

    monkeypatch.setattr(services_of(app).key_cache, "verify", down)
    before = value("craft_store_outages_total")
    assert client.get("/v1/key").status_code == 503
    assert value("craft_store_outages_total") == before + 1


# --- what goes on beside requests ---------------------------------------------------------------


class Enough(BaseException):
    """The script is at its end."""


class Script(Telemetry):
    """Notes what is reported."""

    def __init__(self):
        self.reported = []

    def held(self, holds, oldest_s):
        self.reported.append(("held", holds, round(oldest_s)))

    def audited(self, discrepancies):
        self.reported.append(("audited", discrepancies))

    def outage(self):
        self.reported.append("outage")


class FakeMeter:
    """A meter that answers from a script: what `expire` raises or gives, round by round."""

    def __init__(self, rounds):
        self.rounds = iter(rounds)

    def expire(self):
        found = next(self.rounds)
        if isinstance(found, BaseException):
            raise found
        return found

    def holds(self):
        return Holds(0, None)

    def audit(self):
        return [Discrepancy("key_1", "queries_used", 2, 1)]


def sweep_all(meter, telemetry, **every):
    """Sweep until the script of the meter ends."""

    async def run():
        with pytest.raises(Enough):
            await sweep(meter, telemetry, **every)

    asyncio.run(run())


def test_the_ledger_is_audited_rarely_and_failures_are_survived(caplog):
    script = Script()
    down = StoreDown(Code.NOT_READY, "the store does not answer")
    bug = RuntimeError("secret")
    sweep_all(FakeMeter([2, down, bug, 0, Enough()]), script, every_s=0.001, audit_s=3600)
    assert script.reported == [("held", 0, 0), ("audited", 1), "outage", ("held", 0, 0)]
    assert "2 holds" in caplog.text
    assert "sweep failed, trying again" in caplog.messages
    assert "key_1 counts 2 queries_used, its rows say 1" in caplog.text


def test_audits_can_be_switched_off():
    script = Script()
    sweep_all(FakeMeter([0, 0, Enough()]), script, every_s=0.001, audit_s=0)
    assert script.reported == [("held", 0, 0)] * 2


def test_drift_holds_and_expired_units_of_a_real_ledger_are_seen(tmp_path):
    metrics, store = Metrics("m"), Store(f"sqlite:///{tmp_path / 'craft.db'}")
    value = metrics.registry.get_sample_value
    now = [1_000_000_000]
    meter = Meter(store, clock=lambda: now[0], telemetry=metrics)
    key = Keys(store).create("ann", 10).key.id
    cost = Counters(queries=2, calls=1, logit_vectors=8, texts=6)
    for name in ("a", "b"):
        meter.reserve(key, name, fingerprint="f", cost=cost, hold_s=60)
    assert np.isnan(value("craft_ledger_discrepancies"))
    sweep_once(meter, metrics, audit=True)
    assert value("craft_holds") == 2
    assert value("craft_oldest_hold_seconds") > 10**6  # by the real clock
    assert value("craft_ledger_discrepancies") == 0
    now[0] += 61_000_000
    sweep_once(meter, metrics, audit=False)
    assert value("craft_holds") == value("craft_oldest_hold_seconds") == 0
    assert value("craft_queries_total", {"state": "expired"}) == 4
    assert value("craft_ledger_audits_total") == 1
    store.close()


def test_the_loops_lag_is_measured():
    class Reported(Telemetry):
        def loop_lag(self, seconds):
            raise Enough(seconds)

    with pytest.raises(Enough) as stopped:
        asyncio.run(watch_loop(Reported()))
    assert stopped.value.args[0] >= 0


# --- the port -----------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_port_is_its_own_and_is_given_back(tmp_path):
    port = free_port()
    settings = settings_in(tmp_path, metrics_port=port)
    app = create_app(settings, stub_box(settings))
    with TestClient(app) as client:
        text = urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics").read().decode()
        assert 'craft_build_info{model="stub::0",version=' in text
        assert client.get("/metrics").status_code == 404
    with pytest.raises(OSError, match="refused"):
        urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics")


def test_two_servers_in_a_process_count_apart(tmp_path):
    apps = []
    for name in ("a", "b"):
        settings = settings_in(tmp_path / name)
        apps.append(create_app(settings, stub_box(settings)))
    with TestClient(apps[0]) as client:
        client.get("/nothing")
    found = {"method": "GET", "route": "unmatched", "status": "404"}
    counts = [
        services_of(app).metrics.registry.get_sample_value("craft_http_requests_total", found)
        for app in apps
    ]
    assert counts == [1, None]
    services_of(apps[1]).store.close()


@pytest.mark.slow
def test_the_real_program_serves_metrics_until_it_ends(tmp_path):
    port = free_port()
    with running(tmp_path, metrics_port=port) as server:
        with server.client(server.mint(10)) as client:
            offsets = np.zeros((1, 4, 16), np.float32)
            body = soft_body(image_set(client), offsets)
            client.post(
                "/v1/logits", content=body, headers=tensor_headers("one")
            ).raise_for_status()
        text = httpx.get(f"http://127.0.0.1:{port}/metrics").text
        assert 'craft_queries_total{state="settled"} 1.0' in text
        assert "craft_ledger_discrepancies 0.0" in text
        assert server.stop() in {0, -15}
