"""`craft-tuner data check`, and the paper's layouts in fits and evaluations, as typed."""

import json
import os
import sys
from itertools import product

import pytest

from craft_tuner.cli import main as cli
from craft_tuner.commands import fit as commands
from tests.support.coop_layouts import build, paint
from tests.support.tuner_server import KEY, FakeServer, listening

FIT = ("--shots", "2", "--population", "4", "--views", "2", "--intrinsic-dim", "8")
FIT = (*FIT, "--set", "method=craft", "--sigma", "0.5", "--budget", "30", "--validation-folds", "2")


@pytest.fixture
def tuner(monkeypatch, capsys, tmp_path):
    """Run `craft-tuner ARGUMENTS` in this process: (exit code, standard output, error)."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["craft-tuner", *map(str, arguments)])
        with pytest.raises(SystemExit) as exit_:
            cli.main()
        return exit_.value.code, *capsys.readouterr()

    monkeypatch.chdir(tmp_path)
    return run


@pytest.fixture
def server(monkeypatch):
    server = FakeServer()
    monkeypatch.setattr(commands, "write_report", lambda run: run.path / "report.html")
    with listening(server) as url:
        monkeypatch.setenv("CRAFT_SERVER_URL", url)
        monkeypatch.setenv("CRAFT_API_KEY", KEY)
        yield server


def test_a_sound_dataset_passes_without_a_server(tuner, tmp_path):
    build(tmp_path, "caltech101")
    code, out, error = tuner("data", "check", "coop:caltech101", "--method", "bbt", "--shots", 4)
    assert code == 0, error
    assert "template: a photo of a {}." in out
    assert "a fit (bbt, 4 shots, seed 1) needs:" in out
    assert "the paper's settings for this dataset: --preset caltech101" in out


@pytest.mark.slow
@pytest.mark.parametrize(
    "flags",
    [
        ("--shots", 2),
        ("--shots", 2, "--set", "views=1"),
        ("--shots", 1, "--budget", 5),
        ("--shots", 2, "--method", "bbt", "--set", "population=4"),
        ("--shots", 3, "--preset", "caltech101"),
    ],
)
def test_a_check_has_the_plan_of_the_dry_run(tuner, server, tmp_path, flags, monkeypatch):
    server.queries = 9000
    monkeypatch.setenv("CRAFT_FIT_SEED", "2")
    for split, label, name in product(("train", "test"), ("ox", "yak"), "abc"):
        paint(tmp_path / "caltech101" / split / label / f"{name}.png")
    code, out, error = tuner("data", "check", "caltech101", *flags)
    assert code == 0, error
    assert f"planned for the key at {os.environ['CRAFT_SERVER_URL']}" in out
    code, _, error = tuner("fit", "--dry-run", "--data", "caltech101", *flags)
    assert code == 0
    table = error[error.index("phase ") : error.index("the key has")]
    assert table in out
    assert ", seed 2" in out


def test_a_check_goes_on_without_its_server_and_refuses_with_its_key(
    tuner, server, tmp_path, monkeypatch
):
    for label in ("ox", "yak"):
        paint(tmp_path / "zoo" / label / "0.png")
    code, out, error = tuner("data", "check", "zoo", "--shots", 1, "--key", "craft_other")
    assert (code, "problem: The API key is missing, unknown" in out) == (1, True)
    monkeypatch.setenv("CRAFT_SERVER_URL", "http://127.0.0.1:1")
    code, out, error = tuner("data", "check", "zoo", "--shots", 1)
    assert code == 0
    assert "planned without the key's limits: no answer from http://127.0.0.1:1" in error
    assert "planned for a model of the paper's shapes and no limits" in out


def test_a_problem_is_exit_code_1_in_json_too(tuner, tmp_path):
    build(tmp_path, "caltech101")
    folder = tmp_path / "caltech-101" / "101_ObjectCategories"
    (folder / "ox" / "test_1.jpg").unlink()
    code, out, _ = tuner("data", "check", "coop:caltech101", "--quick", "--json")
    assert code == 1
    findings = json.loads(out)["report"]["findings"]
    assert findings == [
        {"what": "missing file", "problem": True, "count": 1, "names": ["ox/test_1.jpg"]}
    ]


def test_what_is_no_dataset_is_exit_code_1_and_a_sentence(tuner):
    code, out, error = tuner("data", "check", "coop:caltech101@nowhere")
    assert (code, out) == (1, "")
    assert "craft-tuner: Caltech101 has its images in nowhere" in error


def test_a_wrong_setting_is_exit_code_2(tuner, tmp_path):
    paint(tmp_path / "zoo" / "ox" / "0.png")
    code, _, error = tuner("data", "check", "zoo", "--preset", "cifar")
    assert code == 2
    assert "preset 'cifar' does not exist" in error


@pytest.mark.parametrize("arguments", [("data", "--help"), ("data", "check", "--help")])
def test_help_has_examples(tuner, arguments):
    code, out, _ = tuner(*arguments)
    assert code == 0
    assert "check" in out
    assert arguments == ("data", "--help") or "craft-tuner data check photos/" in out


@pytest.mark.slow
def test_an_adapter_of_imagenet_is_measured_on_its_four_shifted_sets(tuner, server, tmp_path):
    for name in ("imagenet", "imagenetv2", "imagenet_sketch", "imagenet_a", "imagenet_r"):
        build(tmp_path, name)
    code, _, error = tuner("fit", "--data", "coop:imagenet", "--sampling", "craft", *FIT)
    assert code == 0, error
    run = tmp_path / "runs" / "imagenet-craft-2shots-seed1"
    assert json.loads((run / "config.json").read_text())["setup"]["data"] == (
        f"coop:imagenet@{tmp_path}"
    )
    possible = {"imagenetv2": range(4), "imagenet-a": (1, 2), "imagenet-r": (2, 3)}
    for name in ("imagenetv2", "imagenet-sketch", "imagenet-a", "imagenet-r"):
        code, out, error = tuner("evaluate", run, "--data", f"coop:{name}", "--json")
        assert code == 0, error
        found = json.loads(out)
        assert found["class_names"][3] == "missile (n01491361)"
        for row in found["adapted"]["confusion"]:
            answers = {column for column, images in enumerate(row) if images}
            assert answers <= set(possible.get(name, range(4)))
    assert found["adapted"]["images"] == 4
    code, _, error = tuner("fit", "--data", "coop:imagenet-a", *FIT)
    assert code == 2
    assert "test images alone; use it with `craft-tuner evaluate`" in error
