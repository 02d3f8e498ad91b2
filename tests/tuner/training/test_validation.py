"""`--validation`: which images choices are made on, what that costs, and who may have it."""

import csv
import hashlib
import json

import pytest
from PIL import Image

from craft_shared.messages import Counters
from craft_tuner import method_registry, methods
from craft_tuner.commands.check_data import set_apart
from craft_tuner.config.fit_config import build
from craft_tuner.data.check import check, to_read
from craft_tuner.data.dataset import labels_of
from craft_tuner.data.sources import list_source, read_dataset
from craft_tuner.errors import CraftTunerError, DataError, RunError, UsageError
from craft_tuner.runs.run import Run
from craft_tuner.training import fit as fitting
from craft_tuner.training.prepare import gather
from tests.support.coop_layouts import build as coop
from tests.support.coop_layouts import paint
from tests.support.tuner_server import FakeServer, model_card, transport_to

CLASSES = ("lynx", "sea_lion", "yak")
SMALL = {"views": 2, "bank_names": 5, "bank_prompts": 2, "head_epochs": 3, "shots": 2}
CHOOSING = ("auto", "bank", "craft_plus", "head_only")


def painted(root, *, splits=("train", "val", "test"), classes=CLASSES, count=4):
    """Images of each class in each split, "." for `root` itself; their rows."""
    rows = []
    for split in splits:
        for label in classes:
            for index in range(count if split == "train" else 2):
                path = f"{split}/{label}/{index}.png"
                paint(root / path)
                rows.append((path, label, split))
    return rows


def table(root, rows, name="zoo.csv"):
    with (root / name).open("w", newline="") as file:
        csv.writer(file).writerows([("path", "label", "split"), *rows])
    return root / name


def of_folders(root):
    painted(root)
    return root, "split"


def of_a_table(root):
    return table(root, painted(root)), "split"


def of_json_lines(root):
    rows = [dict(zip(("path", "label", "split"), row, strict=True)) for row in painted(root)]
    (root / "zoo.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return root / "zoo.jsonl", "split"


def of_a_split_file(root):
    coop(root, "dtd")
    return f"coop:dtd@{root}", "split"


def of_another_folder(root):
    painted(root / "zoo", splits=("train", "test"))
    painted(root / "more", splits=(".",))
    return root / "zoo", root / "more"


def of_the_validation_folder(root):
    painted(root)
    return root, root / "val"


def of_another_dataset(root):
    painted(root / "zoo", splits=("train", "test"))
    painted(root / "more", splits=("train", "dev"))
    return root / "zoo", root / "more"


def of_another_table(root):
    painted(root / "zoo", splits=("train",))
    rows = painted(root / "more", splits=("late",))
    lines = [(path, label.replace("_", " "), "val") for path, label, _ in rows]
    return root / "zoo", table(root / "more", lines)


def of_class_folders_with_a_share(root):
    painted(root, splits=(".",), count=2)
    return root, "0.5"


def of_a_percentage(root):
    painted(root, splits=("train",))
    return root, "30%"


SOURCES = {
    of_folders: 6,
    of_a_table: 6,
    of_json_lines: 6,
    of_a_split_file: 3,
    of_another_folder: 6,
    of_the_validation_folder: 6,
    of_another_dataset: 6,
    of_another_table: 6,
    of_class_folders_with_a_share: 3,
    of_a_percentage: 3,
}


def samples(source, **settings):
    config = build({**SMALL, **settings, "validation": str(settings.get("validation", "none"))})
    method = methods.get(config.method)
    return gather(config, read_dataset(str(source)), method, card=model_card())


@pytest.mark.parametrize(("source", "images"), SOURCES.items())
def test_every_source_gives_its_validation_images_and_the_shots_of_always(tmp_path, source, images):
    where, named = source(tmp_path)
    found = samples(where, validation=named, shots=1)
    assert len(found.validation) == images
    assert set(labels_of(found.validation)) == {0, 1, 2}
    assert not set(found.validation) & {*found.shots, *found.test}
    if isinstance(named, str) and named != "split":
        return
    assert found.shots == samples(where, shots=1).shots


@pytest.mark.parametrize("sampling", ["names", "coop", "craft"])
@pytest.mark.parametrize(
    ("share", "each"),
    [("0.01", [1, 1, 0]), ("0.5", [4, 2, 0]), ("75%", [6, 2, 0]), ("0.99", [7, 2, 0])],
)
def test_a_share_is_of_each_class_by_seed_and_never_all_of_it(tmp_path, sampling, share, each):
    for label, count in zip(CLASSES, (8, 3, 1), strict=True):
        painted(tmp_path, splits=("train",), classes=(label,), count=count)
    own = {"validation": share, "shots": "all", "sampling": sampling}
    one, again, other = (samples(tmp_path, **own, seed=seed) for seed in (1, 1, 2))
    assert [labels_of(one.validation).tolist().count(label) for label in range(3)] == each
    assert len(one.shots) == 12 - sum(each)
    assert not {*one.shots} & {*one.validation}
    assert one == again
    assert share != "0.5" or {*one.validation} != {*other.validation}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "named"),
    [*((method, "split") for method in CHOOSING), ("auto", "0.5"), ("head_only", "path")],
)
def test_the_ledger_has_what_the_plan_said(tmp_path, method, named):
    where, _ = of_folders(tmp_path / "zoo")
    painted(tmp_path / "more", splits=(".",), classes=reversed(CLASSES))
    named = tmp_path / "more" if named == "path" else named
    config = build(SMALL, {"method": method, "validation": str(named)})
    server = FakeServer(queries=100)
    transport, card = transport_to(server), server.cards[0]
    prepared = fitting.prepare(config, read_dataset(str(where)), transport, card=card, run=None)
    assert prepared.plan.validation == 6
    assert "chosen on 6 validation images" in prepared.plan.table()
    with Run.create(tmp_path / "run", config) as run:
        result = fitting.fit(run, prepared, transport, card=card)
        trained = json.loads((run.path / "adapter.json").read_text())["training"]
        assert trained["chosen_on"]["validation_images"] == 6
        assert run.restore().metrics[-1]["heldout_accuracy"] * 6 % 1 < 1e-6
    assert result["images"] == {"shots": 6, "validation": 6, "test": 6}
    assert len(server.images) <= prepared.traffic.pictures == 30
    apart = [
        hashlib.sha256(item.picture.read()).hexdigest() for item in prepared.samples.validation
    ]
    together = [ids[6:12] for ids in server.sets.values() if len(ids) == 24]
    assert together == ([] if method == "head_only" else [apart])
    assert len(server.calls("/v1/logits")) == prepared.traffic.requests
    for phase in prepared.plan.phases:
        spent = Counters(**result["spent"][phase.purpose])
        assert spent == phase.cost or (spent.queries == 1 and phase.purpose == "test")
    paid = server.spent
    with Run.resume(tmp_path / "run", config=config) as run:
        again = fitting.prepare(config, read_dataset(str(where)), transport, card=card, run=run)
        fitting.fit(run, again, transport, card=card)
    assert server.spent == paid


def test_a_bank_asks_no_more_queries_for_it(tmp_path):
    where, _ = of_folders(tmp_path)
    plain, chosen = (
        fitting.plan_fit(
            build(SMALL, {"method": "bank", "validation": named}),
            read_dataset(str(where)),
            fitting.Terms(model_card()),
        ).plan
        for named in ("none", "split")
    )
    assert chosen.total.queries == plain.total.queries
    assert chosen.total.texts == plain.total.texts
    assert chosen.fit.logit_vectors == plain.fit.logit_vectors + 2 * 6
    assert (plain.validation, chosen.validation) == (0, 6)


def test_a_fit_that_asks_about_no_shot_sends_no_validation_image(tmp_path):
    where, _ = of_folders(tmp_path)
    config = build(SMALL, {"method": "auto", "budget": 1, "validation": "split"})
    found = fitting.plan_fit(config, read_dataset(str(where)), fitting.Terms(model_card()))
    assert (found.plan.method, found.plan.validation, found.samples.validation) == (
        "zero_shot",
        0,
        (),
    )


@pytest.mark.parametrize("method", sorted({*method_registry.BUILT_IN} - {*CHOOSING}))
@pytest.mark.parametrize("named", ["split", "0.2"])
def test_a_method_that_chooses_nothing_refuses_it_and_names_those_that_do(tmp_path, method, named):
    where, _ = of_folders(tmp_path)
    with pytest.raises(UsageError, match=f"--method {method} chooses nothing") as caught:
        samples(where, method=method, validation=named)
    assert all(each in str(caught.value) for each in CHOOSING)


def without(root, split):
    painted(root, splits=tuple(each for each in ("train", "val", "test") if each != split))
    return root


def lacking(root):
    painted(root, splits=("train",))
    painted(root, splits=("val",), classes=CLASSES[:2])
    return root, "split"


def strange(root):
    painted(root, splits=("train",))
    painted(root / "more", splits=(".",), classes=(*CLASSES, "gnu"))
    return root, root / "more"


def of_test_images(root):
    painted(root)
    painted(root / "more", splits=("train", "test"))
    return root, root / "more"


def empty(root):
    painted(root, splits=("train",))
    (root / "val").mkdir()
    return root, "split"


def escaping(root):
    painted(root / "zoo", splits=("train",))
    painted(root / "far", splits=(".",))
    (root / "zoo" / "val").symlink_to(root / "far")
    return root / "zoo", "split"


def no_picture(root):
    painted(root, splits=("train",))
    (root / "more.csv").write_text("path,label\nnowhere.png,yak\n")
    return root, root / "more.csv"


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda root: (without(root, "val"), "split"), "has no images for validation; name a fold"),
        (lacking, "the validation split has no image of 'yak'"),
        (strange, "has images of 'gnu', which the dataset has no class for; its classes: 'lynx'"),
        (lambda root: (without(root, "val"), root / "val"), "there is nothing at "),
        (of_test_images, "has test images, which are for the test alone"),
        (empty, "has no class folders"),
        (escaping, "--allow-outside"),
        (no_picture, "no image at "),
        (lambda root: (without(root, "val"), "0.6"), "after --validation 0.6, class 'lynx' has 2"),
    ],
)
def test_what_cannot_be_chosen_on_is_refused_by_name(tmp_path, make, said):
    where, named = make(tmp_path)
    with pytest.raises(DataError) as caught:
        samples(where, validation=named, shots=3)
    assert said in str(caught.value)


@pytest.mark.parametrize("path", ["x" * 5000, "a\0b", "\udcff", "~nobody/val", "hf:me/zoo", "-1%x"])
def test_a_path_of_any_text_is_looked_for_and_refused_in_a_sentence(tmp_path, path):
    with pytest.raises(DataError, match="there is nothing at ") as caught:
        samples(without(tmp_path, "val"), validation=path)
    caught.value.message.encode()


def copied_from(split):
    def copy(root):
        (root / "val/yak/0.png").write_bytes((root / split / "yak/1.png").read_bytes())
        return "split"

    return copy


def doubled(root):
    for index in range(1, 4):
        (root / f"train/yak/{index}.png").write_bytes((root / "train/yak/0.png").read_bytes())
    return "0.5"


def saved_in(first, second, named):
    """The same picture in two formats that are converted."""

    def save(root):
        with Image.open(root / "train/yak/0.png") as image:
            for place, kind in (first, second):
                image.save((root / place).with_suffix(f".{kind}"), kind)
                (root / place).unlink(missing_ok=True)
        return named

    return save


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (copied_from("train"), "validation image .* is the training image"),
        (copied_from("test"), "test image .* is the validation image"),
        (doubled, "validation image .* is the training image"),
        (
            saved_in(("train/yak/1.png", "bmp"), ("test/yak/1.png", "tiff"), "none"),
            "test image .* is the training image",
        ),
        (
            saved_in(("train/yak/1.png", "gif"), ("val/yak/1.png", "bmp"), "split"),
            "validation image .* is the training image",
        ),
        (
            saved_in(("train/yak/1.png", "bmp"), ("train/lynx/1.png", "tiff"), "none"),
            "the same image under two classes",
        ),
    ],
)
def test_an_image_that_is_there_twice_is_refused_before_any_leaves(tmp_path, spoil, said):
    where, _ = of_folders(tmp_path)
    named = spoil(where)
    server = FakeServer()
    transport, card = transport_to(server), server.cards[0]
    config = build(SMALL, {"validation": named, "shots": "all"})
    listing = list_source(str(where))
    assert not check(listing, validation=set_apart(config, listing)).usable
    prepared = fitting.prepare(config, read_dataset(str(where)), transport, card=card, run=None)
    with (
        Run.create(tmp_path / "run", config) as run,
        pytest.raises(DataError, match=rf"{said}.*; (remove|keep) one"),
    ):
        fitting.fit(run, prepared, transport, card=card)
    assert server.spent.queries == 0
    assert not server.images


@pytest.mark.parametrize("named", ["0.2", "50%"])
def test_a_share_that_has_no_double_is_no_problem(tmp_path, named):
    where, _ = of_folders(tmp_path)
    listing = list_source(str(where))
    apart = set_apart(build(SMALL, {"validation": named}), listing)
    read = to_read(listing, apart)
    assert apart
    assert len(read["train"]) + len(read["validation"]) == len(listing.train)
    assert check(listing, validation=apart).usable


@pytest.mark.parametrize(
    ("value", "is_read"),
    [
        (None, "none"),
        ("None", "none"),
        ("SPLIT", "split"),
        (0.2, "0.2"),
        ("0.20", "0.2"),
        ("20%", "0.2"),
        ("7 %", "0.07"),
    ],
)
def test_a_value_is_read_as_people_write_it(value, is_read):
    config = build({"validation": value})
    assert config.validation == is_read
    assert type(config).model_validate_json(config.model_dump_json()) == config


@pytest.mark.parametrize("value", [0, 1, 2, -0.1, 1.0, "100%", "0%", "", "nan", "inf", True, [0.2]])
def test_a_value_that_is_none_of_these_is_refused(value):
    with pytest.raises(UsageError, match=r"above 0 and below 1; .*0\.2, 20%\), or a folder"):
        build({"validation": value})


def test_a_path_is_the_same_from_everywhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = build({"validation": "more/val"})
    assert config.validation == str(tmp_path / "more/val")


def test_a_configuration_of_before_has_none():
    old = build().model_dump()
    assert "validation" not in old
    assert type(build()).model_validate(old) == build()
    assert "validation" in build({"validation": "split"}).model_dump()


def test_no_refusal_is_anything_but_a_sentence(tmp_path):
    with pytest.raises(CraftTunerError) as caught:
        samples(without(tmp_path, "val"), validation="split", method="craft")
    assert "\n" not in caught.value.message


@pytest.mark.slow
@pytest.mark.parametrize("method", ["bank", "head_only"])
def test_a_run_goes_on_with_its_own_validation_images_alone(tmp_path, method):
    where, _ = of_folders(tmp_path)
    config = build(SMALL, {"method": method, "validation": "split"})
    server = FakeServer()
    transport, card = transport_to(server), server.cards[0]

    def go_on(run):
        dataset = read_dataset(str(where))
        prepared = fitting.prepare(config, dataset, transport, card=card, run=run)
        fitting.fit(run, prepared, transport, card=card)

    with Run.create(tmp_path / "run", config) as run:
        go_on(run)
    (where / "val/yak/0.png").unlink()
    paint(where / "val/yak/9.png")
    with (
        Run.resume(tmp_path / "run") as run,
        pytest.raises(RunError, match=r"was started with other .*validation"),
    ):
        go_on(run)
