"""On a local Ray, two replicas with a folder each sell from one ledger, exactly.

Ray is an extra that the other tests do without: `make ray-test` installs it and runs these.
"""

import json
import sqlite3
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from importlib.util import find_spec

import httpx
import pytest

from craft_server.accounts.keys import Keys
from craft_server.db.store import Store
from craft_server.metering.ledger import Ledger
from tests.support.databases import fresh_postgres
from tests.support.paths import ROOT
from tests.support.serving import free_port, image_set, png, text_request

DRIVER = ROOT / "tests" / "support" / "ray_driver.py"
QUERIES = 40

pytestmark = pytest.mark.skipif(
    find_spec("ray") is None, reason="Ray is not installed: make ray-test"
)


@pytest.fixture(scope="module")
def ray(tmp_path_factory):
    """A server of two replicas on Ray: its address, database and folder."""
    folder, database, port = tmp_path_factory.mktemp("ray"), fresh_postgres(), free_port()
    options = {
        "replicas": 2,
        "port": port,
        "model": "stub",
        "database_url": database,
        "image_url": f"file://{folder}/images",
        "data_dir": str(folder / "replicas"),
        "stub_seconds_per_query": 0.05,
    }
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, DRIVER, json.dumps(options)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
        )
    try:
        lines = iter(process.stdout.readline, b"")
        assert any(line.startswith(b"ready") for line in lines), (folder / "log").read_text()
        yield f"http://127.0.0.1:{port}", database, folder
    finally:
        process.communicate(timeout=120)
    assert process.returncode == 0, (folder / "log").read_text()


@pytest.fixture
def client(ray):
    """A client with a new key for `QUERIES` queries."""
    url, database, _ = ray
    with closing(Store(database)) as store:
        token = Keys(store).create("ann", QUERIES).token
    headers = {"Authorization": f"Bearer {token}"}
    with httpx.Client(base_url=url, headers=headers, timeout=60) as client:
        yield client


def encoded(file):
    """Images whose encoding a replica keeps."""
    with closing(sqlite3.connect(file)) as cache:
        return cache.execute("SELECT count(*) FROM records").fetchone()[0]


def ask(client, request, key):
    return client.post("/v1/logits", json=request, headers={"Idempotency-Key": key})


def test_a_budget_asked_of_by_many_at_once_is_spent_to_the_last_query_and_no_further(client, ray):
    """Both replicas sold: each has encoded the images in its own folder."""
    request = text_request(image_set(client), prompts=1)
    with ThreadPoolExecutor(16) as pool:
        codes = list(
            pool.map(lambda n: ask(client, request, str(n)).status_code, range(2 * QUERIES))
        )
    assert codes.count(200) == QUERIES
    assert set(codes) <= {200, 402, 429}
    queries = client.get("/v1/key").json()["budgets"]["queries"]
    assert (queries["used"], queries["held"]) == (QUERIES, 0)
    _, database, folder = ray
    with closing(Store(database)) as store:
        assert Ledger(store).audit() == []
    files = list((folder / "replicas").glob("*/features.db"))
    assert [encoded(file) for file in files] == [3, 3]


def test_what_one_sold_any_replays(client):
    request = text_request(image_set(client), prompts=2)
    replies = [ask(client, request, "one").json() for _ in range(8)]
    assert [reply["replayed"] for reply in replies] == [False] + [True] * 7
    assert all(reply["logits"] == replies[0]["logits"] for reply in replies)
    assert client.get("/v1/key").json()["budgets"]["queries"]["used"] == 2


def test_an_upload_passes_and_a_key_is_asked_for(client, ray):
    files = [("files", (f"{seed}.png", png(seed, (400, 300)))) for seed in range(20)]
    assert len(client.post("/v1/images", files=files).json()["images"]) == 20
    assert httpx.post(f"{ray[0]}/v1/images", files=files).status_code == 401
