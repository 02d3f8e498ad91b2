"""Trackers hear of a fit in order, cannot stop it, and are found by name."""

import sys
import types

import pytest

from craft_tuner.config.fit_config import FitConfig
from craft_tuner.errors import UsageError
from craft_tuner.methods.base import Progress
from craft_tuner.runs.run import Run
from craft_tuner.training import tracking
from tests.support.paths import ROOT
from tests.support.tuner_fakes import SmoothBox
from tests.support.tuner_pages import metrics
from tests.support.tuner_runs import fit

DOCS = ROOT / "docs" / "tracking.md"
SETUP = {"server": "http://127.0.0.1:1", "model": "smooth::fake", "data": "/x/zoo"}


class Notebook:
    """A tracker that writes down what it hears, and fails where it has to."""

    def __init__(self, fails=""):
        self.fails, self.heard = fails, []

    def _hear(self, what, content):
        if what == self.fails:
            raise ConnectionError("no line")
        self.heard.append((what, content))

    def start(self, run):
        self._hear("start", run)

    def generation(self, metrics):
        self._hear("generation", metrics)

    def finish(self, result):
        self._hear("finish", result)


class Shown:
    """A watcher that keeps what it is shown."""

    def __init__(self):
        self.seen = []

    def say(self, sentence):
        self.seen.append(("say", sentence))

    def plan(self, plan, budgets, ahead):
        self.seen.append(("plan", plan, budgets, ahead))

    def traffic(self, traffic, line):
        self.seen.append(("traffic", traffic, line))

    def uploading(self, total):
        self.seen.append(("uploading", total))
        return self.seen.append

    def generation(self, progress):
        self.seen.append(("generation", progress))

    def testing(self, images):
        self.seen.append(("testing", images))


@pytest.fixture
def notebook(monkeypatch):
    """Make a tracker that `--track notes:make` finds."""

    def make(fails=""):
        tracker = Notebook(fails)
        monkeypatch.setitem(sys.modules, "notes", types.SimpleNamespace(make=lambda: tracker))
        return tracker

    return make


@pytest.fixture
def run(tmp_path):
    with Run.create(tmp_path / "run", FitConfig(sigma=0.5), setup=SETUP) as run:
        yield run


def progress(number):
    return Progress(number, 4, 41 * number, 164, metrics(number), ("a warning",))


def follow(run, watcher, *, name="notes:make", generations=2, result=None):
    """Fit, as far as a tracker can tell; what was said at the end."""
    said = []
    with tracking.following(name, run, watcher, say=said.append) as watching:
        for number in range(1, generations + 1):
            watching.generation(progress(number))
        if result is not None:
            run.save_result(result)
    return said


def test_a_tracker_hears_settings_generations_and_result_in_order(run, notebook):
    tracker, watcher = notebook(), Shown()
    assert follow(run, watcher, result={"a": 1}) == []
    (_, started), *generations, finished = tracker.heard
    assert (started.run_id, started.path, started.history) == (run.id, run.path, ())
    assert started.config["sigma"] == 0.5
    assert (started.config["data"], started.config["model"]) == ("zoo", "smooth::fake")
    assert generations == [("generation", metrics(1)), ("generation", metrics(2))]
    assert finished == ("finish", {"a": 1})
    assert watcher.seen == [("generation", progress(1)), ("generation", progress(2))]


def test_everything_else_passes_through(run, notebook):
    notebook()
    watcher = Shown()
    with tracking.following("notes:make", run, watcher, say=print) as watching:
        watching.plan("plan", "budgets", "ahead")
        watching.say("sentence")
        watching.traffic("traffic", "line")
        watching.uploading(3)(2)
        watching.testing(5)
    assert watcher.seen == [
        ("plan", "plan", "budgets", "ahead"),
        ("say", "sentence"),
        ("traffic", "traffic", "line"),
        ("uploading", 3),
        2,
        ("testing", 5),
    ]


def test_without_a_tracker_the_watcher_is_the_screen(run):
    watcher = Shown()
    with tracking.following(None, run, watcher, say=print) as watching:
        assert watching is watcher


def test_a_run_that_goes_on_tells_what_came_before(tmp_path, notebook):
    config = FitConfig(method="bbt", shots=4, budget=60, population=4, intrinsic_dim=8)
    done = fit(tmp_path / "run", SmoothBox(), None, config)
    tracker = notebook()
    with Run.resume(tmp_path / "run") as run:
        follow(run, Shown(), generations=0)
    started = tracker.heard[0][1]
    assert len(started.history) == len(done.progress) > 1
    assert started.history[-1]["queries"] == done.progress[-1].queries
    assert "data" not in started.config


def test_a_run_that_stops_early_has_no_result(run, notebook):
    tracker = notebook()
    with pytest.raises(KeyboardInterrupt), tracking.following(
        "notes:make", run, Shown(), say=print
    ):  # fmt: skip
        raise KeyboardInterrupt
    assert tracker.heard[-1] == ("finish", None)


def test_a_tracker_that_fails_on_the_way_is_dropped_with_one_warning(run, notebook):
    tracker, watcher = notebook("generation"), Shown()
    assert follow(run, watcher, result={}) == []
    first, second = (seen[1].warnings for seen in watcher.seen)
    assert first[0] == "a warning"
    assert "notes:make failed: ConnectionError: no line; it gets no more" in first[1]
    assert second == ("a warning",)
    assert [what for what, _ in tracker.heard] == ["start"]


def test_a_tracker_that_fails_at_the_end_is_a_warning(run, notebook):
    notebook("finish")
    [said] = follow(run, Shown(), result={})
    assert said.startswith("warning: the tracker notes:make failed: ConnectionError")


def test_a_tracker_that_does_not_start_is_refused(run, notebook):
    notebook("start")
    with pytest.raises(UsageError, match="no line; nothing is spent, go on without it: --track no"):
        follow(run, Shown())


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("wandbx", "there is no such tracker; allowed: tensorboard, module:callable, none"),
        ("notes:", "there is no such tracker"),
        ("no_such_module:x", "there is no module no_such_module"),
        ("json:no_such_name", "cannot be imported: AttributeError"),
    ],
)
def test_an_unknown_tracker_is_refused(name, why):
    with pytest.raises(UsageError, match=why):
        tracking.known(name)


def test_none_is_no_tracker():
    assert tracking.known("none") is tracking.known(None) is None


def test_a_tracker_may_lie_in_the_working_directory(tmp_path, monkeypatch):
    (tmp_path / "a_tracker_of_mine.py").write_text("class Mine: pass")
    monkeypatch.chdir(tmp_path)
    before = list(sys.path)
    assert tracking.known("a_tracker_of_mine:Mine") == "a_tracker_of_mine:Mine"
    assert sys.path == before
    del sys.modules["a_tracker_of_mine"]


def test_tensorboard_without_its_package_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    monkeypatch.delitem(sys.modules, "craft_tuner.training.tensorboard", raising=False)
    with pytest.raises(UsageError, match=r"tensorboardX; pip install 'craft-blackbox\[tensorb"):
        tracking.known("tensorboard")


# --- the examples of docs/tracking.md -----------------------------------------------------------


class FakeModule(types.ModuleType):
    """A package of which every call is kept and answers with itself."""

    def __init__(self):
        super().__init__("fake")
        self.calls = []

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)

        def call(*arguments, **named):
            self.calls.append((name, arguments, named))
            return self

        return call


@pytest.mark.parametrize("name", ["mlflow", "wandb"])
def test_the_examples_of_the_docs_track_a_run(run, monkeypatch, name):
    fake = FakeModule()
    monkeypatch.setitem(sys.modules, name, fake)
    blocks = DOCS.read_text().split("```python\n")[1:]
    [code] = [block.split("```")[0] for block in blocks if f"import {name}" in block]
    assert len(code.splitlines()) <= 22
    module = types.ModuleType("example")
    exec(code, module.__dict__)
    monkeypatch.setitem(sys.modules, "example", module)
    evaluation = {"adapted": {"accuracy": 0.75}, "zero_shot": {"accuracy": 0.5}}
    result = {"evaluation": {**evaluation, "prompt_only": None, "class_names": ["a"]}}
    result["spent_total"] = {"queries": 100}
    assert follow(run, Shown(), name="example:tracker", result=result) == []
    names = [name for name, _, _ in fake.calls]
    reported = str(fake.calls)
    assert len([name for name in names if name in {"log", "log_metrics"}]) == 3
    for words in ("0.75", "'sigma': 0.5", run.id, "41", "82", "'fitness_lowest'"):
        assert words in reported, words
    assert names[-1] in {"end_run", "finish"}


# --- TensorBoard --------------------------------------------------------------------------------


def events_of(folder):
    """Scalars by tag as (step, value), and the texts, read from the one event file there."""
    from tensorboardX.proto.event_pb2 import Event

    [file] = folder.iterdir()
    data, scalars, texts = file.read_bytes(), {}, []
    while data:  # TFRecord: length, its checksum, content, its checksum
        length = int.from_bytes(data[:8], "little")
        event = Event.FromString(data[12 : 12 + length])
        data = data[16 + length :]
        for value in event.summary.value:
            if value.HasField("simple_value"):
                scalars.setdefault(value.tag, []).append((event.step, value.simple_value))
            else:
                texts.append(value.tensor.string_val[0].decode())
    return scalars, texts


def test_tensorboard_has_every_number_against_queries(run):
    pytest.importorskip("tensorboardX", reason="needs the extra `tensorboard`")
    accuracy = {"accuracy": 0.75}
    result = {
        "evaluation": {"adapted": accuracy, "zero_shot": accuracy, "prompt_only": None},
        "spent_total": {"queries": 200},
    }
    for _ in range(2):  # a second start stands for a run that goes on: nothing is there twice
        assert follow(run, Shown(), name="tensorboard", generations=3, result=result) == []
    scalars, [settings] = events_of(run.path / "tensorboard")
    for name in set(metrics(1)) - {"queries"}:
        assert [step for step, _ in scalars[f"fit/{name}"]] == [41, 82, 123]
        values = [value for _, value in scalars[f"fit/{name}"]]
        assert values == pytest.approx([metrics(number)[name] for number in (1, 2, 3)])
    assert scalars["test/adapted"] == scalars["test/zero_shot"] == [(200, 0.75)]
    assert "test/prompt_only" not in scalars
    assert "    sigma = 0.5\n" in settings


def test_tensorboard_of_a_run_that_goes_on_is_whole_and_ends_without_a_test(tmp_path):
    pytest.importorskip("tensorboardX", reason="needs the extra `tensorboard`")
    from craft_tuner.training.tensorboard import TensorBoard

    tracker = TensorBoard()
    tracker.start(tracking.Tracked("id", tmp_path, {}, (metrics(1), metrics(2))))
    tracker.generation(metrics(3))
    tracker.finish(None)
    scalars, _ = events_of(tmp_path / "tensorboard")
    assert [step for step, _ in scalars["fit/sigma"]] == [41, 82, 123]
    assert not any(tag.startswith("test/") for tag in scalars)
