"""`hf:NAME` reads what the package `datasets` loads; a fake of the package stands in for it."""

import sys
from dataclasses import dataclass, field
from types import SimpleNamespace

import pytest
from PIL import Image as Pillow

from craft_tuner.data.dataset import labels_of
from craft_tuner.data.pictures import decode, encode_png
from craft_tuner.data.sources import read_dataset
from craft_tuner.data.validation import own_split
from craft_tuner.errors import DataError


class Image:
    """The type of a column of images."""

    def __init__(self, *, decode=True):
        self.decode = decode


@dataclass
class ClassLabel:
    """The type of a column of labels."""

    names: list


@dataclass
class Table:
    """One split: columns by name; images are cells of bytes and path once they are not decoded."""

    features: dict
    columns: dict
    cast: set = field(default_factory=set)

    def cast_column(self, column, feature):
        assert not feature.decode
        return Table(self.features, self.columns, {*self.cast, column})

    def __getitem__(self, key):
        if isinstance(key, str):
            return self.columns[key]
        assert self.cast == {"picture"}
        return {name: values[key] for name, values in self.columns.items()}


def a_table(labels, cells=None):
    png = encode_png(Pillow.new("RGB", (3, 2)))
    cells = cells or [{"bytes": png, "path": None} for _ in labels]
    features = {"picture": Image(), "kind": ClassLabel(["sea_lion", "ox", "ox"])}
    return Table(features, {"picture": cells, "kind": labels})


@pytest.fixture
def hub(monkeypatch):
    """Datasets by name; `load_dataset` finds them."""
    known = {}
    package = SimpleNamespace(Image=Image, load_dataset=lambda name: known[name])
    monkeypatch.setitem(sys.modules, "datasets", package)
    return known


@pytest.mark.parametrize("test", ["test", "validation"])
def test_columns_are_found_by_type_and_names_by_label(hub, test):
    hub["me/zoo"] = {"train": a_table([1, 0, 2, -1]), test: a_table([0, 1, 2])}
    dataset = read_dataset("hf:me/zoo")
    assert dataset.class_names == ("sea lion", "ox", "ox (2)")
    assert labels_of(dataset.train).tolist() == [1, 0, 2]
    assert labels_of(dataset.test).tolist() == [0, 1, 2]
    assert dataset.train[2].picture.name == "train/0000002"
    assert decode(dataset.train[2].picture).size == (3, 2)


def test_without_a_test_split_there_is_no_final_test(hub):
    hub["zoo"] = {"train": a_table([0, 1, 2])}
    assert read_dataset("hf:zoo").test == ()


def test_a_picture_may_lie_in_a_file_or_nowhere(hub, tmp_path):
    (tmp_path / "a.png").write_bytes(encode_png(Pillow.new("RGB", (5, 5))))
    cells = [
        {"bytes": None, "path": str(tmp_path / "a.png")},
        {"bytes": None, "path": None},
        {"bytes": None, "path": str(tmp_path / "gone.png")},
    ]
    hub["zoo"] = {"train": a_table([0, 1, 2], cells)}
    dataset = read_dataset("hf:zoo", outside=[tmp_path])
    here, nowhere, gone = (item.picture for item in dataset.train)
    assert decode(here).size == (5, 5)
    with pytest.raises(DataError, match="the image train/0000001 has neither bytes nor a path"):
        nowhere.read()
    with pytest.raises(DataError, match=r"cannot read the image .*gone\.png: No such file"):
        gone.read()


def test_what_cannot_be_loaded_or_has_another_form_is_reported(hub):
    with pytest.raises(DataError, match="cannot load 'none': 'none'"):
        read_dataset("hf:none")
    hub["zoo"] = {"all": a_table([0])}
    with pytest.raises(DataError, match="has the splits all; needed: train"):
        read_dataset("hf:zoo")
    hub["zoo"] = {"train": a_table([0])}
    hub["zoo"]["train"].features["thumbnail"] = Image()
    with pytest.raises(DataError, match="2 columns of type Image among picture, kind, thumbnail"):
        read_dataset("hf:zoo")


def test_without_the_package_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(DataError, match=r"pip install 'craft-blackbox\[hf\]'"):
        read_dataset("hf:zoo")


def test_a_validation_split_beside_a_test_split_is_kept_apart(hub):
    hub["zoo"] = {
        "train": a_table([0, 1, 2]),
        "validation": a_table([2, 1, 0, -1]),
        "test": a_table([0, 1, 2]),
    }
    dataset = read_dataset("hf:zoo")
    assert labels_of(own_split(dataset)).tolist() == [2, 1, 0]
    assert len(dataset.test) == 3
    assert dataset.remarks == (
        "for validation, used with --validation split (1): 'validation, 3 images'",
    )


def test_a_validation_split_that_is_tested_on_is_not_chosen_on(hub):
    hub["zoo"] = {"train": a_table([0, 1, 2]), "validation": a_table([0, 1, 2])}
    with pytest.raises(DataError, match="has no images for validation"):
        own_split(read_dataset("hf:zoo"))
