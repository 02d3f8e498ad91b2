"""A fit is planned in one place: check, dry run, fit and bench say the same, and the ledger too."""

import contextlib
import csv
import io
import json
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from craft_shared.messages import Counters, Output, Policy
from craft_tuner import CraftClassifier, methods
from craft_tuner.bench.grid import Grid
from craft_tuner.bench.plans import plan_grid
from craft_tuner.client.account import fetch_key
from craft_tuner.commands import fit as commands
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
from tests.support.tuner_server import (
    KEY,
    FakeServer,
    listening,
    model_card,
    transport_to,
)

SMALL = {"views": 2, "population": 4, "intrinsic_dim": 8, "sigma": 0.5, "head_epochs": 3}
PLENTY = 10**9

layouts = st.fixed_dictionaries(
    {
        "name": st.sampled_from(["caltech101", "dtd", "digits", "zoo"]),
        "form": st.sampled_from(["folders", "table"]),
        "train": st.lists(st.integers(1, 5), min_size=2, max_size=4),
        "test": st.integers(0, 2),
        "val": st.integers(0, 2),
    }
)
choices = st.fixed_dictionaries(
    {
        "method": st.sampled_from(["auto", *methods.names()]),
        "shots": st.sampled_from([1, 2, 3, 4, "all", "up to 3"]),
        "budget": st.integers(1, 60),
    },
    optional={
        "seed": st.integers(1, 3),
        "sampling": st.sampled_from(["names", "coop", "craft"]),
        "views": st.integers(1, 3),
        "preset": st.sampled_from(["caltech101", "imagenet"]),
        "bank_prompts": st.sampled_from([1, 2, 4]),
        "validation": st.sampled_from(["none", "split", "0.4"]),
        "fitness_view": st.just("augmented"),
        "dtype": st.just("float16"),
    },
)
keys = st.fixed_dictionaries(
    {
        "output": st.sampled_from(
            [{"kind": "logits"}, {"kind": "top_k", "k": 2}, {"kind": "label"}]
        ),
        "kinds": st.sampled_from([["soft", "text"], ["text"]]),
        "images": st.sampled_from([2000, 2000, 7]),
    },
    optional={
        "queries": st.integers(0, 90),
        "texts": st.integers(0, 2000),
        "logit_vectors": st.integers(0, 900),
    },
)


def a_server(*, output, kinds, images, **left):
    """A server whose key has so much left, of what it is limited in."""
    told = {"output": output["kind"], "prompt_kinds": kinds}
    card = model_card(images=images).model_copy(update=told)
    server = FakeServer(**{"queries": PLENTY} | left, cards=[card])
    server.policy = Policy(output=Output(**output))
    return server


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


def checked(given, source, connection):
    """The same as `data check` says it."""
    looked = look(str(source), [given], connection=connection, class_names=None, opened=False)
    assert looked.report.usable
    assert looked.usable == (looked.needs is not None)
    return looked.refusal or (looked.needs.plan, looked.needs.traffic)


def rehearsed(config, source, connection):
    """What a dry run shows, or the sentence that refuses it."""
    said = io.StringIO()
    with contextlib.redirect_stderr(said):
        try:
            commands.foresee(config, connection, data=str(source))
        except CraftTunerError as error:
            return error.message
    return said.getvalue()


def benched(given, config, source, server):
    """A bench of one cell, planned."""
    axes = {"shots": "shots", "seed": "seeds", "method": "methods", "budget": "budgets"}
    asked = {name: (getattr(config, setting),) for setting, name in axes.items()}
    own = {name: value for name, value in given.items() if name not in {*axes, "preset"}}
    preset = given.get("preset", "auto")
    grid = Grid(data=(str(source),), preset=preset, settings=own, **asked)
    [cell] = plan_grid(grid, Terms.of(server.cards[0], fetch_key(transport_to(server))))
    return cell


@pytest.mark.slow
@settings(max_examples=12, deadline=None)
@given(layout=layouts, given_=choices, key=keys)
def test_all_have_one_plan_and_the_ledger_has_it(layout, given_, key):
    given_ = {**SMALL, **given_}
    try:
        config = build(given_)
    except CraftTunerError:
        return
    server = a_server(**key)
    with TemporaryDirectory() as folder, listening(server) as url:
        source, connection = laid_out(Path(folder), **layout), Settings(server=url, key=KEY)
        fit = planned(config, source, server)
        assert checked(given_, source, connection) == fit
        said = rehearsed(config, source, connection)
        assert said == fit if isinstance(fit, str) else fit[0].table() in said
        cell = benched(given_, config, source, server)
        passed_on = {} if methods.get(config.method).validated else {"validation": "none"}
        assert cell.cell.alone or cell.cell.config == config.model_copy(update=passed_on)
        alike = planned(cell.cell.config, source, server)
        assert cell.refusal or cell.unpaid or cell.plan == (alike[0] if cell.plan else alike)
        assert not (cell.refusal or cell.unpaid) or (cell.refusal or cell.unpaid) == alike
        assert server.spent.queries == 0
        if not isinstance(fit, str):
            carried_out(config, given_, source, server, fit, url=url)


def carried_out(config, given_, source, server, foreseen, *, url):
    """Do it, by `CraftClassifier` where it has all images; plan, ledger, line are as foreseen."""
    plan, traffic = foreseen
    dataset = read_dataset(str(source))
    if dataset.test or plan.validation:
        transport, card = transport_to(server), server.cards[0]
        prepared = fitting.prepare(config, dataset, transport, card=card, run=None)
        with Run.create(source.with_name("run"), config) as run:
            result = fitting.fit(run, prepared, transport, card=card)
    else:
        own = ("method", "shots", "seed", "budget", "preset")
        parameters = {name: given_[name] for name in own if name in given_}
        rest = {name: value for name, value in given_.items() if name not in own}
        fitted = CraftClassifier(server=url, key=KEY, settings=rest, **parameters)
        files = [item.picture.path for item in dataset.train]
        fitted.fit(files, [dataset.class_names[item.label] for item in dataset.train])
        assert fitted.plan_ == plan
        result = fitted.result_
    agree(server, plan, traffic, result)


def agree(server, plan, traffic, result):
    """The ledger and the line have what was foreseen."""
    assert server.spent.model_dump() == result["spent_total"]
    plainly = False
    for phase in plan.phases:
        spent = Counters(**result["spent"].get(phase.purpose, {}))
        short = phase.purpose == "test" and spent.texts < phase.cost.texts
        assert spent == phase.cost or short  # zero-shot was the best head
        plainly |= short
    sets = [len(json.loads(asked.body)["images"]) for asked in server.calls("/v1/image-sets")]
    bundled = sum(sets) - traffic.pictures
    alike = result["images"]["shots"] + plan.validation
    assert bundled == (alike if plan.method in BUNDLED else 0)
    assert (result["images"]["shots"] > 0) == (plan.fit.queries > 0)
    if plainly:
        return
    sizes = [np.load(io.BytesIO(body)).size for _, body in server.bought.values()]
    item = 2 if traffic.dtype == "float16" else 4
    assert traffic.logit_bytes == item * sum(sizes) + 700 * traffic.requests
    assert len(server.calls("/v1/logits")) == traffic.requests == len(sizes)


BUNDLED = ("bank", "craft_plus")
"""Methods whose shots are in a set of their own and in the bundle."""


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
    agree(server, prepared.plan, prepared.traffic, result)


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
