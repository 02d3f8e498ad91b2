"""Digits in files of other depths and with alpha are learned as well as those of 8 bits."""

import io
import json
import subprocess

import numpy as np
import pytest
from PIL import Image

from craft_tuner.data.digits import load_digits
from tests.support.picture_files import raw_png
from tests.support.serving import SCRIPTS, as_bytes, running

pytestmark = pytest.mark.long

POINTS = 0.5


def plain(shades):
    return as_bytes(Image.fromarray(shades), "PNG")


def sixteen(shades):
    return as_bytes(Image.fromarray(shades.astype(np.uint16) * 257), "PNG")


def twelve_in_sixteen(shades):
    return as_bytes(Image.fromarray(shades.astype(np.uint16) * 16), "PNG")


def opaque(shades):
    return as_bytes(Image.fromarray(np.dstack([shades, np.full_like(shades, 255)]), "LA"), "PNG")


def ink(shades):
    """White ink on a clear ground."""
    return as_bytes(Image.fromarray(np.dstack([np.full_like(shades, 255), shades]), "LA"), "PNG")


def sixteen_opaque(shades):
    deep = shades.astype(np.uint16) * 257
    return grey_alpha_png(deep, np.full_like(deep, 65535))


def sixteen_ink(shades):
    deep = shades.astype(np.uint16) * 257
    return grey_alpha_png(np.full_like(deep, 65535), deep)


KINDS = [sixteen, twelve_in_sixteen, opaque, ink, sixteen_opaque, sixteen_ink]


def grey_alpha_png(grey, alpha):
    """Pillow writes none of 16 bits."""
    packed = np.dstack([grey, alpha]).astype(">u2")
    rows = [row.tobytes() for row in packed]
    return raw_png(rows, depth=16, colour=4, size=(grey.shape[1], grey.shape[0]))


def write(folder, encode):
    """The demo's digits and split as a folder of files."""
    digits = load_digits()
    for split, items in (("train", digits.train), ("test", digits.test)):
        for number, item in enumerate(items):
            place = folder / split / digits.class_names[item.label]
            place.mkdir(parents=True, exist_ok=True)
            shades = np.asarray(Image.open(io.BytesIO(item.picture.read())).convert("L"))
            (place / f"{number:04d}.png").write_bytes(encode(shades))
    return folder


def accuracies(server, key, data, run):
    """Per cent, zero-shot and adapted."""
    command = ("fit", "--data", data, "--run", run, "--shots", 16, "--seed", 1, "--set=method=auto")
    environment = server.env | {"CRAFT_SERVER_URL": server.url, "CRAFT_API_KEY": key}
    program = [SCRIPTS / "craft-tuner", *map(str, command)]
    done = subprocess.run(program, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads((run / "result.json").read_text())["evaluation"]
    return {way: 100 * found[way]["accuracy"] for way in ("zero_shot", "adapted")}


def test_files_of_any_depth_reach_the_accuracy_of_8_bits(tmp_path):
    with running(tmp_path, model="embedded") as server:
        key = server.mint(1000)
        found = {}
        for kind in [plain, *KINDS]:
            name = kind.__name__
            data = write(tmp_path / name, kind)
            found[name] = accuracies(server, key, data, tmp_path / f"run-{name}")
    print(json.dumps(found, indent=1))
    wanted = found["plain"]
    assert wanted["adapted"] > wanted["zero_shot"] + 10
    for kind, reached in found.items():
        for way, accuracy in reached.items():
            assert abs(accuracy - wanted[way]) <= POINTS, (kind, way, accuracy, wanted[way])
