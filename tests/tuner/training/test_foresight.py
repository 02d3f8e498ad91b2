"""A fit is planned in one place: check, dry run, fit and bench say the same, and the ledger too."""

import csv
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import SecretStr

from craft_shared.messages import Counters
from craft_tuner import methods
from craft_tuner.bench.grid import Grid
from craft_tuner.bench.plans import plan_grid
from craft_tuner.commands.check_data import look
from craft_tuner.config.fit_config import build
from craft_tuner.config.settings import Settings
from craft_tuner.data.dataset import Dataset, Item
from craft_tuner.data.pictures import BytesPicture
from craft_tuner.data.sources import read_dataset
from craft_tuner.errors import CraftTunerError
from craft_tuner.plan import Plan, Workload
from craft_tuner.runs.run import Run
from craft_tuner.training import fit as fitting
from craft_tuner.training.estimate import CARD
from craft_tuner.training.foresight import Foreseen, Terms, plan_fit
from craft_tuner.training.traffic import reply_bytes
from tests.support.coop_layouts import paint
from tests.support.tuner_server import KEY, FakeServer, listening, transport_to

SMALL = {"views": 2, "population": 4, "intrinsic_dim": 8, "sigma": 0.5, "head_epochs": 3}
PLENTY = 10**9

layouts = st.fixed_dictionaries(
    {
        "name": st.sampled_from(["caltech101", "dtd", "digits-2", "zoo"]),
        "form": st.sampled_from(["folders", "table"]),
        "train": st.lists(st.integers(1, 5), min_size=2, max_size=4),
        "test": st.integers(0, 2),
        "val": st.integers(0, 2),
    }
)
choices = st.fixed_dictionaries(
    {"method": st.sampled_from([None, *methods.names()]), "shots": st.integers(1, 4)},
    optional={
        "seed": st.integers(1, 3),
        "budget": st.integers(1, 60),
        "sampling": st.sampled_from(["names", "coop", "craft"]),
        "views": st.integers(1, 3),
        "preset": st.sampled_from(["caltech101", "imagenet"]),
        "bank_prompts": st.sampled_from([1, 2, 4]),
        "validation": st.sampled_from(["none", "split", "0.4"]),
    },
)
keys = st.fixed_dictionaries(
    {},
    optional={
        "queries": st.integers(0, 70),
        "texts": st.integers(0, 2000),
        "logit_vectors": st.integers(0, 500),
    },
)


@pytest.fixture(scope="module")
def server():
    server = FakeServer()
    with listening(server) as server.url:
        yield server


def laid_out(folder, *, name, form, train, test, val=0):
    """A dataset on disk; what `--data` takes."""
    source = folder / name
    rows = [
        (f"{split}/class {label}/{index}.png", f"class {label}", split)
        for label, count in enumerate(train)
        for split, images in (("train", count), ("test", test), ("val", val))
        for index in range(images)
    ]
    for path, _, _ in rows:
        paint(source / path)
    if form == "folders":
        return source
    table = source / f"{name}.csv"
    with table.open("w", newline="") as file:
        csv.writer(file).writerows([("path", "label", "split"), *rows])
    return table


def planned(config, source, server):
    """Plan and traffic of a fit, or the sentence that refuses it."""
    transport = transport_to(server)
    try:
        dataset, card = read_dataset(str(source)), server.cards[0]
        found = fitting.prepare(config, dataset, transport, card=card, run=None)
    except CraftTunerError as error:
        return error.message
    return found.plan, found.traffic


def checked(given, source, server):
    """The same as `data check` says it."""
    connection = Settings(server=server.url, key=SecretStr(KEY))
    looked = look(str(source), [given], connection=connection, class_names=None, opened=False)
    assert looked.report.usable
    assert looked.usable == (looked.needs is not None)
    return looked.refusal or (looked.needs.plan, looked.needs.traffic)


def benched(given, source, server):
    """A bench of one cell, planned."""
    names = {"sampling", "views", "bank_prompts", "validation"}
    own = {name: given[name] for name in given.keys() & names}
    grid = Grid(
        data=(str(source),),
        shots=(given["shots"],),
        seeds=(given.get("seed", 1),),
        methods=(given.get("method", "auto"),),
        budgets=(given["budget"],) if "budget" in given else (),
        preset=given.get("preset", ""),
        settings=own,
    )
    [cell] = plan_grid(grid, Terms(server.cards[0], server.policy))
    return cell


@pytest.mark.slow
@settings(
    max_examples=15,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(layout=layouts, given_=choices, key=keys)
def test_check_fit_and_bench_have_one_plan(server, layout, given_, key):
    given_ = {name: value for name, value in given_.items() if value is not None}
    server.queries, server.limits = key.get("queries", PLENTY), key.copy()
    server.limits.pop("queries", None)
    with TemporaryDirectory() as folder:
        source = laid_out(Path(folder), **layout)
        try:
            config = build(given_)
        except CraftTunerError:
            return
        fit = planned(config, source, server)
        assert checked(given_, source, server) == fit
        if not key:
            cell = benched(given_, source, server)
            fit = planned(cell.cell.config, source, server)
            assert (cell.refusal or cell.plan) == (fit if isinstance(fit, str) else fit[0])
    assert server.spent.queries == 0


@pytest.mark.slow
@pytest.mark.parametrize("tested", [True, False])
@pytest.mark.parametrize(
    ("method", "key"),
    [
        *((method, {}) for method in methods.names()),
        ("auto", {"queries": 9}),
        ("auto", {"queries": 1}),
        ("auto", {"texts": 500}),
        ("bank", {"texts": 900}),
    ],
)
def test_the_ledger_has_what_the_plan_said(tmp_path, method, key, tested):
    server = FakeServer(**{"queries": PLENTY} | key)
    own = {"budget": 40} if not key else {}
    config = build(SMALL, {"method": method, "shots": 3, **own})
    source = laid_out(tmp_path, name="zoo", form="folders", train=[3, 4, 3], test=2 * tested)
    transport, card = transport_to(server), server.cards[0]
    prepared = fitting.prepare(config, read_dataset(str(source)), transport, card=card, run=None)
    with Run.create(tmp_path / "run", config) as run:
        result = fitting.fit(run, prepared, transport, card=card)
    assert server.spent.model_dump() == result["spent_total"]
    for phase in prepared.plan.phases:
        spent = Counters(**result["spent"][phase.purpose])
        answers_plainly = spent.queries == 1 and phase.purpose == "test"
        assert spent == phase.cost or answers_plainly  # zero-shot was the best head
    assert len(server.calls("/v1/logits")) == prepared.traffic.requests
    assert prepared.traffic.pictures >= len(server.images)
    sent_shots = len(server.images) > 3 * 2 * tested
    assert sent_shots == (prepared.plan.fit.queries > 0)


@pytest.mark.parametrize(
    ("given_", "views"),
    [
        ({"preset": "dtd", "paper_exact": True, "budget": 1000}, 24),
        ({"preset": "dtd", "paper_exact": True}, 195),
        ({"method": "craft"}, 8),
        ({"method": "craft", "budget": 100}, 2),
        ({"method": "bbt", "budget": 100}, 0),
        ({"method": "head_only"}, 8),
    ],
)
def test_no_view_is_uploaded_that_the_plan_does_not_read(given_, views):
    items = [Item(BytesPicture(b"", f"{n}"), label) for label in range(2) for n in range(16)]
    found = plan_fit(build(given_), Dataset(("cat", "ox"), tuple(items)), Terms(CARD))
    assert (found.samples.views, found.samples.pictures) == (views, 32 * (1 + views))


# --- how logits travel --------------------------------------------------------------------------


def a_bank(*, classes=10, test_images=5000, **fields):
    """A bank on a large dataset."""
    config = build({"method": "bank", **fields})
    work = Workload(classes, 8, test_images=test_images, test_sets=1, bundle=72, set_size=10_000)
    return Foreseen(config, None, methods.get("bank").plan(config, work), CARD)


def asked_of(foreseen, rate):
    """What is chosen on a line, and whether its rate was asked for."""
    asked = []
    settled = foreseen.for_line(lambda: asked.append(rate) or rate)
    return settled.plan.dtype, bool(asked)


def whole_of(foreseen):
    return reply_bytes(foreseen.plan, "float32")


@pytest.mark.parametrize(
    ("share", "dtype"), [(0.5, "int16"), (0.99, "int16"), (1.0, "float32"), (9.0, "float32")]
)
def test_a_line_is_slow_that_takes_more_than_a_minute(share, dtype):
    foreseen = a_bank()
    assert asked_of(foreseen, share * whole_of(foreseen) / 60) == (dtype, True)


def test_a_line_of_which_nobody_knows_the_rate_is_fast():
    assert asked_of(a_bank(), None) == ("float32", True)


@pytest.mark.parametrize(
    "foreseen",
    [
        *(a_bank(dtype=dtype) for dtype in ("float32", "float16", "int16")),
        a_bank(test_images=10),
        replace(a_bank(), card=CARD.model_copy(update={"reply_dtypes": ["float32", "float16"]})),
    ],
    ids=["float32", "float16", "int16", "little to receive", "an older server"],
)
def test_a_line_is_not_measured_for_nothing(foreseen):
    assert asked_of(foreseen, 1.0) == ("float32", False)


@pytest.mark.parametrize(("names", "dtype"), [(2, "float32"), (4, "float32"), (5, "int16")])
def test_int16_is_not_taken_where_it_is_no_smaller(monkeypatch, names, dtype):
    monkeypatch.setattr("craft_tuner.training.foresight.WORTH_MEASURING_BYTES", 0)
    plan = a_bank().plan
    phases = [
        phase.model_copy(update={"cost": replace_texts(phase.cost, names)}) for phase in plan.phases
    ]
    foreseen = replace(a_bank(), plan=plan.model_copy(update={"phases": tuple(phases)}))
    assert asked_of(foreseen, 1.0) == (dtype, dtype == "int16")


def replace_texts(cost, names):
    return cost.model_copy(update={"texts": names * cost.queries})


def test_plans_of_before_say_nothing_and_their_settings_do():
    old = a_bank().plan.model_dump(mode="json", exclude={"dtype"})
    for dtype in ("float32", "float16"):
        assert Plan.model_validate(old).dtype_of(build({"dtype": dtype})) == dtype
    assert Plan.model_validate(old).dtype_of(build({})) == "float32"
