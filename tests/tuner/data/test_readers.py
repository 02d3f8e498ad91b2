"""Folders and tables become the same dataset everywhere, or one sentence that says why not."""

import io
import json
import os
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from craft_tuner.data.dataset import labels_of, pictures_of, spoken
from craft_tuner.data.folders import list_folders
from craft_tuner.data.named import find_pictures
from craft_tuner.data.pictures import BytesPicture, FilePicture, decode, encode_png
from craft_tuner.data.sources import read_dataset
from craft_tuner.data.tables import list_table, read_class_names
from craft_tuner.errors import DataError


def paint(path, shade=0):
    """A small image at `path`; the folder is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encode_png(Image.new("RGB", (6, 4), (shade, shade, shade))))
    return path


def names(items):
    return [item.picture.name for item in items]


@pytest.fixture
def zoo(tmp_path):
    for split, count in (("train", 3), ("test", 2)):
        for label in ("sea_lion", "ox"):
            for index in range(count):
                paint(tmp_path / "zoo" / split / label / f"{index}.png", shade=index)
    return tmp_path / "zoo"


# --- folders ------------------------------------------------------------------------------------


def test_train_and_test_folders_become_classes_in_order_of_their_names(zoo):
    dataset = list_folders(zoo).dataset()
    assert dataset.class_names == ("ox", "sea lion")
    assert labels_of(dataset.train).tolist() == [0, 0, 0, 1, 1, 1]
    assert names(dataset.test) == [
        "test/ox/0.png",
        "test/ox/1.png",
        "test/sea_lion/0.png",
        "test/sea_lion/1.png",
    ]


def test_class_folders_alone_are_for_training(zoo):
    dataset = list_folders(zoo / "train").dataset()
    assert len(dataset.train) == 6
    assert dataset.test == ()


def test_hidden_files_and_files_of_other_kinds_are_passed_over(zoo):
    paint(zoo / "train" / "ox" / ".0.png")
    paint(zoo / "train" / ".cache" / "0.png")
    (zoo / "train" / "ox" / "notes.txt").write_text("an ox")
    (zoo / "train" / "ox" / "more.png").mkdir()
    paint(zoo / "train" / "ox" / "UPPER.PNG")
    assert len(list_folders(zoo).dataset().train) == 7


def test_unicode_names_survive_and_compare_composed(tmp_path):
    for label in ("Bär", "猫"):
        paint(tmp_path / unicodedata.normalize("NFD", label) / "grün 1.png")
    dataset = list_folders(tmp_path).dataset()
    assert dataset.class_names == ("Bär", "猫")
    assert decode(pictures_of(dataset.train)[0]).size == (6, 4)


def test_renamed_classes_keep_the_rest(zoo):
    dataset = list_folders(zoo).renamed({"ox": "domestic ox"}).dataset()
    assert dataset.class_names == ("domestic ox", "sea lion")


def test_no_picture_is_opened_while_reading(zoo):
    (zoo / "train" / "ox" / "0.png").write_bytes(b"broken")
    assert len(list_folders(zoo).dataset().train) == 6


def test_an_empty_class_folder_is_named(zoo):
    (zoo / "train" / "yak").mkdir()
    with pytest.raises(DataError, match=r"class folder .*yak has no images; add"):
        list_folders(zoo).dataset()


def test_a_folder_without_class_folders_says_what_is_needed(tmp_path):
    paint(tmp_path / "0.png")
    with pytest.raises(DataError, match=r"has no class folders; needed: one folder of images per"):
        list_folders(tmp_path).dataset()


ENDINGS = (
    "a.JPG",
    "b.jfif",
    "c.jpe",
    "d",
    "e.tif",
    "f.BMP",
    "g.dat",
    "h.png.bak",
    "i.jpeg",
    "j.gif",
)


def test_pictures_are_found_by_what_is_in_them(zoo):
    """A known ending is believed until the file is read; any other file is looked into."""
    kinds = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF")
    for place, name in enumerate(ENDINGS):
        Image.new("RGB", (6, 4)).save(zoo / "train" / "ox" / name, kinds[place % len(kinds)])
    for name in ("k.txt", "l", "m.xml"):
        (zoo / "train" / "ox" / name).write_text("no picture")
    (zoo / "train" / "ox" / "n").touch()
    listing = list_folders(zoo)
    found = [picture.path.name for label, picture in listing.train if label == "ox"]
    assert found == ["0.png", "1.png", "2.png", *ENDINGS]
    assert {fault.kind for fault in listing.faults} == {"no picture, passed over"}
    assert [Path(fault.name).name for fault in listing.faults] == [*("k.txt", "l", "m.xml", "n")]
    for _, picture in listing.train:
        assert decode(picture).size == (6, 4)


def test_a_folder_to_classify_follows_the_same_rule(zoo):
    ox = zoo / "test" / "ox"
    Image.new("RGB", (6, 4)).save(ox / "scan.bmp")
    Image.new("RGB", (6, 4)).save(ox / "photo", "JPEG")
    (ox / "notes.txt").write_text("ox")
    for hidden in (".a.png", ".cache/b.png", ".cache/deep/c.png", "deep/.d.png"):
        paint(ox / hidden)
    paint(ox / "deep" / "e.png")
    named = find_pictures([ox], io.BytesIO())
    assert [picture.path.name for picture in named.pictures] == [
        *("0.png", "1.png", "photo", "scan.bmp", "e.png")
    ]
    assert not named.faults
    assert named.remarks == (
        (
            f"hidden, passed over (3): {str(ox / '.a.png')!r}, {str(ox / '.cache')!r}, "
            f"{str(ox / 'deep' / '.d.png')!r}"
        ),
        f"no picture, passed over (1): {str(ox / 'notes.txt')!r}",
    )


def test_a_class_in_one_split_alone_is_named(zoo):
    paint(zoo / "train" / "yak" / "0.png")
    with pytest.raises(DataError, match=r"class 'yak' has no test image; add"):
        list_folders(zoo).dataset()
    paint(zoo / "test" / "yak" / "0.png")
    for label in ("emu", "gnu", "bee", "cow"):
        paint(zoo / "test" / label / "0.png")
    with pytest.raises(DataError, match=r"classes 'bee', 'cow', 'emu' and 1 more have test images"):
        list_folders(zoo).dataset()


def test_one_class_is_not_a_task(tmp_path):
    paint(tmp_path / "ox" / "0.png")
    with pytest.raises(DataError, match=r"1 class\(es\) \['ox'\]; needed: 2 or more"):
        list_folders(tmp_path).dataset()


def test_two_folders_with_the_same_spoken_name_are_reported(tmp_path):
    for label in ("sea_lion", "sea lion"):
        paint(tmp_path / label / "0.png")
    with pytest.raises(DataError, match=r"2 classes are called 'sea lion'"):
        list_folders(tmp_path).dataset()


@pytest.mark.parametrize("name", ["x" * 257, " "])
def test_class_names_that_no_server_takes_are_refused(tmp_path, name):
    paint(tmp_path / "a" / "0.png")
    paint(tmp_path / "b" / "0.png")
    with pytest.raises(DataError, match="allowed: 1 to 256"):
        list_folders(tmp_path).renamed({"a": name}).dataset()


def test_spoken_names_have_single_spaces():
    assert spoken("great__white_shark ") == "great white shark"


# --- tables -------------------------------------------------------------------------------------


def write(folder, text, *, encoding="utf-8"):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "data.csv").write_text(text, encoding=encoding)
    return folder / "data.csv"


@pytest.fixture
def photos(tmp_path):
    for index in range(4):
        paint(tmp_path / "photos" / f"{index}.png", shade=index)
    return tmp_path


FULL = """path,label,split
photos/0.png,sea_lion,train
photos/1.png,ox,train
photos/2.png,sea_lion,test
photos/3.png,ox,test
"""


def test_a_table_is_read_relative_to_its_own_folder(photos):
    dataset = list_table(write(photos, FULL)).dataset()
    assert dataset.class_names == ("ox", "sea lion")
    assert names(dataset.train) == ["photos/1.png", "photos/0.png"]
    assert names(dataset.test) == ["photos/3.png", "photos/2.png"]
    assert decode(dataset.train[0].picture).getpixel((0, 0)) == (1, 1, 1)


def test_without_a_split_every_row_is_for_training(photos):
    dataset = list_table(write(photos, "path,label\nphotos/0.png,a\nphotos/1.png,b\n")).dataset()
    assert (len(dataset.train), len(dataset.test)) == (2, 0)


def test_tables_as_spreadsheets_write_them_are_read(photos):
    text = 'Label, Path ,Split\r\n"a, b",photos/0.png,TRAIN\r\nc,"photos/1.png",train\r\n'
    dataset = list_table(write(photos, text, encoding="utf-8-sig")).dataset()
    assert dataset.class_names == ("a, b", "c")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("when,label\n0,a", r"line 1: columns \['when', 'label'\]; needed: path and label; call"),
        ("", "lists no images"),
        ("path,label\n", "lists no images"),
        ("path,label\nphotos/0.png,\n", r"line 2: path 'photos/0\.png', label ''; both"),
        ("path,label\nphotos/0.png\n", "line 2: .* both are needed"),
        (
            "path,label,split\nphotos/0.png,a,7\n",
            r"line 2: split '7'; allowed: train, val, test",
        ),
        ("path,label\nphotos/9.png,a\n", r"line 2: no image at .*9\.png"),
        ("path,label\nphotos/0.png,a\nphotos/0.png,b\n", r"line 3: photos/0\.png is already on l"),
        ('path,label\n"photos/0.png,a\n', "not valid CSV"),
    ],
)
def test_a_fault_in_a_table_is_named_by_its_line(photos, text, words):
    with pytest.raises(DataError, match=words):
        list_table(write(photos, text)).dataset()


JSONL = """{"path": "photos/0.png", "label": "sea_lion", "split": "train", "by": "ann"}

{"path": "photos/1.png", "label": "ox"}
{"path": "photos/2.png", "label": "sea_lion", "split": "TEST"}
{"path": "photos/3.png", "label": "ox", "split": "test"}
"""


@pytest.mark.parametrize("suffix", ["jsonl", "ndjson"])
def test_a_manifest_of_json_lines_is_the_same_dataset_as_the_table(photos, suffix):
    file = photos / f"data.{suffix}"
    file.write_text(JSONL)
    assert read_dataset(str(file)) == list_table(write(photos, FULL)).dataset()


def test_a_label_of_json_may_hold_any_line_separator_but_the_newline(photos):
    file = photos / "data.jsonl"
    lines = [{"path": f"photos/{k}.png", "label": f"a\u2028{k}"} for k in (0, 1)]
    file.write_text("\n".join(json.dumps(line, ensure_ascii=False) for line in lines))
    assert list_table(file).classes() == ("a\u20280", "a\u20281")


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("{", "line 1: not valid JSON"),
        ("[" * 100_000, "line 1: not valid JSON"),
        ('["a"]', r"line 1: .* needed: an object"),
        ('{"path": "photos/0.png", "label": 0.5}', "line 1: label 0.5 is no text; path, label"),
        ('{"path": "photos/0.png", "label": true}', "line 1: label True is no text"),
        ('{"path": "photos/0.png"}', r"columns \['path'\]; needed: path and label"),
        ('{"path": "photos/0.png", "label": ""}', "line 1: .*label ''; both are needed"),
        ('{"path": "a\\ud800.png", "label": "a"}', r"line 1: path 'a\\ud800\.png' is no text in"),
        ('{"path": "a\\u0000.png", "label": "a"}', "line 1: path .* is no text in Unicode"),
        ('{"path": "photos/0.png", "label": "a", "split": "x"}', "split 'x'; allowed: train"),
        ('{"path": "photos/9.png", "label": "a"}', r"line 1: no image at .*9\.png"),
        ("", "lists no images"),
    ],
)
def test_a_fault_in_a_manifest_is_named_by_its_line(photos, line, words):
    (photos / "data.jsonl").write_text(line)
    with pytest.raises(DataError, match=words):
        list_table(photos / "data.jsonl").dataset()


def test_a_table_that_cannot_be_read_is_named(photos):
    with pytest.raises(DataError, match=r"cannot read .*No such file"):
        list_table(photos / "none.csv").dataset()


def test_class_names_are_read_from_a_file(photos):
    file = photos / "names.txt"
    file.write_text("# spoken names\n\nsea_lion = steller sea lion\nox=ox\n")
    assert read_class_names(file) == {"sea_lion": "steller sea lion", "ox": "ox"}
    dataset = read_dataset(str(write(photos, FULL)), class_names=file)
    assert dataset.class_names == ("ox", "steller sea lion")


@pytest.mark.parametrize("line", ["sea lion", "= name", "label =", "ox = a\nox = b"])
def test_a_line_of_class_names_of_another_form_is_refused(tmp_path, line):
    file = tmp_path / "names.txt"
    file.write_text(line)
    with pytest.raises(DataError, match="needed: label = class name"):
        read_class_names(file)


def test_a_renamed_class_that_does_not_exist_is_named_with_those_that_do(zoo):
    with pytest.raises(DataError, match=r"names 'cow', the dataset has no such class; .*ox, sea_l"):
        list_folders(zoo).renamed({"cow": "cow"})


# --- sources and pictures -----------------------------------------------------------------------


def test_a_source_is_a_folder_a_file_or_the_word_digits(zoo, photos):
    assert len(read_dataset(str(zoo)).train) == 6
    assert len(read_dataset(str(write(photos, FULL))).train) == 2
    assert len(read_dataset("digits").class_names) == 10
    with pytest.raises(DataError, match=r"no dataset at '.*nowhere'; give a folder"):
        read_dataset(str(photos / "nowhere"))


def test_a_picture_that_is_gone_or_empty_or_broken_is_named(tmp_path):
    gone = FilePicture(tmp_path / "gone.png", "gone.png")
    with pytest.raises(DataError, match=r"cannot read the image .*gone\.png: No such file"):
        gone.read()
    (tmp_path / "empty.png").touch()
    with pytest.raises(DataError, match=r"empty\.png is empty"):
        FilePicture(tmp_path / "empty.png", "empty.png").read()
    for broken in (b"no image", paint(tmp_path / "a.png").read_bytes()[:40]):
        with pytest.raises(DataError, match=r"cannot decode the image b\.png"):
            decode(BytesPicture(broken, "b.png"))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_picture_that_may_not_be_read_is_named(tmp_path):
    path = paint(tmp_path / "a.png")
    path.chmod(0)
    with pytest.raises(DataError, match="Permission denied"):
        FilePicture(path, "a.png").read()


def test_pictures_of_any_mode_become_rgb(tmp_path):
    pixels = np.arange(256, dtype=np.uint8).reshape(16, 16)
    grey = encode_png(Image.fromarray(pixels))
    assert decode(BytesPicture(grey, "grey.png")).mode == "RGB"
