"""Shots are the same on every machine; the digits' split leaves the test images alone."""

import hashlib
import io
import json
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
from craft_tuner.data.sources import read_dataset
from craft_tuner.errors import DataError
from tests.support.coop_layouts import split_rows, write_split


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


def test_a_class_with_too_few_images_is_named_with_what_takes_fewer():
    with pytest.raises(
        DataError, match=r"class 'class 1' has 3 training image\(s\), 4 shots need 4"
    ):
        sample_shots(a_dataset([9, 3]), shots=4, seed=1)
    with pytest.raises(DataError, match=r"use --shots 3, or take .* with fit --shots 'up to 4'$"):
        sample_shots(a_dataset([9, 3]), shots=4, seed=1)


@given(
    sizes=st.lists(st.integers(1, 12), min_size=2, max_size=5),
    shots=st.integers(1, 14),
    seed=st.integers(1, 2**32 - 1),
    sampling=st.sampled_from(["names", "coop", "craft"]),
)
def test_a_class_with_fewer_gives_what_it_has_where_that_is_said(sizes, shots, seed, sampling):
    dataset = a_dataset(sizes)
    chosen = sample_shots(dataset, shots=shots, seed=seed, sampling=sampling, fewer=True)
    counts = np.bincount(labels_of(chosen), minlength=len(sizes))
    assert counts.tolist() == [min(size, shots) for size in sizes]
    assert len({item.picture.name for item in chosen}) == len(chosen)
    if min(sizes) >= shots:
        assert chosen == sample_shots(dataset, shots=shots, seed=seed, sampling=sampling)


def test_a_class_without_images_is_named():
    dataset = Dataset(("a", "b"), (Item(BytesPicture(b"", "a"), 0),))
    with pytest.raises(DataError, match=r"class 'b' has 0 .* use --shots 1"):
        sample_shots(dataset, shots=1, seed=1)


# --- the authors' schemes -----------------------------------------------------------------------

DRAWN_BY_CRAFT = {
    # shots, seed: digests of the names drawn, classes short of images filled up and not
    (1, 1): ("5761bdb8b916", "5761bdb8b916"),
    (1, 2): ("451a10e2571b", "451a10e2571b"),
    (1, 3): ("97a1b8bee6d0", "97a1b8bee6d0"),
    (2, 1): ("a0eb90bcbc6e", "a0eb90bcbc6e"),
    (2, 2): ("7c8fae39a166", "7c8fae39a166"),
    (2, 3): ("70822702b271", "70822702b271"),
    (4, 1): ("71a0dc71c8b8", "71a0dc71c8b8"),
    (4, 2): ("842753cafdcc", "842753cafdcc"),
    (4, 3): ("dde45da2791f", "dde45da2791f"),
    (8, 1): ("2f960ce68d3a", "7221f61ffee3"),
    (8, 2): ("2487960aa15c", "eb3ac6d5e43a"),
    (8, 3): ("ebd31401557d", "8e1aa9315dbf"),
    (16, 1): ("2b5f9559d76d", "e99d2c2d95e8"),
    (16, 2): ("273aa9e0095b", "822594c06c14"),
    (16, 3): ("99172c71a653", "05952789fa07"),
}
"""What `generate_fewshot_dataset` of mrflogs/CraFT @1a4c251 draws from `a_split()` after
`random.seed(seed)`, with `repeat=True` and with `repeat=False` (as CoOp's library has it)."""


def a_split():
    """Classes in the order 2, 0, 1, images in an order that is not that of their names."""
    items = tuple(
        Item(BytesPicture(b"", f"{label}/{(7 * index) % count:03d}.jpg"), label)
        for label, count in ((2, 23), (0, 18), (1, 5))
        for index in range(count)
    )
    return Dataset(("class 0", "class 1", "class 2"), items)


def names_of(items):
    return [item.picture.name for item in items]


def digest(items):
    return hashlib.sha256(" ".join(names_of(items)).encode()).hexdigest()[:12]


@pytest.mark.parametrize(("shots", "seed"), DRAWN_BY_CRAFT)
def test_the_authors_shots_are_drawn_again(shots, seed):
    drawn = {
        sampling: digest(sample_shots(a_split(), shots=shots, seed=seed, sampling=sampling))
        for sampling in ("craft", "coop")
    }
    assert (drawn["craft"], drawn["coop"]) == DRAWN_BY_CRAFT[shots, seed]


def test_a_short_class_is_filled_up_taken_whole_or_refused():
    counts = {
        sampling: np.bincount(
            labels_of(sample_shots(a_split(), shots=8, seed=1, sampling=sampling))
        ).tolist()
        for sampling in ("craft", "coop")
    }
    assert counts == {"craft": [8, 8, 8], "coop": [8, 5, 8]}
    with pytest.raises(DataError, match=r"class 'class 1' has 5 training image\(s\), 8 shots need"):
        sample_shots(a_split(), shots=8, seed=1)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_shots_of_a_split_file_are_those_of_the_calls_that_coop_makes(tmp_path, seed):
    write_split(tmp_path, "dtd", split_rows({"train": 9, "val": 2, "test": 1}))
    rows = json.loads((tmp_path / "dtd" / "split_zhou_DescribableTextures.json").read_text())
    by_label = {}
    for path, label, _ in rows["train"]:
        by_label.setdefault(label, []).append(path)
    state = random.getstate()
    random.seed(seed)
    expected = [path for paths in by_label.values() for path in random.sample(paths, 4)]
    random.setstate(state)
    dataset = read_dataset(f"coop:dtd@{tmp_path}")
    for sampling in ("coop", "craft"):
        chosen = sample_shots(dataset, shots=4, seed=seed, sampling=sampling)
        assert names_of(chosen) == expected
    assert names_of(sample_shots(dataset, shots=4, seed=seed)) != expected
    assert random.getstate() == state


@pytest.mark.parametrize("sampling", ["names", "coop", "craft"])
def test_a_dataset_without_training_images_gives_no_shots(sampling):
    dataset = Dataset(("a", "b"), (), (Item(BytesPicture(b"", "a"), 0),))
    with pytest.raises(DataError, match="test images alone; use it with `craft-tuner evaluate`"):
        sample_shots(dataset, shots=1, seed=1, sampling=sampling)


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
