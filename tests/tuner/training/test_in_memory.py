"""A fit in memory: the same numbers as in a run directory, and no file is written."""

import builtins
import io
import os
import re
from pathlib import Path

import numpy as np
import pytest

from craft_tuner import methods
from craft_tuner.config.fit_config import FitConfig, build
from craft_tuner.errors import AccessDenied, BudgetExhausted
from craft_tuner.methods import MemoryRecorder
from craft_tuner.plan import Workload
from craft_tuner.training.in_memory import fit_in_memory
from tests.support.paths import ROOT
from tests.support.tuner_fakes import SmoothBox, a_bundle, a_task
from tests.support.tuner_runs import fit

pytestmark = pytest.mark.slow  # whole fits


SMALL = {"shots": 4, "views": 2, "population": 4, "intrinsic_dim": 8, "head_hidden": 8}
SMALL |= {"head_epochs": 3, "bank_prompts": 4, "bank_names": 10, "validation_folds": 2}
NAMES = methods.names()


def a_config(method: str) -> FitConfig:
    return build({**SMALL, "method": method, "budget": 4 * 5 + 2})


def the_task(box: SmoothBox, config: FitConfig):
    task = a_task(box, views=config.views)
    return a_bundle(box, task) if methods.get(config.method).bundled else task


@pytest.fixture(scope="module")
def imported() -> None:
    """Torch and matplotlib make folders of their own when they are first used."""
    for method in ("craft", "bank"):
        config, box = a_config(method), SmoothBox()
        fit_in_memory(box, the_task(box, config), config=config)


@pytest.fixture
def no_files(imported: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever writes a file or makes a folder fails; the package's own data may be read."""
    read = io.open

    def refuse(*arguments: object, **_: object) -> None:
        raise AssertionError(f"a file is touched: {arguments}")

    def only_read(file, mode="r", *arguments, **options):
        return (read if set(mode) <= set("rbt") else refuse)(file, mode, *arguments, **options)

    for owner, name in ((builtins, "open"), (io, "open")):
        monkeypatch.setattr(owner, name, only_read)
    for name in ("open", "mkdir", "replace", "rename"):
        monkeypatch.setattr(os, name, refuse)


@pytest.mark.parametrize("method", NAMES)
def test_every_method_fits_in_memory_and_prints_nothing(no_files, method, capsys) -> None:
    config, box = a_config(method), SmoothBox()
    fitted = fit_in_memory(box, the_task(box, config), config=config)
    assert fitted.adapter.card.class_names == ("class 0", "class 1", "class 2")
    assert len(fitted.metrics) == fitted.plan.generations
    assert box.used == fitted.plan.fit.queries
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("method", ["craft", "head_only", "bank", "bbt", "text_search"])
def test_it_is_the_fit_of_a_run_directory(tmp_path: Path, method: str) -> None:
    """Bytes and metrics; the plan of a run, which counts a test too, is given to both."""
    config = a_config(method)
    box = SmoothBox()
    done = fit(tmp_path / "run", box, the_task(box, config), config)
    box = SmoothBox()
    recorder = MemoryRecorder(config, done.run.plan)
    adapter = methods.get(method).fit(
        box, the_task(box, config), recorder=recorder, on_progress=lambda _: None
    )
    assert adapter.to_bytes() == done.adapter.to_bytes()
    assert recorder.adapter is adapter
    assert without_time(recorder.metrics) == without_time(done.run.restore().metrics)
    assert recorder.restore().journal == done.run.restore().journal


@pytest.mark.parametrize("method", ["craft", "head_only", "spsa"])
def test_a_fit_that_stops_goes_on_with_the_same_recorder(method: str) -> None:
    config = a_config(method)
    box = SmoothBox()
    whole = fit_in_memory(box, the_task(box, config), config=config)
    box = SmoothBox()
    task = the_task(box, config)
    chosen = methods.get(method)
    recorder = MemoryRecorder(config, chosen.plan(config, Workload.of(task), box.budgets()))
    box.limit = whole.plan.fit.queries // 2
    with pytest.raises(BudgetExhausted, match=r"is kept; fit with the same recorder to go on"):
        chosen.fit(box, task, recorder=recorder, on_progress=lambda _: None)
    assert recorder.adapter is not None
    box.limit = 10**9
    adapter = chosen.fit(box, task, recorder=recorder, on_progress=lambda _: None)
    assert adapter.to_bytes() == whole.adapter.to_bytes()
    assert box.used == whole.plan.fit.queries


def test_what_cannot_be_paid_or_sent_is_refused_before_a_question() -> None:
    config, box = a_config("craft"), SmoothBox(limit=3)
    with pytest.raises(BudgetExhausted, match="needs at least 5 queries"):
        fit_in_memory(box, the_task(box, config), config=config)
    box = SmoothBox(kinds=("text",))
    with pytest.raises(AccessDenied, match="--method craft sends soft prompts"):
        fit_in_memory(box, the_task(box, config), config=config)
    assert box.asked == []


def test_the_example_of_the_documents_runs(no_files, capsys) -> None:
    text = DOCUMENT
    [block] = re.findall(r"test_in_memory.py -->\n```python\n(.*?)```", text, re.DOTALL)
    exec(compile(block, "docs/adapters.md", "exec"), {"__name__": "example"})
    queries, classes = capsys.readouterr().out.splitlines()
    assert queries == "96 queries, 16 generations"
    assert np.mean(np.fromstring(classes.strip("[]"), sep=" ") == np.repeat([0, 1, 2], 4)) > 0.9


DOCUMENT = (ROOT / "docs" / "adapters.md").read_text()


def without_time(metrics):
    return [{name: value for name, value in row.items() if name != "seconds"} for row in metrics]
