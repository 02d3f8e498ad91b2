"""What a bench leaves for people: cells.csv, table.md and curves.png."""

import shlex
from collections.abc import Sequence

from craft_tuner import files as durable
from craft_tuner.bench import pictures, table
from craft_tuner.bench.grid import AUTO, Grid
from craft_tuner.bench.records import record, to_csv
from craft_tuner.bench.results_dir import CellStatus, ResultsDir, metrics
from craft_tuner.report import curves

CELLS, TABLE, CURVES = "cells.csv", "table.md", "curves.png"


def write(results_dir: ResultsDir, statuses: Sequence[CellStatus], grid: Grid) -> str:
    """Draw what is known of the cells, finished or not; the content of table.md."""
    records = [record(one) for one in statuses]
    text = table.to_markdown(records, command=command(grid))
    histories = {one.cell.name: metrics(one.run) for one in statuses if one.state == "done"}
    figure = pictures.draw(records, histories)
    results_dir.path.mkdir(parents=True, exist_ok=True)
    durable.replace(results_dir.path / CELLS, to_csv(records).encode(), shared=True)
    durable.replace(results_dir.path / TABLE, text.encode(), shared=True)
    durable.replace(results_dir.path / CURVES, curves.render(figure, "png"), shared=True)
    return text


def command(grid: Grid) -> str:
    """The command that asks for a grid; without server and key."""
    axes = {"shots": grid.shots, "seeds": grid.seeds, "methods": grid.methods}
    axes |= {"budgets": grid.budgets} if grid.budgets else {}
    words = [f"--data {source}" for source in grid.data]
    words += [
        f"--{name} {shlex.quote(','.join(map(str, values)))}" for name, values in axes.items()
    ]
    words += [] if grid.preset == AUTO else [f"--preset {grid.preset}"]
    words += [f"--set {name}={value}" for name, value in grid.settings.items()]
    return " ".join(["craft-tuner bench", *words])
