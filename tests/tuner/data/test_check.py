"""A check names and counts everything that is wrong with a dataset, and what a fit would need."""

import json

import numpy as np
import pytest
from PIL import Image

from craft_server.app import card_limits
from craft_server.settings import Settings
from craft_tuner.client.client import Client
from craft_tuner.commands.check_data import look
from craft_tuner.config.fit_config import build as configure
from craft_tuner.config.settings import Settings as Connection
from craft_tuner.data.benchmarks import BENCHMARKS
from craft_tuner.data.check import SHOWN, check
from craft_tuner.data.dataset import Dataset, Item
from craft_tuner.data.pictures import BytesPicture
from craft_tuner.data.sources import list_source
from craft_tuner.errors import PictureError
from craft_tuner.training import estimate as estimating
from craft_tuner.training.estimate import CARD
from craft_tuner.training.prepare import Samples
from tests.support.coop_layouts import build, paint, split_rows, write_split
from tests.support.paths import ROOT
from tests.support.tuner_server import FakeServer, model_card, transport_to


@pytest.fixture
def zoo(tmp_path):
    folder = tmp_path / "zoo"
    for split, count in (("train", 3), ("test", 2)):
        for label in ("ox", "yak"):
            for index in range(count):
                paint(folder / split / label / f"{index}.png")
    return folder


def found(source, **options):
    """What was found: name of the finding -> (is a problem, count, names)."""
    report = check(list_source(str(source)), **options)
    return {each.what: (each.problem, each.count, each.names) for each in report.findings}


def test_a_sound_dataset_is_counted_and_nothing_is_found(zoo):
    report = check(list_source(str(zoo)))
    files = list(zoo.rglob("*.png"))
    assert report.usable
    assert report.findings == ()
    assert (report.classes, report.train, report.test) == (2, 6, 4)
    assert (report.fewest, report.most) == (3, 3)
    assert report.bytes == sum(path.stat().st_size for path in files)


@pytest.mark.parametrize("name", BENCHMARKS)
def test_each_of_the_papers_layouts_passes(tmp_path, name):
    report = check(list_source(f"coop:{name}@{build(tmp_path, name)}"))
    assert report.usable
    remarks = [each.what for each in report.findings]
    assert remarks == ([] if report.train else ["no training images: for evaluation alone"])
    assert report.validation == (3 if report.classes == 3 else 0)


def test_damaged_files_are_named_and_counted(zoo):
    (zoo / "train" / "ox" / "0.png").write_bytes(b"no image")
    (zoo / "test" / "yak" / "1.png").write_bytes(b"")
    whole = (zoo / "train" / "ox" / "1.png").read_bytes()
    (zoo / "train" / "ox" / "1.png").write_bytes(whole[: len(whole) // 2])
    names = ("train/ox/0.png", "train/ox/1.png", "test/yak/1.png")
    assert found(zoo) == {"damaged or not an image": (True, 3, names)}
    assert found(zoo, opened=False) == {}


def test_the_same_bytes_in_train_and_test_or_under_two_classes_are_problems(zoo):
    for target in ("test/ox/0.png", "train/yak/0.png", "train/ox/1.png"):
        (zoo / target).write_bytes((zoo / "train" / "ox" / "0.png").read_bytes())
    assert found(zoo) == {
        "the same image in train and test": (True, 1, ("test/ox/0.png = train/ox/0.png",)),
        "the same image under two classes": (True, 1, ("train/yak/0.png = train/ox/0.png",)),
        "the same image twice in a class": (False, 1, ("train/ox/1.png = train/ox/0.png",)),
    }


def test_a_file_that_a_split_lists_in_train_and_test_is_a_problem(tmp_path):
    rows = split_rows({"train": 2, "val": 1, "test": 1})
    rows["test"][0] = rows["train"][0]
    write_split(tmp_path, "dtd", rows)
    name = rows["train"][0][0]
    assert found(f"coop:dtd@{tmp_path}") == {
        "the same image in train and test": (True, 1, (f"{name} = {name}",))
    }


def test_a_file_that_a_split_lists_twice_is_found(tmp_path):
    rows = split_rows({"train": 2, "val": 1, "test": 1})
    (wolf, label, class_name), (ox, _, _) = rows["train"][0], rows["train"][2]
    rows["train"] += [(wolf, label, class_name), (ox, label, class_name)]
    write_split(tmp_path, "dtd", rows)
    assert found(f"coop:dtd@{tmp_path}") == {
        "the same image under two classes": (True, 1, (f"{ox} = {ox}",)),
        "the same image twice in a class": (False, 1, (f"{wolf} = {wolf}",)),
    }


def test_missing_files_are_named_and_counted_once(tmp_path):
    folder = write_split(tmp_path, "dtd", split_rows({"train": 30, "val": 1, "test": 1}))
    for path in (folder / "ox").glob("train_*.jpg"):
        path.unlink()
    problem, count, names = found(f"coop:dtd@{tmp_path}")["missing file"]
    assert (problem, count, len(names)) == (True, 30, SHOWN)
    assert names[0] == "ox/train_30.jpg"


def test_faults_of_tables_are_all_found(zoo):
    table = zoo / "zoo.csv"
    rows = [
        "path,label,split",
        "train/ox/0.png,ox,train",
        "train/ox/0.png,ox,train",
        "train/yak/0.png,yak,train",
        "train/yak/8.png,yak,train",
        "train/yak/9.png,yak,train",
        ",yak,train",
        "train/yak/1.png,yak,7",
    ]
    table.write_text("\n".join(rows))
    got = found(table, opened=False)
    assert {what: count for what, (problem, count, _) in got.items() if problem} == {
        "missing file": 2,
        "file listed twice": 1,
        "line without path or label": 1,
        "unknown split": 1,
    }
    assert got["missing file"][2] == ("train/yak/8.png", "train/yak/9.png")


def test_empty_classes_are_found(zoo):
    (zoo / "train" / "emu").mkdir()
    (zoo / "train" / "gnu").mkdir()
    (zoo / "train" / "gnu" / ".hidden.png").touch()
    got = found(zoo)
    assert got["class without images"] == (True, 2, ("emu", "gnu"))
    assert set(got) == {"class without images", "hidden, passed over"}


def test_what_is_converted_and_what_shows_nothing_is_remarked(zoo):
    pixels = np.arange(48, dtype=np.uint16).reshape(6, 8)
    Image.fromarray(pixels).save(zoo / "train/ox/scan.tiff")
    Image.fromarray(pixels).convert("RGB").save(zoo / "test/ox/2.PNG", "BMP")
    Image.fromarray(np.full_like(pixels, 9)).save(zoo / "test/yak/3.png")
    assert found(zoo) == {
        "converted to PNG before the upload": (False, 2, ("train/ox/scan.tiff", "test/ox/2.PNG")),
        "of one colour": (False, 1, ("test/yak/3.png",)),
    }
    assert found(zoo, opened=False) == {}


def test_what_is_left_out_is_named_and_counted_and_stops_nothing(zoo):
    ox = zoo / "train" / "ox"
    (ox / "notes.txt").write_text("ox")
    (ox / "README").write_text("ox")
    (ox / ".DS_Store").write_bytes(b"x")
    (ox / "gone.png").symlink_to("nowhere.png")
    paint(ox / ".ipynb_checkpoints" / "0.png")
    paint(ox / "more" / "0.png")
    paint(zoo / "train" / "loose.png")
    (zoo / "train" / "README.txt").write_text("zoo")
    report = check(list_source(str(zoo)))
    assert report.usable
    assert report.train == 6
    assert {each.what: each.names for each in report.findings} == {
        "hidden, passed over": (str(ox / ".DS_Store"), str(ox / ".ipynb_checkpoints")),
        "no picture, passed over": (str(ox / "README"), str(ox / "notes.txt")),
        "link to nothing, passed over": (str(ox / "gone.png"),),
        "folder within a class folder, passed over": (str(ox / "more"),),
        "beside the class folders, passed over": (str(zoo / "train" / "loose.png"),),
    }
    remarks = list_source(str(zoo)).dataset().remarks
    assert (
        f"beside the class folders, passed over (1): {str(zoo / 'train' / 'loose.png')!r}"
        in remarks
    )
    assert any(each.startswith("hidden, passed over (2): ") for each in remarks)


def test_classes_that_one_split_lacks_are_found(zoo):
    paint(zoo / "train" / "emu" / "0.png")
    paint(zoo / "test" / "gnu" / "0.png")
    assert found(zoo) == {
        "class without training images": (True, 1, ("gnu",)),
        "class without test images": (True, 1, ("emu",)),
        "class with one training image": (False, 1, ("emu",)),
    }


def test_names_beyond_ascii_are_remarked_and_doubled_ones_are_problems(zoo):
    for split in ("train", "test"):
        paint(zoo / split / "Bär" / "grün.png")
    got = found(zoo)
    names = ("Bär", "train/Bär/grün.png", "test/Bär/grün.png")
    assert got["name beyond ASCII"] == (False, 3, names)
    for split in ("train", "test"):
        paint(zoo / split / "sea_lion" / "0.png")
        paint(zoo / split / "sea lion" / "0.png")
    assert "2 classes are called 'sea lion'" in found(zoo)["class names"][2][0]


def test_training_images_alone_are_remarked(zoo):
    assert list(found(zoo / "train")) == ["no test images: a fit has no final test"]


# --- what a fit would need ----------------------------------------------------------------------


def test_the_assumed_limits_are_a_servers_defaults(tmp_path):
    assert card_limits(Settings(data_dir=tmp_path)) == estimating.CARD.limits


def test_a_fit_of_the_papers_shape_needs_what_its_plan_says():
    png = (ROOT / "docs" / "examples" / "seven.png").read_bytes()
    items = tuple(
        Item(BytesPicture(png, f"{split}{label}{index:02d}"), label)
        for split in ("a", "b")
        for label in range(10)
        for index in range(16)
    )
    dataset = Dataset(tuple("abcdefghij"), items[:160], items[160:])
    needs = estimating.estimate(configure({"method": "craft", "seed": 2, "views": 3}), dataset)
    assert needs.plan.total.queries == 195 * 41 + 2
    assert needs.traffic.pictures == 160 + 160 * 4
    assert needs.traffic.logit_bytes > needs.plan.total.logit_vectors * 10 * 4
    assert needs.traffic.picture_bytes > 320 * len(png) + 160 * 3 * 1000


def test_a_bank_is_priced_by_shots_and_views_together():
    items = tuple(Item(BytesPicture(b"x", str(index)), index % 2) for index in range(8))
    dataset = Dataset(("a", "b"), items, ())
    settings = configure({"method": "bank", "shots": 4, "views": 3})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Samples, "weigh", lambda _: 1)
        needs = estimating.estimate(settings, dataset)
    [bought] = needs.plan.phases
    assert bought.cost.logit_vectors == needs.plan.population * 8 * (1 + 3)


def test_imagenet_sized_tests_need_one_query_per_image_set():
    items = tuple(Item(BytesPicture(b"x", str(index)), index % 8) for index in range(50_001))
    dataset = Dataset(tuple("abcdefgh"), (), items)
    needs = estimating.estimate(configure({}), dataset)
    assert needs.plan.total.queries == 2
    assert needs.traffic.pictures == 50_001
    assert needs.traffic.requests == 2


def noise(path, kind, width=40):
    pixels = np.random.default_rng(1).integers(0, 256, (40, width, 3), np.uint8)
    Image.fromarray(pixels).save(path.with_suffix(f".{kind}"), kind)


@pytest.mark.parametrize("split", ["train", "test", "val"])
@pytest.mark.parametrize(
    ("kind", "width", "limits", "large"),
    [
        ("png", 40, {"image_bytes": 4000}, True),
        ("png", 40, {"image_bytes": 6000}, False),
        ("png", 40, {"body_bytes": 5000}, True),
        ("jpeg", 40, {"image_bytes": 4000}, False),
        ("bmp", 40, {"image_bytes": 4000}, True),
        ("png", 40, {"image_pixels": 1599}, True),
        ("webp", 40, {"image_pixels": 1600}, False),
        ("tiff", 41, {"image_pixels": 1600}, True),
    ],
)
def test_what_is_larger_than_the_server_takes_is_named_as_the_upload_does(
    zoo, split, kind, width, limits, large
):
    for label in ("ox", "yak"):
        paint(zoo / "val" / label / "0.png")
    noise(zoo / split / "yak" / "z", kind, width)
    server = FakeServer(cards=[model_card(**limits)])
    transport, card = transport_to(server), server.cards[0]
    listing = list_source(str(zoo))
    apart = listing.validation.pairs
    report = check(listing, validation=apart, limits=card.limits)
    found = {each.what: each.names for each in report.findings if each.problem}
    assert bool(found) == large
    pictures = [picture for _, picture in (*listing.train, *listing.test, *apart)]
    client = Client(transport, card, run_id="r")
    if large:
        [(what, names)] = found.items()
        assert what.startswith("larger than the server takes: ")
        assert names == (f"{split}/yak/z.{kind}",)
        with pytest.raises(PictureError, match=rf"z\.{kind} has .*the server takes"):
            client.look(pictures)
    else:
        client.look(pictures)


def test_without_a_key_the_limits_are_those_of_a_server_by_default(zoo):
    assert CARD.limits == card_limits(Settings())
    Image.new("L", (8001, 4000)).save(zoo / "train/ox/z.png")
    assert "problem: larger than the server takes: 8,388,608 bytes or 32,000,000 pixels (1): " in (
        peek(zoo).text()
    )


# --- both together ------------------------------------------------------------------------------


def peek(source, *, opened=True, connection=None, **flags):
    connection = connection or Connection()
    return look(str(source), [flags], connection=connection, class_names=None, opened=opened)


def test_a_datasets_preset_is_named_and_taken_if_it_is_asked_for(tmp_path):
    source = f"coop:oxford-pets@{build(tmp_path, 'oxford_pets')}"
    plain = peek(source, shots=4)
    assert plain.needs is not None
    assert (plain.config.preset, plain.needs.plan.method) == (None, "bank")
    assert "the paper's settings for this dataset: --preset oxford_pets\n" in plain.text()
    looked = peek(source, seed=3, shots=4, preset="oxford_pets")
    assert looked.usable
    assert (looked.config.preset, looked.config.shots, looked.config.seed) == ("oxford_pets", 4, 3)
    assert looked.template == "a photo of a {}, a type of pet."
    assert looked.needs is not None
    assert looked.needs.plan.budget == 4000
    text = looked.text()
    assert "--preset" not in text
    assert "3 classes; images: 12 train, 6 test, 3 validation (unused)" in text
    assert "a fit (craft, 4 shots, seed 3, preset oxford_pets) needs:" in text
    assert text.endswith("\nusable")


def test_a_shifted_set_needs_an_evaluation(tmp_path):
    text = peek(f"coop:imagenet-r@{build(tmp_path, 'imagenet_r')}").text()
    assert "remark: no training images: for evaluation alone\n" in text
    assert "an evaluation among these classes needs:" in text
    assert " 0 shots" not in text
    assert "shots:" not in text


def test_more_shots_than_there_are_is_why_a_fit_would_be_refused(zoo):
    looked = peek(zoo, shots=4)
    assert not looked.usable
    assert looked.needs is None
    assert "problem: class 'ox' has 3 training image(s), 4 shots need 4" in looked.text()
    assert peek(zoo, shots=4, sampling="craft").usable


def test_a_budget_that_covers_nothing_is_why_a_fit_would_be_refused(zoo):
    assert "raise --budget to at least" in peek(zoo, shots=3, method="craft", budget=3).text()


def test_problems_come_before_plans(zoo):
    (zoo / "train" / "ox" / "0.png").write_bytes(b"no image")
    looked = peek(zoo)
    assert (looked.needs, looked.refusal) == (None, None)
    text = looked.text()
    assert "problem: damaged or not an image (1): train/ox/0.png" in text
    assert text.endswith("\nnot usable as it is")


def test_many_names_are_cut_and_counted(zoo):
    for index in range(SHOWN + 5):
        (zoo / "train" / "ox" / f"bad{index:02d}.png").write_bytes(b"no image")
    assert "damaged or not an image (25): train/ox/bad00.png, " in peek(zoo).text()
    assert "train/ox/bad19.png and 5 more" in peek(zoo).text()


def test_what_is_said_survives_json(zoo):
    looked = peek(zoo, opened=False)
    assert json.loads(looked.model_dump_json())["report"]["bytes"] is None
    assert "all images" not in looked.text()


@pytest.mark.parametrize("named", ["split", "path"])
def test_images_that_choices_would_be_made_on_are_looked_at_as_well(zoo, named):
    for label in ("ox", "yak"):
        for index in range(2):
            paint(zoo / "val" / label / f"{index}.png")
    asked = {"shots": 2, "validation": named if named == "split" else str(zoo / "val")}
    looked = peek(zoo, **asked)
    assert looked.usable
    assert "chosen on 4 validation images; test images have no part in it\n" in looked.text()
    assert ("4 validation (unused)" in looked.text()) == (named == "path")
    (zoo / "val/ox/0.png").write_bytes((zoo / "train/ox/0.png").read_bytes())
    (zoo / "val/ox/1.png").write_bytes(b"no image")
    assert peek(zoo, shots=2).usable
    found = {each.what: each.count for each in peek(zoo, **asked).report.findings if each.problem}
    assert found == {
        "damaged or not an image": 1,
        "the same image for validation and elsewhere": 1,
    }
