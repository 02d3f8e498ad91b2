"""The demo starts a server of its own, balances the books in three places, and leaves nothing."""

import io
import json
import os
import re
import signal
import stat
import sys
from pathlib import Path

import pytest
from rich.console import Console

from craft_tuner.commands import demo
from craft_tuner.commands import local_server as serving
from craft_tuner.commands.demo import AccountMismatch, run_demo
from craft_tuner.commands.local_server import find_program, local_server
from craft_tuner.errors import ServerUnreachable, UsageError
from tests.support.paths import ROOT

pytestmark = pytest.mark.slow

PROGRAM = f"""#!{sys.executable}
import json, os, signal, sys, time
sys.path.insert(0, {str(ROOT)!r})
mode = os.environ.get("FAKE_MODE", "")
if sys.argv[1] == "keys":
    if mode == "no keys":
        sys.exit("the ledger is locked")
    said = {{"id": "key_1", "key": "craft_test"}}
    if sys.argv[2] == "list":
        said = json.loads(os.environ["FAKE_KEYS"])
    with open(os.environ["CRAFT_SERVER_DATA_DIR"] + "/asked", "a") as file:
        print(*sys.argv[2:], file=file)
    print(json.dumps(said))
    sys.exit()
assert sys.argv[1:] == ["serve"]
assert "CRAFT_SERVER_DATABASE_URL" not in os.environ
print("loading the model", flush=True)
if mode == "breaks":
    sys.exit("no such device: tpu")
if mode == "hangs":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    time.sleep(60)
from tests.support.tuner_server import FakeServer, listening
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
with listening(FakeServer(), port=int(os.environ["CRAFT_SERVER_PORT"])):
    signal.pause()
"""


@pytest.fixture(autouse=True)
def signals():
    """Handlers as they were."""
    numbers = (signal.SIGTERM, signal.SIGHUP)
    before = [signal.getsignal(number) for number in numbers]
    yield
    for number, handler in zip(numbers, before, strict=True):
        signal.signal(number, handler)


@pytest.fixture
def program(tmp_path, monkeypatch):
    """A craft-server of a few lines, found in place of the real one."""
    path = tmp_path / "bin" / "craft-server"
    path.parent.mkdir()
    path.write_text(PROGRAM)
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setattr(serving, "find_program", lambda: str(path))
    monkeypatch.setenv("CRAFT_SERVER_DATABASE_URL", "postgresql://elsewhere")
    return path


def alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"


def demonstrate(out, **options):
    text = io.StringIO()
    defaults = {"seed": 1, "budget": 130, "keep_server": False}
    run_demo(out, **(defaults | options), console=Console(file=text, width=140))
    return text.getvalue()


def test_the_demo_tells_accuracies_costs_and_that_the_books_balance(program, tmp_path):
    reported = demonstrate(tmp_path / "demo")
    result = json.loads((tmp_path / "demo" / "run" / "result.json").read_text())
    assert result["images"] == {"shots": 160, "test": 1437}
    assert result["spent_total"]["queries"] == 3 * 41 + 2
    for words in ("zero-shot", "prompt only", "craft (the adapter)", "of 1,437 images"):
        assert words in reported
    for words in ("account balances: yes", "queries, head", "KiB", "report.html"):
        assert words in reported
    assert "server's ledger 125 == key used 125 == tuner's belief 125" in " ".join(reported.split())
    assert (tmp_path / "demo" / "run" / "report.html").exists()


def test_books_that_do_not_balance_fail_the_demo(program, tmp_path, monkeypatch):
    counters = {"queries": 84, "calls": 4, "logit_vectors": 9, "texts": 9}
    unheard = {"seconds": {"fit": 1.0}, "adapter_bytes": 1, "spent_total": counters}
    monkeypatch.setattr(demo.commands, "fit", lambda *_, **__: unheard)
    with pytest.raises(AccountMismatch, match=r"ledger 0 == key used 0 == tuner's belief 84"):
        demonstrate(tmp_path / "demo")
    assert AccountMismatch.exit_code == 1


def test_a_directory_in_use_is_not_touched(tmp_path, monkeypatch):
    (tmp_path / "demo").mkdir()
    (tmp_path / "demo" / "thesis.tex").touch()
    with pytest.raises(UsageError, match="exists already"):
        demonstrate(tmp_path / "demo")
    monkeypatch.chdir(tmp_path)
    assert demo._fresh(None) == Path("runs/demo")
    Path("runs/demo").mkdir(parents=True)
    assert demo._fresh(None) == Path("runs/demo-2")


# --- the server process -------------------------------------------------------------------------


def test_a_server_runs_for_the_block_and_not_after(program, tmp_path):
    with local_server(tmp_path / "server", queries=10) as server:
        assert alive(server.pid)
        assert server.key == "craft_test"
        assert re.fullmatch(r"http://127\.0\.0\.1:\d+", server.url)
    assert not alive(server.pid)


def test_a_server_that_starts_again_has_its_key_whose_limit_can_be_set(
    program, tmp_path, monkeypatch
):
    with local_server(tmp_path, queries=10):
        pass
    monkeypatch.setenv("FAKE_KEYS", '[{"id": "key_1"}]')
    with local_server(tmp_path, queries=10) as server:
        server.allow(25)
    monkeypatch.setenv("FAKE_KEYS", "[]")
    with local_server(tmp_path, queries=7):
        pass
    assert (tmp_path / "asked").read_text().splitlines() == [
        "create --owner demo --queries 10 --json",
        "list --owner demo --json",
        "rotate key_1 --json",
        "set-budget key_1 --queries 25",
        "list --owner demo --json",
        "create --owner demo --queries 7 --json",
    ]


def test_a_server_is_stopped_when_the_block_fails(program, tmp_path):
    with pytest.raises(KeyError), local_server(tmp_path / "server", queries=10, keep=True) as one:
        raise KeyError
    assert not alive(one.pid)


def test_a_server_is_stopped_when_its_starter_is_terminated(program, tmp_path):
    with (
        pytest.raises(SystemExit) as exit_,
        local_server(tmp_path / "server", queries=10, keep=True) as server,
    ):
        os.kill(os.getpid(), signal.SIGTERM)
    assert exit_.value.code == 128 + signal.SIGTERM
    assert not alive(server.pid)


def test_a_server_that_is_kept_is_left_running_and_reported_of(program, tmp_path):
    with local_server(tmp_path / "server", queries=10, keep=True) as server:
        pass
    assert alive(server.pid)
    os.kill(server.pid, signal.SIGTERM)
    server.process.wait(10)
    text = io.StringIO()
    demo._say_where(server, Console(file=text, width=200))
    assert f"stop it with: kill {server.pid}" in text.getvalue()


@pytest.mark.parametrize(
    ("mode", "words"),
    [
        ("breaks", r"stopped with exit code 1; the end of .*server\.log:\n  .*\n  no such device"),
        ("no keys", "keys create` failed: the ledger is locked"),
        ("hangs", r"not ready within 1 s; the end of .*:\n  loading the model"),
    ],
)
def test_a_server_that_does_not_start_shows_why(program, tmp_path, monkeypatch, mode, words):
    monkeypatch.setenv("FAKE_MODE", mode)
    if mode == "hangs":
        monkeypatch.setattr(serving, "START_TIMEOUT_S", 1.0)
        monkeypatch.setattr(serving, "STOP_TIMEOUT_S", 0.1)
    with (
        pytest.raises(ServerUnreachable, match=words),
        local_server(tmp_path / "server", queries=10),
    ):
        pass


def test_the_program_beside_this_one_is_taken_else_that_on_the_path(tmp_path, monkeypatch):
    assert find_program() == str(Path(sys.executable).parent / "craft-server")
    monkeypatch.setattr(serving.sys, "executable", str(tmp_path / "python"))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UsageError, match=r"craft-server is not installed here; install it with"):
        find_program()
