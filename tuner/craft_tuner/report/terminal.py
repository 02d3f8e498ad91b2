"""Rows of a result for people at a terminal: accuracies, costs and times, from result.json."""

from collections.abc import Mapping
from typing import Any

from craft_shared.messages import Counters
from craft_tuner.report.table import duration, seconds

COUNTERS = tuple(Counters.model_fields)


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
    """What was spent, by purpose and in total: the purpose, then each of `COUNTERS`.

    A run of before one was counted has a dash.
    """
    spent = {**result.get("spent", {}), "total": result.get("spent_total", {})}
    return [
        (purpose, *(_counted(counters.get(name)) for name in COUNTERS))
        for purpose, counters in spent.items()
        if counters
    ]


def time_words(stages: Mapping[str, float]) -> str:
    """Wall time in all and by stage: `1:03 (prepare 1.0 s, fit 1:00, test 2.0 s)`."""
    parts = ", ".join(f"{stage} {seconds(spell)}" for stage, spell in stages.items())
    return f"{duration(stages)} ({parts})"


def _counted(value: int | None) -> str:
    return "\N{EN DASH}" if value is None else f"{value:,}"
