"""predictions.csv and the few thumbnails: what a run keeps of single test images."""

import csv
import io

import numpy as np
import pytest
from PIL import Image

from craft_tuner.data.pictures import BytesPicture, encode_png
from craft_tuner.runs import predictions
from craft_tuner.runs import thumbnails as examples
from craft_tuner.runs.predictions import Answers, Predicted
from craft_tuner.runs.thumbnails import EDGE, SHOWN, changed, thumbnail

NAMES = ("cat", "sea, lion", 'the "ox"\nof 猫')


def answers_of(**logits):
    answers = Answers()
    for way, rows in logits.items():
        answers(way, np.array(rows, np.float32))
    return answers


def a_line(name="a", label="cat", before="ox", after="cat", chance=0.5):
    return Predicted(name, label, before, before, after, chance)


def test_lines_are_written_and_read_back(tmp_path):
    answers = answers_of(
        zero_shot=[[3, 1, 0], [0, 1, 3]], adapted=[[0, 9, 0], [0, -np.inf, np.log(3)]]
    )
    lines = predictions.table(answers, ["1.png", "é,2.png"], np.array([1, 2]), NAMES)
    assert lines[0].zero_shot == "cat"
    assert lines[0].prompt_only is None
    assert lines[0].adapted == lines[0].label == "sea, lion"
    assert lines[1].probability == pytest.approx(0.75)
    predictions.write(tmp_path, lines)
    back = predictions.read(tmp_path)
    assert [line.probability for line in back] == pytest.approx([1, 0.75], abs=1e-3)
    assert [(x.name, x.label, x.zero_shot, x.prompt_only, x.adapted) for x in back] == [
        (x.name, x.label, x.zero_shot, x.prompt_only, x.adapted) for x in lines
    ]
    text = (tmp_path / "predictions.csv").read_text(encoding="utf-8")
    assert next(csv.reader(io.StringIO(text))) == [
        *("name", "label", "zero_shot", "prompt_only", "adapted", "probability")
    ]


def test_probabilities_do_not_depend_on_how_many_rows_there_are():
    logits = np.random.RandomState(3).randn(9000, 5).astype(np.float32) * 4
    answers = answers_of(adapted=logits)
    powers = np.exp(logits.astype(np.float64))
    expected = powers.max(axis=1) / powers.sum(axis=1)
    assert answers.probability == pytest.approx(expected, rel=1e-5)


def test_a_test_without_an_answer_has_empty_columns(tmp_path):
    predictions.write(tmp_path, predictions.table(Answers(), ["a"], np.array([0]), NAMES))
    assert predictions.read(tmp_path) == [Predicted("a", "cat", None, None, None, None)]
    assert predictions.read(tmp_path / "nowhere") == []


def test_gained_and_lost_are_distinguished():
    lines = [
        a_line("gained"),
        a_line("lost", before="cat", after="ox"),
        a_line("kept", before="cat"),
        a_line("still wrong", after="sea, lion"),
    ]
    found = changed(lines)
    assert [line.name for line in found.gained] == ["gained"]
    assert [line.name for line in found.lost] == ["lost"]
    assert [line.name for line in found.wrong] == ["still wrong"]


def test_of_a_single_way_what_is_wrong_remains():
    lines = [
        Predicted("a", "cat", "cat", None, None, 1.0),
        Predicted("b", "ox", "cat", None, None, 1.0),
    ]
    found = changed(lines)
    assert ([line.name for line in found.wrong], found.gained, found.lost) == (["b"], (), ())
    assert changed([]).shown == ()
    assert changed([Predicted("a", "cat", None, None, None, None)]).shown == ()


def test_examples_take_classes_in_turn_the_surest_first():
    lines = [a_line(f"c{n}", "cat", chance=0.9 - n / 100) for n in range(20)]
    lines += [a_line("o1", "ox", chance=0.1), a_line("o2", "ox", chance=0.2)]
    chosen = [line.name for line in examples.examples(lines)]
    assert chosen[:5] == ["c0", "o2", "c1", "o1", "c2"]
    assert len(chosen) == SHOWN


def test_thumbnails_are_small_whatever_the_picture(tmp_path):
    noise = np.random.RandomState(1).randint(0, 256, (700, 1000, 3)).astype(np.uint8)
    uri = thumbnail(BytesPicture(encode_png(Image.fromarray(noise)), "noise"))
    assert uri.startswith("data:image/jpeg;base64,")
    assert len(uri) < 20_000
    flat = thumbnail(BytesPicture(encode_png(Image.new("RGB", (8, 4), "red")), "flat"))
    assert flat.startswith("data:image/png;base64,")
    assert EDGE == 96


def test_a_picture_that_cannot_be_read_is_left_out_and_fails_nothing(tmp_path):
    good = BytesPicture(encode_png(Image.new("RGB", (8, 8))), "good")
    pictures = {"good": good, "bad": BytesPicture(b"no image", "bad")}
    examples.save(tmp_path, pictures, [a_line("good"), a_line("bad"), a_line("missing")])
    assert set(examples.load(tmp_path)) == {"good"}
    assert examples.load(tmp_path / "nowhere") == {}
