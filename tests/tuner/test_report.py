"""The page of a run stands alone, says what was measured, and escapes what it shows."""

import re
from html.parser import HTMLParser

import pytest

from craft_tuner import curves
from craft_tuner.config import FitConfig
from craft_tuner.evaluate import Evaluation, Score
from craft_tuner.report import cost_rows, summary_rows, write_report
from craft_tuner.runs import Run
from tuner_fakes import SmoothBox
from tuner_runs import fit

VOID = {"meta", "path", "use", "br"}


class Page(HTMLParser):
    """Checks that tags nest, and collects tags, text and attributes that could fetch."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.text, self.links = [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.links += [value for name, value in attributes if name in {"src", "href"}]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append(tag)

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def a_score(classes, correct=6, images=8):
    confusion = [[0] * classes for _ in range(classes)]
    confusion[0][0], confusion[1][0] = correct, images - correct
    return Score(accuracy=correct / images, correct=correct, images=images, confusion=confusion)


def a_result(classes=3, *, adapted=True, names=None):
    names = names or tuple(f"class {index}" for index in range(classes))
    evaluation = Evaluation(
        class_names=names,
        zero_shot=a_score(classes, 2),
        prompt_only=a_score(classes, 4) if adapted else None,
        adapted=a_score(classes, 6) if adapted else None,
    )
    counters = {"queries": 1234, "calls": 3, "logit_vectors": 5, "texts": 6}
    return {
        "method": "craft",
        "model": "smooth::fake",
        "digest": "d" * 64,
        "evaluation": evaluation.model_dump(mode="json"),
        "spent": {"fitness": counters},
        "spent_total": counters,
        "adapter_bytes": 4096,
        "seconds": {"fit": 1.25},
        "versions": {"python": "3"},
        "machine": {"cores": 2},
    }


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A small run of CraFT on the smooth box, without a result yet."""
    path = tmp_path_factory.mktemp("report") / "run"
    config = FitConfig(shots=4, budget=60, population=4, intrinsic_dim=8, views=2, sigma=0.5)
    fit(path, SmoothBox(), None, config)
    return path


def page_of(path, result):
    with Run.resume(path) as run:
        if result is not None:
            run.save_result(result)
        return write_report(run).read_text()


def text_of(page):
    return " ".join(Page(page).text)


def test_an_unfinished_run_has_a_page_too(finished):
    page = page_of(finished, None)
    assert "nothing was measured at the end" in text_of(page)
    assert not Page(page).open


def test_the_page_says_what_was_measured_planned_and_spent(finished):
    text = text_of(page_of(finished, a_result()))
    for words in ("zero-shot", "25.00% of 8 images", "prompt only", "50.00%", "75.00%"):
        assert words in text
    for words in ("fitness", "1,234", "generations x", "kl_weight", "smooth::fake", "4096"):
        assert words in text


def test_the_page_needs_nothing_else(finished):
    page = page_of(finished, a_result())
    parsed = Page(page)
    assert not parsed.open
    assert not {"script", "link", "iframe", "img"} & set(parsed.tags)
    assert all(link.startswith("#") for link in parsed.links)
    assert "@import" not in page
    assert 'name="viewport"' in page
    assert "color-scheme: light dark" in page


def test_curves_are_drawn_in_the_readers_colour_and_saved_twice(finished):
    page = page_of(finished, a_result())
    assert "currentColor" in page
    assert (finished / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert (finished / "curves.svg").read_text().lstrip().startswith("<?xml")
    drawn = text_of(page)
    for label in ("queries spent", "loss of the head", "fitness, best of the run", "test, zero-sh"):
        assert label in drawn


def test_the_same_run_gives_the_same_bytes(finished):
    first = page_of(finished, a_result()), (finished / "curves.png").read_bytes()
    assert first == (page_of(finished, a_result()), (finished / "curves.png").read_bytes())


def test_names_are_escaped(finished):
    names = ("<script>alert(1)</script>", "a & b", "c")
    page = page_of(finished, a_result(names=names))
    assert "<script>" not in page
    assert "a &amp; b" in page


def test_few_classes_get_a_matrix_and_many_a_list_of_mistakes(finished):
    assert "is, taken for" in text_of(page_of(finished, a_result(3)))
    many = text_of(page_of(finished, a_result(30)))
    assert "is, taken for" not in many
    assert re.search(r"2\s+class 1\s+class 0", many)


def test_a_method_that_learns_nothing_reports_its_only_number(finished):
    text = text_of(page_of(finished, a_result(adapted=False)))
    assert "25.00% of 8 images" in text
    assert "prompt only" not in text


def test_rows_for_people_have_names_and_separators():
    assert summary_rows(a_result())[-1] == ("craft (the adapter)", "75.00% of 8 images")
    assert summary_rows({}) == []
    assert cost_rows(a_result())[-1] == ("total", "1,234", "3", "5", "6")
    assert cost_rows({}) == []


def test_a_run_without_a_generation_has_empty_axes():
    figure = curves.draw([])
    assert curves.render(figure, "svg").startswith(b"<?xml")
