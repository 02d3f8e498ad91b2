"""Views are torchvision's RandomResizedCrop and flip in distribution, and repeat to the byte."""

import io
import json
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image
from scipy import stats

from craft_tuner.data.pictures import BytesPicture, encode_png
from craft_tuner.data.views import Augmentation, View, augment, crop_box, views_of
from craft_tuner.errors import DataError

SCALE = (0.5, 1.0)
DRAWS = 3000
SIZES = ((40, 30), (32, 32), (30, 55))
EXTREME = ((100, 10), (10, 100), (41, 7))

TORCHVISION = f"""
import json, torch
from torchvision.transforms import RandomResizedCrop
torch.manual_seed(1)
boxes = {{}}
for width, height in {[*SIZES, *EXTREME]}:
    image = torch.zeros(3, height, width)
    draws = {DRAWS} if (width, height) in {SIZES} else 5
    boxes[f"{{width}}x{{height}}"] = [
        RandomResizedCrop.get_params(image, {SCALE}, (3 / 4, 4 / 3)) for _ in range(draws)
    ]
print(json.dumps(boxes))
"""


@pytest.fixture(scope="module")
def torchvisions():
    """(left, top, width, height) as torchvision draws them, in a process of its own."""
    code = [sys.executable, "-c", TORCHVISION]
    done = subprocess.run(code, capture_output=True, text=True, check=True)
    boxes = json.loads(done.stdout)
    return {
        size: [(left, top, width, height) for top, left, height, width in drawn]
        for size, drawn in boxes.items()
    }


def ours(width, height, draws=DRAWS):
    rng = np.random.default_rng(7)
    return [crop_box(width, height, scale=SCALE, rng=rng) for _ in range(draws)]


@pytest.mark.slow
@pytest.mark.parametrize(("width", "height"), SIZES)
def test_crops_are_distributed_as_torchvisions(torchvisions, width, height):
    theirs = np.array(torchvisions[f"{width}x{height}"])
    mine = np.array(ours(width, height))
    for axis in range(4):
        assert stats.ks_2samp(mine[:, axis], theirs[:, axis]).pvalue > 1e-3
    area = mine[:, 2] * mine[:, 3]
    assert stats.ks_2samp(area, theirs[:, 2] * theirs[:, 3]).pvalue > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize(("width", "height"), EXTREME)
def test_images_too_long_for_a_crop_get_torchvisions_central_one(torchvisions, width, height):
    (box,) = {tuple(box) for box in torchvisions[f"{width}x{height}"]}
    assert set(ours(width, height, draws=5)) == {box}


def test_crops_stay_inside_and_keep_at_least_half_the_area():
    for left, top, width, height in ours(40, 30, draws=500):
        assert 0 <= left <= 40 - width
        assert 0 <= top <= 30 - height
        assert width * height > 0.5 * 40 * 30 * 0.93  # sides are rounded to pixels


def test_a_square_too_small_for_any_crop_is_kept_whole():
    rng = np.random.default_rng(0)
    assert crop_box(10, 10, scale=(4.0, 5.0), rng=rng) == (0, 0, 10, 10)


def gradient(width=40, height=30):
    """Brightness rises to the right in red, downwards in green."""
    x, y = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    return Image.fromarray(np.stack([x, y, 0 * x], axis=2).astype(np.uint8))


def red_slopes(flip, count=400):
    augmentation = Augmentation(size=8, seed=1, flip=flip)
    rng = np.random.default_rng(2)
    views = [np.asarray(augment(gradient(), augmentation, rng=rng)) for _ in range(count)]
    return np.array([int(view[4, 7, 0]) - int(view[4, 0, 0]) for view in views])


def test_half_of_the_views_are_mirrored_left_to_right():
    slopes = red_slopes(flip=True)
    assert abs((slopes < 0).mean() - 0.5) < 0.1
    assert (red_slopes(flip=False) > 0).all()


def test_the_flip_switch_changes_no_crop():
    assert sorted(abs(red_slopes(flip=True))) == sorted(abs(red_slopes(flip=False)))


def test_a_whole_picture_is_resized_bicubically():
    augmentation = Augmentation(size=8, seed=1, flip=False, scale=(1.0, 1.0))
    square = gradient(32, 32)
    rng = np.random.default_rng(0)
    box = crop_box(32, 32, scale=(1.0, 1.0), rng=np.random.default_rng(0))
    view = augment(square, augmentation, rng=rng)
    left, top, width, height = box
    expected = square.crop((left, top, left + width, top + height)).resize(
        (8, 8), Image.Resampling.BICUBIC
    )
    np.testing.assert_array_equal(np.asarray(view), np.asarray(expected))


def test_a_view_depends_on_seed_view_and_index_alone():
    picture = BytesPicture(encode_png(gradient()), "a.png")

    def view(seed=1, number=0, index=0):
        return View(picture, Augmentation(size=16, seed=seed), number, index).read()

    assert view() == view()
    assert len({view(), view(seed=2), view(number=1), view(index=1)}) == 4


def test_views_are_pngs_of_the_models_size_in_the_order_of_the_pictures():
    pictures = [BytesPicture(encode_png(gradient()), name) for name in ("a.png", "b.png")]
    views = views_of(pictures, Augmentation(size=16, seed=1), view=3)
    assert [view.name for view in views] == ["a.png#view3", "b.png#view3"]
    with Image.open(io.BytesIO(views[1].read())) as image:
        assert (image.format, image.size, image.mode) == ("PNG", (16, 16), "RGB")


def test_a_view_of_a_broken_picture_names_the_picture():
    broken = View(BytesPicture(b"no", "broken.png"), Augmentation(size=8, seed=1), 0, 0)
    with pytest.raises(DataError, match=r"broken\.png"):
        broken.read()
