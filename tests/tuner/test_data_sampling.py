"""Shots are the same on every machine; the digits' split leaves the test images alone."""

import hashlib
import io
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from sklearn import datasets

from craft_tuner.data.dataset import Dataset, Item, labels_of
from craft_tuner.data.digits import load_digits, render
from craft_tuner.data.pictures import BytesPicture
from craft_tuner.data.sampling import sample_shots
from craft_tuner.errors import DataError


def a_dataset(sizes, *, order=None):
    items = [
        Item(BytesPicture(b"", f"{label}/{index:03d}.png"), label)
        for label, size in enumerate(sizes)
        for index in range(size)
    ]
    if order is not None:
        order.shuffle(items)
    return Dataset(tuple(f"class {label}" for label in range(len(sizes))), tuple(items))


@pytest.fixture(scope="module")
def digits():
    return load_digits()


def test_shots_are_those_of_coops_scheme():
    dataset = a_dataset([9, 5])
    rng = random.Random(3)
    expected = [
        name
        for label, size in ((0, 9), (1, 5))
        for name in rng.sample([f"{label}/{index:03d}.png" for index in range(size)], 4)
    ]
    chosen = sample_shots(dataset, shots=4, seed=3)
    assert [item.picture.name for item in chosen] == expected


@given(
    sizes=st.lists(st.integers(3, 12), min_size=2, max_size=4),
    shots=st.integers(1, 3),
    seed=st.integers(1, 2**32 - 1),
    order=st.randoms(use_true_random=False),
)
def test_shots_do_not_depend_on_the_order_of_a_directory(sizes, shots, seed, order):
    tidy, shuffled = a_dataset(sizes), a_dataset(sizes, order=order)
    chosen = sample_shots(tidy, shots=shots, seed=seed)
    assert chosen == sample_shots(shuffled, shots=shots, seed=seed)
    assert labels_of(chosen).tolist() == [k for k in range(len(sizes)) for _ in range(shots)]
    assert len({item.picture.name for item in chosen}) == len(chosen)


def test_another_seed_gives_other_shots():
    dataset = a_dataset([40, 40])
    assert sample_shots(dataset, shots=4, seed=1) != sample_shots(dataset, shots=4, seed=2)


def test_a_class_with_too_few_images_is_named():
    with pytest.raises(DataError, match=r"class 'class 1' has 3 training image\(s\), 4 shots need"):
        sample_shots(a_dataset([9, 3]), shots=4, seed=1)


def test_a_class_without_images_is_named():
    dataset = Dataset(("a", "b"), (Item(BytesPicture(b"", "a"), 0),))
    with pytest.raises(DataError, match=r"class 'b' has 0 .* use --shots 1"):
        sample_shots(dataset, shots=1, seed=1)


# --- digits -------------------------------------------------------------------------------------


def test_the_digits_leave_1437_test_images_beside_36_per_class(digits):
    assert np.bincount(labels_of(digits.train)).tolist() == [36] * 10
    assert len(digits.test) == 1437
    assert np.bincount(labels_of(digits.test)).min() >= 138


def test_no_digit_is_in_both_splits_or_lost(digits):
    train = {item.picture.name for item in digits.train}
    test = {item.picture.name for item in digits.test}
    assert not train & test
    assert len(train | test) == 1797
    contents = {item.picture.read() for item in digits.train}
    assert not contents & {item.picture.read() for item in digits.test}


def test_the_split_is_the_same_every_time(digits):
    again = load_digits()
    assert digits == again
    names = " ".join(item.picture.name for item in digits.train)
    assert hashlib.sha256(names.encode()).hexdigest().startswith("c58b4f886eb0a605")


def test_labels_are_those_of_the_source(digits):
    target = datasets.load_digits().target
    for item in (*digits.train[::37], *digits.test[::101]):
        assert item.label == target[int(item.picture.name[7:11])]


def test_a_digit_is_a_32_pixel_rgb_png_that_keeps_its_grey_levels():
    levels = np.zeros((8, 8))
    levels[:4] = 16.0
    with Image.open(io.BytesIO(render(levels))) as image:
        assert (image.size, image.mode, image.format) == ((32, 32), "RGB", "PNG")
        pixels = np.asarray(image)
    assert pixels[4, 4].tolist() == [255, 255, 255]
    assert pixels[27, 4].tolist() == [0, 0, 0]
