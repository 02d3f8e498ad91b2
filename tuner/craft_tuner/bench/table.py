"""table.md: accuracy with its deviation over seeds, published numbers beside it, and the cost.

Means are over seeds; deviations are sample standard deviations (divisor n - 1), where there are two
results or more. An entry that lacks cells says so.
"""

from collections.abc import Iterable, Iterator, Sequence
from statistics import fmean, stdev

from craft_tuner.bench.published import Published, published
from craft_tuner.bench.records import Record, TableRow, columns_of, rows_of, select, shots_words
from craft_tuner.plan import COUNTERS, words
from craft_tuner.report.markdown import code, plain

NOTHING = "-"


def to_markdown(records: Sequence[Record], *, command: str = "") -> str:
    """The whole of table.md; `command` is what made it."""
    datasets = list(dict.fromkeys(one.data for one in records))
    parts = ["# Bench", "", *([code(command), ""] if command else []), *_legend(records)]
    for data in datasets:
        parts += ["", f"## {plain(data)}: accuracy, %", "", *_by_shots(records, data)]
    if len(datasets) > 1:
        for shots in columns_of(records):
            parts += ["", f"## All datasets, {shots_words(shots)}: accuracy, %", ""]
            parts += _by_dataset(records, datasets, shots)
    parts += ["", "## Accuracy and cost of a run", "", *_costs(records)]
    parts += _troubles(records)
    parts += ["", "## Published", "", *_published_averages()]
    return "\n".join(parts) + "\n"


def entry(records: Sequence[Record]) -> str:
    """Mean and deviation of one entry in per cent, and how many of its cells are there."""
    found = [100 * one.accuracy for one in records if one.accuracy is not None]
    if not found:
        states = {one.state for one in records}
        return "failed" if "failed" in states else NOTHING
    spread = f" ± {stdev(found):.2f}" if len(found) > 1 else ""
    lacking = f" ({len(found)} of {len(records)})" if len(found) < len(records) else ""
    return f"{fmean(found):.2f}{spread}{lacking}"


def average(by_dataset: Sequence[Sequence[Record]]) -> str:
    """Mean over datasets of the means over seeds; the deviation is of the seeds' averages."""
    found = [[one for one in records if one.accuracy is not None] for records in by_dataset]
    if not all(found) or any(len(a) < len(b) for a, b in zip(found, by_dataset, strict=True)):
        return NOTHING
    seeds = sorted({one.seed for records in found for one in records if one.seed is not None})
    averages = [fmean(_accuracy_of(records, seed) for records in found) for seed in seeds]
    averages = averages or [fmean(_accuracy_of(records, None) for records in found)]
    spread = f" ± {100 * stdev(averages):.2f}" if len(averages) > 1 else ""
    return f"{100 * fmean(averages):.2f}{spread}"


def _accuracy_of(records: Sequence[Record], seed: int | None) -> float:
    mine = [one.accuracy for one in records if one.seed in {seed, None}]
    return fmean(accuracy for accuracy in mine if accuracy is not None)


def _legend(records: Sequence[Record]) -> Iterator[str]:
    counts = {state: sum(one.state == state for one in records) for state in ("done", "failed")}
    left = len(records) - sum(counts.values())
    yield (
        f"{len(records)} cells: {counts['done']} done, {counts['failed']} failed, {left} left. "
        "Means over seeds ± sample standard deviation; `(2 of 3)`: a cell is missing."
    )


def _by_shots(records: Sequence[Record], data: str) -> Iterator[str]:
    """One dataset: a row a method, a column a number of shots."""
    columns = columns_of(records)
    names = map(shots_words, columns)
    rows = [
        (line.label, [entry(select(records, line, data=data, shots=shots)) for shots in columns])
        for line in rows_of([one for one in records if one.data == data])
    ]
    beside = [
        (_cited(one), [_number(one.at(data, shots)) for shots in columns]) for one in published()
    ]
    yield from grid(["method", *names], [*rows, *_known(beside)])


def _by_dataset(
    records: Sequence[Record], datasets: Sequence[str], shots: int | str | None
) -> Iterator[str]:
    """One number of shots: a row a method, a column a dataset, and their average."""
    rows = []
    for line in rows_of(records):
        cells = [select(records, line, data=data, shots=shots) for data in datasets]
        rows.append((line.label, [*map(entry, cells), average(cells)]))
    beside = [
        (_cited(one), [*(_number(one.at(data, shots)) for data in datasets), NOTHING])
        for one in published()
    ]
    yield from grid(["method", *map(plain, datasets), "average"], [*rows, *_known(beside)])


def _costs(records: Sequence[Record]) -> Iterator[str]:
    """What the accuracies cost in every counter, means over seeds of what is done."""
    rows = []
    for data in dict.fromkeys(one.data for one in records):
        for line in rows_of([one for one in records if one.data == data]):
            mine = [
                one
                for one in records
                if (one.data, TableRow(one.method, one.budget)) == (data, line)
            ]
            for shots in dict.fromkeys(one.shots for one in mine):
                some = [one for one in mine if one.shots == shots and one.state == "done"]
                rows += [(plain(data), _cost_row(line, shots, some))] if some else []
    head = ["data", "method", "shots", "accuracy, %", *map(words, COUNTERS)]
    yield from grid([*head, "prompts per image", "seconds", "adapter, KiB"], rows)


def _cost_row(line: TableRow, shots: int | str | None, records: Sequence[Record]) -> list[str]:
    def mean(name: str, digits: int = 0, *, unit: int = 1) -> str:
        found = [getattr(one, name) for one in records]
        return NOTHING if None in found else f"{fmean(found) / unit:,.{digits}f}"

    return [
        line.label,
        "any" if shots is None else str(shots),
        entry(records),
        *map(mean, COUNTERS),
        mean("prompts_per_image"),
        mean("seconds", 1),
        mean("adapter_bytes", 1, unit=1024),
    ]


def _troubles(records: Iterable[Record]) -> Iterator[str]:
    failed = [one for one in records if one.state == "failed"]
    if failed:
        yield from ("", "## Failed", "")
        yield from (f"- {plain(one.run)}: {plain(one.reason)}" for one in failed)


def _published_averages() -> Iterator[str]:
    yield (
        "Averages of the paper's 11 datasets as their authors print them, RN50. A query is not the "
        "same thing in all of them, and some see the model's features: read the sources."
    )
    yield ""
    shots = sorted({count for one in published() for count in one.averages}, reverse=True)
    rows = [
        (_cited(one), [*(_number(one.averages.get(count)) for count in shots), one.source])
        for one in published()
    ]
    yield from grid(["method", *map(shots_words, shots), "source"], rows)


def _known(rows: Iterable[tuple[str, list[str]]]) -> list[tuple[str, list[str]]]:
    return [row for row in rows if set(row[1]) != {NOTHING}]


def _cited(one: Published) -> str:
    return f"{one.title} (published, {one.model})"


def _number(value: float | None) -> str:
    return NOTHING if value is None else f"{value:.2f}"


def grid(head: Sequence[str], rows: Iterable[tuple[str, Sequence[str]]]) -> Iterator[str]:
    """A table of Markdown."""
    yield f"| {' | '.join(head)} |"
    yield f"|{' --- |' * len(head)}"
    for name, cells in rows:
        yield f"| {' | '.join([name, *cells])} |"
