"""The page of a run: one HTML file that needs nothing else, and its curves as PNG and SVG.

Owns what a reader sees of a finished run. Reads the run directory, changes nothing but its own
files: report.html, curves.png, curves.svg.
"""

import html
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from craft_tuner import curves, durable
from craft_tuner.budget import Plan
from craft_tuner.config import FitConfig
from craft_tuner.runs import Run

REPORT = "report.html"
CURVES = "curves"

_MATRIX_CLASSES = 20
"""With more classes, the commonest mistakes are listed in place of the whole matrix."""

_MISTAKES = 10

_CSS = """
:root { color-scheme: light dark; --edge: #8883; --strong: #0072b2; }
@media (prefers-color-scheme: dark) { :root { --strong: #56b4e9; } }
body { font: 15px/1.5 system-ui, sans-serif; margin: 0 auto; max-width: 60rem; padding: 1rem; }
h1 { font-size: 1.4rem; } h2 { font-size: 1.1rem; margin-top: 2rem; }
.wide { overflow-x: auto; } svg { height: auto; max-width: 100%; min-width: 34rem; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { border-bottom: 1px solid var(--edge); padding: .2rem .7rem; text-align: right; }
th:first-child, td:first-child { text-align: left; }
.big { color: var(--strong); font-size: 1.6rem; font-weight: 600; }
.right { background: color-mix(in srgb, var(--strong) 22%, transparent); }
"""

Row = Sequence[object]


def write_report(run: Run) -> Path:
    """Draw the curves and write the page of a run, finished or not.

    Returns:
        The path of the page.
    """
    result = run.result() or {}
    evaluation = result.get("evaluation") or {}
    figure = curves.draw(
        run.restore().metrics,
        zero_shot=_accuracy(evaluation, "zero_shot"),
        final=_accuracy(evaluation, "adapted"),
    )
    svg = curves.render(figure, "svg")
    durable.replace(run.path / f"{CURVES}.png", curves.render(figure, "png"))
    durable.replace(run.path / f"{CURVES}.svg", svg)
    page = _page(run.config, run.saved_plan(), result, svg.decode())
    durable.replace(run.path / REPORT, page.encode())
    return run.path / REPORT


def summary_rows(result: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Accuracies for people: what was measured, and how well it did; empty without a test."""
    evaluation = result.get("evaluation") or {}
    named = {
        "zero_shot": "zero-shot",
        "prompt_only": "prompt only (same run, without its head)",
        "adapted": f"{result.get('method')} (the adapter)",
    }
    return [
        (title, f"{evaluation[name]['accuracy']:.2%} of {evaluation[name]['images']:,} images")
        for name, title in named.items()
        if evaluation.get(name)
    ]


def cost_rows(result: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """What was spent, by purpose and in total: purpose, queries, calls, logit vectors, texts."""
    spent = {**result.get("spent", {}), "total": result.get("spent_total", {})}
    names = ("queries", "calls", "logit_vectors", "texts")
    return [
        (purpose, *(f"{counters[name]:,}" for name in names))
        for purpose, counters in spent.items()
        if counters
    ]


def _page(config: FitConfig, plan: Plan | None, result: Mapping[str, Any], svg: str) -> str:
    title = f"{config.method} on {result.get('model', 'a model')}, {config.shots} shots"
    picture = svg[svg.index("<svg") :].replace(curves.INK, "currentColor")
    costs = cost_rows(result)
    sections = [
        f"<h1>{html.escape(title)}</h1>",
        _headline(result),
        _section("Curves", f'<div class="wide">{picture}</div>'),
        _section("Spent", _table(("for", "queries", "calls", "logit vectors", "texts"), costs)),
        _section("Mistakes", _confusion(result)) if result.get("evaluation") else "",
        _section("Plan", _plan(plan)) if plan else "",
        _section("Settings", _table(("setting", "value"), _pairs(config.model_dump()))),
        _section("Made with", _table(("what", "value"), _made_with(result))),
    ]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{html.escape(title)}</title><style>{_CSS}</style></head>\n<body>"
        + "\n".join(section for section in sections if section)
        + "</body></html>\n"
    )


def _headline(result: Mapping[str, Any]) -> str:
    rows = summary_rows(result)
    if not rows:
        return "<p>No test images: nothing was measured at the end.</p>"
    *others, (name, value) = rows
    best = f'<p>{html.escape(name)}: <span class="big">{html.escape(value.split()[0])}</span></p>'
    return best + _table(("measured at the end", "accuracy"), [*others, (name, value)])


def _plan(plan: Plan) -> str:
    rows = [(phase.purpose, f"{phase.cost.queries:,}", phase.what) for phase in plan.phases]
    total = ("total", f"{plan.total.queries:,}", f"of a budget of {plan.budget:,}")
    return _table(("phase", "queries", "what"), [*rows, total])


def _confusion(result: Mapping[str, Any]) -> str:
    evaluation = result["evaluation"]
    names = evaluation["class_names"]
    scored = evaluation.get("adapted") or evaluation["zero_shot"]
    matrix: list[list[int]] = scored["confusion"]
    if len(names) <= _MATRIX_CLASSES:
        return _matrix(names, matrix)
    wrong = [
        (count, names[true], names[taken])
        for true, row in enumerate(matrix)
        for taken, count in enumerate(row)
        if count and taken != true
    ]
    return _table(("images", "are", "taken for"), sorted(wrong, reverse=True)[:_MISTAKES])


def _matrix(names: Sequence[str], matrix: list[list[int]]) -> str:
    head = "".join(f"<th>{html.escape(name)}</th>" for name in ("is, taken for", *names))
    lines = []
    for true, row in enumerate(matrix):
        cells = "".join(
            f'<td class="right">{count}</td>' if taken == true else f"<td>{count or '·'}</td>"
            for taken, count in enumerate(row)
        )
        lines.append(f"<tr><td>{html.escape(names[true])}</td>{cells}</tr>")
    return f'<div class="wide"><table><tr>{head}</tr>{"".join(lines)}</table></div>'


def _made_with(result: Mapping[str, Any]) -> list[Row]:
    seconds = {f"{stage}, s": f"{spent:.1f}" for stage, spent in result.get("seconds", {}).items()}
    more = {name: result[name] for name in ("model", "digest", "adapter_bytes") if name in result}
    return [
        *_pairs(more),
        *_pairs(seconds),
        *_pairs(result.get("versions", {})),
        *_pairs(result.get("machine", {})),
    ]


def _accuracy(evaluation: Mapping[str, Any], way: str) -> float | None:
    scored = evaluation.get(way)
    return None if scored is None else float(scored["accuracy"])


def _pairs(values: Mapping[str, Any]) -> list[Row]:
    return [
        (name, value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))
        for name, value in values.items()
    ]


def _section(title: str, body: str) -> str:
    return f"<h2>{title}</h2>{body}"


def _table(head: Sequence[str], rows: Iterable[Row]) -> str:
    lines = [_line("th", head), *(_line("td", row) for row in rows)]
    return f'<div class="wide"><table>{"".join(lines)}</table></div>'


def _line(tag: str, cells: Row) -> str:
    inner = "".join(f"<{tag}>{html.escape(str(cell))}</{tag}>" for cell in cells)
    return f"<tr>{inner}</tr>"
