"""Both real programs: a fit over HTTP under kills and lost replies pays its plan, exactly once."""

import contextlib
import json
import signal
import socket
import subprocess
import threading
import time
from collections import Counter

import pytest

from craft_server.metering.ledger import Ledger
from tests.support.serving import SCRIPTS, png, running

pytestmark = pytest.mark.long

QUERIES = 90
SETTINGS = {"method": "craft", "population": 6, "validation_folds": 2, "views": 2, "shots": 2}


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Two classes: 2 shots and 3 test images each."""
    root = tmp_path_factory.mktemp("photos")
    for split, count in (("train", 2), ("test", 3)):
        for label, name in enumerate(("cat", "sea_lion")):
            folder = root / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                seed = 100 * label + number + (50 if split == "test" else 0)
                (folder / f"{number}.png").write_bytes(png(seed, (20, 20)))
    return root


def tuner(server, key, *arguments, url=None):
    environment = server.env | {"CRAFT_SERVER_URL": url or server.url, "CRAFT_API_KEY": key}
    command = [SCRIPTS / "craft-tuner", *map(str, arguments)]
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def start_fit(server, key, photos, run, url=None):
    flags = [f"--set={name}={value}" for name, value in SETTINGS.items()]
    return tuner(
        server,
        key,
        *("fit", "--data", photos, "--run", run, "--budget", QUERIES, *flags),
        url=url,
    )


def finish(process):
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0, output
    return output


def spent(server, run):
    """Queries by the ledger, by the key, by the tuner; the ledger by tag."""
    store = server.store()
    ledger = Ledger(store)
    assert ledger.audit() == []
    result = json.loads((run / "result.json").read_text())
    [(key_id, total)] = ledger.totals().items()
    budget = ledger.budgets(key_id).queries
    tags = {one.tag: one.counters for one in ledger.usage(key_id, by="tag").buckets}
    runs = {one.run: one.counters for one in ledger.usage(key_id, by="run").buckets}
    store.close()
    assert budget.held == 0
    assert {tag: counters.model_dump() for tag, counters in tags.items()} == result["spent"]
    assert runs == {json.loads((run / "config.json").read_text())["run_id"]: total}
    queries = {tag: counters.queries for tag, counters in tags.items()}
    return total.queries, budget.used, result["spent_total"]["queries"], queries


def test_where_the_queries_of_a_fit_went_is_one_command(photos, tmp_path):
    with running(tmp_path) as server:
        key = server.mint(QUERIES + 1)
        finish(start_fit(server, key, photos, tmp_path / "run"))
        finish(tuner(server, key, "predict", tmp_path / "run", photos / "test"))
        rows = json.loads(server.command("usage", "--by", "tag", "--export", "json"))["usage"]
        assert {row["tag"]: row["queries"] for row in rows} == PLANNED | {"inference": 1}
        run_id = json.loads((tmp_path / "run" / "config.json").read_text())["run_id"]
        rows = json.loads(server.command("usage", "--by", "run", "--export", "json"))["usage"]
        spent_by = {row["run"]: row["queries"] for row in rows}
        assert spent_by.pop(run_id) == sum(PLANNED.values())
        assert list(spent_by.values()) == [1]


PLANNED = {"zero-shot": 1, "fitness": 72, "head": 12, "test": 1}
"""90 queries: 12 generations of 6 + 1 prompts, and two tests."""

LIMITS = ("--logit-vectors", "349", "--texts", "174", "--logits", "698")
"""What these cost: 84 prompts on 4 shots, 2 on 6 test images and an answer, two names each."""


@pytest.fixture(scope="module")
def undisturbed(photos, tmp_path_factory):
    """The adapter of a fit that nothing disturbs."""
    folder = tmp_path_factory.mktemp("undisturbed")
    with running(folder) as server:
        key = server.mint(QUERIES)
        finish(start_fit(server, key, photos, folder / "run"))
        total = sum(PLANNED.values())
        assert spent(server, folder / "run") == (total, total, total, PLANNED)
    return (folder / "run" / "adapter.safetensors").read_bytes()


def test_a_tuner_killed_again_and_again_ends_with_the_same_adapter_and_bill(
    photos, tmp_path, undisturbed
):
    run = tmp_path / "run"
    with running(tmp_path, stub_seconds_per_query=0.02) as server:
        key = server.mint(QUERIES, *LIMITS)
        fit = start_fit(server, key, photos, run)
        kills = 0
        for generations in (1, 4, 8):
            wait_for_lines(run / "metrics.jsonl", generations, fit)
            fit.send_signal(signal.SIGKILL)
            fit.communicate()
            kills += 1
            fit = tuner(server, key, "fit", "--resume", run)
        finish(fit)
        total = sum(PLANNED.values())
        assert spent(server, run) == (total, total, total, PLANNED)
    assert kills == 3
    assert (run / "adapter.safetensors").read_bytes() == undisturbed


def test_a_server_killed_in_the_middle_of_a_fit_is_waited_for(photos, tmp_path, undisturbed):
    run = tmp_path / "run"
    with running(tmp_path, stub_seconds_per_query=0.02) as server:
        key = server.mint(QUERIES)
        fit = start_fit(server, key, photos, run)
        wait_for_lines(run / "metrics.jsonl", 3, fit)
        server.kill()
        server.start()
        finish(fit)
        total = sum(PLANNED.values())
        assert spent(server, run) == (total, total, total, PLANNED)
    assert (run / "adapter.safetensors").read_bytes() == undisturbed


def test_replies_that_get_lost_or_cut_short_are_paid_once(photos, tmp_path, undisturbed):
    run = tmp_path / "run"
    with running(tmp_path) as server, LossyProxy(server.port) as proxy:
        key = server.mint(QUERIES)
        finish(start_fit(server, key, photos, run, url=proxy.url))
        total = sum(PLANNED.values())
        assert spent(server, run) == (total, total, total, PLANNED)
    assert proxy.lost >= 5
    assert (run / "adapter.safetensors").read_bytes() == undisturbed


def test_a_budget_that_ends_in_the_middle_leaves_an_adapter_and_a_way_on(photos, tmp_path):
    """Somebody else spends from the same key while the fit runs."""
    run = tmp_path / "run"
    with running(tmp_path, stub_seconds_per_query=0.1) as server:
        key = server.mint(QUERIES)
        fit = start_fit(server, key, photos, run)
        wait_for_lines(run / "metrics.jsonl", 2, fit)
        [key_id] = [row["id"] for row in json.loads(server.command("keys", "list", "--json"))]
        server.command("keys", "set-budget", key_id, "--queries", "60")
        output, _ = fit.communicate(timeout=60)
        assert fit.returncode == 5, output
        assert "--resume" in output
        assert "Traceback" not in output
        assert (run / "adapter.safetensors").exists()
        server.command("keys", "set-budget", key_id, "--queries", str(QUERIES))
        finish(tuner(server, key, "fit", "--resume", run))
        assert spent(server, run)[0] == sum(PLANNED.values())


def start_auto(server, key, photos, run, seed):
    flags = [f"--set={name}={value}" for name, value in SETTINGS.items() if name != "method"]
    return tuner(server, key, "fit", "--data", photos, "--run", run, f"--seed={seed}", *flags)


def test_a_key_of_two_thousand_texts_is_planned_fits_and_is_not_overshot(photos, tmp_path):
    """Shots and views, test images and answers are 3 x 2 x 333 names, zero-shot's are 2."""
    with running(tmp_path) as server:
        key = server.mint(QUERIES, "--texts", "2000")
        said = finish(start_auto(server, key, photos, tmp_path / "run", 1))
        plan = json.loads((tmp_path / "run" / "plan.json").read_text())
        result = json.loads((tmp_path / "run" / "result.json").read_text())
        (budgets,) = budgets_of(server)
    assert (plan["method"], plan["population"], plan["binds"]) == ("bank", 2, "texts")
    for name, value in result["spent_total"].items():
        assert value == sum(phase["cost"][name] for phase in plan["phases"])
    assert budgets.texts.used == result["spent_total"]["texts"] == 2 * 2 * 333 + 2 <= 2000
    assert "the key has 90 queries, 2,000 texts left" in said
    assert "after this run: 85 queries, 666 texts" in said


@pytest.mark.parametrize("limit", [("--texts", "2000"), ("--logits", "20000")])
def test_fits_that_race_for_one_key_never_spend_more_than_it_has(photos, tmp_path, limit):
    """Each plans with all of it, as there is nobody else when it looks."""
    with running(tmp_path, stub_seconds_per_query=0.05) as server:
        key = server.mint(QUERIES, *limit)
        runs = [tmp_path / f"run-{seed}" for seed in (1, 2)]
        fits = [start_auto(server, key, photos, run, seed) for seed, run in enumerate(runs, 1)]
        outputs = [fit.communicate(timeout=120)[0] for fit in fits]
        (budgets,) = budgets_of(server)
    said = "\n".join(outputs)
    assert {fit.returncode for fit in fits} <= {0, 5}, said
    assert any((run / "adapter.safetensors").exists() for run in runs), said
    assert "Traceback" not in said
    for name, budget in budgets:
        if budget is not None:
            assert budget.held == 0
            assert budget.used <= budget.limit
            bought = [bought_by(run)[name] for run in runs]
            assert sum(bought) == budget.used


def budgets_of(server):
    """Where the limits of all keys stand; the books balance."""
    store = server.store()
    ledger = Ledger(store)
    assert ledger.audit() == []
    found = [ledger.budgets(key_id) for key_id in ledger.totals()]
    store.close()
    return found


def bought_by(run):
    """What a run believes it spent."""
    file = run / "purchases.jsonl"
    lines = file.read_text().splitlines() if file.exists() else []
    return Counter(
        {
            name: sum(json.loads(line)["cost"][name] for line in lines)
            for name in ("queries", "logit_vectors", "texts", "logits")
        }
    )


def wait_for_lines(path, count, process):
    end = time.monotonic() + 60
    while not path.exists() or path.read_bytes().count(b"\n") < count:
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < end
        time.sleep(0.01)


class LossyProxy:
    """Passes bytes on to a port; cuts every third reply to a POST after its first 100 bytes."""

    def __init__(self, port):
        self._target = ("127.0.0.1", port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._posts = 0
        self.lost = 0

    def __enter__(self):
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_):
        self._listener.close()

    def _accept(self):
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client):
        server = socket.create_connection(self._target)
        state = {"cut": False}

        def upstream():
            while data := read(client):
                if data.startswith(b"POST /v1/logits"):
                    self._posts += 1
                    state["cut"] = self._posts % 3 == 0
                server.sendall(data)

        threading.Thread(target=upstream, daemon=True).start()
        while data := read(server):
            if state["cut"]:
                self.lost += 1
                client.sendall(data[:100])
                break
            client.sendall(data)
        for each in (client, server):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()


def read(source):
    try:
        return source.recv(65536)
    except OSError:
        return b""
