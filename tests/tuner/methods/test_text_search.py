"""Text search: published templates first, then edits of the best; each question once, in budget."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from craft_tuner import methods
from craft_tuner.adapter.adapter import Adapter
from craft_tuner.config.fit_config import build
from craft_tuner.errors import BudgetExhausted, RunError
from craft_tuner.methods import text_search
from craft_tuner.methods.text_search import Editing
from craft_tuner.plan import Workload
from craft_tuner.texts import imagenet_templates
from tests.support.tuner_fakes import SmoothBox, a_task
from tests.support.tuner_runs import TEST, fit

PLAIN = "a photo of a {}."
FEW = ("art of the {}.", "itap of my {}", "the toy {}.")
SMALL = {"method": "text_search", "population": 4, "shots": 4, "text_beam": 2, "views": 1}


def config_of(generations: int, **settings: object) -> object:
    return build({**SMALL, "budget": 4 * generations + 2 * len(TEST.sets), **settings})


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three published templates, so that edits begin with the first generation's last."""
    monkeypatch.setattr(text_search, "imagenet_templates", lambda: FEW)
    monkeypatch.setattr(text_search, "dataset_templates", lambda: ())


def entropy_by_hand(box: SmoothBox, task, template: str) -> float:
    """Mean of -log softmax at the label."""
    text = box.text_features(box.offsets_of(task.texts, template)).astype(np.float64)
    logits = 100 * box.sets["shots"] @ text.T
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    right = powers[np.arange(len(task.labels)), task.labels] / powers.sum(axis=1)
    return float(-np.log(right).mean())


def test_the_plain_and_the_published_templates_are_asked_first(tmp_path: Path) -> None:
    box = SmoothBox()
    fit(tmp_path / "run", box, None, config_of(3))
    assert box.templates == [PLAIN, *imagenet_templates()[:11]]


def test_a_fit_spends_what_is_planned_and_asks_nothing_twice(few: None, tmp_path: Path) -> None:
    box = SmoothBox()
    done = fit(tmp_path / "run", box, None, config_of(9))
    assert box.used == done.run.plan.fit.queries == 36
    assert box.asked == [f"fitness/{number}" for number in range(1, 10)]
    assert len({*box.templates}) == len(box.templates) == 36
    assert [step.queries for step in done.progress] == [4 * n for n in range(1, 10)]
    assert done.adapter.card.training["stopped"] == "the plan's generations are done"


def test_the_result_is_the_template_of_the_lowest_cross_entropy(few: None, tmp_path: Path) -> None:
    box = SmoothBox()
    task = a_task(box, views=1)
    done = fit(tmp_path / "run", box, task, config_of(9))
    found = {template: entropy_by_hand(box, task, template) for template in box.templates}
    best = min(found, key=found.__getitem__)
    assert done.adapter.card.templates == (best,)
    assert found[best] < found[PLAIN]
    rows = done.run.restore()
    reported = [value for line in rows.journal for value in line.fitness]
    np.testing.assert_allclose(reported, list(found.values()), rtol=1e-4)
    assert rows.metrics[-1]["fitness_lowest"] == min(reported)
    raw, refined = done.adapter.logits(box, task.shots, purpose="test", step="test")
    assert box.templates[-1] == best
    np.testing.assert_array_equal(raw, refined)


def test_edits_are_of_the_beam_and_of_known_words(few: None) -> None:
    search = Editing(config_of(2, population=5), PLAIN, generations=9)
    assert [search.template(point) for point in search.ask()[:4]] == [PLAIN, *FEW]
    search.tell([3.0, 1.0, 2.0, 4.0, 5.0])
    assert search.template(search.center) == FEW[0]
    words = {word for text in (PLAIN, *FEW) for word in text.replace(".", " .").split()}
    for point in search.ask():
        edited = search.template(point).replace(".", " .").split()
        assert {*edited} <= words
        assert edited.count("{}") == 1
        distances = [levenshtein(edited, parent.replace(".", " .").split()) for parent in FEW[:2]]
        assert 1 <= min(distances) <= 4  # two swaps of two words at most


def levenshtein(one: list[str], other: list[str]) -> int:
    row = list(range(len(other) + 1))
    for i, left in enumerate(one, 1):
        before, row = row, [i]
        for j, right in enumerate(other, 1):
            row.append(min(before[j] + 1, row[-1] + 1, before[j - 1] + (left != right)))
    return row[-1]


class Script:
    """Draws what it has to."""

    def __init__(self, *numbers: int) -> None:
        self.numbers: Iterator[int] = iter(numbers)

    def randint(self, below: int) -> int:
        number = next(self.numbers)
        assert number < below
        return number


@pytest.mark.parametrize(
    ("draws", "edited"),
    [
        # vocabulary: a photo of {} . art the itap my toy; draws: place, other, word, kind
        ((1, 0, 0, 3), "a of a {}."),  # delete the word at 1
        ((1, 0, 4, 2), "a art of a {}."),  # replace it by word 4, the class name left out: art
        ((1, 0, 3, 2), "a. of a {}."),  # the words after the class name move up by one
        ((1, 2, 0, 1), "a of photo a {}."),  # swap 1 and 2
        ((4, 0, 0, 1), "{} photo of a a."),  # the class name may be swapped
        ((4, 0, 0, 3), PLAIN),  # but not deleted
        ((4, 0, 1, 2), PLAIN),  # nor replaced
        ((0, 0, 8, 0, 6), "a photo of a {}. toy"),  # add at the end
        ((0, 0, 1, 0, 0), "photo a photo of a {}."),  # or before all
    ],
)
def test_each_edit_does_what_it_says(few: None, draws: tuple[int, ...], edited: str) -> None:
    search = Editing(config_of(2), PLAIN, generations=1)
    words = tuple(int(index) for index in search.center if index >= 0)
    point = np.array(search._edit(words, Script(*draws)), float)  # type: ignore[arg-type]
    assert search.template(point) == edited


@contextmanager
def stopping(box: SmoothBox, *, after: int, error: type[BaseException]) -> Iterator[None]:
    """No answer to the question after so many."""
    score = box.score

    def scored(*args, **kwargs):
        if len(box.paid) == after:
            raise error("no more")
        return score(*args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(box, "score", scored)
        yield


@pytest.mark.parametrize("after", [0, 2, 5])
def test_a_fit_that_is_cut_off_goes_on_along_the_same_path(
    few: None, tmp_path: Path, after: int
) -> None:
    config, undisturbed = config_of(6), SmoothBox()
    whole = fit(tmp_path / "whole", undisturbed, None, config)
    box, path = SmoothBox(), tmp_path / "cut"
    with stopping(box, after=after, error=KeyboardInterrupt), pytest.raises(KeyboardInterrupt):
        fit(path, box, None, config)
    done = fit(path, box, None, config)
    assert box.used == 24
    assert list(dict.fromkeys(box.templates)) == undisturbed.templates
    assert done.adapter.to_bytes() == whole.adapter.to_bytes()
    assert done.run.restore().journal == whole.run.restore().journal


def test_another_seed_takes_another_path(few: None, tmp_path: Path) -> None:
    one, other = SmoothBox(), SmoothBox()
    fit(tmp_path / "one", one, None, config_of(4))
    fit(tmp_path / "other", other, None, config_of(4, seed=2))
    assert one.templates[:4] == other.templates[:4] == [PLAIN, *FEW]
    assert one.templates[4:] != other.templates[4:]


def test_other_lists_are_noticed_when_a_run_goes_on(
    few: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    box = SmoothBox()
    with stopping(box, after=2, error=KeyboardInterrupt), pytest.raises(KeyboardInterrupt):
        fit(tmp_path / "run", box, None, config_of(4))
    monkeypatch.setattr(text_search, "imagenet_templates", lambda: FEW[::-1])
    with pytest.raises(RunError, match="generation 1 cannot be replayed"):
        fit(tmp_path / "run", box, None, config_of(4))


def test_a_budget_that_ends_leaves_the_best_so_far(few: None, tmp_path: Path) -> None:
    box, path = SmoothBox(), tmp_path / "run"
    task = a_task(box, views=1)
    with (
        stopping(box, after=3, error=BudgetExhausted),
        pytest.raises(BudgetExhausted, match="The adapter of generation 3 of 6 is saved"),
    ):
        fit(path, box, task, config_of(6))
    best = min(box.templates[:12], key=lambda text: entropy_by_hand(box, task, text))
    assert Adapter.load(path).card.templates == (best,)


def test_a_search_with_nothing_left_to_ask_stops_and_says_so(
    few: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(text_search, "imagenet_templates", lambda: ("the {}", "{}"))
    box = SmoothBox()
    done = fit(tmp_path / "run", box, None, config_of(50, text_words=2))
    assert (
        "edits find no new templates; raise text_words" in (done.adapter.card.training["stopped"])
    )
    assert box.used == len({*box.templates}) < 4 * 50
    assert max(len(text.replace(".", " .").split()) for text in box.templates) == 2


def test_the_plan_is_that_of_a_search_without_a_head() -> None:
    plan = methods.get("text_search").plan(
        build({"method": "text_search"}), Workload(10, 160, test_images=500, test_sets=1)
    )
    assert (plan.generations, plan.fit.queries, plan.total.queries) == (199, 7960, 7962)
