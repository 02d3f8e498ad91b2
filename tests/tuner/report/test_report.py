"""The page of runs stands alone, says what was measured, and escapes what it shows."""

import base64
import hashlib
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from craft_tuner.errors import RunError, UsageError
from craft_tuner.report import compare, cost_rows, curves, summary_rows, write_report
from craft_tuner.report.curves import Curve
from craft_tuner.report.intervals import half_width
from craft_tuner.report.table import points, seconds, size
from craft_tuner.runs.diagnostics import BY_PROMPTS
from craft_tuner.runs.predictions import PREDICTIONS
from craft_tuner.runs.run import Run
from craft_tuner.runs.thumbnails import THUMBNAILS
from tests.support.tuner_pages import COUNTERS, a_picture, a_run

pytestmark = pytest.mark.slow

VOID = {"meta", "path", "use", "br", "link", "img", "rect"}


class Page(HTMLParser):
    """Checks that tags nest, and collects text, attributes by tag, and cells by row."""

    def __init__(self, text):
        super().__init__()
        self.open, self.text, self.tags, self.rows = [], [], [], []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in {"th", "td"}:
            self.rows[-1].append("")

    def handle_startendtag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)
        if {"th", "td"} & set(self.open):
            self.rows[-1][-1] += data.strip()

    def row(self, head):
        """The first row with that heading."""
        return next(row for row in self.rows if row and row[0] == head)

    def all(self, tag, name):
        return [attributes[name] for found, attributes in self.tags if found == tag]

    @property
    def words(self):
        return " ".join(" ".join(self.text).split())


def page_of(*runs, **options):
    return Page(compare(runs, runs[0] / "page.html", **options).read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    return a_run(tmp_path_factory.mktemp("pages") / "one")


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    return a_run(
        tmp_path_factory.mktemp("pages") / "two", seed=2, rights=(0.4, 0.5, 0.6), sigma=0.5
    )


@pytest.fixture(scope="module")
def alone(one):
    return page_of(one)


@pytest.fixture(scope="module")
def pair(one, two):
    return page_of(one, two)


# --- one run ------------------------------------------------------------------------------------


def test_the_page_of_a_run_says_what_was_measured_and_spent(one, alone):
    result = json.loads((one / "result.json").read_text())
    for head, way in (("zero-shot", "zero_shot"), ("adapted", "adapted")):
        accuracy = result["evaluation"][way]["accuracy"]
        assert alone.row(head)[1] == f"{accuracy:.1%}"
    assert alone.row("logit vectors") == ["logit vectors", "5,678"]
    assert alone.row("wall time") == ["wall time", "0:01:03"]
    assert alone.row("total") == [
        *("total", "1,234", "1,234", "3", "5,678", "90"),
        "",  # beside the share of each purpose
    ]
    assert alone.row("kl_weight") == ["kl_weight", "0.1"]
    assert alone.row("python") == ["python", "3"]
    assert "craft on zoo, 4 shots" in alone.words
    assert "smooth::fake (dddddddddddd), 18 test images" in alone.words


def test_the_page_needs_nothing_else(pair):
    tags = {tag for tag, _ in pair.tags}
    assert not tags & {"iframe", "object", "video", "audio", "base", "form"}
    fetched = [
        value
        for tag, attributes in pair.tags
        for name, value in attributes.items()
        if name in {"src", "href", "xlink:href", "srcset", "data"} and tag != "a"
    ]
    assert fetched
    assert all(value.startswith(("#", "data:")) for value in fetched)
    assert all(value.startswith("./") for value in pair.all("a", "href"))
    css = "".join(pair.text)
    assert "@import" not in css
    assert set(re.findall(r"url\((.)", css)) <= {"#"}


def test_its_one_script_is_the_one_that_its_policy_names(pair):
    [script] = [text for text in pair.text if "aria-sort" in text and "caption" not in text]
    assert sum(tag == "script" for tag, _ in pair.tags) == 1
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    [policy] = [a["content"] for tag, a in pair.tags if tag == "meta" and "http-equiv" in a]
    assert f"script-src 'sha256-{digest}'" in policy
    assert "default-src 'none'" in policy


def test_names_of_drawings_do_not_meet_on_one_page(pair):
    found = [attributes["id"] for _, attributes in pair.tags if "id" in attributes]
    assert len(found) == len(set(found))
    used = [attributes.get("xlink:href", "#")[1:] for _, attributes in pair.tags]
    assert set(filter(None, used)) <= set(found)


def test_every_image_has_words_and_every_table_headings(pair):
    assert all(pair.all("img", "alt"))
    figures = pair.all("figure", "aria-label")
    assert len(figures) == 4
    assert all("one: " in words and "two: " in words for words in figures)
    assert {attributes.get("scope") for tag, attributes in pair.tags if tag == "th"} == {
        "row",
        "col",
    }
    assert sum(tag == "caption" for tag, _ in pair.tags) == sum(t == "table" for t, _ in pair.tags)


def test_names_are_escaped_and_unicode_stays(tmp_path):
    names = ("<script>alert(1)</script>", "a & b", "Zebra — 斑馬 'x\"")
    page = page_of(a_run(tmp_path / "<b>run", names=names, data='/x/"><script>'))
    assert [tag for tag, _ in page.tags].count("script") == 1
    assert page.row(names[2])[1] == "6"
    assert page.row("a & b")
    assert '"><script>' in page.words


def test_a_run_at_work_has_a_page_too_and_stays_as_it_is(tmp_path):
    run = a_run(tmp_path / "run", finished=False, generations=2)
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"generation": 3, "que')
    before = {path.name: path.read_bytes() for path in run.iterdir()}
    with Run.resume(run):  # someone works on it
        page = Page(compare([run], tmp_path / "page.html").read_text())
    after = {path.name: path.read_bytes() for path in run.iterdir() if path.name != "lock"}
    assert after == before
    assert "Not finished: generation 2 of 4" in page.words
    assert page.row("state") == ["state", "generation 2 of 4"]
    assert not any(row[0] == "adapted" for row in page.rows if row)
    assert page.row("total") == ["total", "1,234"]


def test_a_run_without_a_test_says_so(tmp_path):
    page = page_of(a_run(tmp_path / "run", tested=False))
    assert "there are no test images, so nothing was measured" in page.words
    assert "Confusion" not in page.text


def test_a_method_that_learns_nothing_shows_its_only_number(tmp_path):
    page = page_of(a_run(tmp_path / "run", rights=(0.5, None, None)))
    assert not any(row[0] == "adapted" for row in page.rows if row)
    assert "points gained" not in page.words
    assert "Zero-shot, nothing was learnt: " in page.words
    assert page.row("is, taken for")[1:] == ["cat", "sea lion", "ox"]


def test_few_classes_get_a_matrix_and_many_their_commonest_mistakes(tmp_path):
    names = [f"class {index}" for index in range(40)]
    page = page_of(a_run(tmp_path / "run", names=names))
    assert not any(row[0] == "is, taken for" for row in page.rows if row)
    assert page.row("is") == ["is", "taken for", "images"]
    assert {*names} <= {row[0] for row in page.rows if row}
    two = page_of(tmp_path / "run", a_run(tmp_path / "two", names=names))
    assert "… 16 classes between" in two.words


def test_gains_of_classes_are_sorted_and_are_those_of_the_matrices(one, alone):
    evaluation = json.loads((one / "result.json").read_text())["evaluation"]
    expected = {}
    for index, name in enumerate(evaluation["class_names"]):
        before, after = (evaluation[way]["confusion"][index] for way in ("zero_shot", "adapted"))
        expected[name] = (after[index] - before[index]) / 6
    start = alone.rows.index(alone.row("class")) + 1
    shown = alone.rows[start : start + 3]
    assert [row[0] for row in shown] == sorted(expected, key=lambda name: -expected[name])
    assert {row[0]: row[6] for row in shown} == {k: points(v) for k, v in expected.items()}


def test_warnings_of_the_fit_stand_under_its_curves(tmp_path):
    run = a_run(tmp_path / "run")
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    rows[-1]["kl_symmetric"] = 0.5
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert "ends at 0.500 nats" in page_of(run).words


# --- several runs -------------------------------------------------------------------------------


def test_runs_stand_side_by_side_and_the_best_is_marked(pair):
    assert pair.row("run") == ["run", "one", "two"]
    assert pair.row("seed") == ["seed", "1", "2"]
    marked = [attributes for tag, attributes in pair.tags if attributes.get("class") == "n best"]
    assert len(marked) == 1


def test_many_runs_stand_one_below_the_other(tmp_path):
    runs = [a_run(tmp_path / f"{n}" / "run", seed=n) for n in range(1, 11)]
    page = page_of(*runs)
    assert page.rows[0][:4] == ["run", "method", "shots", "seed"]
    assert [row[0] for row in page.rows[1:11]] == [f"{n}/run" for n in range(1, 11)]
    assert any(tag == "summary" for tag, _ in page.tags)
    dashes = [a["stroke-dasharray"] for t, a in page.tags if "stroke-dasharray" in a]
    assert dashes == ["none"] * 8 + ["5 3"] * 2


def test_what_auto_took_stands_beside_it(tmp_path):
    run = a_run(tmp_path / "run", method="auto")
    plan = json.loads((run / "plan.json").read_text())
    taken = {"method": "bank", "why": "it is the best"}
    (run / "plan.json").write_text(json.dumps(plan | taken))
    assert page_of(run).row("method")[1] == "auto: bank"


def test_settings_that_differ_come_first_and_are_marked(pair):
    marked = [attributes for tag, attributes in pair.tags if attributes.get("class") == "differs"]
    assert pair.row("sigma") == ["sigma", "1.0", "0.5"]
    assert pair.row("std") == ["std", "0.2"]
    assert len(marked) == 2
    assert pair.rows.index(pair.row("sigma")) < pair.rows.index(pair.row("std"))


def test_a_run_at_work_stands_beside_a_finished_one(one, tmp_path):
    page = page_of(one, a_run(tmp_path / "run", finished=False, generations=2))
    assert page.row("state") == ["state", "finished", "generation 2 of 4"]
    assert page.row("queries") == ["queries", "1,234", "\N{EN DASH}"]


def test_runs_with_another_zero_shot_have_no_column_for_it(pair, one, tmp_path):
    assert page_of(one, a_run(tmp_path / "run")).row("class")[2] == "zero-shot"
    assert pair.row("class") == ["class", "images", "gain, one", "gain, two"]


def test_runs_of_other_data_say_which(one, tmp_path):
    other = a_run(tmp_path / "other", names=("a", "b"), data="coop:dtd@/data")
    page = page_of(one, other)
    assert page.row("data") == ["data", "zoo", "dtd"]
    assert "Images that one run has right" not in page.words
    assert [row[0] for row in page.rows if row and row[0] == "class"] == ["class", "class"]


def test_disagreements_count_images_that_only_one_run_has_right(one, two, pair):
    rights = []
    for run in (one, two):
        lines = (run / PREDICTIONS).read_text().splitlines()[1:]
        rights.append([line.split(",")[1] == line.split(",")[4] for line in lines])
    only = sum(a and not b for a, b in zip(*rights, strict=True))
    start = pair.rows.index(pair.row("right, wrong in"))
    assert pair.rows[start + 1] == ["one", "·", str(only)]


def test_a_run_twice_or_none_is_refused(one, tmp_path):
    with pytest.raises(UsageError, match="given twice"):
        compare([one, one / ".." / "one"])
    with pytest.raises(RunError, match="holds no run"):
        compare([tmp_path])
    with pytest.raises(UsageError, match="cannot write"):
        compare([one], tmp_path / "no" / "page.html")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("config.json", "{"),
        ("result.json", "[]"),
        ("metrics.jsonl", "no\n"),
        (PREDICTIONS, "name,label\n"),
        (PREDICTIONS, "name,label,zero_shot,prompt_only,adapted,probability\na,b,c,d,e,sure\n"),
        (PREDICTIONS, "name,label,zero_shot,prompt_only,adapted,probability\na\n"),
        (THUMBNAILS, '{"a": "http://example.org/a.png"}'),
    ],
)
def test_a_damaged_file_is_named(tmp_path, name, content):
    run = a_run(tmp_path / "run")
    (run / name).write_text(content)
    with pytest.raises(RunError, match=f"{re.escape(name)} is damaged"):
        compare([run], tmp_path / "page.html")


# --- examples -----------------------------------------------------------------------------------


def test_images_gained_and_lost_are_counted_and_shown(one, alone):
    lines = [line.split(",") for line in (one / PREDICTIONS).read_text().splitlines()[1:]]
    gained = [line for line in lines if line[2] != line[1] == line[4]]
    lost = [line for line in lines if line[2] == line[1] != line[4]]
    assert f"{len(gained)} gained" in alone.words
    assert f"{len(lost)} lost" in alone.words
    wrong = [line for line in lines if line[1] not in (line[2], line[4])]
    assert (f"{len(wrong)} wrong in both" in alone.words) == bool(wrong)
    shown = sum(min(12, len(each)) for each in (gained, lost, wrong))
    assert len(alone.all("img", "src")) == shown


def test_pictures_that_a_run_did_not_keep_come_from_the_data(tmp_path):
    run = a_run(tmp_path / "run")
    (run / THUMBNAILS).unlink()
    assert "no picture kept" in page_of(run).words
    pictures = {picture.name: picture for picture in map(a_picture, range(18))}
    page = page_of(run, pictures=pictures)
    assert "no picture kept" not in page.words
    assert page.all("img", "src")


# --- files --------------------------------------------------------------------------------------


def test_a_fit_writes_page_and_curves_and_the_same_run_gives_the_same_bytes(tmp_path):
    path = a_run(tmp_path / "run")
    with Run.resume(path) as run:
        first = [file.read_bytes() for file in written(write_report(run))]
        assert first == [file.read_bytes() for file in written(write_report(run))]
    assert first[1].startswith(b"\x89PNG")
    assert first[2].startswith(b"<?xml")
    assert "currentColor" in first[0].decode()
    assert "var(--c0)" in first[0].decode()


def written(page: Path):
    return [page, page.with_name("curves.png"), page.with_name("curves.svg")]


def test_several_runs_without_a_file_go_to_the_working_directory(one, two, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert compare([one, two]) == Path("report.html")
    assert (tmp_path / "report.html").exists()
    assert compare([one]) == one / "report.html"


def test_rows_for_people_have_names_and_separators(one):
    result = json.loads((one / "result.json").read_text())
    assert summary_rows(result)[-1][0] == "craft (the adapter)"
    assert summary_rows(result)[0][1].endswith("of 18 images")
    assert summary_rows({}) == []
    assert cost_rows(result)[-1] == (
        "total",
        *(f"{value:,}" for value in COUNTERS.values()),
        "\N{EN DASH}",  # logits were not counted then
    )
    assert cost_rows({}) == []


def test_a_run_without_a_generation_has_no_curves():
    assert curves.draw(Curve("run", [])) is None
    assert not [*curves.panels([Curve("a", []), Curve("b", [])])]


def test_a_bank_shows_what_fewer_prompts_per_image_would_give():
    rows = [{"queries": 8.0, f"{BY_PROMPTS}8": 0.94, f"{BY_PROMPTS}1": 0.9}]
    *_, panel = curves.panels([Curve("a", rows), Curve("b", [])])
    assert panel.title == "Accuracy on held-out shots against prompts per image"
    assert panel.words.endswith("a: 90.0% with 1, 94.0% with 8.")


def test_numbers_are_written_as_people_read_them():
    assert (points(0.1234), points(-0.05), points(-0.0001)) == ("+12.3", "\N{MINUS SIGN}5.0", "0.0")
    assert (size(10_239), size(10_240)) == ("10,239 B", "10 KiB")
    assert (seconds(59.94), seconds(3661)) == ("59.9 s", "1:01:01")


def test_half_widths_are_wilsons():
    # Newcombe 1998, table I: 81 of 263 has the interval 0.2553 to 0.3662; 0 of 20: 0 to 0.1611
    assert half_width(81 / 263, 263) == pytest.approx((0.3662 - 0.2553) / 2, abs=1e-4)
    assert half_width(0, 20) == pytest.approx(0.1611 / 2, abs=1e-4)
