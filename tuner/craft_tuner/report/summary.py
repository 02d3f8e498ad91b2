"""A run without pictures: report.json for programs and report.md for people who read text."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from craft_tuner.errors import json_printable
from craft_tuner.plan import LIMITS, words
from craft_tuner.report import price
from craft_tuner.report.calibration import Calibration, calibration
from craft_tuner.report.command import command
from craft_tuner.report.intervals import WILSON, wilson
from craft_tuner.report.markdown import code, plain
from craft_tuner.report.read import RunRecord
from craft_tuner.report.table import WAYS, count, percent, points
from craft_tuner.report.verdict import Verdict, spoken, verdict


@dataclass(frozen=True)
class Measured:
    """The accuracy of one way with Wilson's interval of 95 %."""

    accuracy: float
    right: int
    images: int
    low: float
    high: float


def measured(run: RunRecord) -> dict[str, Measured]:
    """Every way that was tested, by its name in result.json."""
    scores = {way: run.score(way) for way in WAYS}
    return {
        way: Measured(
            score["accuracy"],
            score["correct"],
            score["images"],
            *wilson(score["correct"], score["images"]),
        )
        for way, score in scores.items()
        if score and score["images"]
    }


def as_json(run: RunRecord) -> str:
    """The content of report.json; what was not measured is null."""
    said = verdict(run)
    content = {
        "verdict": asdict(said),
        "accuracy": {
            "interval": f"{WILSON}, 95 %",
            **{way: asdict(found) for way, found in measured(run).items()},
        },
        "calibration": _calibration(calibration(run)),
        "price_per_1000": price.prices(run),
        "spent": run.spent,
        "command": command(run),
        "settings": run.config,
        "warnings": run.warnings,
        "files": run.files,
    }
    return json_printable(json.dumps(content, indent=2, ensure_ascii=False)) + "\n"


def as_markdown(run: RunRecord, title: str) -> str:
    """The content of report.md, the verdict first."""
    said = verdict(run)
    parts = [f"# {plain(title)}", f"**{plain(said.sentence)}**"]
    parts += [plain(said.prompt_alone)] if said.prompt_alone else []
    parts += _numbers(run, said)
    found = calibration(run)
    parts += ["## Calibration", plain(found.sentence)] if found else []
    costs = price.prices(run)
    if costs:
        head = ("1,000 answers", *map(words, LIMITS))
        rows = [(asked, *(count(cost[name]) for name in LIMITS)) for asked, cost in costs.items()]
        parts += ["## Price", _table(head, rows)]
    asked = command(run)
    parts += ["## Command", code(asked)] if asked else []
    parts += ["## Files", "\n".join(f"- {code(name)}" for name in run.files)]
    return "\n\n".join(parts) + "\n"


def _numbers(run: RunRecord, said: Verdict) -> list[str]:
    found = measured(run)
    if not found:
        return []
    rows = [
        (
            WAYS[way],
            percent(each.accuracy, 1),
            f"{count(each.right)} of {count(each.images)}",
            f"{percent(each.low, 1)} to {percent(each.high, 1)} ({WILSON})",
        )
        for way, each in found.items()
    ]
    change = said.difference
    if change:
        rows.append(
            (
                "gain in points",
                points(change.points),
                "",
                f"{spoken(change)} ({change.interval})",
            )
        )
    return ["## Accuracy", _table(("measured", "accuracy", "right", "95% interval"), rows)]


def _calibration(found: Calibration | None) -> Mapping[str, Any] | None:
    return None if found is None else asdict(found)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
