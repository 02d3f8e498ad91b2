"""The verdict claims no more than the test images show, and says the same everywhere."""

import json
import re
import shlex
from itertools import cycle
from math import comb
from pathlib import Path

import numpy as np
import pytest

from craft_tuner.commands import fit as commands
from craft_tuner.config.fit_config import build
from craft_tuner.report import compare, intervals, verdict_of
from craft_tuner.report.calibration import BINS, calibration
from craft_tuner.report.command import command
from craft_tuner.report.price import prices
from craft_tuner.report.read import read_run
from craft_tuner.report.summary import as_json, as_markdown
from craft_tuner.report.verdict import verdict
from craft_tuner.runs import predictions
from craft_tuner.runs.predictions import Predicted
from tests.support.tuner_pages import a_run, write

NAMES = ("cat", "ox")


def answered(path, *, both=0, gained=0, lost=0, neither=0, alone=None, kept=True):
    """A run on so many test images; `alone`: how many the prompt alone has right."""
    kinds = [("cat", "cat")] * both + [("ox", "cat")] * gained
    kinds += [("cat", "ox")] * lost + [("ox", "ox")] * neither
    middle = [None] * len(kinds)
    if alone is not None:
        middle = ["cat"] * alone + ["ox"] * (len(kinds) - alone)
    lines = [
        Predicted(f"{index}.png", "cat", before, between, after, 0.9)
        for index, ((before, after), between) in enumerate(zip(kinds, middle, strict=True))
    ]
    a_run(path, names=NAMES, tested=False)
    rights = {
        "zero_shot": both + lost,
        "prompt_only": alone,
        "adapted": both + gained,
    }
    total = len(lines)
    scores = {
        way: {
            "accuracy": right / total,
            "correct": right,
            "images": total,
            "confusion": [[right, total - right], [0, 0]],
        }
        for way, right in rights.items()
        if right is not None
    }
    result = json.loads((path / "result.json").read_text())
    write(path / "result.json", result | {"evaluation": {"class_names": NAMES, **scores}})
    if kept:
        predictions.write(path, lines)
    return path


@pytest.mark.parametrize(
    ("counts", "kind"),
    [
        ({"both": 8, "gained": 8, "lost": 1, "neither": 1}, "gained"),
        ({"both": 8, "gained": 5, "neither": 1}, "cannot_be_told"),
        ({"both": 150, "gained": 60, "lost": 10, "neither": 30}, "gained"),
        ({"both": 300, "gained": 20, "lost": 120, "neither": 60}, "made_worse"),
        ({"gained": 6}, "gained"),
        ({"gained": 5}, "cannot_be_told"),
        ({"gained": 1}, "cannot_be_told"),
        ({"lost": 1}, "cannot_be_told"),
        ({"both": 1}, "cannot_be_told"),
        ({"neither": 1}, "cannot_be_told"),
        ({"both": 20, "gained": 4, "lost": 1}, "cannot_be_told"),
        ({"both": 500}, "did_not_help"),
        ({"neither": 500}, "did_not_help"),
        ({"both": 1600, "gained": 60, "lost": 60, "neither": 280}, "did_not_help"),
        ({"both": 10, "gained": 3, "lost": 3}, "cannot_be_told"),
    ],
)
def test_the_kind_follows_from_the_images(tmp_path, counts, kind):
    found = verdict(read_run(answered(tmp_path / "run", **counts)))
    assert found.kind == kind
    total = sum(counts.values())
    assert f"{total:,} test image" in found.sentence
    assert " 1 test images" not in found.sentence
    limits = found.difference
    if kind == "cannot_be_told" and (limits.low > 0 or limits.high < 0):
        assert "McNemar" in found.sentence
    assert "interval" in found.sentence


@pytest.mark.parametrize("kept", [True, False])
def test_without_the_answers_the_interval_is_wider_and_named(tmp_path, kept):
    counts = {"both": 60, "gained": 20, "lost": 5, "neither": 15}
    found = verdict(read_run(answered(tmp_path / "run", kept=kept, **counts))).difference
    paired = intervals.paired(20, 5, 100)
    assert found.interval == (intervals.PAIRED if kept else intervals.UNPAIRED)
    assert (found.high - found.low > paired.high - paired.low) != kept
    assert found.points == pytest.approx(0.15)


@pytest.mark.parametrize(
    ("alone", "words"),
    [(90, "The prompt alone is better"), (41, "few cannot prove"), (40, None), (0, None)],
)
def test_the_prompt_alone_is_named_where_it_is_better(tmp_path, alone, words):
    path = answered(tmp_path / "run", both=20, gained=20, neither=60, alone=alone)
    said = verdict(read_run(path)).prompt_alone
    assert (words is None) == (said is None)
    assert words is None or words in said


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"tested": False}, "there are no test images"),
        ({"finished": False, "generations": 2}, "Not finished: generation 2 of 4"),
        ({"rights": (0.5, None, None)}, "Zero-shot, nothing was learnt"),
        ({"rights": (None, None, 0.5)}, "what was gained is not known"),
    ],
)
def test_what_was_not_measured_is_not_claimed(tmp_path, options, words):
    assert words in verdict_of(a_run(tmp_path / "run", **options))


# --- intervals -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("right", "images", "expected"),
    [
        (81, 263, (0.2553, 0.3662)),  # Newcombe 1998, table I
        (15, 148, (0.0624, 0.1605)),
        (0, 20, (0.0, 0.1611)),
        (1, 29, (0.0061, 0.1718)),
    ],
)
def test_wilsons_interval_is_the_published_one(right, images, expected):
    assert intervals.wilson(right, images) == pytest.approx(expected, abs=1e-4)


def test_newcombes_interval_of_a_difference_is_the_published_one():
    # Newcombe 1998, statistics in medicine 17:873, table II, method 10: 9/10 against 3/10
    assert intervals.unpaired(3, 9, 10) == pytest.approx((0.1705, 0.8090), abs=1e-4)


@pytest.mark.parametrize("images", [1, 3, 10, 40])
@pytest.mark.parametrize("chances", [(0.1, 0.1), (0.3, 0.1), (0.5, 0.2), (0.05, 0.0), (0.9, 0.05)])
def test_the_paired_interval_covers_the_truth_as_often_as_it_says(images, chances):
    up, down = chances
    covered = 0.0
    for gained in range(images + 1):
        for lost in range(images + 1 - gained):
            rest = images - gained - lost
            weight = comb(images, gained) * comb(images - gained, lost)
            chance = weight * up**gained * down**lost * (1 - up - down) ** rest
            low, high = intervals.paired(gained, lost, images)
            covered += chance * (low <= up - down <= high)
    assert covered > (0.93 if images > 1 else 0.89)


@pytest.mark.parametrize(
    ("gained", "lost", "p"),
    [(0, 0, 1), (5, 5, 1), (0, 5, 0.0625), (6, 0, 0.03125), (1, 9, 22 / 1024), (5000, 5000, 1)],
)
def test_mcnemars_test_is_exact(gained, lost, p):
    assert intervals.mcnemar(gained, lost) == pytest.approx(p, rel=1e-6)


# --- calibration ---------------------------------------------------------------------------------


def test_the_calibration_error_is_that_of_the_bins(tmp_path):
    path = a_run(tmp_path / "run", rights=(None, None, 0.5))
    chances = [0.95, 0.95, 0.95, 0.95, 0.55, 0.55, 1.0, float("nan")]
    lines = [
        Predicted(str(n), "cat", None, None, "cat" if n % 2 else "ox", chance)
        for n, chance in enumerate(chances)
    ]
    predictions.write(path, lines)
    found = calibration(read_run(path))
    assert found.images == 7
    assert sum(each.images for each in found.bins) == 7
    # the last bin: 5 answers with a mean of 0.96, 2 of them right
    expected = (abs(2 - 4.8) + abs(1 - 1.1)) / 7
    assert found.ece == pytest.approx(expected)
    assert found.interval is None
    predictions.write(path, lines * 5)
    found = calibration(read_run(path))
    assert found.interval.low <= found.ece <= found.interval.high
    assert len(found.bins) == 2 <= BINS


def test_right_probabilities_are_not_called_too_sure(tmp_path):
    path = a_run(tmp_path / "run", rights=(None, None, 0.5))
    draw = np.random.RandomState(2)
    chances = draw.uniform(0.5, 1, 400)
    lines = [
        Predicted(str(n), "cat", None, None, "cat" if draw.rand() < chance else "ox", chance)
        for n, chance in enumerate(chances.tolist())
    ]
    predictions.write(path, lines)
    assert "no more than so few images explain" in calibration(read_run(path)).sentence
    sure = [Predicted(x.name, x.label, None, None, x.adapted, 0.999) for x in lines]
    predictions.write(path, sure)
    assert "surer than they are right" in calibration(read_run(path)).sentence


# --- price and command ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("card", "result", "expected"),
    [
        ({"class_names": ["a"] * 3}, {"images_per_set": 500}, [(2, 3), (1000, 3)]),
        ({"class_names": ["a"] * 3, "asked_names": ["a"] * 9}, {"images_per_set": 1000}, None),
        ({"class_names": ["a"] * 3, "output": "label"}, {}, None),
        ({"class_names": ["a"] * 3}, {"prompts_per_image_at_inference": 8}, None),
    ],
)
def test_the_price_of_answers_is_that_of_predict(tmp_path, card, result, expected):
    path = a_run(tmp_path / "run")
    write(path / "adapter.json", card)
    old = json.loads((path / "result.json").read_text())
    write(path / "result.json", {**old, **result})
    run = read_run(path)
    found = prices(run)
    names = len(card.get("asked_names") or card["class_names"])
    prompts = run.result["prompts_per_image_at_inference"]
    assert list(found)[-1] == "image by image"
    for cost in found.values():
        assert cost["logit_vectors"] == 1000 * prompts
        assert cost["texts"] == cost["queries"] * names
        told = 1 if card.get("output") == "label" else names
        assert cost["logits"] == 1000 * prompts * told
    if expected:
        assert [cost["queries"] for cost in found.values()] == [sets for sets, _ in expected]


def test_a_run_without_an_adapter_has_no_price(tmp_path):
    assert prices(read_run(a_run(tmp_path / "run", finished=False))) == {}


SOURCES = ["/a b/zoo's $HOME", "coop:dtd@/data", "hf:a/b", "digits"]
SETTINGS = [
    {"method": "auto"},
    {"method": "zero_shot", "shots": "all"},
    {"method": "craft", "shots": "up to 16", "sigma": 0.25, "bound": None},
    {"method": "craft", "preset": "dtd", "shots": 4, "seed": 3},
    {"method": "craft", "preset": "dtd", "paper_exact": True, "shots": 16, "seed": 2},
    {"method": "bbt", "context": "it's a $(photo) of `x`", "suffix": '"."', "flip": False},
    {"method": "bank", "bank_prompts": 4, "crop_scale": (0.5, 0.9)},
    {"method": "bbt", "suffix": " "},
    {"method": "text_search", "budget": 77, "context": "true", "suffix": "none"},
    {"validation": "split"},
    {"validation": 0.2, "shots": "all"},
    {"method": "head_only", "validation": "/else where/it's $HOME"},
    {"method": "craft_plus", "validation": Path("split").absolute()},
]


@pytest.mark.parametrize(("settings", "data"), [*zip(SETTINGS, cycle(SOURCES))])
def test_the_command_asks_for_the_same_settings(tuner, monkeypatch, tmp_path, settings, data):
    asked = {}
    monkeypatch.setattr(
        commands, "fit", lambda where, config, settings, **o: asked.update(o, config=config)
    )
    config = build(settings)
    setup = {"server": "http://127.0.0.1:1", "model": "m::1", "data": data}
    path = tmp_path / "run"
    path.mkdir()
    written = {"run_id": "r", "config": config.model_dump(mode="json"), "setup": setup}
    write(path / "config.json", written)
    line = command(read_run(path))
    code, _, error = tuner(*shlex.split(line)[1:])
    assert code == 0, error
    assert asked["config"] == config
    assert asked["data"] == data
    assert "127.0.0.1" not in line


def test_a_run_of_another_program_has_no_command(tmp_path):
    path = a_run(tmp_path / "run")
    identity = json.loads((path / "config.json").read_text())
    write(path / "config.json", identity | {"setup": {}})
    assert command(read_run(path)) is None


@pytest.mark.parametrize("finished", [True, False])
@pytest.mark.parametrize(
    ("plan", "told", "other"),
    [
        ({}, "held-out shots", "validation"),
        ({"validation": 0}, "held-out shots", "validation"),
        ({"validation": 8}, "validation images", "held-out"),
    ],
)
def test_what_choices_were_made_on_is_called_what_it_is(tmp_path, plan, told, other, finished):
    path = a_run(tmp_path / "run", tested=False, finished=finished)
    write(path / "plan.json", json.loads((path / "plan.json").read_text()) | plan)
    page = compare([path], tmp_path / "page.html").read_text(encoding="utf-8")
    run = read_run(path)
    pages = [page, as_markdown(run, "zoo"), verdict_of(path)]
    for text in pages:
        assert f"On {told} " in text
        assert other not in re.sub("(?s)<table.*?</table>|validation_folds", "", text)


# --- the same words everywhere -------------------------------------------------------------------


def test_reports_say_the_same_as_the_page_and_hostile_names_do_nothing(tmp_path):
    path = a_run(tmp_path / "run", data="/x/[a](http://evil.test)|<b>", names=("<i>", "|"))
    run = read_run(path)
    said = verdict(run).sentence
    content = json.loads(as_json(run))
    assert content["verdict"]["sentence"] == said
    assert {"kind", "images", "difference", "zero_shot", "accuracy"} <= {*content["verdict"]}
    assert {"accuracy", "calibration", "price_per_1000", "command", "files"} <= {*content}
    text = as_markdown(run, f"craft on {run.data}")
    assert text.splitlines()[2].startswith("**")
    assert said.split(":")[0] in text
    assert "[a](http" not in text.split("## Command")[0]


def test_the_card_and_the_terminal_end_with_the_verdict(tuner, tmp_path):
    from tests.support.tuner_commands import build_zoo

    build_zoo(tmp_path / "zoo")
    fit = ("--method", "zero_shot", "--shots", "1")
    code, _, error = tuner("fit", "--data", "zoo", "--run", "run", *fit)
    assert code == 0, error
    said = verdict_of(tmp_path / "run")
    assert " ".join(error.split()).endswith(said)
    assert tuner("export", "run", "--out", "out")[0] == 0
    card = (tmp_path / "out" / "README.md").read_text()
    assert card.splitlines()[2] == f"**{said}**"
