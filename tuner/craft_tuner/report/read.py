"""A run directory as values to show; takes no lock and changes nothing, so a fit may go on.

What a run has not written yet is empty.
"""

import itertools
import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from craft_shared.messages import Counters
from craft_tuner import files
from craft_tuner.adapter.adapter import CARD_FILE
from craft_tuner.client.purchases import PURCHASES
from craft_tuner.data.sources import title
from craft_tuner.errors import RunError, UsageError, disk_errors_as
from craft_tuner.runs import predictions
from craft_tuner.runs import run as runs
from craft_tuner.runs import thumbnails as examples
from craft_tuner.runs.diagnostics import HELD_OUT, VALIDATION, Diagnostics
from craft_tuner.runs.journal import METRICS, Metrics
from craft_tuner.runs.predictions import Predicted
from craft_tuner.runs.thumbnails import Thumbnails

FILES = (
    "predictions.csv",
    "report.md",
    "report.json",
    "result.json",
    "plan.json",
    "metrics.jsonl",
    "adapter.safetensors",
    "adapter.json",
    "curves.png",
    "curves.svg",
)
"""What of a run directory a page names."""


@dataclass(frozen=True)
class RunRecord:
    """One run; mappings hold the JSON values of the file of that name."""

    path: Path
    name: str
    """The shortest end of the path that no other run on the page has."""
    config: Mapping[str, Any]
    data: str | None
    """Short name of the dataset."""
    plan: Mapping[str, Any]
    result: Mapping[str, Any]
    metrics: tuple[Metrics, ...]
    predictions: tuple[Predicted, ...]
    thumbnails: Thumbnails
    setup: Mapping[str, Any]
    """What its maker needs to go on (`setup` of config.json)."""
    validation: str | None
    """The setting of that name with its whole path, which `config` has not."""
    card: Mapping[str, Any]
    """adapter.json."""
    spent: Mapping[str, Mapping[str, int | None]]
    """Counters by purpose, of a run at work too."""
    files: tuple[str, ...]
    """Names of what it has to show, of `FILES`."""

    @property
    def finished(self) -> bool:
        """Whether it has a result."""
        return bool(self.result)

    @property
    def class_names(self) -> tuple[str, ...]:
        """Of its test; empty if there was none."""
        return tuple((self.result.get("evaluation") or {}).get("class_names", ()))

    def score(self, way: str) -> Mapping[str, Any] | None:
        """The `craft_tuner.inference.evaluate.Score` of one way; None if it was not measured."""
        return (self.result.get("evaluation") or {}).get(way)

    @cached_property
    def test_set(self) -> tuple[Any, ...]:
        """Equal for runs whose accuracies compare: the same dataset, classes and test images."""
        images = tuple((line.name, line.label) for line in self.predictions)
        return self.data, self.class_names, images or self.result.get("images", {}).get("test")

    @property
    def final(self) -> str | None:
        """The last way that was measured: what the run's adapter is worth."""
        ways = [way for way in predictions.WAYS if self.score(way)]
        return ways[-1] if ways else None

    def accuracy(self, way: str | None) -> float | None:
        """In [0, 1]; None if it was not measured."""
        scored = self.score(way) if way else None
        return None if scored is None else float(scored["accuracy"])

    @property
    def validation_images(self) -> int:
        """How many images choices are made on; plans of before have none."""
        images: int = self.plan.get("validation", 0)
        return images

    @property
    def chosen_on(self) -> str:
        """What `held_out` and metrics of that name were measured on, for people."""
        return VALIDATION if self.validation_images else HELD_OUT

    @property
    def held_out(self) -> float | None:
        """The last accuracy on images that choices are made on, in [0, 1]; None: not measured."""
        found = (row.get("heldout_accuracy", math.nan) for row in reversed(self.metrics))
        return next((value for value in found if math.isfinite(value)), None)

    @property
    def warnings(self) -> tuple[str, ...]:
        """What the fit said of its own numbers."""
        observer = Diagnostics()
        said: list[str] = []
        for row in self.metrics:
            last = row["generation"] == self.plan.get("generations")
            said += observer.observe(row, last=last)
        return tuple(said)


def read_runs(paths: Sequence[Path]) -> tuple[RunRecord, ...]:
    """The runs, in order, each under a name of its own.

    Raises:
        UsageError: the same run twice.
        RunError: a directory holds no run, or a damaged one.
    """
    whole = [path.resolve() for path in paths]
    doubled = [path for path, count in Counter(whole).items() if count > 1]
    if doubled:
        raise UsageError(f"the run {doubled[0]} is given twice; name each run once")
    names = short_names(whole)
    return tuple(
        replace(read_run(path), name=name) for path, name in zip(paths, names, strict=True)
    )


def read_run(path: Path) -> RunRecord:
    """One run.

    Raises:
        RunError: the directory holds no run, or a damaged one.
    """
    with disk_errors_as(RunError, f"cannot open the run {path}"):
        return _read_run(path)


def _read_run(path: Path) -> RunRecord:
    identity = _read(path / runs.CONFIG)
    if not identity:
        raise RunError(f"{path} holds no run (no {runs.CONFIG}); give the directory of a fit")
    setup, result = identity.get("setup", {}), _read(path / runs.RESULT)
    config = identity.get("config", {})
    source = setup.get("data")
    return RunRecord(
        path=path,
        name=path.resolve().name,
        config=files.handed_on(config),
        data=title(source) if source else None,
        plan=_read(path / runs.PLAN),
        result=result,
        metrics=_metrics(path / METRICS),
        predictions=tuple(predictions.read(path)),
        thumbnails=examples.load(path),
        setup=setup,
        validation=config.get("validation"),
        card=_read(path / CARD_FILE),
        spent=result.get("spent") or _purchases(path / PURCHASES),
        files=tuple(name for name in FILES if (path / name).exists()),
    )


def short_names(paths: Sequence[Path]) -> list[str]:
    """The shortest ends of paths, none of them twice there, that set each apart from all others."""
    ends = (["/".join(path.parts[-count:]) for path in paths] for count in itertools.count(1))
    return next(names for names in ends if len(set(names)) == len(names))


def _read(file: Path) -> dict[str, Any]:
    if not file.exists():
        return {}
    try:
        content = json.loads(file.read_bytes())
    except ValueError as error:
        raise RunError(f"{file} is damaged: {error}; start a new run") from error
    if not isinstance(content, dict):
        raise RunError(f"{file} is damaged: it is no JSON object; start a new run")
    return content


def _metrics(file: Path) -> tuple[Metrics, ...]:
    return tuple(
        {name: math.nan if value is None else value for name, value in row.items()}
        for row in _lines(file)
    )


def _purchases(file: Path) -> dict[str, dict[str, int]]:
    """What was bought so far, by purpose."""
    spent: dict[str, dict[str, int]] = {}
    for line in {line["key"]: line for line in _lines(file)}.values():
        mine = spent.setdefault(line["purpose"], dict.fromkeys(Counters.model_fields, 0))
        for counter in mine:
            mine[counter] += line["cost"].get(counter, 0)
    return spent


def _lines(file: Path) -> list[dict[str, Any]]:
    """Whole lines only: the last one may be half written."""
    lines = file.read_bytes().splitlines(keepends=True) if file.exists() else []
    try:
        return [json.loads(line) for line in lines if line.endswith(b"\n")]
    except ValueError as error:
        raise RunError(f"{file} is damaged: {error}; start a new run") from error
