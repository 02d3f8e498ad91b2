"""What people's folders are like: each trouble is named and counted, and nothing is charged.

Damage, doubles, classes that a split lacks, names beyond ASCII, and a single image, as `data
check`, `fit` and `evaluate` tell them; what `predict` tells is in test_cli_predict.py.
"""

import json
import shutil

import pytest

from craft_tuner.commands import fit as commands
from tests.support.tuner_commands import build_zoo, typing_to
from tests.support.tuner_server import FakeServer

BAD = b"not an image"


@pytest.fixture
def server():
    server = FakeServer()
    server.bad_image = BAD
    return server


@pytest.fixture
def tuner(server, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(commands, "write_report", lambda run: run.path / "report.html")
    with typing_to(server) as run:
        yield run


@pytest.fixture
def zoo(tmp_path):
    return build_zoo(tmp_path / "zoo")


def fit(tuner, shots, *more):
    small = ("--population", "4", "--views", "1", "--intrinsic-dim", "8", "--sigma", "0.5")
    return tuner("fit", "--data", "zoo", "--run", "run", "--shots", shots, *small, *more)


def damage(zoo):
    for name in ("train/ox/1.png", "train/cat/4.png", "test/ox/0.png"):
        (zoo / name).write_bytes(BAD)


def double_a_test_image(zoo):
    for split, target in (("train/cat/0", "test/cat/1"), ("train/ox/2", "test/sea_lion/0")):
        shutil.copy(zoo / f"{split}.png", zoo / f"{target}.png")


def double_a_class(zoo):
    for number in range(2):
        shutil.copy(zoo / f"train/cat/{number}.png", zoo / f"train/ox/{number}.png")


def lose_test_classes(zoo):
    for name in ("ox", "sea_lion"):
        shutil.rmtree(zoo / "test" / name)


def lose_train_classes(zoo):
    shutil.rmtree(zoo / "train" / "ox")


def leave_one_image(zoo):
    for name in ("train/ox", "train/sea_lion", "test"):
        shutil.rmtree(zoo / name)
    for number in range(1, 5):
        (zoo / f"train/cat/{number}.png").unlink()


TROUBLES = {
    damage: (
        "damaged or not an image (3): train/cat/4.png, train/ox/1.png, test/ox/0.png",
        ("cannot decode the image train/", "`craft-tuner data check` names and counts all"),
    ),
    double_a_test_image: (
        (
            "the same image in train and test (2): test/cat/1.png = train/cat/0.png, "
            "test/sea_lion/0.png = train/ox/2.png"
        ),
        (
            "the test image test/cat/1.png is the training image train/cat/0.png; remove one",
            "(and 1 more like it)",
        ),
    ),
    double_a_class: (
        (
            "the same image under two classes (2): train/ox/0.png = train/cat/0.png, "
            "train/ox/1.png = train/cat/1.png"
        ),
        (
            ".png are the same image under two classes; keep one",
            "(and 1 more like it)",
        ),
    ),
    lose_test_classes: (
        "class without test images (2): ox, sea_lion",
        ("classes 'ox', 'sea_lion' have no test image",),
    ),
    lose_train_classes: (
        "class without training images (1): ox",
        ("class 'ox' has test images and no training image",),
    ),
    leave_one_image: (
        "class names (1): the dataset has 1 class(es) ['cat']; needed: 2 or more",
        ("the dataset has 1 class(es) ['cat']; needed: 2 or more",),
    ),
}


@pytest.mark.parametrize("trouble", TROUBLES, ids=lambda trouble: trouble.__name__)
def test_it_is_named_and_counted_and_nothing_is_charged(tuner, server, zoo, trouble):
    trouble(zoo)
    checked, refused = TROUBLES[trouble]
    code, out, _ = tuner("data", "check", "zoo")
    assert (code, f"problem: {checked}\n" in out) == (1, True), out
    code, out, error = fit(tuner, 1 if trouble is leave_one_image else 5)
    assert (code, out) == (2, "")
    for words in refused:
        assert words in error
    assert "Traceback" not in error
    assert server.spent.queries == 0


def test_names_beyond_ascii_go_all_the_way(tuner, zoo, tmp_path):
    for split in ("train", "test"):
        (zoo / split / "ox").rename(zoo / split / "Löwe_ライオン")
        (zoo / split / "Löwe_ライオン" / "0.png").rename(
            zoo / split / "Löwe_ライオン" / "größe ñ.png"
        )
    code, out, _ = tuner("data", "check", "zoo", "--shots", "1")
    assert code == 0
    assert "remark: name beyond ASCII (8): Löwe ライオン, " in out
    code, _, error = fit(tuner, 2, "--method", "bbt", "--budget", "10")
    assert code == 0, error
    assert tuner("evaluate", "run", "--data", "zoo")[0] == 0
    code, out, _ = tuner("predict", "run", "zoo/test", "--top", "3")
    rows = [json.loads(line) for line in out.splitlines()]
    assert code == 0
    assert "zoo/test/Löwe_ライオン/größe ñ.png" in [row["name"] for row in rows]
    assert all("Löwe ライオン" in [each["label"] for each in row["top"]] for row in rows)
    assert tuner("export", "run", "--out", "out")[0] == 0
    assert "Löwe ライオン, cat, sea lion" in (tmp_path / "out" / "README.md").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("method", ["craft", "bbt", "zero_shot"])
def test_one_image_of_each_class_is_enough(tuner, zoo, method):
    for split in ("train", "test"):
        for file in (zoo / split).glob("*/[1-9].png"):
            file.unlink()
    code, out, _ = tuner("data", "check", "zoo", "--shots", "1")
    assert code == 0
    assert "remark: class with one training image (3): cat, ox, sea_lion" in out
    code, _, error = fit(tuner, 1, "--method", method, "--budget", "12")
    assert code == 0, error
    code, out, _ = tuner("evaluate", "run", "--data", "zoo")
    assert (code, out.splitlines()[0].split("\t")[2]) == (0, "3")
