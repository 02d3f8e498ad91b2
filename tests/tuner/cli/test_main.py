"""The commands as people type them, against a server on a real socket."""

import csv
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from PIL import Image

from craft_shared import wire
from craft_shared.errors import Code
from craft_shared.messages import Counters
from craft_tuner.commands import fit as commands
from craft_tuner.config.fit_config import FitConfig
from craft_tuner.data.pictures import encode_png
from craft_tuner.report.comparison import summary
from craft_tuner.report.read import read_runs
from craft_tuner.runs.run import Run
from tests.support.tuner_commands import build_zoo, typing_to
from tests.support.tuner_server import KEY, FakeServer, model_card, refuses

pytestmark = pytest.mark.slow

SMALL = ("--shots", "2", "--population", "4", "--views", "2", "--intrinsic-dim", "8")
FIT = (
    *SMALL,
    "--set",
    "method=craft",
    "--sigma",
    "0.5",
    "--budget",
    "30",
    "--validation-folds",
    "2",
)


COUNTED = ("queries", "logit_vectors", "texts", "logits")


@pytest.fixture
def zoo(tmp_path):
    return build_zoo(tmp_path / "zoo")


@dataclass(frozen=True)
class World:
    """A finished fit with the server and the data that it was made with; leave it as it is."""

    server: FakeServer
    tuner: Callable[..., tuple[int, str, str]]
    zoo: Path
    run: Path
    fit_spent: Counters


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("world")
    server, zoo = FakeServer(), build_zoo(folder / "zoo")
    with typing_to(server) as tuner:
        code, _, error = tuner("fit", "--data", zoo, "--run", folder / "run", *FIT)
        assert code == 0, error
        yield World(server, tuner, zoo, folder / "run", server.spent)


def result_of(run):
    return json.loads((run / "result.json").read_text())


# --- fit ----------------------------------------------------------------------------------------


def test_a_fit_leaves_adapter_result_and_report_and_balances(world):
    files = {path.name for path in world.run.iterdir()}
    assert {"adapter.safetensors", "result.json", "report.html", "curves.png"} <= files
    assert {"predictions.csv", "thumbnails.json"} <= files
    result = result_of(world.run)
    assert result["spent_total"] == world.fit_spent.model_dump()
    assert result["spent"]["zero-shot"]["queries"] == result["spent"]["test"]["queries"] == 1
    assert result["evaluation"]["adapted"]["images"] == 6
    assert sum(map(sum, result["evaluation"]["adapted"]["confusion"])) == 6
    assert result["spent_total"]["queries"] <= 30


def test_predictions_are_those_that_were_scored(world):
    with (world.run / "predictions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["name"] for row in rows[:2]] == ["test/cat/0.png", "test/cat/1.png"]
    evaluation = result_of(world.run)["evaluation"]
    for way in ("zero_shot", "prompt_only", "adapted"):
        right = sum(row[way] == row["label"] for row in rows)
        assert right == evaluation[way]["correct"]
    assert all(0 < float(row["probability"]) <= 1 for row in rows)
    kept = sum(not row["zero_shot"] == row["label"] == row["adapted"] for row in rows)
    assert len(json.loads((world.run / "thumbnails.json").read_bytes())) == min(kept, 36)


def test_a_fit_asks_about_test_images_at_the_very_end(world):
    tags = [body.split(b'\\"tag\\":\\"')[1].split(b'\\"')[0] for body in bodies(world.server)]
    assert tags[-2:] == [b"zero-shot", b"test"]
    assert set(tags[:-2]) == {b"fitness", b"head"}


def test_a_dry_run_says_what_it_would_spend_and_move_and_does_neither(tuner, zoo, server):
    code, out, error = tuner("fit", "--data", zoo, "--dry-run", *FIT)
    assert (code, out) == (0, "")
    assert error.startswith("no preset: method auto; other methods have the paper's settings")
    assert "views 2 instead of 8 (by flag)" in error
    assert "\nphase" in error
    for line in ("to send: ", "to receive: logits of ", "a round trip takes "):
        assert line in error
    assert server.spent.queries == 0
    assert not server.calls("/v1/images")
    assert not Path("runs").exists()
    code, _, error = tuner("fit", "--resume", "runs/x", "--dry-run")
    assert (code, "leave out: dry-run" in error) == (2, True)


def test_a_fit_as_in_the_paper_says_what_differs_and_refuses_what_contradicts(
    tuner, zoo, server, monkeypatch
):
    monkeypatch.setenv("CRAFT_FIT_SEED", "3")
    exact = ("fit", "--data", zoo, "--dry-run", "--preset", "dtd", "--paper-exact", "--shots", "2")
    code, _, error = tuner(*exact)
    assert code == 0
    assert "shots 2 instead of 16 (by flag), seed 3 instead of 1 (by the environment)" in error
    assert "decision 0003: the head learns from normalised logits" in error
    assert "97 generations x 40 x 6 shots" in error
    code, _, error = tuner(*exact, "--views", "8")
    assert (code, "means views 100 and not 8" in error) == (2, True)


def dtypes_asked(server):
    bodies = [asked.body for asked in server.calls("/v1/logits")]
    return {wire.decode_request(body)[0].dtype for body in bodies}


@pytest.mark.parametrize("dtype", ["float16", "int16"])
def test_a_fit_may_have_its_logits_in_half_the_bytes(tuner, zoo, server, dtype):
    assert tuner("fit", "--data", zoo, "--dtype", dtype, *FIT)[0] == 0
    assert dtypes_asked(server) == {dtype}


BANK = ("--method", "bank", "--shots", "2", "--views", "2")


@pytest.fixture
def line(monkeypatch):
    """A line that is measured for any fit; its bytes per second, to be changed."""
    rates = [1.0]
    monkeypatch.setattr("craft_tuner.training.foresight.WORTH_MEASURING_BYTES", 0)
    monkeypatch.setattr("craft_tuner.training.fit.measure", lambda *_: rates[0])
    return rates


def test_a_slow_line_has_int16_rows_and_a_run_keeps_what_it_began_with(tuner, zoo, server, line):
    server.mischief = [lambda *_: None, refuses(Code.INVALID_REQUEST)]
    code, _, error = tuner("fit", "--data", zoo, "--run", "run", *BANK)
    assert code != 0
    assert "the line is slow: logits come as int16 rows" in error
    assert re.search(r"to receive: logits of .* in int16\n", error)
    line[0] = 1e9
    assert tuner("fit", "--resume", "run")[0] == 0
    assert len(server.calls("/v1/logits")) > 2
    assert dtypes_asked(server) == {"int16"}


def test_a_fast_line_has_float32_and_so_has_a_run_that_a_slow_one_resumes(tuner, zoo, server, line):
    line[0] = 1e9
    server.mischief = [lambda *_: None, refuses(Code.INVALID_REQUEST)]
    assert tuner("fit", "--data", zoo, "--run", "run", *BANK)[0] != 0
    line[0] = 1.0
    assert tuner("fit", "--resume", "run")[0] == 0
    assert dtypes_asked(server) == {"float32"}


def test_an_older_server_is_not_asked_for_int16(tuner, zoo, server, line):
    server.cards = [model_card().model_copy(update={"reply_dtypes": ["float32", "float16"]})]
    code, _, error = tuner("fit", "--data", zoo, "--dtype", "int16", *FIT)
    assert code == 2
    assert "--dtype int16 is not what the server of fake::1 can answer in" in error
    assert "it has: float32, float16" in error
    assert tuner("fit", "--data", zoo, *BANK)[0] == 0
    assert dtypes_asked(server) == {"float32"}


def test_a_fit_says_how_long_the_line_takes_once_something_shows(tuner, zoo, monkeypatch):
    monkeypatch.setattr("craft_tuner.client.upload_rate._LEAST_BYTES", 1)
    code, _, error = tuner("fit", "--data", zoo, *FIT)
    assert (code, error.count("the line takes ")) == (0, 1)


def test_a_fit_says_its_plan_first_and_its_result_last(tuner, zoo):
    code, out, error = tuner("fit", "--data", zoo, "--method", "bbt", *FIT)
    lines = error.splitlines()
    assert (code, out) == (0, "")
    assert lines[0].startswith("no preset")
    assert lines[2].startswith("phase")
    assert "prompt only" in error
    assert lines[-2].endswith("runs/zoo-bbt-2shots-seed1/report.html")
    assert lines[-1].startswith("Cannot be told with 6 test images: ")


@pytest.mark.parametrize(
    ("method", "queries"), [("template_ensemble", 1 + 7), ("head_only", 2 + 2), ("text_search", 30)]
)
def test_methods_of_text_alone_spend_what_they_say_and_answer(tuner, zoo, server, method, queries):
    run = Path("runs/text")
    short = ("--method", method, "--head-epochs", "3", *FIT)
    code, _, error = tuner("fit", "--data", zoo, "--run", run, *short)
    assert code == 0, error
    assert f"\n{queries:,} queries, " in error
    assert result_of(run)["spent_total"] == server.spent.model_dump()
    assert server.spent.queries == queries
    assert all(b"templates" in body for body in bodies(server))
    code, out, _ = tuner("evaluate", run, "--data", zoo)
    assert (code, out.splitlines()[-1].split("\t")[0]) == (0, "adapted")


@pytest.mark.parametrize(
    "method", ["zero_shot", "bank", "head_only", "text_search", "bbt", "craft"]
)
@pytest.mark.parametrize(("shots", "images"), [("all", 5 + 5 + 1), ("up to 2", 2 + 2 + 1)])
def test_unbalanced_classes_spend_what_their_plan_says(tuner, zoo, server, method, shots, images):
    for index in range(1, 5):
        (zoo / "train" / "ox" / f"{index}.png").unlink()
    data = ("--data", zoo, "--method", method, "--bank-prompts", "4")
    code, _, error = tuner("fit", *data, *FIT)
    assert (code, Path("runs").exists()) == (2, False)
    assert "class 'ox' has 1 training image(s), 2 shots need 2" in error
    assert "--shots 'up to 2'" in error
    code, _, error = tuner("data", "check", zoo, "--method", method, "--shots", shots)
    assert code == 0, error
    code, _, error = tuner("fit", *data, "--head-epochs", "3", *FIT, "--shots", shots)
    assert code == 0, error
    [run] = Path("runs").iterdir()
    assert run.name == f"zoo-{method}-{shots.replace(' ', '-')}shots-seed1"
    result = result_of(run)
    plan = json.loads((run / "plan.json").read_text())
    assert result["images"]["shots"] == (0 if method == "zero_shot" else images)
    assert result["spent_total"] == server.spent.model_dump()
    planned = {name: sum(phase["cost"][name] for phase in plan["phases"]) for name in COUNTED}
    assert planned == {name: result["spent_total"][name] for name in COUNTED}


@pytest.mark.parametrize("dry", [("--dry-run",), ()])
def test_a_fit_says_what_its_reader_has_to_remark(tuner, zoo, dry):
    for split in ("train", "test"):
        (zoo / split / "ox").rename(zoo / split / "n02403003")
    (zoo / "train" / "cat" / ".ipynb_checkpoints").mkdir()
    (zoo / "val" / "cat").mkdir(parents=True)
    code, _, error = tuner("fit", "--data", zoo, *FIT, "--method", "zero_shot", *dry)
    assert code == 0, error
    said = [line for line in error.splitlines() if line.startswith("remark: ")]
    asked = 'class name that is a WordNet id, asked as "a photo of a n02403003.": give words with '
    assert [line.removeprefix("remark: ")[: len(asked)] for line in said] == [
        f"hidden, passed over (1): '{zoo}/train/cat/.ipynb_checkpoints'"[: len(asked)],
        "for validation, used with --validation split (1): 'val/, 0 images'",
        asked,
    ]


@pytest.mark.parametrize("way", ["flag", "set", "environment", "file"])
def test_validation_is_said_as_any_setting_is_and_described_the_same_by_all(
    tuner, zoo, tmp_path, monkeypatch, way
):
    for index, label in enumerate(("cat", "sea_lion", "ox")):
        (zoo / "val" / label).mkdir(parents=True)
        image = Image.new("RGB", (9, 7), (200, index, 7))
        (zoo / "val" / label / "0.png").write_bytes(encode_png(image))
    (tmp_path / "fit.toml").write_text('validation = "split"\n')
    monkeypatch.setenv("CRAFT_FIT_VALIDATION", "split" if way == "environment" else "none")
    said = {
        "flag": ("--validation", "split"),
        "set": ("--set", "validation=split"),
        "file": ("--config", tmp_path / "fit.toml"),
    }.get(way, ())
    if way == "file":
        monkeypatch.delenv("CRAFT_FIT_VALIDATION")
    own = ("--shots", "2", "--set", "views=1", "--set", "bank_prompts=2", *said)
    sentence = "chosen on 3 validation images; test images have no part in it"
    assert sentence in tuner("data", "check", zoo, *own)[1]
    for stop in (("--dry-run",), ("--run", "chosen")):
        code, _, error = tuner("fit", "--data", zoo, *own, *stop)
        assert code == 0, error
        assert sentence in error
    card = tmp_path / "card"
    assert tuner("export", "chosen", "--out", card)[0] == 0
    assert "| choices made on | 3 validation images |" in (card / "README.md").read_text()
    assert json.loads(Path("chosen/plan.json").read_text())["validation"] == 3
    [record] = read_runs([Path("chosen")])
    assert "3 validation images" in str(summary([record]))
    Path("chosen/result.json").unlink()
    assert tuner("fit", "--resume", "chosen")[0] == 0


def test_the_key_is_in_no_file_of_the_run(world):
    for path in world.run.iterdir():
        assert KEY.encode() not in path.read_bytes()


def test_a_finished_fit_resumes_to_the_same_bytes_and_buys_nothing(world):
    before = (world.run / "adapter.safetensors").read_bytes(), world.server.spent
    asked = len(world.server.asked)
    code, _, error = world.tuner("fit", "--resume", world.run)
    assert code == 0, error
    assert len(world.server.asked) == asked
    sentence, verdict = error.splitlines()
    assert "6 test images" in verdict
    assert f"is finished, nothing is asked again; the adapter is in {world.run}/" in sentence
    assert ((world.run / "adapter.safetensors").read_bytes(), world.server.spent) == before


TRACKER = """
import pathlib

class Tracker:
    def __init__(self):
        self.file = pathlib.Path("heard.txt").open("a")

    def start(self, run):
        print("start", run.config["model"], len(run.history), file=self.file)

    def generation(self, metrics):
        print(int(metrics["queries"]), file=self.file)

    def finish(self, result):
        print("finish", result["method"], file=self.file, flush=True)
        self.file.close()
"""


def test_a_fit_tells_its_tracker_and_tells_it_again_when_resumed(tuner, zoo, tmp_path):
    (tmp_path / "tracker_of_test_cli.py").write_text(TRACKER)
    track = ("--track", "tracker_of_test_cli:Tracker")
    bbt = ("--method", "bbt", "--run", "run", *FIT)
    assert tuner("fit", "--data", zoo, *bbt, *track)[0] == 0
    first, *queries, last = Path("heard.txt").read_text().splitlines()
    assert (first, last) == ("start fake::1 0", "finish bbt")
    rows = [json.loads(line) for line in Path("run/metrics.jsonl").read_text().splitlines()]
    assert queries == [str(row["queries"]) for row in rows]
    Path("run/result.json").unlink()  # as if it had been killed before its end
    assert tuner("fit", "--resume", "run")[0] == 0
    assert f"start fake::1 {len(rows)}" in Path("heard.txt").read_text()
    Path("heard.txt").unlink()
    Path("run/result.json").unlink()
    assert tuner("fit", "--resume", "run", "--track", "none")[0] == 0
    assert not Path("heard.txt").exists()


def test_an_unknown_tracker_leaves_no_run_behind(tuner, zoo, server):
    code, _, error = tuner("fit", "--data", zoo, "--track", "nothing", *FIT)
    assert (code, "allowed: tensorboard, module:callable, none" in error) == (2, True)
    assert server.spent.queries == 0
    assert not Path("runs").exists()


# --- report -------------------------------------------------------------------------------------


def test_a_page_is_written_of_a_run(world, tmp_path):
    out = tmp_path / "page.html"
    code, said, _ = world.tuner("report", world.run, "--out", out)
    assert (code, said) == (0, f"{out}\n")
    assert "sea lion" in out.read_text()
    (world.run / "thumbnails.json").rename(tmp_path / "kept")
    try:
        code, *_ = world.tuner("report", world.run, "--out", out, "--data", world.zoo)
    finally:
        (tmp_path / "kept").rename(world.run / "thumbnails.json")
    assert code == 0
    assert "no picture kept" not in out.read_text()


def test_a_page_of_no_run_is_refused(tuner, tmp_path):
    code, out, error = tuner("report", tmp_path)
    assert (code, out) == (7, "")
    assert "holds no run" in error


def test_a_fit_without_a_test_split_skips_the_test(tuner, zoo, tmp_path, server):
    code, _, error = tuner("fit", "--data", zoo / "train", "--run", tmp_path / "run", *FIT)
    assert code == 0, error
    assert result_of(tmp_path / "run")["evaluation"] is None
    assert set(result_of(tmp_path / "run")["spent"]) == {"fitness", "head"}


def test_zero_shot_costs_one_query_and_has_one_number(tuner, zoo, tmp_path, server):
    code, *_ = tuner("fit", "--data", zoo, "--method", "zero_shot", "--run", "run", *SMALL)
    evaluation = result_of(tmp_path / "run")["evaluation"]
    assert code == 0
    assert server.spent.queries == 1
    assert evaluation["adapted"] is None
    assert evaluation["zero_shot"]["images"] == 6


def test_ctrl_c_leaves_a_run_and_says_how_to_go_on(tuner, zoo, tmp_path, server):
    honest, calls = commands.Screen.generation, []

    def third_time(self, progress):
        honest(self, progress)
        calls.append(progress)
        if len(calls) == 3:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(commands.Screen, "generation", third_time)
        code, _, error = tuner("fit", "--data", zoo, "--run", "run", *FIT)
    assert code == 130
    assert "interrupted; what was bought is kept, go on with: craft-tuner fit --resume run" in error
    assert "Traceback" not in error
    code, _, error = tuner("fit", "--resume", "run")
    assert code == 0, error
    assert result_of(tmp_path / "run")["spent_total"] == server.spent.model_dump()


def test_ctrl_c_before_the_run_began_is_no_traceback(tuner, zoo, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(commands, "choose_model", interrupted)
    code, _, error = tuner("fit", "--data", zoo, *FIT)
    assert code == 130
    assert "Traceback" not in error


def test_a_budget_that_ends_early_keeps_the_adapter_and_says_how_to_go_on(
    tuner, zoo, tmp_path, server
):
    server.mischief = [*[lambda *_: None] * 6, refuses(Code.BUDGET_EXHAUSTED)]
    code, _, error = tuner("fit", "--data", zoo, "--run", "run", *FIT)
    assert code == 5
    assert "go on with: craft-tuner fit --resume run" in error
    assert (tmp_path / "run" / "adapter.safetensors").exists()
    assert tuner("fit", "--resume", "run")[0] == 0
    assert result_of(tmp_path / "run")["spent_total"] == server.spent.model_dump()


def test_settings_come_from_a_file_and_flags_win(tuner, zoo, tmp_path):
    (tmp_path / "fit.toml").write_text('method = "bbt"\nshots = 3\npopulation = 4\nbudget = 12\n')
    code, _, error = tuner(
        *("fit", "--config", "fit.toml", "--data", zoo, "--run", "run"),
        *("--shots", "2", "--set", "intrinsic_dim=8", "--sigma=0.5", "--set", "validation_folds=0"),
    )
    assert code == 0, error
    config = json.loads((tmp_path / "run" / "config.json").read_text())["config"]
    assert (config["method"], config["shots"], config["sigma"]) == ("bbt", 2, 0.5)


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        ((), 2, "what to fit? give --data FOLDER"),
        (("--data", "nowhere", *SMALL), 2, "there is no dataset at"),
        (("--data", "zoo", "--shots", "9"), 2, "class 'cat' has 5 training image(s), 9 shots need"),
        (("--data", "zoo", "--sede", "3"), 2, "no setting is called sede; did you mean seed?"),
        (("--data", "zoo", "stray"), 2, "unexpected argument 'stray'"),
        (("--data", "zoo", "--sigma"), 2, "needed: --set NAME=VALUE"),
        (("--data", "zoo", "--model", "RN50", *SMALL), 2, "no model 'RN50'; it has: fake::1"),
        (("--data", "zoo", "--key", "craft_wrong", *SMALL), 4, "give a valid key with --key"),
        (("--data", "zoo", "--server", "zoo.test", *SMALL), 2, "needed: a URL such as http://"),
        (("--data", "zoo", *SMALL, "--budget", "20000"), 5, "is more than the key has left"),
        (("--data", "zoo", *FIT, "--budget", "3"), 5, "raise --budget to at least"),
        (("--data", "zoo", *SMALL, "--class-names", "none.txt"), 2, "none.txt: No such file"),
        (("--resume", "zoo"), 7, "holds no run"),
        (("--resume", "zoo", "--seed", "2", "--data", "zoo"), 2, "leave out: seed, data"),
    ],
)
def test_a_user_error_is_one_sentence_a_code_and_no_run(
    tuner, zoo, tmp_path, arguments, code, words
):
    got, out, error = tuner("fit", *arguments)
    assert (got, out) == (code, "")
    assert words in error
    assert "Traceback" not in error
    assert not (tmp_path / "runs").exists()


def test_a_server_that_is_not_there_is_its_own_code(tuner, zoo, monkeypatch):
    monkeypatch.setattr("craft_tuner.client.transport.time.sleep", lambda _: None)
    code, _, error = tuner("fit", "--data", zoo, "--server", "http://127.0.0.1:9", *SMALL)
    assert code == 3
    assert "check that the server runs" in error


def test_an_image_that_cannot_be_decoded_is_named(tuner, zoo, server):
    (zoo / "test" / "ox" / "1.png").write_bytes(b"not an image")
    server.bad_image = b"not an image"
    code, _, error = tuner("fit", "--data", zoo, *FIT)
    assert code == 2
    assert "the image test/ox/1.png" in error
    assert server.spent.queries == 0


def test_a_shot_that_is_a_test_image_is_named(tuner, zoo, server):
    (zoo / "test" / "ox" / "1.png").write_bytes((zoo / "train" / "cat" / "0.png").read_bytes())
    code, _, error = tuner("fit", "--data", zoo, "--shots", "5", *FIT[2:])
    assert code == 2
    assert "the test image test/ox/1.png is the training image train/cat/0.png" in error


def test_one_image_under_two_classes_is_named(tuner, zoo):
    (zoo / "train" / "ox" / "1.png").write_bytes((zoo / "train" / "cat" / "0.png").read_bytes())
    code, _, error = tuner("fit", "--data", zoo, "--shots", "5", *FIT[2:])
    assert code == 2
    assert "train/cat/0.png and train/ox/1.png are the same image under two classes" in error


def test_a_run_that_exists_is_not_overwritten(world):
    code, _, error = world.tuner("fit", "--data", world.zoo, "--run", world.run, *FIT)
    assert code == 7
    assert "--resume" in error


# --- evaluate, usage -------------------------------------------------------------------


def test_evaluate_measures_what_the_fit_measured(world):
    code, out, error = world.tuner("evaluate", world.run, "--data", world.zoo, "--zero-shot")
    assert code == 0, error
    scores = {line.split("\t")[0]: float(line.split("\t")[1]) for line in out.splitlines()}
    expected = result_of(world.run)["evaluation"]
    for way, accuracy in scores.items():
        assert accuracy == pytest.approx(expected[way.replace("-", "_")]["accuracy"], abs=1e-4)
    assert set(scores) == {"zero-shot", "prompt-only", "adapted"}
    assert "cost 2 queries, 12 logit vectors" in error


def test_evaluating_again_costs_nothing(world):
    first = world.tuner("evaluate", world.run, "--data", world.zoo, "--json")
    spent = world.server.spent
    assert world.tuner("evaluate", world.run, "--data", world.zoo, "--json")[1] == first[1]
    assert world.server.spent == spent
    assert json.loads(first[1])["zero_shot"] is None


def test_evaluate_uses_training_images_where_there_is_no_test(world):
    code, out, _ = world.tuner(
        "evaluate", world.run / "adapter.safetensors", "--data", world.zoo / "train"
    )
    assert code == 0
    assert out.splitlines()[0].endswith("\t15")


def test_a_dataset_of_other_classes_is_refused(world, zoo):
    (zoo / "train" / "ox").rename(zoo / "train" / "yak")
    (zoo / "test" / "ox").rename(zoo / "test" / "yak")
    code, _, error = world.tuner("evaluate", world.run, "--data", zoo)
    assert code == 2
    assert "the dataset has the class 'yak', the adapter knows: cat, ox, sea lion" in error


def test_something_else_than_an_adapter_is_refused(world):
    code, _, error = world.tuner("predict", world.zoo, world.zoo)
    assert code == 2
    assert "cannot read the adapter" in error


def test_usage_shows_what_is_left_and_what_was_spent(world):
    code, out, error = world.tuner("usage")
    spent = world.server.spent
    assert code == 0
    assert out.splitlines()[1] == "\t".join(["total", *(str(value) for _, value in spent)])
    assert f"{10_000 - spent.queries:,} of 10,000 queries left" in error
    code, out, _ = world.tuner("usage", "--by", "day", "--json")
    assert json.loads(out)["buckets"][0]["counters"] == spent.model_dump()


def test_settings_lists_every_setting_with_its_meaning(tuner):
    code, out, _ = tuner("settings")
    assert code == 0
    for line in (
        "  zero_shot: the model as it is: plain text prompts",
        "(queries: 0 to fit, 8 to test, 7 per batch of answers; text prompts)",
        "(queries: 8 to fit, 2 to test, 1 per batch of answers; text prompts)",
        "(queries: 8 to fit, 9 to test, 8 per batch of answers; soft or text prompts)",
        "in turns (queries: 7,995 to fit, 2 to test, 1 per batch of answers; soft prompts)",
    ):
        assert line in out
    assert "--intrinsic-dim [512]  d, dimensions of z searched" in out


# --- processes of their own ---------------------------------------------------------------------


def modules_of(*arguments, **environment):
    """Modules that `craft-tuner ARGUMENTS` imports, and its exit code and output."""
    code = (
        "import sys\n"
        "from craft_tuner.cli.main import main\n"
        "sys.argv = ['craft-tuner', *sys.argv[1:]]\n"
        "code = 0\n"
        "try:\n    main()\n"
        "except SystemExit as stop:\n    code = stop.code\n"
        "print('MODULES', code, *sorted(sys.modules))\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | environment,
    )
    *lines, last = done.stdout.splitlines()
    _, status, *modules = last.split()
    return set(modules), int(status), "\n".join(lines) + done.stderr


def test_help_shows_examples_and_loads_nothing_heavy(tuner):
    modules, status, text = modules_of("--help")
    assert status == 0
    assert "Exit codes:" in text
    assert not modules & {"torch", "torchvision", "open_clip", "sklearn", "matplotlib", "httpx"}
    for name in ("fit", "evaluate", "predict", "usage", "demo"):
        code, text, _ = tuner(name, "--help")
        assert code == 0
        assert f"craft-tuner {name} " in text.partition("Example")[2]


def test_predict_needs_no_torch_and_a_fit_no_open_clip(world, tmp_path):
    modules, status, text = modules_of("predict", world.run, world.zoo / "test")
    assert status == 0, text
    heavy = {"torch", "torchvision", "open_clip", "sklearn", "matplotlib", "craft_server"}
    assert not modules & heavy
    modules, status, text = modules_of("fit", "--data", world.zoo, "--run", tmp_path / "run", *FIT)
    assert status == 0, text
    assert "torch" in modules
    assert not modules & {"torchvision", "open_clip", "craft_server", "fastapi"}


def test_a_fit_killed_after_paying_and_before_hearing_is_resumed_and_pays_once(
    tuner, world, tmp_path, server
):
    command = [Path(sys.executable).parent / "craft-tuner", "fit", "--data", world.zoo, *FIT]
    process = subprocess.Popen([*command, "--run", tmp_path / "run"], stderr=subprocess.PIPE)

    def kill(server, asked):
        server.honest(asked)
        process.kill()
        process.wait()

    server.mischief = [*[lambda *_: None] * 6, kill]
    _, reported = process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL, reported
    assert len(server.bought) == 7
    code, _, error = tuner("export", tmp_path / "run", "--out", tmp_path / "export")
    assert code == 0, error
    assert "**Unfinished**: the run stopped after " in (tmp_path / "export/README.md").read_text()
    code, _, error = tuner("fit", "--resume", tmp_path / "run")
    assert code == 0, error
    assert server.spent == world.fit_spent
    assert result_of(tmp_path / "run")["spent_total"] == server.spent.model_dump()
    adapters = [(run / "adapter.safetensors").read_bytes() for run in (tmp_path / "run", world.run)]
    assert adapters[0] == adapters[1]


def test_a_wrong_flag_is_refused_by_the_parser(tuner):
    assert tuner("usage", "--by", "year")[0] == 2


def bodies(server):
    return [asked.body for asked in server.calls("/v1/logits")]


def test_demo_hands_its_options_on(tuner, monkeypatch):
    given = []
    monkeypatch.setattr(
        "craft_tuner.commands.demo.run_demo", lambda out, **rest: given.append((out, rest))
    )
    assert tuner("demo", "--seed", "2", "--out", "here", "--keep-server")[0] == 0
    assert given == [(Path("here"), {"seed": 2, "budget": 8000, "keep_server": True})]


def test_a_run_that_no_command_started_cannot_be_resumed_by_one(tuner, tmp_path):
    Run.create(tmp_path / "run", FitConfig()).close()
    code, _, error = tuner("fit", "--resume", "run")
    assert code == 7
    assert "run was not started by `craft-tuner fit`" in error
