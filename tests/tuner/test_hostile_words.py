"""What servers, files and classes are called reaches terminals, pages and tables as words."""

import csv
import io
import json
import stat
from dataclasses import replace
from pathlib import Path

import pytest

from craft_shared.csv_cells import spreadsheet_safe
from craft_shared.errors import PROBLEM_MEDIA_TYPE, Code, Refusal
from craft_tuner import csv_text, files
from craft_tuner.bench.records import Record, to_csv
from craft_tuner.bench.table import to_markdown
from craft_tuner.errors import json_printable, printable
from craft_tuner.report.markdown import code, plain
from craft_tuner.runs import predictions
from craft_tuner.runs.predictions import Predicted
from tests.support.tuner_commands import build_zoo, typing_to
from tests.support.tuner_server import Answer, FakeServer, model_card

pytestmark = pytest.mark.slow  # whole commands

EVIL = "\x1b[2J\x1b]0;owned\x07\x9b31m\x7f\u202eevil\u2066\r\b"
FORBIDDEN = [chr(code) for code in (*range(9), *range(11, 32), *range(0x7F, 0xA0), 0x202E, 0x2066)]
FIT = ("--shots", "1", "--population", "4", "--views", "1", "--intrinsic-dim", "8")


def assert_shown(*texts):
    """The words are there, and nothing that a terminal obeys."""
    assert any("evil" in text for text in texts), texts
    for text in texts:
        assert not [sign for sign in FORBIDDEN if sign in text], text


class Evil(FakeServer):
    """Every word that it may choose is hostile."""

    def __init__(self):
        super().__init__(cards=[model_card(f"m{EVIL}")])
        self.detail = ""

    def _key(self):
        return super()._key().model_copy(update={"id": f"k{EVIL}", "owner": f"o{EVIL}"})

    def honest(self, asked):
        if self.detail and asked.path == self.detail:
            problem = Refusal(Code.INVALID_REQUEST, f"d{EVIL}").problem(request_id=f"r{EVIL}")
            problem = problem.model_copy(update={"title": f"t{EVIL}", "code": f"c{EVIL}"})
            body = problem.model_dump_json().encode()
            return Answer(400, body, PROBLEM_MEDIA_TYPE)
        return super().honest(asked)


@pytest.fixture
def evil(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    zoo = build_zoo(tmp_path / "zoo")
    for split in ("train", "test"):
        (zoo / split / "ox").rename(zoo / split / f"ox{EVIL}")
        (zoo / split / f"ox{EVIL}" / "0.png").rename(zoo / split / f"ox{EVIL}" / f"={EVIL}.png")
    server = Evil()
    with typing_to(server) as run:
        yield server, run


@pytest.mark.slow
def test_no_command_lets_a_server_or_a_dataset_command_the_terminal(evil):
    _, run = evil
    assert_shown(*run("data", "check", "zoo")[1:])
    assert_shown(*run("data", "check", "zoo", "--json")[1:])
    code_, _, error = run("usage")
    assert code_ == 0
    assert_shown(error)
    assert_shown(run("usage", "--json")[1].replace("\\u001b", "evil"))
    code_, out, error = run("fit", "--data", "zoo", "--run", "run", *FIT)
    assert code_ == 0, error
    assert not [sign for sign in FORBIDDEN if sign in out + error]
    for form in ("jsonl", "csv"):
        code_, out, error = run("predict", "run", "zoo/test", "--top", "3", "--format", form)
        assert code_ == 0
        assert_shown(out)
    run("evaluate", "run", "--data", "zoo", "--json")
    assert not [s for s in FORBIDDEN if s in run("evaluate", "run", "--data", "zoo", "--json")[1]]
    code_, *said = run("bench", "--data", "zoo", "--shots", "1", "--methods", "bbt", "--dry-run")
    assert not [sign for sign in FORBIDDEN if sign in "".join(said)]
    assert run("export", "run", "--out", "out")[0] == 0
    assert_shown(Path("out/README.md").read_text())
    assert run("report", "run", "--out", "page.html")[0] == 0
    assert_shown(Path("page.html").read_text())


def test_json_on_a_terminal_keeps_its_values(evil):
    _, run = evil
    assert run("fit", "--data", "zoo", "--run", "run", *FIT)[0] == 0
    rows = [json.loads(line) for line in run("predict", "run", "zoo/test")[1].splitlines()]
    names = [row["name"] for row in rows]
    assert f"zoo/test/ox{EVIL}/={EVIL}.png" in names


@pytest.mark.parametrize(
    ("path", "command"),
    [
        ("/v1/models", ("fit", "--data", "zoo", "--run", "run")),
        ("/v1/models", ("evaluate", "run", "--data", "zoo")),
        ("/v1/models", ("predict", "run", "zoo/test")),
        ("/v1/models", ("bench", "--data", "zoo", "--shots", "1", "--out", "bench")),
        ("/v1/key", ("usage",)),
        ("/v1/images", ("fit", "--data", "zoo", "--run", "run2", *FIT)),
        ("/v1/logits", ("fit", "--data", "zoo", "--run", "run2", *FIT)),
        ("/v1/usage", ("usage",)),
    ],
)
def test_a_refusal_in_hostile_words_is_shown_as_words(evil, path, command):
    server, run = evil
    if "run" in command[1:2]:
        assert run("fit", "--data", "zoo", "--run", "run", *FIT)[0] == 0
    server.detail = path
    code_, out, error = run(*command)
    assert code_ != 0
    assert_shown(out + error)
    assert "Traceback" not in error


def test_a_redirect_to_hostile_words_is_shown_as_words(evil):
    server, run = evil
    server.honest = lambda _asked: Answer(302, headers={"Location": "http://x/\x9b31mevil"})
    code_, _, error = run("usage")
    assert code_ == 3
    assert_shown(error)


@pytest.mark.parametrize("text", [EVIL, "\u2028\x00", "plain", '"\\'])
def test_json_is_the_same_values_with_escapes(text):
    said = json_printable(json.dumps({"a": text}, ensure_ascii=False))
    assert json.loads(said) == {"a": text}
    assert printable(said) == said


# --- tables --------------------------------------------------------------------------------------

FORMULAS = ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1"]


@pytest.mark.parametrize("text", [*FORMULAS, "'=1", "''=1", "'a", "a=1", "", "'", "ox"])
def test_text_of_a_cell_is_no_formula_and_comes_back(text):
    cell = csv_text.written(text)
    assert cell[:1] not in {"=", "+", "-", "@", "\t", "\r"}
    assert csv_text.read(cell) == text
    assert spreadsheet_safe("=a") == "'=a"


@pytest.mark.parametrize("text", [*FORMULAS, "'=1", "ox"])
def test_predictions_come_back_as_they_were(tmp_path, text):
    lines = [Predicted(text, text, None, text, text, 0.5)]
    predictions.write(tmp_path, lines)
    assert predictions.read(tmp_path) == lines
    with (tmp_path / "predictions.csv").open(newline="") as file:
        cells = [cell for row in csv.reader(file) for cell in row]
    assert not [cell for cell in cells if cell[:1] in set("=+-@\t\r")]


def test_predictions_of_before_are_read_as_they_were_meant(tmp_path):
    old = "name,label,zero_shot,prompt_only,adapted,probability\n=a.png,-x,,,@y,0.5000\n"
    (tmp_path / "predictions.csv").write_text(old)
    assert predictions.read(tmp_path) == [Predicted("=a.png", "-x", None, None, "@y", 0.5)]


def test_a_benchs_cells_are_no_formulas_and_its_numbers_are_numbers():
    one = Record(
        data="=cmd", method="m", shots=1, seed=-3, budget=None, state="failed", reason="@r"
    )
    [row] = csv.DictReader(io.StringIO(to_csv([one])))
    assert (row["data"], row["seed"], row["reason"]) == ("'=cmd", "-3", "'@r")


def test_predictions_on_disk_are_no_formulas_and_resume_knows_them(evil):
    _, run = evil
    assert run("fit", "--data", "zoo", "--run", "run", *FIT)[0] == 0
    Path("zoo/test/cat/0.png").rename("=1+1.png")
    asked = ("predict", "run", "=1+1.png", "--format", "csv", "--out", "labels.csv")
    assert run(*asked)[0] == 0
    first = Path("labels.csv").read_text()
    assert first.splitlines()[1].startswith("'=1+1.png,")
    assert run(*asked, "--resume")[0] == 0
    assert Path("labels.csv").read_text() == first


# --- Markdown and HTML ---------------------------------------------------------------------------

MARKED = [
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "[a](http://evil.test)",
    "![a](http://evil.test/a.png)",
    "a | b",
    "`rm -rf`",
    "# heading",
    "- item",
    "1. item",
    "**bold** _em_",
    "http://evil.test www.evil.test",
    "$$x$$",
    "a\n\n## b",
]


@pytest.mark.parametrize("text", MARKED)
def test_words_in_markdown_do_nothing(text):
    said = plain(text)
    bare = said.replace("\\\\", "")
    assert "<" not in bare
    assert "\n" not in bare
    for sign in ("[", "]", "|", "`", "*", "$", "://", "www."):
        assert sign not in bare.replace(f"\\{sign}", "").replace("\\:", "").replace("www\\.", "")
    assert bare[:1] not in set("#-+=>")
    assert not bare.startswith("1. ")


def test_ordinary_names_stay_as_they_are():
    for name in ("sea lion", "t-shirt", "Löwe", "oxford_pets", "fake::1", "St. Bernard (dog), 2"):
        assert plain(name) == name


@pytest.mark.parametrize("text", ["a`b", "``", "`a`", "a|b", "x\ny"])
def test_code_is_not_ended_from_within(text):
    said = code(text)
    fence = said[: len(said) - len(said.lstrip("`"))]
    assert said.endswith(fence)
    assert fence not in said[len(fence) : -len(fence)].replace(fence + "`", "")
    assert "\n" not in said


def test_a_bench_says_why_a_cell_failed_in_plain_words():
    one = Record(data="<b>", method="m", shots=1, seed=1, budget=None, state="failed")
    text = to_markdown([replace(one, run="r", reason="d | <script>")])
    assert "<b>" not in text
    assert "- r: d \\| &lt;script&gt;" in text


# --- who may read --------------------------------------------------------------------------------


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


def test_a_run_and_answers_are_their_makers_alone_and_what_is_handed_on_is_not(evil, tmp_path):
    _, run = evil
    assert run("fit", "--data", "zoo", "--run", "runs/a", *FIT)[0] == 0
    assert mode(tmp_path / "runs/a") == 0o700
    for name in ("predictions.csv", "purchases.jsonl", "thumbnails.json", "config.json", "lock"):
        assert mode(tmp_path / "runs/a" / name) == 0o600, name
    run("predict", "runs/a", "zoo/test", "--out", "labels.csv")
    assert mode(tmp_path / "labels.csv") == 0o600
    run("export", "runs/a", "--out", "out")
    run("report", "runs/a", "--out", "page.html")
    usual = 0o666 & ~_umask()
    assert {mode(path) for path in (tmp_path / "out").iterdir()} == {usual}
    assert mode(tmp_path / "page.html") == usual
    assert mode(tmp_path / "runs") == 0o777 & ~_umask()


def _umask():
    probe = Path("probe")
    probe.touch()
    return 0o666 & ~mode(probe)


def test_a_file_left_by_a_kill_does_not_lend_its_mode(tmp_path):
    (tmp_path / "a.tmp").touch(0o666)
    files.replace(tmp_path / "a", b"x")
    assert mode(tmp_path / "a") == 0o600
