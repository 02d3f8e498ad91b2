"""Whatever the method and however little there is, the page of a run has no empty part."""

import json
import os
import re
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote_to_bytes

import numpy as np
import pytest

from craft_tuner.report import compare, curves, write_report
from craft_tuner.report.curves import Curve
from craft_tuner.runs.diagnostics import BY_PROMPTS
from craft_tuner.runs.run import Run
from tests.support.tuner_pages import CLASSES, a_run

DASH = "\N{EN DASH}"
BANK = {f"{BY_PROMPTS}{count}": 0.5 + count / 100 for count in (1, 2, 8)}
SEARCH = ("fitness_best", "fitness_lowest", "sigma", "prompt_accuracy")
METRICS = {
    "bank": ("heldout_accuracy",),
    "auto": ("heldout_accuracy",),
    "craft_plus": ("heldout_accuracy",),
    "template_ensemble": (),
    "zero_shot": (),
    "craft": (*SEARCH, "head_loss", "head_accuracy", "heldout_accuracy"),
    "head_only": ("head_loss", "head_accuracy", "heldout_accuracy"),
    "bbt": SEARCH,
    "zip": ("fitness_best", "fitness_lowest", "step_gain", "prompt_accuracy"),
    "spsa": ("fitness_best", "fitness_lowest", "step_gain", "prompt_accuracy"),
    "text_search": ("fitness_best", "fitness_lowest", "prompt_accuracy"),
}
"""What each method leaves in metrics.jsonl."""
WAYS = {"zero_shot": (0.5, None, None), "bbt": (0.4, 0.6, 0.6), "craft_plus": (0.4, None, 0.8)}
MANY = [f"class {index}" for index in range(1000)]
CASES = {
    "no test images": {"tested": False},
    "one test image": {"per_class": 1, "names": CLASSES[:1]},
    "two classes": {"names": CLASSES[:2]},
    "1,000 classes": {"names": MANY, "per_class": 1},
    "all right": {"rights": (1.0, 1.0, 1.0)},
    "all wrong": {"rights": (0.0, 0.0, 0.0)},
    "nothing changed": {"rights": (1.0, None, 1.0), "per_class": 200},
    "killed": {"finished": False, "generations": 2},
    "killed at once": {"finished": False, "generations": 0},
    "hostile": {"names": ("<script>", "a & b", "</td>\u202e"), "data": '/x/"><script>'},
    "seed 1 alone": {"seed": 1},
}


class Parts(HTMLParser):
    """What stands in each section: its heading, how much text, which figures and tables."""

    def __init__(self, text):
        super().__init__()
        self.sections, self.levels, self.lists, self._open, self.rows = [], [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self._open.append(tag)
        if tag == "section":
            self.sections.append({"tags": [], "text": ""})
        if self.sections:
            self.sections[-1]["tags"].append(tag)
        if re.fullmatch("h[1-6]", tag):
            self.levels.append(int(tag[1]))
        if tag == "ul":
            self.lists.append(0)
        if tag == "li":
            self.lists[-1] += 1
        if tag == "tr":
            self.rows.append([])
        if tag in {"th", "td"}:
            self.rows[-1].append("")

    def handle_data(self, data):
        if self.sections and "h2" not in self._open[-1:]:
            self.sections[-1]["text"] += data.strip()
        if self._open[-1:] != ["caption"] and self.rows and self.rows[-1]:
            self.rows[-1][-1] += data.strip()


def stub(figure, kind):
    """In place of a drawing, which takes long: what would be drawn has points and telling ticks."""
    if kind == "png":
        return b""
    for axes in figure.axes:
        drawn = [line for line in axes.lines if np.isfinite(line.get_xydata()).all()]
        assert len(drawn) + len(axes.collections) > 0
        for line in drawn:
            assert len(line.get_xdata()) > 1 or line.get_marker() not in ("", "None")
        assert_ticks_differ(axes)
    return b'<svg xmlns="http://www.w3.org/2000/svg"></svg>'


def assert_ticks_differ(axes):
    for axis, (low, high) in ((axes.xaxis, axes.get_xlim()), (axes.yaxis, axes.get_ylim())):
        places = [place for place in axis.get_majorticklocs() if low <= place <= high]
        texts = axis.get_major_formatter().format_ticks(places)
        assert len(places) > 1, texts
        assert len(set(texts)) == len(texts), texts


def as_the_method_leaves(path, method):
    rows = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    known = {"generation", "queries", "seconds", *METRICS[method]}
    rows = [{name: value for name, value in row.items() if name in known} for row in rows]
    if "bank" in (method, {"auto": "bank"}.get(method)):
        rows = [row | BANK for row in rows[:1]]
    if not METRICS[method]:
        rows = []
    (path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def page_of(path, monkeypatch):
    monkeypatch.setattr(curves, "render", stub)
    with Run.resume(path) as run:
        return write_report(run).read_text(encoding="utf-8")


def assert_nothing_empty(text):
    page = Parts(text)
    assert page.sections
    for section in page.sections:
        assert section["text"], section
        assert {"table", "figure", "p", "ul", "pre"} & {*section["tags"]}, section
    for row in page.rows:
        assert len(row) > 1
    assert all(page.lists)
    assert "None" not in text
    assert "nan" not in re.sub("<style.*?</style>|<script.*?</script>", "", text, flags=re.DOTALL)
    steps = zip(page.levels, page.levels[1:], strict=False)
    assert all(after <= before + 1 for before, after in steps), page.levels
    return page


@pytest.mark.parametrize("method", METRICS)
def test_of_every_method(tmp_path, monkeypatch, method):
    path = a_run(tmp_path / "run", method=method, rights=WAYS.get(method, (0.4, 0.5, 0.8)))
    as_the_method_leaves(path, method)
    text = page_of(path, monkeypatch)
    page = assert_nothing_empty(text)
    assert ("Curves</h2>" in text) == bool(METRICS[method])
    assert ("Loss:" in text) == any("loss" in n or "fitness" in n for n in METRICS[method])
    assert DASH not in [cell for row in page.rows for cell in row]
    said = json.loads((path / "report.json").read_text())["verdict"]["sentence"]
    assert said in text.replace("&#39;", "'")
    assert said in (path / "report.md").read_text()


@pytest.mark.parametrize(
    ("method", "case"),
    [
        *(("auto", case) for case in CASES if case != "1,000 classes"),
        pytest.param("auto", "1,000 classes", marks=pytest.mark.long),
        *(("craft", case) for case in ("no test images", "one test image", "killed", "all wrong")),
        *(("zero_shot", case) for case in ("one test image", "all right", "all wrong", "killed")),
    ],
)
def test_of_little_much_and_broken_off(tmp_path, monkeypatch, method, case):
    options = {"rights": WAYS.get(method, (0.4, 0.5, 0.8)), **CASES[case]}
    path = a_run(tmp_path / "run", method=method, **options)
    as_the_method_leaves(path, method)
    assert_nothing_empty(page_of(path, monkeypatch))


@pytest.mark.parametrize(
    "gone",
    [
        ("predictions.csv", "thumbnails.json"),
        ("metrics.jsonl",),
        ("plan.json",),
        ("adapter.json", "predictions.csv", "thumbnails.json", "plan.json", "metrics.jsonl"),
    ],
)
def test_of_a_run_without_the_files_of_today(tmp_path, monkeypatch, gone):
    path = a_run(tmp_path / "run")
    for name in gone:
        (path / name).unlink(missing_ok=True)
    assert_nothing_empty(page_of(path, monkeypatch))


def test_of_runs_on_two_datasets_none_is_the_best_of_both(tmp_path, monkeypatch):
    runs = [
        a_run(tmp_path / f"{data}-{right}", data=f"/{data}", rights=(0.4, None, right))
        for data in ("zoo", "sea")
        for right in (0.2, 0.9)
    ]
    monkeypatch.setattr(curves, "render", stub)
    text = compare(runs, tmp_path / "page.html").read_text()
    assert_nothing_empty(text.replace(f">{DASH}<", ">.<"))
    assert text.count('class="n best"') == 2
    for data in ("zoo", "sea"):
        assert f"Test accuracy against queries, {data}" in text


@pytest.mark.parametrize(
    "values",
    [[0.55], [0.55, 0.5500001], [0.0], [1.0], [0, 1], [0.549, 0.551, 0.55], [0.999, 1.0], [1e-9]],
)
@pytest.mark.parametrize("queries", [0, 7997, 10**7])
def test_no_two_ticks_of_an_axis_read_alike(values, queries):
    rows = [
        {"queries": queries * (1 + n), "heldout_accuracy": value, "fitness_lowest": value}
        for n, value in enumerate(values)
    ]
    figure = curves.draw(Curve("run", rows, zero_shot=values[0], final=values[-1]))
    assert len(figure.axes) == 2
    for axes in figure.axes:
        assert_ticks_differ(axes)
        for line in axes.lines:
            assert len(line.get_xdata()) > 1 or line.get_marker() == "o"


@pytest.mark.parametrize("name", ["a\udcff", "r #?%", "<b>", "a\nb", '"onclick="'])
def test_names_of_runs_are_words_and_links_lead_into_them(tmp_path, monkeypatch, name):
    path = a_run(tmp_path / name)
    assert_nothing_empty(page_of(path, monkeypatch))
    json.loads((path / "report.json").read_text(encoding="utf-8"))
    links = Links(compare([path], tmp_path / "page.html").read_text(encoding="utf-8")).found
    assert len(links) > 4
    for link in links:
        assert Path(tmp_path, os.fsdecode(unquote_to_bytes(link))).exists()
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    assert not Links(compare([path], elsewhere / "page.html").read_text(encoding="utf-8")).found


class Links(HTMLParser):
    """Addresses of the links of a page."""

    def __init__(self, text):
        super().__init__()
        self.found = []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        if tag == "a":
            self.found.append(dict(attributes)["href"])
