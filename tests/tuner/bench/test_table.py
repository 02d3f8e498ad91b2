"""The table of a bench, from records whose means and deviations were computed by hand."""

import csv
import io
from dataclasses import fields, replace
from itertools import product
from statistics import fmean

import numpy as np
import pytest

from craft_tuner.bench import pictures, table
from craft_tuner.bench.published import published
from craft_tuner.bench.records import Record, to_csv
from craft_tuner.report.curves import render


def a_record(data="pets", method="craft", shots=16, seed=1, accuracy=0.9, **fields):
    run = f"{data}-{method}-{shots}-{seed}-{fields.get('budget')}"
    measured = {
        "accuracy": accuracy,
        "queries": 100,
        "calls": 10,
        "logit_vectors": 2000,
        "texts": 1000,
        "logits": 20_000,
        "prompts_per_image": 1,
        "seconds": 2.0,
        "adapter_bytes": 2048,
    }
    known = {"data": data, "method": method, "shots": shots, "seed": seed, "budget": None}
    return Record(**(known | {"state": "done", "run": run} | measured | fields))


def without_result(one, state, reason=""):
    empty = {field.name: None for field in fields(Record) if field.default is None}
    return replace(one, **empty, state=state, reason=reason)


@pytest.fixture
def records():
    """Seeds of 80, 85 and 90 % at 16 shots: mean 85, deviation sqrt((25 + 0 + 25) / 2) = 5."""
    craft = [a_record(seed=seed, accuracy=0.75 + 0.05 * seed) for seed in (1, 2, 3)]
    few = [a_record(shots=1, seed=seed, accuracy=0.6, seconds=4.0) for seed in (1, 2, 3)]
    broken = [
        a_record(method="bbt", seed=1, accuracy=0.5),
        without_result(a_record(method="bbt", seed=2), "failed", "out of\nluck"),
        without_result(a_record(method="bbt", seed=3), "new"),
        *(without_result(a_record(method="bbt", shots=1, seed=s), "failed", "?") for s in (1, 2)),
        without_result(a_record(method="bbt", shots=1, seed=3), "begun"),
    ]
    alone = a_record(method="zero_shot", shots=None, seed=None, accuracy=0.7, queries=1)
    return [alone, *broken, *craft, *few]


def rows_of(text, title):
    """The cells of the table below a heading."""
    part = text.split(f"## {title}\n\n")[1].split("\n\n")[0]
    lines = [line.strip("| ").split(" | ") for line in part.splitlines() if line.startswith("|")]
    return [lines[0], *lines[2:]]


def test_means_and_deviations_over_seeds_are_those_computed_by_hand(records):
    head, *rows = rows_of(table.to_markdown(records), "pets: accuracy, %")
    assert head == ["method", "16 shots", "1 shot"]
    assert rows[2] == ["craft", "85.00 ± 5.00", "60.00 ± 0.00"]


def test_what_depends_on_the_dataset_alone_stands_in_every_column(records):
    rows = rows_of(table.to_markdown(records), "pets: accuracy, %")
    assert rows[1] == ["zero_shot", "70.00", "70.00"]


def test_failed_and_missing_cells_are_shown_and_hide_no_other(records):
    text = table.to_markdown(records)
    rows = rows_of(text, "pets: accuracy, %")
    assert rows[2] == ["bbt", "50.00 (1 of 3)", "failed"]
    assert "13 cells: 8 done, 3 failed, 2 left." in text
    assert "- pets-bbt-16-2-None: out of luck\n" in text
    assert table.entry([without_result(a_record(), "begun")]) == "-"


def test_published_numbers_stand_beside_where_they_are_known(records):
    pets = [replace(one, data="oxford_pets") for one in records]
    rows = {row[0]: row[1:] for row in rows_of(table.to_markdown(pets), "oxford_pets: accuracy, %")}
    assert rows["CraFT, 8,000 queries (published, RN50)"] == ["88.36", "-"]
    assert rows["zero-shot CLIP (published, RN50)"] == ["85.77", "85.77"]
    assert not any(
        "published" in row[0] for row in rows_of(table.to_markdown(records), "pets: accuracy, %")
    )


def test_costs_are_means_of_what_is_done(records):
    rows = rows_of(table.to_markdown(records), "Accuracy and cost of a run")
    assert rows[0][3:9] == [
        *("accuracy, %", "queries", "calls", "logit vectors", "texts", "logits"),
    ]
    assert rows[1][:5] == ["pets", "zero_shot", "any", "70.00", "1"]
    assert rows[2][:5] == ["pets", "bbt", "16", "50.00", "100"]
    assert rows[3] == [
        *("pets", "craft", "16", "85.00 ± 5.00", "100", "10", "2,000", "1,000", "20,000"),
        *("1", "2.0", "2.0"),
    ]
    assert rows[4][10] == "4.0"
    assert len(rows) == 5


def test_a_cost_that_a_run_of_before_did_not_count_is_not_shown_as_nothing():
    rows = rows_of(table.to_markdown([a_record(logits=None)]), "Accuracy and cost of a run")
    assert rows[1][7:9] == ["1,000", "-"]


def test_several_datasets_have_a_table_for_each_number_of_shots_with_their_average():
    """Averages of seeds 1 and 2: (90 + 70) / 2 = 80 and (94 + 80) / 2 = 87; deviation 4.95."""
    accuracies = {("pets", 1): 0.9, ("pets", 2): 0.94, ("food", 1): 0.7, ("food", 2): 0.8}
    found = [a_record(data=d, seed=s, accuracy=a) for (d, s), a in accuracies.items()]
    alone = [
        a_record(data=data, method="zero_shot", shots=None, seed=None, accuracy=accuracy)
        for data, accuracy in (("pets", 0.5), ("food", 0.6))
    ]
    text = table.to_markdown([*alone, *found], command="craft-tuner bench")
    head, zero_shot, craft = rows_of(text, "All datasets, 16 shots: accuracy, %")
    assert head == ["method", "pets", "food", "average"]
    assert zero_shot == ["zero_shot", "50.00", "60.00", "55.00"]
    assert craft == ["craft", "92.00 ± 2.83", "75.00 ± 7.07", "83.50 ± 4.95"]
    assert text.startswith("# Bench\n\n`craft-tuner bench`\n")
    lacking = [*found[:3], without_result(found[3], "failed", "?")]
    assert table.average([lacking[:2], lacking[2:]]) == "-"


def test_budgets_are_rows_of_their_own():
    found = [a_record(budget=budget, accuracy=budget / 1000) for budget in (100, 800)]
    rows = rows_of(table.to_markdown(found), "pets: accuracy, %")
    assert rows[1:] == [["craft, 100 queries", "10.00"], ["craft, 800 queries", "80.00"]]


def test_published_averages_are_those_of_their_datasets_and_have_sources():
    assert [one.title for one in published()][2] == "CraFT, 8,000 queries"
    for one in published():
        assert "arXiv" in one.source
        assert len(one.accuracy) == 11
        assert round(fmean(one.accuracy.values()), 2) == one.averages[16]


def test_cells_are_lines_of_csv(records):
    rows = list(csv.DictReader(io.StringIO(to_csv(records))))
    assert len(rows) == 13
    assert rows[0]["shots"] == rows[0]["seed"] == ""
    assert rows[2]["reason"] == "out of\nluck"
    assert rows[2]["accuracy"] == ""
    assert (rows[7]["method"], rows[7]["accuracy"]) == ("craft", "0.8")


# --- curves -------------------------------------------------------------------------------------


def test_a_curve_is_the_mean_over_seeds_as_far_as_all_go():
    rows = [
        [{"queries": 41 * n, "heldout_accuracy": 0.1 * n * s} for n in (1, 2, 3)][: 4 - s]
        for s in (1, 2)
    ]
    queries, accuracies = pictures.mean_curve(rows)
    assert queries == [41, 82]
    np.testing.assert_allclose(accuracies, [0.15, 0.3])
    assert pictures.mean_curve([]) == ([], [])
    assert pictures.mean_curve([[{"queries": 40, "prompt_accuracy": 0.5}]]) == ([40], [0.5])


def test_a_panel_has_a_point_a_method_joined_over_budgets(records):
    found = [
        a_record(budget=b, accuracy=b / 1000, queries=b, seed=s)
        for b, s in product((800, 100), (1, 2))
    ]
    histories = {found[0].run: [{"queries": 40.0, "prompt_accuracy": 0.2}] * 2}
    figure = pictures.draw(found, histories)
    (panel,) = figure.axes
    thin, points = panel.lines[0], panel.containers[0][0]
    assert thin.get_xdata().tolist() == [40, 40]
    assert points.get_xdata().tolist() == [100, 800]
    assert list(points.get_ydata()) == pytest.approx([0.1, 0.8])
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["craft"]


def test_all_datasets_and_shots_have_panels_and_nothing_done_is_no_fault(records):
    figure = pictures.draw(records, {})
    assert [axes.get_title() for axes in figure.axes] == ["pets, 16 shots", "pets, 1 shot"]
    assert render(figure, "png").startswith(b"\x89PNG")
    empty = pictures.draw([without_result(a_record(), "new")], {})
    assert empty.legends == []
