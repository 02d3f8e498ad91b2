"""What 1,000 more answers of a run's adapter cost, in the counters that keys are limited in."""

from collections.abc import Mapping
from typing import Any

from craft_tuner.plan import LIMITS, words
from craft_tuner.plan import price as price_phase
from craft_tuner.report.read import RunRecord
from craft_tuner.report.table import Cell, Row, Table, cells, count

ANSWERS = 1000
_TESTS = ("zero-shot", "test")


def prices(run: RunRecord) -> dict[str, dict[str, int]]:
    """Counters of `ANSWERS` answers by how many images an image set has; empty: no adapter yet."""
    prompts = run.result.get("prompts_per_image_at_inference") or run.plan.get("answer")
    names = run.card.get("asked_names") or run.card.get("class_names")
    if not (prompts and names):
        return {}
    sizes = dict.fromkeys((min(_set_size(run), ANSWERS), 1))
    return {
        _asked(size): _counters(run, int(prompts), len(names), -(-ANSWERS // size))
        for size in sizes
    }


def table(run: RunRecord) -> Table | None:
    """The prices; None without an adapter."""
    found = prices(run)
    if not found:
        return None
    rows = [
        Row(Cell(asked), cells([count(cost[counter]) for counter in LIMITS]))
        for asked, cost in found.items()
    ]
    head = (Cell("asked"), *cells([words(name) for name in LIMITS]))
    return Table(f"Price of {ANSWERS:,} answers", head, tuple(rows))


def _counters(run: RunRecord, prompts: int, names: int, sets: int) -> dict[str, int]:
    size = {"prompts": prompts, "images": ANSWERS, "sets": sets, "names": names}
    cost = price_phase("inference", "", told=_told(run, names), **size).cost
    return {name: getattr(cost, name) for name in LIMITS}


def _asked(size: int) -> str:
    return f"in image sets of {size:,}" if size > 1 else "image by image"


def _tests(run: RunRecord) -> Mapping[str, Any]:
    """The cost of the plan's last test; empty where none was planned."""
    costs = [p["cost"] for p in run.plan.get("phases", ()) if p["purpose"] in _TESTS]
    return costs[-1] if costs else {}


def _set_size(run: RunRecord) -> int:
    """Images in a full image set: as the server takes, else as the test had; 1 if unknown."""
    if known := run.result.get("images_per_set"):
        return int(known)
    images, sets = run.result.get("images", {}).get("test"), _tests(run).get("calls")
    return -(-images // sets) if images and sets else 1


def _told(run: RunRecord, names: int) -> int:
    """Numbers that the key is told of a row: as the test was priced, else by what the fit saw."""
    cost = _tests(run)
    if cost.get("logits") and cost.get("logit_vectors"):
        told = cost["logits"] // cost["logit_vectors"]
        full = cost["texts"] // cost["queries"] if cost.get("queries") else 0
        return names if told == full else int(told)
    return 1 if run.card.get("output") == "label" else names
