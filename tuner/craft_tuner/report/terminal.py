"""Rows of a result for people at a terminal: accuracies and costs, from result.json."""

from collections.abc import Mapping
from typing import Any

COUNTERS = ("queries", "calls", "logit_vectors", "texts")


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
    return [
        (purpose, *(f"{counters[name]:,}" for name in COUNTERS))
        for purpose, counters in spent.items()
        if counters
    ]
