"""The page: one HTML file that needs nothing else, of one run or of several side by side.

Owns what goes into the template. It has no script, its pictures are inlined, and its own security
policy forbids it to fetch anything. Changes nothing in a run but report.html and the two curves.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from craft_tuner import files
from craft_tuner.data.pictures import Picture
from craft_tuner.errors import UsageError, printable
from craft_tuner.report import class_tables, comparison, curves
from craft_tuner.report.curves import Curve
from craft_tuner.report.read import RunRecord, read_runs
from craft_tuner.report.table import count, percent, points
from craft_tuner.runs.run import Run

REPORT = "report.html"
CURVES = "curves"

Runs = Sequence[RunRecord]

_FOREIGN = re.compile(r"<defs>\s*<style.*?</style>\s*</defs>|<metadata>.*?</metadata>", re.DOTALL)
"""What of a drawing would apply to the whole page, or is about the drawing."""


def write_report(run: Run) -> Path:
    """Draw the curves and write the page of a run, finished or not, into its directory.

    Returns:
        The path of the page.
    """
    [record] = read_runs([run.path])
    figure = curves.draw(_curve(record))
    for kind in ("png", "svg"):
        files.replace(run.path / f"{CURVES}.{kind}", curves.render(figure, kind), shared=True)
    return _write(run.path / REPORT, page([record]))


def compare(
    paths: Sequence[Path],
    out: Path | None = None,
    *,
    pictures: Mapping[str, Picture] | None = None,
) -> Path:
    """Write one page of one or more runs, which may be unfinished or at work.

    Args:
        paths: run directories.
        out: the file to write; None: report.html in the run, of several in the working directory.
        pictures: test images by name, for examples of which a run has no thumbnail.

    Returns:
        The path of the page.

    Raises:
        RunError: a directory holds no run, or a damaged one.
        UsageError: a run is given twice, or the page cannot be written.
    """
    runs = read_runs(paths)
    usual = paths[0] / REPORT if len(paths) == 1 else Path(REPORT)
    return _write(out or usual, page(runs, pictures or {}))


def page(runs: Runs, pictures: Mapping[str, Picture] | None = None) -> str:
    """The page as text; the same runs give the same text."""
    folder = resources.files("craft_tuner.report")
    environment = Environment(
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_shown,
    )
    environment.filters.update(count=count, percent=percent, points=points)
    template = environment.from_string(folder.joinpath("page.html").read_text(encoding="utf-8"))
    css = folder.joinpath("page.css").read_text(encoding="utf-8")
    turned = [class_tables.turned(run, pictures or {}) for run in runs]
    return template.render(
        css=Markup(css),  # noqa: S704 - a file of this package
        title=_title(runs),
        about=_about(runs),
        runs=runs,
        summary=comparison.summary(runs),
        panels=list(_panels(runs)),
        styles=[curves.style_of(index) for index in range(len(runs))],
        gains=class_tables.gains(runs),
        turned=[each for each in turned if each is not None],
        disagreements=class_tables.disagreements(runs),
        confusions=[(run.name, each) for run in runs if (each := class_tables.confusion(run))],
        costs=[(run.name, comparison.costs(run)) for run in runs],
        settings=comparison.settings(runs),
        made_with=comparison.made_with(runs),
        state=comparison.state,
    )


def _shown(value: Any) -> Any:
    """Words from anywhere: no control characters, no marks that turn their order around."""
    return printable(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _title(runs: Runs) -> str:
    if len(runs) > 1:
        data = {run.data for run in runs}
        return f"{len(runs)} runs" + (f" on {runs[0].data}" if len(data) == 1 and any(data) else "")
    [run] = runs
    on = f" on {run.data}" if run.data else ""
    return f"{run.config.get('method')}{on}, {run.config.get('shots')} shots"


def _about(runs: Runs) -> str:
    """Model and test images, where they are the same for all."""
    models = {
        f"{run.result['model']} ({run.result['digest'][:12]})" for run in runs if run.finished
    }
    images = {run.result["images"]["test"] for run in runs if "images" in run.result}
    said = [*models] if len(models) == 1 else []
    if len(images) == 1:
        said.append(f"{count(images.pop())} test images")
    return ", ".join(said)


def _curve(run: RunRecord) -> Curve:
    return Curve(
        name=run.name,
        rows=run.metrics,
        zero_shot=run.accuracy("zero_shot"),
        final=run.accuracy(run.final),
        queries=run.result.get("spent_total", {}).get("queries"),
    )


def _panels(runs: Runs) -> Iterator[dict[str, Any]]:
    for index, panel in enumerate(curves.panels([_curve(run) for run in runs])):
        svg = _inlined(curves.render(panel.figure, "svg").decode(), f"c{index}")
        yield {"title": panel.title, "words": panel.words, "svg": Markup(svg)}  # noqa: S704 - ours


def _inlined(svg: str, prefix: str) -> str:
    """A drawing as part of a page: names of its own, the reader's colours, no style for others."""
    svg = svg[svg.index("<svg") :]
    svg = _FOREIGN.sub("", svg)
    svg = re.sub(r'((?:\sid|href)="#?|url\(#)', rf"\1{prefix}-", svg)
    svg = svg.replace("<svg ", '<svg aria-hidden="true" ', 1).replace(curves.INK, "currentColor")
    for index, colour in enumerate(curves.COLOURS):
        svg = svg.replace(colour, f"var(--c{index})")
    return svg


def _write(file: Path, text: str) -> Path:
    try:
        files.replace(file, text.encode(), shared=True)
    except OSError as error:
        raise UsageError(f"cannot write {file}: {error.strerror}") from error
    return file
