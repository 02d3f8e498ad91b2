"""An export is an adapter with a card that says what it is, and code that applies it."""

import json
import re

import numpy as np
import pytest

from craft_shared.errors import Code
from craft_tuner.adapter.adapter import Adapter, Layer
from craft_tuner.config.fit_config import FitConfig
from craft_tuner.errors import RunError, WrongModel
from craft_tuner.heads.leverage import fit_gate
from craft_tuner.report.export import export
from craft_tuner.report.model_card import SNIPPET
from craft_tuner.report.read import read_runs
from craft_tuner.runs.run import Run
from tests.support.tuner_adapters import an_adapter
from tests.support.tuner_commands import build_zoo
from tests.support.tuner_server import KEY, model_card, refuses

FIT = (
    *("--method", "bbt", "--shots", "2", "--population", "4", "--intrinsic-dim", "8"),
    *("--sigma", "0.5", "--budget", "18"),
)


@pytest.fixture
def tuner(tuner, tmp_path):
    build_zoo(tmp_path / "zoo")
    return tuner


@pytest.mark.parametrize("budget", ["60", "3"])
def test_a_folder_that_was_chosen_on_is_named_without_its_place(tuner, tmp_path, budget):
    build_zoo(tmp_path / "secret")
    for image in (tmp_path / "secret" / "train").rglob("*.png"):
        image.write_bytes(image.read_bytes() + b" ")
    choice = ("--validation", tmp_path / "secret" / "train", "--budget", budget)
    small = ("--shots", "2", "--views", "1", "--bank-prompts", "2", "--run", "run")
    assert tuner("fit", "--data", "zoo", *choice, *small)[0] == 0
    assert tuner("export", "run", "--out", "made")[0] == 0
    for made in (tmp_path / "made").iterdir():
        assert str(tmp_path).encode() not in made.read_bytes()
    assert "| validation | `train` |" in (tmp_path / "made/README.md").read_text()
    [record] = read_runs([tmp_path / "run"])
    assert record.config["validation"] == "train"


def test_a_finished_run_becomes_a_folder_to_hand_on(tuner, server, tmp_path):
    assert tuner("fit", "--data", "zoo", "--run", "run", *FIT)[0] == 0
    code, out, error = tuner("export", "run", "--out", "made/zoo")
    folder = tmp_path / "made" / "zoo"
    assert code == 0, error
    assert out.split() == [
        f"made/zoo/{name}" for name in ("adapter.safetensors", "adapter.json", "README.md")
    ]
    adapter = Adapter.load(folder)
    assert (folder / "adapter.safetensors").read_bytes() == adapter.to_bytes()
    assert json.loads((folder / "adapter.json").read_text()) == adapter.card.model_dump(mode="json")
    card = (folder / "README.md").read_text()
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    scores = result["evaluation"]
    assert card.startswith("# bbt adapter for fake::1\n")
    assert "Unfinished" not in card
    assert f"- checkpoint: `{server.cards[0].digest}`" in card
    assert "3 classes, asked as `a photo of a {}.`" in card
    assert "cat, ox, sea lion." in card
    for words, way in (
        ("without the adapter (zero-shot)", "zero_shot"),
        ("the adapter", "adapted"),
    ):
        got = scores[way]
        assert f"| {words} | {got['accuracy']:.2%} | {got['correct']} of 6 |" in card
    total = " | ".join(f"{value:,}" for _, value in server.spent)
    assert f"| total | {total} |" in card
    for row in ("| data | zoo |", "| shots per class | 2 |", "| training images | 6 |"):
        assert row in card
    for row in ("| test images | 6 |", "| generations | 4 |", "| population | `4` |"):
        assert row in card
    assert "1 prompt(s) per image: 1 queries for each image set" in card
    assert f"The file has {len(adapter.to_bytes()):,} bytes." in card


def test_the_commonest_mistakes_are_reported(tmp_path):
    with Run.create(tmp_path / "run", FitConfig(method="zero_shot")) as run:
        run.save_adapter(an_adapter())
        confusion = [[3, 2, 0], [0, 5, 0], [1, 4, 0]]
        score = {"accuracy": 8 / 15, "correct": 8, "images": 15, "confusion": confusion}
        names = ["a|b", "ox", "Bär"]
        run.save_result({"evaluation": {"class_names": names, "zero_shot": score}})
    export(tmp_path / "run", tmp_path / "out")
    card = (tmp_path / "out" / "README.md").read_text()
    rows = card.partition("Commonest mistakes:")[2].split("\n\n")[1].splitlines()[2:]
    assert rows == [
        "| Bär | ox | 4 | 5 |",
        "| a\\|b | ox | 2 | 5 |",
        "| Bär | a\\|b | 1 | 5 |",
    ]
    assert "| without the adapter (zero-shot) | 53.33% | 8 of 15 |" in card


def test_text_prompts_and_a_test_without_a_mistake(tmp_path):
    adapter = an_adapter()
    card = adapter.card.model_copy(update={"templates": ("one {}.", "two {}.")})
    with Run.create(tmp_path / "run", FitConfig(method="zero_shot")) as run:
        run.save_adapter(Adapter(card))
        confusion = np.eye(3, dtype=int).tolist()
        score = {"accuracy": 1.0, "correct": 3, "images": 3, "confusion": confusion}
        run.save_result({"evaluation": {"class_names": ["a", "b", "c"], "adapted": score}})
    export(tmp_path / "run", tmp_path / "out")
    text = (tmp_path / "out" / "README.md").read_text()
    assert "3 classes, asked as `one {}.`, `two {}.`:" in text
    assert "2 text prompt(s) and no head" in text
    assert "| the adapter | 100.00% | 3 of 3 |" in text
    assert "Commonest mistakes" not in text


def test_it_names_no_path_server_or_key(tuner, server, tmp_path):
    tuner("fit", "--data", "zoo", "--run", "run", *FIT)
    tuner("export", "run", "--out", "out")
    for file in (tmp_path / "out").iterdir():
        content = file.read_bytes()
        for secret in (KEY, str(tmp_path), "127.0.0.1"):
            assert secret.encode() not in content, f"{secret} is in {file.name}"


def test_the_same_run_gives_the_same_bytes(tuner, tmp_path):
    tuner("fit", "--data", "zoo", "--run", "run", *FIT)
    tuner("export", "run", "--out", "one")
    tuner("export", "run", "--out", "two")
    tuner("export", "run", "--out", "two")
    for file in (tmp_path / "one").iterdir():
        assert file.read_bytes() == (tmp_path / "two" / file.name).read_bytes()


def test_an_unfinished_run_says_so(tuner, server, tmp_path):
    server.mischief = [*[lambda *_: None] * 2, refuses(Code.BUDGET_EXHAUSTED)]
    assert tuner("fit", "--data", "zoo", "--run", "run", *FIT)[0] == 5
    code, _, error = tuner("export", "run", "--out", "out")
    card = (tmp_path / "out" / "README.md").read_text()
    assert code == 0, error
    assert "**Unfinished**: the run stopped after 2 of 4 generations" in card
    assert "Nothing was measured" in card
    assert "How good it is was not measured" in card
    assert f"| total | {server.spent.queries} |" in card


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("zoo", "--out", "out"), 7, "holds no run"),
        (("run", "--out", "out"), 7, "no adapter yet; go on with: craft-tuner fit --resume run"),
        (("run",), 2, "--out"),
    ],
)
def test_what_cannot_be_exported_is_said(tuner, tmp_path, arguments, code, words):
    Run.create(tmp_path / "run", FitConfig()).close()
    got, _, error = tuner("export", *arguments)
    assert (got, words in error) == (code, True), error
    assert not (tmp_path / "out").exists()


def test_a_folder_that_cannot_be_written_is_named(tuner, tmp_path):
    with Run.create(tmp_path / "run", FitConfig()) as run:
        run.save_adapter(an_adapter())
    (tmp_path / "file").write_text("")
    code, _, error = tuner("export", "run", "--out", "file")
    assert (code, "cannot write to file: File exists" in error) == (2, True)


def test_a_run_in_use_is_not_exported(tmp_path):
    with (
        Run.create(tmp_path / "run", FitConfig()) as run,
        pytest.raises(RunError, match="is in use by process"),
    ):
        export(run.path, tmp_path / "out")


def test_another_models_digest_is_refused():
    adapter = an_adapter()
    adapter.check(model_card("fake::1"))
    with pytest.raises(WrongModel, match=r"was made for fake::1 .* the server has fake::2"):
        adapter.check(model_card("fake::2"))


# --- the code in the card -----------------------------------------------------------------------


def a_bank():
    """Two prompts, no ReLU, a centre, and names of which one is no class."""
    adapter = an_adapter(prompts=2)
    draw = np.random.RandomState(4)
    update = {"relu": False, "residual": 0.5, "asked_names": ("ox", "Bär", "yak", "cat")}
    layers = tuple(
        Layer(draw.randn(*size).astype(np.float32), draw.randn(size[0]).astype(np.float32))
        for size in ((5, 8), (3, 5))
    )
    card = adapter.card.model_copy(update=update)
    return Adapter(card, adapter.offsets, layers, draw.randn(8).astype(np.float32))


def bounded():
    """A bank that is followed no farther than some images."""
    bank = a_bank()
    update = {"asked_names": (*bank.card.class_names, "yak"), "residual": 0.0}
    near = np.random.RandomState(6).randn(9, 4)
    gate = fit_gate(near, factor=0.5)
    assert gate is not None
    card = bank.card.model_copy(update=update)
    return Adapter(card, bank.offsets, bank.head, bank.centre, gate)


def strangers():
    """Names of which none is a class."""
    bank = a_bank()
    update = {"asked_names": ("w", "x", "y", "z"), "residual": 0.0}
    return Adapter(bank.card.model_copy(update=update), bank.offsets, bank.head, bank.centre)


def headless():
    adapter = an_adapter(prompts=2)
    return Adapter(adapter.card, adapter.offsets)


@pytest.mark.parametrize("make", [an_adapter, a_bank, bounded, strangers, headless])
def test_the_cards_own_code_applies_the_adapter(make, tmp_path):
    adapter = make()
    with Run.create(tmp_path / "run", FitConfig()) as run:
        run.save_adapter(adapter)
    export(run.path, tmp_path / "out")
    [code] = re.findall(
        r"```python\n(.*?)```", (tmp_path / "out" / "README.md").read_text(), re.DOTALL
    )
    assert code == SNIPPET
    assert len(code.splitlines()) <= 32
    names = {}
    exec(code, names)
    logits = (
        np.random.RandomState(5)
        .randn(adapter.prompts_per_image, 6, len(adapter.asked.class_names))
        .astype(np.float32)
    )
    card, arrays = names["load"](tmp_path / "out" / "adapter.safetensors")
    assert np.allclose(names["scores"](card, arrays, logits), adapter.refine(logits), atol=1e-5)
