"""The paper's 15 datasets are read where CoOp's users have them, or what is missing is named."""

import pickle

import numpy as np
import pytest

from craft_tuner.config.presets import preset_names
from craft_tuner.data.benchmarks import BENCHMARKS
from craft_tuner.data.dataset import labels_of
from craft_tuner.data.layouts import list_benchmark
from craft_tuner.data.sources import absolute, benchmark_of, read_dataset, title
from craft_tuner.errors import DataError
from tests.support.coop_layouts import IMAGENET_NAMES, WNIDS, build, paint, split_rows, write_split
from tests.support.paths import ROOT

SHIFTED = ("imagenetv2", "imagenet_sketch", "imagenet_a", "imagenet_r")
TRAINED = tuple(name for name in BENCHMARKS if name not in SHIFTED)
SPLIT = tuple(name for name, each in BENCHMARKS.items() if each.form == "split")


def read(root, name):
    return read_dataset(f"coop:{name}@{root}")


def names(items):
    return [item.picture.name for item in items]


def test_there_are_the_papers_15_and_each_preset_has_its_dataset():
    assert len(BENCHMARKS) == 15
    assert {*TRAINED} == {*preset_names()} - {"digits", "imagenet_robustness"}
    assert all(benchmark.template.count("{}") == 1 for benchmark in BENCHMARKS.values())


def test_the_page_on_data_has_the_table():
    page = (ROOT / "docs" / "data.md").read_text()
    for name, each in BENCHMARKS.items():
        row = next(line for line in page.splitlines() if line.startswith(f"| {name} |"))
        assert f"| {each.folder} / {each.images}" in row
        assert each.index in row


@pytest.mark.parametrize("name", TRAINED)
def test_a_dataset_to_train_on_has_its_classes_and_both_splits(tmp_path, name):
    dataset = read(build(tmp_path, name), name)
    classes = len(dataset.class_names)
    assert classes == (4 if name == "imagenet" else 3)
    assert np.bincount(labels_of(dataset.train)).tolist() == [4] * classes
    assert np.bincount(labels_of(dataset.test)).tolist() == [2] * classes
    pictures = [item.picture.read() for item in (*dataset.train, *dataset.test)]
    assert len(set(pictures)) == 6 * classes
    assert not dataset.closed


@pytest.mark.parametrize("name", SPLIT)
def test_split_files_keep_their_labels_and_their_order(tmp_path, name):
    dataset = read(build(tmp_path, name), name)
    assert dataset.class_names == ("grey wolf", "ox", "sea lion")
    rows = split_rows({"train": 4})["train"]
    assert names(dataset.train) == [path for path, _, _ in rows]
    assert labels_of(dataset.train).tolist() == [label for _, label, _ in rows]
    assert len(list_benchmark(name, tmp_path).validation.pairs) == 3


def test_aircraft_has_the_names_of_its_list(tmp_path):
    dataset = read(build(tmp_path, "fgvc_aircraft"), "fgvc-aircraft")
    assert dataset.class_names == ("A340 200", "707-320", "Tu-134")
    assert names(dataset.test)[:2] == ["test20.jpg", "test21.jpg"]


def test_imagenet_names_come_from_its_own_file_and_two_missiles_are_distinguished(tmp_path):
    dataset = read(build(tmp_path, "imagenet"), "imagenet")
    assert dataset.class_names == (*IMAGENET_NAMES[:3], "missile (n01491361)")
    assert names(dataset.train)[0] == "train/n01440764/n01440764_0.JPEG"


@pytest.mark.parametrize(
    ("name", "classes"),
    [
        ("imagenetv2", ("tench", "missile", "great white shark", "missile (n01491361)")),
        ("imagenet_sketch", ("tench", "missile", "great white shark", "missile (n01491361)")),
        ("imagenet_a", ("missile", "great white shark")),
        ("imagenet_r", ("great white shark", "missile (n01491361)")),
    ],
)
def test_a_shifted_set_is_for_testing_and_says_imagenets_names(tmp_path, name, classes):
    dataset = read(build(tmp_path, name), name.replace("_", "-"))
    assert dataset.class_names == classes
    assert dataset.train == ()
    assert np.bincount(labels_of(dataset.test)).tolist() == [2] * len(classes)
    assert dataset.closed == (name in {"imagenet_a", "imagenet_r"})


def test_version_2s_folders_are_numbers_of_classes_not_words_in_order(tmp_path):
    dataset = read(build(tmp_path, "imagenetv2"), "imagenetv2")
    assert {(item.label, item.picture.name.split("/")[0]) for item in dataset.test} == {
        (number, str(number)) for number in range(len(WNIDS))
    }


def test_imagenets_own_names_serve_a_shifted_set_without_a_copy(tmp_path):
    build(build(tmp_path, "imagenet"), "imagenet_a")
    (tmp_path / "imagenet-adversarial" / "classnames.txt").unlink()
    assert read(tmp_path, "imagenet_a").class_names == ("missile", "great white shark")


# --- what is missing or of another form ---------------------------------------------------------


def test_an_unknown_name_and_a_wrong_root_are_reported(tmp_path):
    with pytest.raises(DataError, match=r"no dataset is called 'cifar'; there are: imagenet, calt"):
        read(tmp_path, "cifar")
    with pytest.raises(
        DataError, match=r"Caltech101 has its images in .*101_ObjectCategories, whi"
    ):
        read(tmp_path, "caltech101")


@pytest.mark.parametrize("name", BENCHMARKS)
def test_a_missing_index_is_named(tmp_path, name):
    build(tmp_path, name)
    benchmark = BENCHMARKS[name]
    (tmp_path / benchmark.folder / benchmark.index).unlink()
    with pytest.raises(DataError, match=rf"cannot read .*{benchmark.index}: No such file"):
        read(tmp_path, name)


def test_missing_images_are_named_and_counted(tmp_path):
    folder = write_split(tmp_path, "dtd", split_rows({"train": 4, "val": 1, "test": 2}))
    for index in (1, 2, 3):
        (folder / "ox" / f"train_{index}.jpg").unlink()
    with pytest.raises(DataError, match=r"no image at .*ox/train_3\.jpg; .* \(2 more like it"):
        read(tmp_path, "dtd")


def test_a_pickle_beside_the_split_is_not_opened(tmp_path):
    class Trap:
        def __reduce__(self):
            return (open, (str(tmp_path / "sprung"), "w"))

    build(tmp_path, "eurosat")
    folder = tmp_path / "eurosat" / "split_fewshot"
    folder.mkdir()
    (folder / "shot_16-seed_1.pkl").write_bytes(pickle.dumps(Trap()))
    assert len(read(tmp_path, "eurosat").train) == 12
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", "is not valid JSON"),
        ("[]", "has another form; needed: an object with train, val, test"),
        ('{"train": [], "val": []}', "has another form"),
        ('{"train": 1, "val": [], "test": []}', r"a split is '1'; needed: a list"),
        ('{"train": [["a.jpg", true, "a"]], "val": [], "test": []}', r"needed: \[path, label"),
        ('{"train": [["a.jpg", "0", "a"]], "val": [], "test": []}', r"needed: \[path, label"),
        ('{"train": [["a.jpg", 0]], "val": [], "test": []}', r"needed: \[path, label"),
        (
            '{"train": [["a.jpg", 0, "a"]], "val": [], "test": [["b.jpg", 0, "b"]]}',
            "label 0 is called 'a' and 'b'",
        ),
        (
            '{"train": [["../a.jpg", 0, "a"]], "val": [], "test": []}',
            r"names '\.\./a\.jpg', which is not inside it",
        ),
        ('{"train": [["/a.jpg", 0, "a"]], "val": [], "test": []}', "not inside it"),
    ],
)
def test_a_split_file_of_another_form_is_refused(tmp_path, content, words):
    build(tmp_path, "food101")
    (tmp_path / "food-101" / "split_zhou_Food101.json").write_text(content)
    with pytest.raises(DataError, match=words):
        read(tmp_path, "food101")


def test_classes_of_one_name_in_a_split_file_are_distinguished(tmp_path):
    rows = {
        split: [(f"{split}{label}.jpg", label, "crane") for label in (0, 1)]
        for split in ("train", "val", "test")
    }
    write_split(tmp_path, "sun397", rows)
    assert read(tmp_path, "sun397").class_names == ("crane", "crane (1)")


def test_a_label_that_no_list_names_is_reported(tmp_path):
    build(tmp_path, "fgvc_aircraft")
    with (tmp_path / "fgvc_aircraft" / "images_variant_val.txt").open("a") as file:
        file.write("0034309 MiG-29\n")
    with pytest.raises(DataError, match=r"images_variant_val\.txt has 'MiG-29', not in variants"):
        read(tmp_path, "fgvc_aircraft")


def test_a_class_folder_that_no_list_names_is_reported(tmp_path):
    build(tmp_path, "imagenet_r")
    paint(tmp_path / "imagenet-rendition" / "imagenet-r" / "n99999999" / "0.jpg")
    with pytest.raises(DataError, match="has no line for 'n99999999'"):
        read(tmp_path, "imagenet_r")


def test_imagenet_without_validation_folders_is_reported(tmp_path):
    build(tmp_path, "imagenet")
    val = tmp_path / "imagenet" / "images" / "val"
    for folder in val.iterdir():
        for file in folder.iterdir():
            file.rename(val / file.name)
        folder.rmdir()
    with pytest.raises(DataError, match=r"val has no class folders"):
        read(tmp_path, "imagenet")
    for file in val.iterdir():
        file.unlink()
    val.rmdir()
    with pytest.raises(DataError, match=r"no folder .*val; ImageNet has train and val"):
        read(tmp_path, "imagenet")


def test_a_missing_numbered_folder_is_reported(tmp_path):
    build(tmp_path, "imagenetv2")
    folder = tmp_path / "imagenetv2" / "imagenetv2-matched-frequency-format-val" / "2"
    for file in folder.iterdir():
        file.unlink()
    folder.rmdir()
    with pytest.raises(DataError, match=r"no folder .*/2; it holds the images of 'great white sh"):
        read(tmp_path, "imagenetv2")


def test_an_index_that_is_no_text_is_reported(tmp_path):
    build(tmp_path, "ucf101")
    (tmp_path / "ucf101" / "split_zhou_UCF101.json").write_bytes(b"\xff\xfe{")
    with pytest.raises(DataError, match="not UTF-8 text"):
        read(tmp_path, "ucf101")


# --- names of sources ---------------------------------------------------------------------------


def test_a_source_can_be_named_from_anywhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    build(tmp_path, "dtd")
    assert absolute("coop:dtd") == f"coop:dtd@{tmp_path}"
    assert absolute("coop:dtd@sub") == f"coop:dtd@{tmp_path / 'sub'}"
    assert [absolute(each) for each in ("digits", "hf:a/b")] == ["digits", "hf:a/b"]
    assert absolute("zoo") == str(tmp_path / "zoo")
    assert len(read_dataset("coop:DTD").train) == 12
    sources = ("coop:dtd@/d", "hf:owner/name", "x/zoo.csv", "digits")
    assert [title(each) for each in sources] == ["dtd", "name", "zoo", "digits"]


def test_the_root_may_be_below_home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    build(tmp_path, "dtd")
    assert len(read_dataset("coop:dtd@~").train) == 12
    assert absolute("coop:dtd@~") == f"coop:dtd@{tmp_path}"


def test_a_source_knows_the_template_of_its_dataset():
    found = benchmark_of("coop:oxford-pets@/data")
    assert found is not None
    assert found.template == "a photo of a {}, a type of pet."
    assert benchmark_of("photos/") is None
