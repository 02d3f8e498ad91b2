"""Class names that a text encoder cannot tell apart, cannot take, or can make nothing of."""

from itertools import combinations

import pytest

from craft_tuner.config.fit_config import build
from craft_tuner.data.class_names import check_lengths, heard, least_tokens, no_words
from craft_tuner.data.dataset import Dataset
from craft_tuner.data.folders import list_folders
from craft_tuner.data.listing import distinct_names
from craft_tuner.data.sources import list_source, read_dataset
from craft_tuner.errors import DataError
from craft_tuner.training.estimate import estimate
from tests.support.coop_layouts import paint

SAME = [
    ("Crane", "crane", "CRANE"),
    ("a & b", "a &amp; b", "a &amp;amp; b", "A  &  B"),
    ("caf\u00e9", "cafe\u0301", "caf&eacute;", "CAF\u00c9", "caf&#233;"),
    ("sea lion", " sea   lion ", "sea\u00a0lion", "sea\tlion", "Sea&nbsp;Lion"),
    ("sea-lion", "sea - lion", "sea -lion"),
    ("747", "7 4 7", "7&#52;7"),
    ("a380", "A 380", "a3 80"),
    ("cow's", "cow 's", "COW\u2019S"),
    ('"big" cat', "\u201cbig\u201d cat"),
    ("\uff24og", "dog"),
    ("\ufb01sh", "fish"),
    ("t.v.", "T . V ."),
]
DIFFERENT = [
    "dog",
    "dogs",
    "hot dog",
    "hotdog",
    "m\u00b2",
    "m 2",
    "cafe",
    "c++",
    "c",
    "c#",
    "a_b",
    "ab",
    "1 1 2",
]


@pytest.mark.parametrize("names", SAME)
def test_names_that_the_tokenizer_makes_equal_are_refused_by_name(names):
    assert len({heard(name) for name in names}) == 1
    for pair in combinations(names, 2):
        with pytest.raises(DataError, match="are the same to CLIP's tokenizer") as caught:
            Dataset((*pair, "heron"), ())
        assert all(repr(name) in str(caught.value) for name in pair)


def test_names_that_it_tells_apart_are_not():
    Dataset(tuple(DIFFERENT), ())
    Dataset(tuple(names[0] for names in SAME), ())


@pytest.mark.slow
def test_the_tokenizer_of_open_clip_agrees_and_finds_no_fewer_tokens():
    from open_clip.tokenizer import SimpleTokenizer

    encode = SimpleTokenizer().encode
    for names in SAME:
        assert len({tuple(encode(name)) for name in names}) == 1, names
    assert len({tuple(encode(name)) for name in DIFFERENT}) == len(DIFFERENT)
    long = [
        "very " * 40,
        "7" * 70,
        "a" * 200,
        "\u732b" * 60,
        "\U0001f602" * 64,
        "x-" * 60,
        "it's " * 30,
    ]
    for name in (*DIFFERENT, *(name for names in SAME for name in names), *long):
        assert least_tokens(name) <= len(encode(name)) + 2


def test_two_folders_that_differ_in_case_are_refused_before_anything_is_asked(tmp_path):
    for label in ("Crane", "crane", "heron"):
        paint(tmp_path / label / "0.png")
    with pytest.raises(DataError, match="'Crane', 'crane' are the same to CLIP's tokenizer"):
        list_folders(tmp_path).dataset()


def test_names_from_an_index_that_are_the_same_get_their_labels_added():
    names = distinct_names([("1", "Crane"), ("2", "crane"), ("3", "heron"), ("4", "crane_")])
    assert list(names.values()) == ["Crane", "crane (2)", "heron", "crane_ (4)"]


# --- length -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "fits"),
    [
        ("very " * 70, True),
        ("very " * 71, False),
        ("7" * 70, True),
        ("7" * 71, False),
        ("x-" * 35, True),
        ("x-" * 36, False),
        ("&amp;a" * 36, False),
        ("supercalifragilistic" * 12, True),
    ],
)
def test_a_name_that_is_certain_not_to_fit_is_refused_by_name(name, fits):
    def check():
        check_lengths(["ox", name], context="a photo of a", suffix=".", most=77)

    if fits:
        check()
    else:
        with pytest.raises(
            DataError, match="tokens, at most 77 fit; give a shorter one with --class-names FILE"
        ) as e:
            check()
        assert repr(f"{name[:37]}...") in str(e.value)


def test_an_estimate_refuses_a_long_name_as_a_fit_does():
    with pytest.raises(DataError, match="at most 77 fit;"):
        estimate(build({}), Dataset(("ox", "a b " * 40), ()))


# --- ids and numbers ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["n02084071", "n00000001"])
def test_wordnet_ids_are_remarked_with_where_words_are(name):
    [(what, names)] = no_words(["dog", name])
    assert names == [name]
    assert f'asked as "a photo of a {name}.": give words with --class-names' in what
    assert "classnames.txt" in what


@pytest.mark.parametrize(
    "name", ["0", "7", "007", "3.0", "class 3", "Class 12", "label 1", "c0", "cls1"]
)
def test_numbers_are_remarked(name):
    [(what, names)] = no_words([name, "dog"])
    assert names == [name]
    assert f'class name that is a number, asked as "a photo of a {name}.": give words' in what
    assert "ImageNet" not in what


@pytest.mark.parametrize(
    "name", ["a380", "n0208407", "seven", "7 eleven", "n020840711", "3d", "class"]
)
def test_words_are_not(name):
    assert no_words([name]) == []


def test_a_dataset_of_ids_is_remarked_and_takes_imagenets_list_as_it_is(tmp_path):
    for label in ("n02084071", "n02121808"):
        paint(tmp_path / "zoo" / label / "0.png")
    [remark] = list_source(str(tmp_path / "zoo")).dataset().remarks
    assert remark.endswith("(2): 'n02084071', 'n02121808'")
    file = tmp_path / "classnames.txt"
    file.write_text("n01440764 tench\nn02084071 dog, domestic dog\nn02121808 = house cat\n")
    dataset = read_dataset(str(tmp_path / "zoo"), class_names=file)
    assert (dataset.class_names, dataset.remarks) == (("dog", "house cat"), ())


def test_two_ids_of_one_word_get_their_ids_added(tmp_path):
    for label in ("n03773504", "n04008634"):
        paint(tmp_path / "zoo" / label / "0.png")
    (tmp_path / "names.txt").write_text("n03773504 missile\nn04008634\tmissile\n")
    dataset = read_dataset(str(tmp_path / "zoo"), class_names=tmp_path / "names.txt")
    assert dataset.class_names == ("missile", "missile (n04008634)")
