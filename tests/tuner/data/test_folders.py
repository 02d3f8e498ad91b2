"""Folders as people have them: splits under other names, hidden folders, names in no encoding."""

import io
import os
from pathlib import Path

import pytest

from craft_tuner.data.check import check
from craft_tuner.data.folders import list_folders
from craft_tuner.data.named import find_pictures
from craft_tuner.data.sources import absolute, list_source, read_dataset
from craft_tuner.errors import DataError
from tests.support.coop_layouts import paint


def build(root, *splits, count=2):
    """Class folders in each of the splits; a split "." is `root` itself."""
    for split in splits:
        for label in ("ox", "yak"):
            for index in range(count):
                paint(root / split / label / f"{index}.png")
    return root


def found(listing):
    return {each.what: (each.problem, each.names) for each in check(listing).findings}


# --- splits -------------------------------------------------------------------------------------


@pytest.mark.parametrize("train", ["train", "Train", "training", "Training", "TRAIN"])
@pytest.mark.parametrize("test", ["test", "Test", "testing", "Testing", "eval"])
@pytest.mark.parametrize("validation", ["val", "valid", "validation", "dev", "Val", None])
def test_split_folders_have_any_usual_name_in_any_case(tmp_path, train, test, validation):
    build(tmp_path, train, test, *filter(None, [validation]))
    listing = list_folders(tmp_path)
    assert (len(listing.train), len(listing.test)) == (4, 4)
    assert len(listing.validation.pairs) == (4 if validation else 0)
    assert listing.classes() == ("ox", "yak")
    remarks = [f"for validation, used with --validation split (1): '{validation}/, 4 images'"]
    assert list(listing.dataset().remarks) == (remarks if validation else [])


def test_without_a_test_split_the_remark_says_how_to_have_one(tmp_path):
    what = "for validation, used with --validation split; a fit is tested on what is called test"
    listing = list_folders(build(tmp_path, "train", "val"))
    assert found(listing)[what] == (False, ("val/, 4 images",))
    assert listing.dataset().test == ()


@pytest.mark.parametrize("split", ["test", "Testing", "eval"])
def test_a_test_split_alone_is_for_evaluation(tmp_path, split):
    listing = list_folders(build(tmp_path, split))
    assert (len(listing.train), len(listing.test)) == (0, 4)


@pytest.mark.parametrize("split", ["val", "Validation", "dev"])
def test_a_folder_for_validation_alone_says_what_to_change(tmp_path, split):
    with pytest.raises(DataError, match="has images for validation alone; call them train"):
        list_source(str(build(tmp_path, split)))


@pytest.mark.parametrize(
    ("first", "second", "split"),
    [("train", "Training", "train"), ("val", "valid", "val"), ("eval", "test", "test")],
)
def test_two_folders_of_one_split_are_refused_by_name(tmp_path, first, second, split):
    build(tmp_path, "train", first, second)
    with pytest.raises(DataError, match=f"are both for {split}; rename or remove") as caught:
        list_folders(tmp_path)
    assert all(str(tmp_path / name) in str(caught.value) for name in (first, second))


@pytest.mark.parametrize("name", ["train", "test", "dev", "Train", "eval", "validation"])
def test_a_class_may_be_called_as_a_split(tmp_path, name):
    build(tmp_path, ".")
    paint(tmp_path / name / "0.png")
    listing = list_folders(tmp_path)
    assert listing.classes() == tuple(sorted(["ox", "yak", name]))
    assert listing.faults == ()


@pytest.mark.parametrize("name", ["extra", "unlabelled", "query"])
def test_folders_beside_the_splits_are_named(tmp_path, name):
    build(tmp_path, "train", "test", name)
    listing = list_folders(tmp_path)
    remark = (False, (str(tmp_path / name),))
    assert found(listing) == {"folder beside the splits, passed over": remark}
    assert len(listing.train) == 4


@pytest.mark.parametrize("table", ["metadata.csv", "metadata.jsonl"])
@pytest.mark.parametrize("split", [".", "train"])
def test_a_folder_that_a_table_describes_says_to_give_the_table(tmp_path, table, split):
    paint(tmp_path / split / "0.png")
    (tmp_path / split / table).touch()
    with pytest.raises(DataError, match=rf"no class folders; give the table .*{table}"):
        list_folders(tmp_path)


# --- what is passed over ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "what"),
    [
        ("train/ox/.ipynb_checkpoints/0.png", "hidden, passed over"),
        ("train/ox/.thumbs/deep/0.png", "hidden, passed over"),
        ("train/.cache/0.png", "hidden, passed over"),
        ("train/ox/.0.png", "hidden, passed over"),
        ("train/ox/._0.png", "hidden, passed over"),
        ("test/yak/.DS_Store", "hidden, passed over"),
        ("train/ox/more/0.png", "folder within a class folder, passed over"),
        ("train/ox/more.png/0.png", "folder within a class folder, passed over"),
        ("train/loose.png", "beside the class folders, passed over"),
    ],
)
def test_what_is_passed_over_is_named_and_no_problem(tmp_path, path, what):
    build(tmp_path, "train", "test")
    paint(tmp_path / path)
    listing = list_folders(tmp_path)
    [(kind, (problem, [name]))] = found(listing).items()
    assert (kind, problem) == (what, False)
    assert path.startswith(os.path.relpath(name, tmp_path))
    assert len(listing.dataset().train) + len(listing.dataset().test) == 8
    assert listing.dataset().remarks == (f"{what} (1): {name!r}",)


def test_a_link_to_nothing_is_named(tmp_path):
    build(tmp_path, "train")
    (tmp_path / "train" / "ox" / "9.png").symlink_to("nowhere.png")
    (tmp_path / "train" / "ox" / "loop.png").symlink_to("loop.png")
    names = tuple(str(tmp_path / "train" / "ox" / name) for name in ("9.png", "loop.png"))
    assert found(list_folders(tmp_path))["link to nothing, passed over"] == (False, names)


@pytest.mark.parametrize("path", [".hidden/0.png", "sub/.hidden/0.png", ".a/b/0.png", "sub/.0.png"])
def test_predictions_pass_over_what_is_hidden_too(tmp_path, path):
    paint(tmp_path / "sub" / "deep" / "0.png")
    paint(tmp_path / path)
    named = find_pictures([tmp_path], io.BytesIO())
    assert [picture.path.name for picture in named.pictures] == ["0.png"]
    assert named.faults == ()
    assert len(named.remarks) == 1
    assert named.remarks[0].startswith("hidden, passed over (1): ")


# --- names --------------------------------------------------------------------------------------

LATIN = os.fsdecode(b"caf\xe9")


@pytest.mark.parametrize("path", [f"train/{LATIN}/0.png", f"train/ox/{LATIN}.png"])
def test_a_name_that_is_not_utf_8_is_a_problem_by_name(tmp_path, path):
    build(tmp_path, "train", "test")
    paint(tmp_path / path)
    listing = list_folders(tmp_path)
    problem, [name] = found(listing)["name that is not UTF-8"]
    assert problem
    assert r"caf\xe9" in name
    assert name.isascii()
    with pytest.raises(DataError, match=r"caf\\xe9.* is not UTF-8; rename it$"):
        listing.dataset()


@pytest.mark.parametrize("name", [LATIN, f"{LATIN}.csv", f"{LATIN}/zoo"])
def test_a_source_whose_name_is_not_utf_8_is_refused(tmp_path, name):
    for use in (list_source, absolute, lambda name: list_source("digits", class_names=Path(name))):
        with pytest.raises(DataError, match=r"caf\\xe9.* is not UTF-8; rename it$"):
            use(str(tmp_path / name))


def test_files_to_predict_may_have_any_name(tmp_path):
    paint(tmp_path / LATIN / f"{LATIN}.png")
    [picture] = find_pictures([tmp_path], io.BytesIO()).pictures
    assert picture.name.endswith(r"caf\xe9.png")


@pytest.mark.parametrize("place", ["", "train", "train/ox", "test"])
def test_a_folder_that_cannot_be_read_is_named(tmp_path, monkeypatch, place):
    build(tmp_path, "train", "test")
    real = os.scandir

    def scandir(path):
        if str(path) == str(tmp_path / place):
            raise PermissionError(13, "Permission denied", path)
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(DataError, match=f"cannot read the folder {tmp_path / place}: Permission"):
        read_dataset(str(tmp_path))
