"""200 odd folders and tables: what `data check` calls usable, `fit` uses to its end, as planned."""

import json
import random

import pytest
from PIL import Image

from craft_shared.messages import Counters
from craft_tuner.data.pictures import encode_png
from tests.support.tuner_commands import typing_to
from tests.support.tuner_server import FakeServer

pytestmark = [pytest.mark.slow, pytest.mark.long]

BATCHES, EACH = 10, 20
REFUSED = {1, 2, 3, 4}
NAMES = ["cat", "Dog", "sea_lion", "a&amp;b", "été", "鹤", "n02084071", "7", "x" * 90, "very " * 40]
SPLITS = [["train"], ["train", "test"], ["train", "val", "test"], ["Training", "Testing"], [""]]
ENDINGS = [".png", ".PNG", ".jpg", ".jfif", "", ".txt", ".heic"]
ODD = [b"", b"not a picture", b"\x89PNG\r\n\x1a\n", b"version https://git-lfs.github.com/spec/v1\n"]
METHODS = ["auto", "zero_shot", "craft_plus"]


def a_picture(rng):
    """A small one, now and then damaged or of one colour."""
    size = rng.randrange(1, 9), rng.randrange(1, 9)
    image = Image.effect_noise(size, 80) if rng.random() < 0.9 else Image.new("L", size, 7)
    data = encode_png(image.convert(rng.choice(["RGB", "L", "RGBA", "LA", "P", "I;16"])))
    return data if rng.random() < 0.97 else data[: rng.randrange(len(data))]


def scatter(rng, root):
    """Folders of classes, with what people leave beside pictures; often a table of them."""
    pool = NAMES[:6] if rng.random() < 0.7 else NAMES
    names = rng.sample(pool, rng.randrange(1, 5))
    rows = []
    for split in rng.choice(SPLITS):
        for name in names:
            folder = root / split / name[:200].strip()
            folder.mkdir(parents=True, exist_ok=True)
            for number in range(rng.choice([0, 1, 2, 5, 5, 5])):
                path = (
                    folder / f"{number}{rng.choice(ENDINGS[:2] if rng.random() < 0.8 else ENDINGS)}"
                )
                path.write_bytes(a_picture(rng))
                rows.append((path.relative_to(root).as_posix(), name, split or "train"))
            if rng.random() < 0.2:
                (folder / rng.choice([".hidden.png", "notes.txt", "bad.png"])).write_bytes(
                    rng.choice(ODD)
                )
            if rng.random() < 0.1:
                (folder / "gone.png").symlink_to("nowhere.png")
    return rows


def tabled(rng, root, rows):
    """A table of the rows in one of the ways that programs write them."""
    if rng.random() < 0.3:
        lines = [
            json.dumps({"file_name": path, "label": label, "split": split})
            for path, label, split in rows
        ]
        text, name, coding = "\n".join(lines), "rows.jsonl", "utf-8"
    else:
        mark, coding = rng.choice(",;\t|"), rng.choice(["utf-8", "utf-8-sig", "utf-16", "utf-8"])
        head = rng.choice(
            [("path", "label", "split"), ("file", "class", "set"), ("image", "target", "fold")]
        )
        text, name = "\n".join(mark.join(row) for row in [head, *rows]), "rows.csv"
    (root / name).write_text(text, encoding=coding)
    return root / name


@pytest.mark.parametrize("batch", range(BATCHES))
def test_check_and_fit_say_and_do_the_same(batch, tmp_path, monkeypatch):
    rng = random.Random(batch)
    for number in range(EACH):
        root = tmp_path / f"data-{number}"
        root.mkdir()
        rows = scatter(rng, root)
        source = tabled(rng, root, rows) if rng.random() < 0.4 else root
        shots = rng.choice(["1", "2", "5", "all", "up to 5"])
        options = ["--method", rng.choice(METHODS), "--shots", shots]
        server = FakeServer()
        with typing_to(server) as tuner:
            checked, said, refusal = tuner("data", "check", source, *options)
            assert "Traceback" not in refusal
            if checked:
                assert checked in REFUSED, (source, said, refusal)
            assert not server.images, "a check sends nothing"
            run = tmp_path / f"run-{number}"
            code, _, error = tuner("fit", "--data", source, "--run", run, *options)
            if code:
                assert checked, (options, rows, said, error)
                assert not server.images, (error, "refused before anything was sent")
                continue
            phases = json.loads((run / "plan.json").read_text())["phases"]
            for counter in Counters.model_fields:
                spent = sum(getattr(cost, counter) for cost, _ in server.bought.values())
                assert spent == sum(phase["cost"][counter] for phase in phases), (counter, options)
