"""Labels are an adapter's, whatever the dataset's order; a closed dataset has its own answers."""

from types import SimpleNamespace

import numpy as np
import pytest

from craft_tuner.data.dataset import Dataset, Item
from craft_tuner.data.pictures import BytesPicture
from craft_tuner.errors import DataError
from craft_tuner.inference.evaluate import labelled_for, restricted, score

ADAPTER = SimpleNamespace(card=SimpleNamespace(class_names=("ant", "bee", "cat", "dog")))
LOGITS = np.array([[9, 1, 2, 0], [9, 3, 2, 0]], np.float32)


def a_dataset(*names, closed):
    items = tuple(Item(BytesPicture(b"", name), label) for label, name in enumerate(names))
    return Dataset(names, (), items, closed=closed)


def test_a_closed_dataset_is_scored_among_its_own_classes():
    asked = labelled_for(ADAPTER, a_dataset("cat", "bee", closed=True))
    assert asked.labels.tolist() == [2, 1]
    found = score(restricted(LOGITS, asked.among), asked.labels, classes=4)
    assert found.accuracy == 1.0


def test_an_open_dataset_is_scored_among_all():
    asked = labelled_for(ADAPTER, a_dataset("cat", "bee", closed=False))
    assert asked.among is None
    found = score(restricted(LOGITS, asked.among), asked.labels, classes=4)
    assert found.accuracy == 0.0
    assert [row[0] for row in found.confusion] == [0, 1, 1, 0]


def test_a_class_that_the_adapter_does_not_know_is_refused():
    with pytest.raises(DataError, match="the dataset has the class 'yak', the adapter knows: ant"):
        labelled_for(ADAPTER, a_dataset("cat", "yak", closed=True))
