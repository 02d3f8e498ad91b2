"""The page: one HTML file that needs nothing else, of one run or of several side by side.

Owns what goes into the template. Its pictures are inlined, its one script sorts tables and is named
in its security policy, which forbids it to fetch anything. What a run has not measured is left out.
Changes nothing in a run but report.html, report.md, report.json and the two curves.
"""

import base64
import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from importlib import resources
from pathlib import Path
from typing import Any
from urllib.parse import quote

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from craft_tuner import files
from craft_tuner.data.pictures import Picture
from craft_tuner.errors import UsageError, printable
from craft_tuner.report import class_tables, comparison, curves, price, summary
from craft_tuner.report.calibration import calibration, diagram
from craft_tuner.report.command import command
from craft_tuner.report.curves import Curve, Panel
from craft_tuner.report.read import FILES, RunRecord, read_runs
from craft_tuner.report.table import WAYS, count, percent, points
from craft_tuner.report.verdict import images_in_words, verdict
from craft_tuner.runs.run import Run

REPORT = "report.html"
REPORT_TEXT, REPORT_JSON = "report.md", "report.json"
CURVES = "curves"

Runs = Sequence[RunRecord]

_FOREIGN = re.compile(r"<defs>\s*<style.*?</style>\s*</defs>|<metadata>.*?</metadata>", re.DOTALL)
"""What of a drawing would apply to the whole page, or is about the drawing."""


def write_report(run: Run) -> Path:
    """Draw the curves and write the reports of a run, finished or not, into its directory.

    Returns:
        The path of the page.
    """
    [record] = read_runs([run.path])
    if figure := curves.draw(_curve(record)):
        for kind in ("png", "svg"):
            files.replace(run.path / f"{CURVES}.{kind}", curves.render(figure, kind), shared=True)
    written = {REPORT_TEXT, REPORT_JSON}
    names = (name for name in FILES if name in written or (run.path / name).exists())
    record = replace(record, files=tuple(names))
    _write(run.path / REPORT_TEXT, summary.as_markdown(record, _title([record])))
    _write(run.path / REPORT_JSON, summary.as_json(record))
    return _write(run.path / REPORT, page([record], folder=run.path))


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
    file = out or (paths[0] / REPORT if len(paths) == 1 else Path(REPORT))
    return _write(file, page(runs, pictures or {}, folder=file.parent))


def page(
    runs: Runs, pictures: Mapping[str, Picture] | None = None, *, folder: Path | None = None
) -> str:
    """The page as text; the same runs give the same text.

    Args:
        runs: one or more.
        pictures: test images by name, for examples of which a run has no thumbnail.
        folder: where the page will lie: it links to files of runs in there.
    """
    ours = resources.files("craft_tuner.report")
    environment = Environment(
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_shown,
    )
    environment.filters.update(count=count, percent=percent, points=points)
    source, css, script = (
        ours.joinpath(f"page.{kind}").read_text(encoding="utf-8") for kind in ("html", "css", "js")
    )
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    template = environment.from_string(source)
    turned = [class_tables.turned(run, pictures or {}) for run in runs]
    only = runs[0] if len(runs) == 1 else None
    return template.render(
        css=Markup(css),  # noqa: S704 - a file of this package
        script=Markup(script),  # noqa: S704 - a file of this package
        script_hash=f"sha256-{digest}",
        title=_title(runs),
        ways=WAYS,
        about=_about(runs),
        runs=runs,
        summary=comparison.summary(runs),
        panels=list(_panels(runs)),
        styles=[curves.style_of(index) for index in range(len(runs))],
        verdicts=[(run, verdict(run)) for run in runs],
        numbers=comparison.numbers(only) if only else None,
        by_class=class_tables.by_class(only) if only else None,
        gains=[] if only else class_tables.gains(runs),
        turned=[each for each in turned if each is not None],
        disagreements=class_tables.disagreements(runs),
        confusions=[(run.name, each) for run in runs if (each := class_tables.confusion(run))],
        calibrated=_calibrated(runs),
        prices=[(run.name, each) for run in runs if (each := price.table(run))],
        costs=[(run.name, each) for run in runs if (each := comparison.costs(run)).rows],
        commands=[(run.name, line) for run in runs if (line := command(run))],
        files=[(run.name, links) for run in runs if (links := _links(run, folder))],
        settings=comparison.settings(runs),
        made_with=comparison.made_with(runs),
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
        said.append(images_in_words(images.pop()))
    return ", ".join(said)


def _curve(run: RunRecord) -> Curve:
    return Curve(
        name=run.name,
        rows=run.metrics,
        zero_shot=run.accuracy("zero_shot"),
        final=run.accuracy(run.final),
        queries=run.result.get("spent_total", {}).get("queries"),
        data=run.data,
        test_set=run.test_set,
        chosen_on=run.chosen_on,
    )


def _links(run: RunRecord, folder: Path | None) -> list[tuple[str, str | None]]:
    """Names of a run's files, and their addresses where they lie below the page's folder."""
    here, there = folder and folder.resolve(), run.path.resolve()
    if here is None or not there.is_relative_to(here):
        return [(name, None) for name in run.files]
    base = there.relative_to(here)
    return [(name, f"./{quote(bytes(base / name))}") for name in run.files]


def _panels(runs: Runs) -> Iterator[dict[str, Any]]:
    for index, panel in enumerate(curves.panels([_curve(run) for run in runs])):
        yield _drawn(panel, f"c{index}")


def _calibrated(runs: Runs) -> dict[str, Any] | None:
    """What each run's probabilities are worth, and one diagram; None where none are kept."""
    each = [(index, run.name, calibration(run)) for index, run in enumerate(runs)]
    kept = [(index, name, found) for index, name, found in each if found]
    if not kept:
        return None
    said = [(name, found.sentence) for _, name, found in kept]
    return {"said": said, "panel": _drawn(diagram(kept), "r")}


def _drawn(panel: Panel, prefix: str) -> dict[str, Any]:
    svg = _inlined(curves.render(panel.figure, "svg").decode(), prefix)
    return {"title": panel.title, "words": panel.words, "svg": Markup(svg)}  # noqa: S704 - ours


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
