"""No command leaves anybody without a word while it works, whatever is slow about it."""

import contextlib
import io
import json
import shutil
import sys
from types import SimpleNamespace

import httpx
import numpy as np
import pytest
from PIL import Image

from craft_tuner import CraftClassifier
from craft_tuner.bench.worker import JobResult
from craft_tuner.cli import main as cli
from craft_tuner.client.transport import Call, Transport
from craft_tuner.commands import demo
from craft_tuner.commands import local_server as serving
from craft_tuner.commands.progress import open_screen
from craft_tuner.config.connection import Connection
from craft_tuner.data.pictures import encode_png
from craft_tuner.errors import NoAnswer
from craft_tuner.heads import candidates
from tests.support.tuner_commands import build_zoo, typing_to
from tests.support.tuner_server import KEY, FakeServer, listening, model_card
from tests.support.waiting import Heard, WaitingServer, hurry, slow

pytestmark = pytest.mark.slow

BANK = ("--method", "bank", "--bank-prompts", "2", "--bank-names", "0", "--views", "1")
CRAFT = ("--method", "craft", "--budget", "26", "--population", "4", "--views", "1")

READING = ("data.conversion.recognise", "client.uploads.check_whole", "data.sources.list_source")
FITTING = ("training.fit.plan_fit", *READING, "runs.thumbnails.save", "report.curves.render")
CHOOSING = ("methods.bank.informative", "heads.candidates.gda", "heads.selection.fit_gate")

COMMANDS = {
    "bank": (("fit", *BANK, "--shots", "3"), (*FITTING, *CHOOSING[:2], "methods.bank.judge")),
    "craft": (("fit", *CRAFT, "--shots", "3"), (*FITTING, "methods.craft.digest")),
    "zero_shot": (("fit", "--method", "zero_shot", "--shots", "3"), FITTING),
    "dry run": (("fit", *BANK, "--shots", "3", "--dry-run"), ("training.fit.plan_fit",)),
    "evaluate": (
        ("evaluate", "RUN"),
        ("commands.fit.read_dataset", "data.conversion.recognise", "client.uploads.check_whole"),
    ),
    "predict": (
        ("predict", "RUN", "DATA/test"),
        ("commands.predict.find_pictures", "client.uploads.check_whole"),
    ),
    "export": (("export", "RUN", "--out", "OUT"), ("report.export.model_card",)),
    "report": (("report", "RUN", "RUN2", "--out", "OUT"), ("report.curves.render",)),
    "check": (
        ("data", "check", "DATA", *BANK[:2], "--shots", "3"),
        ("data.check.decode", "commands.check_data.list_source", "commands.check_data.estimate"),
    ),
    "usage": (("usage",), ()),
    "bench": (
        ("bench", "--methods", "zero_shot,bank", "--shots", "3", "--seeds", "1", "--out", "OUT"),
        ("bench.bench.plan_grid", "bench.report.write"),
    ),
}
"""What each command is slow at, beside the server."""


@pytest.fixture(scope="module")
def zoo(tmp_path_factory):
    """A dataset, and two runs on it."""
    folder = tmp_path_factory.mktemp("waiting")
    data = build_zoo(folder / "data")
    with typing_to(FakeServer()) as tuner, pytest.MonkeyPatch.context() as patch:
        patch.setattr(candidates, "MAX_COST", 0)
        fit = ("fit", "--data", data, "--run", folder / "RUN", *BANK, "--shots", "3")
        assert tuner(*fit)[0] == 0
    shutil.copytree(folder / "RUN", folder / "RUN2")
    return folder


@pytest.fixture
def patch():
    with pytest.MonkeyPatch.context() as patch:
        hurry(patch)
        patch.setattr(candidates, "MAX_COST", 0)
        patch.setenv("COLUMNS", "60")
        patch.setenv("TERM", "xterm")
        patch.setenv("NO_COLOR", "1")
        yield patch


def told(patch, heard, arguments, *, server):
    """The exit code of a command; what it wrote is shown whole."""
    out = io.StringIO()
    with listening(server) as url:
        patch.setenv("CRAFT_SERVER_URL", url)
        patch.setenv("CRAFT_API_KEY", KEY)
        patch.setattr(sys, "argv", ["craft-tuner", *map(str, arguments)])
        with (
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(heard),
            pytest.raises(SystemExit) as exit_,
        ):
            cli.main()
    shown = heard.getvalue()
    assert "\N{HORIZONTAL ELLIPSIS}" not in shown + out.getvalue()
    assert "Traceback" not in shown
    assert "\x1b[3" not in shown
    assert heard.isatty() or "\x1b" not in shown
    return exit_.value.code


def in_words(heard):
    """What was at work when it was not said what it is."""
    return [who for who, said in heard.waits.items() if "at work" in said]


class NoLuck:
    """An engine whose cells fail, each after a while."""

    def __init__(self, heard):
        self._heard = heard

    def run(self, jobs):
        for job in jobs:
            yield None
            self._heard.wait(f"the cell {job.name}")
            yield JobResult(job.name, "no luck")


@pytest.mark.parametrize("terminal", [False, True])
@pytest.mark.parametrize(
    "command",
    [pytest.param(name, marks=pytest.mark.long if name == "craft" else ()) for name in COMMANDS],
)
def test_no_command_waits_without_a_word(zoo, patch, tmp_path, command, terminal):
    arguments, places = COMMANDS[command]
    heard = Heard(terminal=terminal)
    slow(patch, heard, places)
    patch.setattr("craft_tuner.bench.local.LocalEngine", lambda _: NoLuck(heard))
    named = {"DATA": zoo / "data", "OUT": tmp_path / "out", "RUN": zoo / "RUN"}
    named |= {"RUN2": zoo / "RUN2", "DATA/test": zoo / "data/test"}
    given = [named.get(word, word) for word in arguments]
    if command in {"bank", "craft", "zero_shot", "dry run"}:
        given += ["--run", tmp_path / "run"]
    if given[0] in {"fit", "evaluate", "bench"}:
        given += ["--data", zoo / "data"]
    code = told(patch, heard, given, server=WaitingServer(heard))
    assert code == (1 if command == "bench" else 0), heard.getvalue()
    assert {*places} <= {*heard.waits}
    assert in_words(heard) == []
    if command not in {"export", "report"}:
        assert any(who.startswith("GET /v1") for who in heard.waits)


def test_a_bank_of_a_hundred_classes_has_a_word_for_each_of_its_parts(patch, tmp_path):
    for number in range(400):
        path = tmp_path / "data" / f"class {number % 100:02}" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode_png(Image.new("RGB", (2, 2), (number % 256, number // 256, 7))))
    heard = Heard(terminal=False)
    places = (*CHOOSING, "methods.bank.judge")
    slow(patch, heard, places)
    server = WaitingServer(heard, cards=[model_card(classes=2000)])
    fit = ("fit", "--data", tmp_path / "data", "--run", tmp_path / "run", *BANK, "--shots", "3")
    assert told(patch, heard, fit, server=server) == 0
    assert {*places} <= {*heard.waits}
    assert "comparing 6 heads on held-out shots, 0 of 6 fits" in heard.waits["heads.candidates.gda"]
    assert "measuring what fewer prompts give, 0 of 2 counts" in heard.waits["methods.bank.judge"]


def test_wall_time_is_all_of_a_fit_by_stage(zoo):
    took = json.loads((zoo / "RUN" / "result.json").read_bytes())["seconds"]
    assert [*took] == ["prepare", "upload", "fit", "test", "report"]
    assert min(took.values()) > 0


@pytest.mark.parametrize("terminal", [False, True])
def test_the_demo_says_what_its_server_does(patch, tmp_path, terminal):
    heard = Heard(terminal=terminal)
    server = WaitingServer(heard)
    patch.setattr(serving, "find_program", lambda: "craft-server")
    patch.setattr(serving, "_leave_on_signals", lambda: None)
    patch.setattr(serving.subprocess, "Popen", lambda *_, **__: SimpleNamespace(pid=1))
    patch.setattr(serving._Command, "json", lambda *_: heard.wait("key") or {"id": "", "key": KEY})
    patch.setattr(serving, "_wait_until_ready", lambda *_: heard.wait("start"))
    patch.setattr(serving, "_stop", lambda *_: heard.wait("stop"))
    spent = dict.fromkeys(("queries", "calls", "logit_vectors", "texts"), 0)
    fitted = {"seconds": {"fit": 1.0}, "adapter_bytes": 1, "spent_total": spent}
    patch.setattr(demo.commands, "fit", lambda *_, **__: fitted)
    with listening(server) as url:
        patch.setattr(serving, "_free_port", lambda: url.rpartition(":")[2])
        assert told(patch, heard, ("demo", "--out", tmp_path / "demo"), server=FakeServer()) == 0
    assert {"key", "start", "stop", "GET /v1/key", "GET /v1/usage"} <= {*heard.waits}
    assert in_words(heard) == []


@pytest.mark.parametrize("terminal", [False, True])
def test_an_estimator_that_is_verbose_says_as_much(patch, terminal):
    heard = Heard(terminal=terminal)
    images = np.arange(12 * 16, dtype=np.uint8).reshape(12, 4, 4)
    settings = {"bank_prompts": 2, "bank_names": 0, "views": 1}
    with listening(WaitingServer(heard)) as url, contextlib.redirect_stderr(heard):
        estimator = CraftClassifier(
            server=url, key=KEY, method="bank", settings=settings, verbose=1
        )
        estimator.fit(images, np.arange(12) % 3).predict(images)
    assert {"GET /v1/models", "POST /v1/images", "POST /v1/logits"} <= {*heard.waits}
    assert in_words(heard) == []


def test_an_estimator_that_is_not_verbose_says_nothing(patch):
    heard = Heard(terminal=False)
    with listening(FakeServer()) as url, contextlib.redirect_stderr(heard):
        estimator = CraftClassifier(server=url, key=KEY, method="zero_shot")
        estimator.fit(np.arange(96, dtype=np.uint8).reshape(6, 4, 4), list("ababab"))
    assert heard.getvalue() == ""


@pytest.mark.parametrize("terminal", [False, True])
def test_a_server_that_wants_to_be_left_alone_is_waited_for_in_words(patch, terminal):
    heard = Heard(terminal=terminal)
    answers = iter([httpx.Response(503, headers={"retry-after": "90"}), httpx.Response(500)])
    mock = httpx.MockTransport(lambda _: next(answers))
    connection = Connection("http://craft.test", KEY)
    with (
        contextlib.redirect_stderr(heard),
        open_screen(),
        Transport(connection, mock=mock, sleep=lambda _: heard.wait("sleep")) as transport,
        pytest.raises(NoAnswer),
    ):
        transport.send(Call("GET", "/v1/key", most_attempts=2), lambda _: None)
    assert "waiting to ask http://craft.test again" in heard.waits["sleep"]
