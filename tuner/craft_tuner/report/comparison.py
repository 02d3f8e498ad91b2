"""Tables of the page that put results, plans and settings of runs side by side.

Owns what is compared; classes and single images are in `class_tables`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from craft_tuner.report.intervals import WILSON, half_width, wilson
from craft_tuner.report.read import RunRecord
from craft_tuner.report.table import (
    NONE,
    WAYS,
    Cell,
    Row,
    Table,
    cells,
    count,
    duration,
    filled,
    percent,
    plain,
    seconds,
    size,
    turned,
)
from craft_tuner.report.terminal import COUNTERS

Runs = Sequence[RunRecord]
Column = Callable[[RunRecord], str | Cell]
"""What a column says of a run; a string is a number's text."""

UPRIGHT_RUNS = 4
"""So many runs stand side by side; more stand one below the other."""

_COUNTERS = {name: name.replace("_", " ") for name in COUNTERS}


def summary(runs: Runs) -> Table:
    """Every run in a line: what it is, how well it did, what it cost."""
    columns = _columns(runs)
    rows = tuple(
        Row(Cell(run.name, "n"), tuple(_cell(column(run)) for column in columns.values()))
        for run in runs
    )
    table = Table("Runs", (Cell("run"), *cells(tuple(columns))), rows)
    return turned(filled(table)) if len(runs) <= UPRIGHT_RUNS else filled(table)


def numbers(run: RunRecord) -> Table | None:
    """The accuracies of one run with their intervals; None where nothing was tested."""
    rows = []
    for way, title in WAYS.items():
        scored = run.score(way)
        if scored and scored["images"]:
            right, images = scored["correct"], scored["images"]
            low, high = wilson(right, images)
            shares = (percent(scored["accuracy"], 1), f"{percent(low, 1)} to {percent(high, 1)}")
            rows.append(Row(Cell(title), cells([*shares, f"{count(right)} of {count(images)}"])))
    head = (Cell("measured"), *cells(["accuracy", f"95% interval ({WILSON})", "images right"]))
    return Table("Accuracy on the test images", head, tuple(rows)) if rows else None


def costs(run: RunRecord) -> Table:
    """What a run spent by purpose (the tag of its queries), beside what it planned."""
    planned = {phase["purpose"]: phase["cost"]["queries"] for phase in run.plan.get("phases", ())}
    spent, total = run.spent, _total(run)
    purposes = list(dict.fromkeys([*planned, *spent]))
    all_queries = sum(each["queries"] or 0 for each in spent.values())
    rows = [
        _cost_row(purpose, planned.get(purpose), spent.get(purpose), all_queries)
        for purpose in purposes
    ]
    last = cells([count(sum(planned.values())), *(count(total.get(name)) for name in COUNTERS), ""])
    head = ("planned queries", *_COUNTERS.values(), "share of queries")
    return filled(
        Table(
            f"Spent by purpose, {run.name}",
            (Cell("purpose"), *cells(head)),
            (*rows, Row(Cell("total"), last, "total")),
        )
    )


def _total(run: RunRecord) -> Mapping[str, int | None]:
    """Of all purposes; of a run at work what it has bought so far."""
    known = run.result.get("spent_total")
    if known or not run.spent:
        return known or dict.fromkeys(COUNTERS)
    return {name: sum(each[name] or 0 for each in run.spent.values()) for name in COUNTERS}


@dataclass(frozen=True)
class Differences:
    """Values by name: those that differ between runs (or all of a single run), and the others."""

    differing: Table
    alike: Table | None


def settings(runs: Runs) -> Differences:
    """The settings of the runs, and which data and model they were given."""
    return differences(
        "setting",
        runs,
        lambda run: {
            **({"data": run.data} if run.data else {}),
            **{name: run.result[name] for name in ("model", "digest") if name in run.result},
            **run.config,
        },
    )


def made_with(runs: Runs) -> Differences:
    """Wall time by stage, versions and machine."""
    return differences(
        "what",
        runs,
        lambda run: {
            **{f"{stage} took": seconds(s) for stage, s in run.result.get("seconds", {}).items()},
            **run.result.get("versions", {}),
            **run.result.get("machine", {}),
        },
    )


def differences(
    what: str, runs: Runs, values: Callable[[RunRecord], Mapping[str, Any]]
) -> Differences:
    """Compare values between runs; what a run does not have reads as not there."""
    found = [values(run) for run in runs]
    names = dict.fromkeys(name for each in found for name in each)
    texts = {
        name: [plain(each[name]) if name in each else NONE for each in found] for name in names
    }
    same = {name for name, each in texts.items() if len(runs) > 1 and len(set(each)) == 1}
    differing = tuple(
        Row(Cell(name), cells(each, "value"), "differs" if len(runs) > 1 else "")
        for name, each in texts.items()
        if name not in same
    )
    alike = tuple(
        Row(Cell(name), cells(each[:1], "value")) for name, each in texts.items() if name in same
    )
    titles = [run.name for run in runs] if len(runs) > 1 else ["value"]
    head = (Cell(what), *cells(titles, "value"))
    return Differences(
        Table("What differs" if len(runs) > 1 else "Values", head, differing),
        Table(f"Alike in all {len(runs)} runs", (Cell(what), Cell("all runs", "value")), alike)
        if alike
        else None,
    )


def _columns(runs: Runs) -> dict[str, Column]:
    best = _best(runs)
    return {
        **({"data": lambda run: run.data or NONE} if len({run.data for run in runs}) > 1 else {}),
        "method": _method,
        **{name: _configured(name) for name in ("shots", "seed")},
        **({"chosen on": _chosen_on} if any(run.validation_images for run in runs) else {}),
        **({} if all(run.finished for run in runs) else {"state": state}),
        **({t: _accuracy(way, best) for way, t in WAYS.items()} if len(runs) > 1 else {}),
        **{title: _counter(name) for name, title in _COUNTERS.items()},
        "prompts per image": lambda run: count(run.result.get("prompts_per_image_at_inference")),
        "adapter": lambda run: size(run.result.get("adapter_bytes")),
        "wall time": lambda run: duration(run.result.get("seconds", {})),
    }


def _best(runs: Runs) -> dict[tuple[Any, ...], float]:
    """The highest accuracy of adapters by test set, where two or more compete on it."""
    found: dict[tuple[Any, ...], list[float]] = {}
    for run in runs:
        accuracy = run.accuracy("adapted")
        if accuracy is not None:
            found.setdefault(run.test_set, []).append(accuracy)
    return {test: max(accuracies) for test, accuracies in found.items() if len(accuracies) > 1}


def _configured(name: str) -> Column:
    return lambda run: plain(run.config.get(name, NONE))


def _method(run: RunRecord) -> str:
    """As configured, and what `auto` took."""
    asked, taken = plain(run.config.get("method", NONE)), run.plan.get("method")
    return f"{asked}: {taken}" if run.plan.get("why") else asked


def _chosen_on(run: RunRecord) -> str:
    images = run.validation_images
    return f"{images:,} validation images" if images else NONE


def _counter(name: str) -> Column:
    return lambda run: count(_total(run).get(name))


def _accuracy(way: str, best: Mapping[tuple[Any, ...], float]) -> Column:
    """The accuracy of a way; the highest adapter of those on the same test set is marked."""

    def cell(run: RunRecord) -> str | Cell:
        scored = run.score(way)
        if scored is None:
            return NONE
        accuracy, images = scored["accuracy"], scored["images"]
        wins = way == "adapted" and accuracy == best.get(run.test_set)
        text = f"{percent(accuracy)} ± {100 * half_width(accuracy, images):.1f}"
        return Cell(text, "n best" if wins else "n")

    return cell


def state(run: RunRecord) -> str:
    """Whether a run is finished, and how far it is if not."""
    if run.finished:
        return "finished"
    return f"generation {len(run.metrics):,} of {count(run.plan.get('generations'))}"


def _cell(said: str | Cell) -> Cell:
    return Cell(said, "n") if isinstance(said, str) else said


def _cost_row(
    purpose: str,
    planned: int | None,
    spent: Mapping[str, int | None] | None,
    all_queries: int,
) -> Row:
    share = (spent["queries"] or 0) / all_queries if spent and all_queries else None
    counters = [count(spent.get(name) if spent else None) for name in COUNTERS]
    bar = Cell(percent(share, 1), "n", share)
    return Row(Cell(purpose), (*cells([count(planned), *counters]), bar))
