"""Tables as programs and people write them: encodings, separators, names of columns and splits."""

import codecs
import json

import pytest

from craft_tuner.data.check import check
from craft_tuner.data.sources import list_source
from craft_tuner.data.splits import split_of
from craft_tuner.data.tables import list_table
from craft_tuner.errors import DataError
from tests.support.coop_layouts import paint

LABELS = ("três", "sete")


@pytest.fixture
def photos(tmp_path):
    for index in range(4):
        paint(tmp_path / "photos" / f"{index}.png")
    return tmp_path


def labels(listing):
    return [label for label, _ in listing.train]


def table(header, *, separator=","):
    rows = [header, *((f"photos/{index}.png", LABELS[index % 2]) for index in range(4))]
    return "".join(separator.join(row) + "\n" for row in rows)


# --- encodings and separators -------------------------------------------------------------------

ENCODINGS = {
    "utf-8": b"",
    "utf-8-sig": b"",
    "utf-16-le": codecs.BOM_UTF16_LE,
    "utf-16-be": codecs.BOM_UTF16_BE,
    "utf-32-le": codecs.BOM_UTF32_LE,
    "utf-32-be": codecs.BOM_UTF32_BE,
}


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_a_table_is_the_same_in_any_encoding_with_any_separator(photos, encoding, separator, end):
    text = table(("path", "label"), separator=separator).replace("\n", end)
    file = photos / "data.csv"
    file.write_bytes(ENCODINGS[encoding] + text.encode(encoding))
    listing = list_table(file)
    assert labels(listing) == ["três", "sete"] * 2
    assert listing.faults == ()


@pytest.mark.parametrize("ending", ["csv", "jsonl"])
def test_what_is_not_utf_8_is_taken_as_windows_wrote_it_with_a_remark(photos, ending):
    file = photos / f"data.{ending}"
    row = '{"path": "photos/0.png", "label": "três"}\n'
    text = row if ending == "jsonl" else table(("path", "label"))
    file.write_bytes(text.encode("cp1252"))
    listing = list_table(file)
    assert labels(listing)[0] == "três"
    [remark] = check(listing, opened=False).findings[:1]
    assert remark.what == "table read as cp1252: it is not UTF-8"
    assert not remark.problem


@pytest.mark.parametrize(
    "data",
    [
        "path,label\n".encode("utf-16-le"),
        b"\x81\x8d\x8f\x90",
        b"PK\x03\x04\x14\x00\x06\x00",
        b"PAR1\x15\x04\x15\x00",
        codecs.BOM_UTF16_LE + b"\x00\xd8",
        codecs.BOM_UTF8 + b"\xe9",
    ],
)
def test_what_is_no_text_is_refused_with_what_to_do(photos, data):
    (photos / "data.csv").write_bytes(data)
    with pytest.raises(DataError, match="is not UTF-8 text; save it as CSV in UTF-8"):
        list_table(photos / "data.csv")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('path;label\nphotos/0.png;"a; b"\n', ["a; b"]),
        ("path;label\nphotos/0.png;a, b\n", ["a, b"]),
        ("path,label\nphotos/0.png,a;b\n", ["a;b"]),
        ("sep=;\npath;label\nphotos/0.png;a\n", ["a"]),
        ("SEP=|\r\npath|label\r\nphotos/0.png|a,b\r\n", ["a,b"]),
        ("\n\npath,label\n\nphotos/0.png,a\n,\n", ["a"]),
        ("path,label\nphotos/0.png,a,\n", ["a"]),
        ("path,label\nphotos/0.png,a\u2028b\n", ["a\u2028b"]),
        ('path,label\nphotos/0.png,"a\nb"\n', ["a\nb"]),
        ("path,label\nphotos\\0.png,a\n", ["a"]),
    ],
)
def test_a_separator_within_a_cell_separates_nothing(photos, text, expected):
    (photos / "data.csv").write_text(text, newline="")
    listing = list_table(photos / "data.csv")
    assert labels(listing) == expected
    assert listing.faults == ()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("path,label\nphotos/0.png,a, b\n", "line 2 has 3 cells, the header 2; put text that has"),
        ("photos/0.png,a\nphotos/1.png,b\n", "names a picture, not the columns; add a line path,l"),
        ("sep=;\npath;label\nphotos/9.png;a\n", r"line 3: no image at .*9\.png"),
        ("path,note\nphotos/0.png,a\n", "needed: path and label; call the column of the label so"),
        ("word\na\n", r"columns \['word'\]; needed: path and label; call the column of the path"),
        ("image,file,label\na,b,c\n", "'image' and 'file' may each be the path; call the right on"),
        ("path,class,category\na,b,c\n", "'class' and 'category' may each be the label; call the"),
        ("path,Path,label\na,b,c\n", "'path' and 'Path' may each be the path"),
    ],
)
def test_where_it_cannot_be_known_one_sentence_says_what_to_change(photos, text, words):
    (photos / "data.csv").write_text(text)
    with pytest.raises(DataError, match=words):
        list_table(photos / "data.csv").dataset()


def test_one_json_list_is_refused_with_what_to_do(photos):
    (photos / "data.json").write_text('[{"path": "photos/0.png", "label": "a"}]')
    with pytest.raises(DataError, match="is one JSON list; write one object a line"):
        list_table(photos / "data.json")


# --- columns ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "header",
    [
        *[(name, "label") for name in ("image", "file", "file_name", "filename", "path", "img")],
        *[(name, "label") for name in ("filepath", "File Name", "FILE-PATH", "image_path")],
        *[("path", name) for name in ("class", "class_name", "category", "target", "y")],
        *[("path", name) for name in ("Class Name", "LABEL", "label_name")],
        ("image", "class"),
    ],
)
@pytest.mark.parametrize("form", ["csv", "jsonl"])
def test_usual_names_of_columns_are_known(photos, header, form):
    file = photos / f"data.{form}"
    rows = [(f"photos/{index}.png", LABELS[index % 2]) for index in range(4)]
    lines = [json.dumps(dict(zip(header, row, strict=True))) for row in rows]
    file.write_text(table(header) if form == "csv" else "\n".join(lines))
    assert labels(list_table(file)) == ["três", "sete"] * 2


def test_the_first_name_of_a_column_decides(photos):
    (photos / "data.csv").write_text("image,path,class,label\nx,photos/0.png,0,a\n")
    [(label, picture)] = list_table(photos / "data.csv").train
    assert (label, picture.name) == ("a", "photos/0.png")


@pytest.mark.parametrize("ending", ["jsonl", "json", "txt"])
def test_hugging_faces_metadata_is_read_with_numbers_as_labels(photos, ending):
    rows = [{"file_name": f"photos/{index}.png", "label": index % 2} for index in range(4)]
    (photos / f"metadata.{ending}").write_text("\n".join(map(json.dumps, rows)))
    assert list_table(photos / f"metadata.{ending}").classes() == ("0", "1")


# --- splits -------------------------------------------------------------------------------------

SPLITS = {
    "train": ("train", "training", "Training", "TRAIN", " train "),
    "val": ("val", "valid", "validation", "dev", "Val", "VALIDATION"),
    "test": ("test", "testing", "Testing", "eval", "Test", "EVAL", "test-set"),
    None: ("", "0", "holdout", "trained", "tests"),
}


@pytest.mark.parametrize(("split", "name"), [(key, n) for key in SPLITS for n in SPLITS[key]])
def test_usual_names_of_splits_are_known_whatever_their_case(split, name):
    assert split_of(name) == split


@pytest.mark.parametrize("column", ["split", "Split", "set", "subset", "fold"])
@pytest.mark.parametrize("values", [("train", "val", "test"), ("Training", "Valid", "Testing")])
def test_rows_go_to_the_split_that_they_name(photos, column, values):
    rows = [f"photos/{index}.png,a,{value}" for index, value in enumerate((*values, values[0]))]
    (photos / "data.csv").write_text("\n".join([f"path,label,{column}", *rows]))
    listing = list_table(photos / "data.csv")
    assert (len(listing.train), len(listing.validation.pairs), len(listing.test)) == (2, 1, 1)
    assert [fault.name for fault in listing.faults] == ["val, 1 images"]


@pytest.mark.parametrize("name", ["val", "Dev", "validation"])
def test_a_table_for_validation_alone_says_what_to_change(photos, name):
    (photos / "data.csv").write_text(f"path,label,split\nphotos/0.png,a,{name}\n")
    with pytest.raises(DataError, match="has images for validation alone; call them train"):
        list_source(str(photos / "data.csv"))


@pytest.mark.parametrize(
    ("header", "values", "passed"),
    [
        ("fold", ("0", "1"), ("fold",)),
        ("set", ("A", "train"), ("set",)),
        ("split,fold", ("train,0", "test,1"), ()),
        ("fold,split", ("0,train", "1,test"), ()),
        ("set,subset", ("train,A", "test,B"), ("subset",)),
        ("subset,set", ("train,test", "test,train"), ("set",)),
    ],
)
def test_a_column_that_is_no_split_is_passed_over_with_a_remark(photos, header, values, passed):
    rows = [f"photos/{index}.png,a,{value}" for index, value in enumerate(values)]
    (photos / "data.csv").write_text("\n".join([f"path,label,{header}", *rows]))
    listing = list_table(photos / "data.csv")
    assert tuple(fault.name for fault in listing.faults) == passed
    assert not any(fault.problem for fault in listing.faults)
    assert len(listing.train) == (2 if header in {"fold", "set"} else 1)
