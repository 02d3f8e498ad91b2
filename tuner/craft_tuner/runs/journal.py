"""The committed generations of a run: journal, metrics and checkpoint, and their order of writes.

Owns what a kill can and cannot leave behind.

    journal.jsonl           one line a generation: fitness values, digest of the z asked, queries
    metrics.jsonl           one line a generation: diagnostics
    checkpoint.safetensors  head and optimiser of the last commit, its generation in the metadata

A generation is written in this order: journal line (fsync), metrics line (fsync), checkpoint
(atomic rename). **The checkpoint is the commit point.** Whatever the moment of a kill, `restore`
cuts journal and metrics back to the checkpoint's generation; the next one is asked again with the
same step names and the same bytes, which the server replays without charging.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from craft_shared import tensors
from craft_shared.errors import CraftProtocolError
from craft_shared.tensors import Tensors
from craft_tuner import files as durable
from craft_tuner.errors import RunError

JOURNAL = "journal.jsonl"
METRICS = "metrics.jsonl"
CHECKPOINT = "checkpoint.safetensors"

NOT_FINISHED = "not finished"
"""Why training stopped, in the card of an adapter that was saved on the way."""

Metrics = Mapping[str, float]


class Generation(BaseModel):
    """One line of the journal: what a generation asked, and the fitness values that `tell` got."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    generation: int
    fitness: tuple[float, ...]
    asked: str
    """Sha256 of the population z as float64 bytes; a replay must ask the same."""
    queries: int
    """Spent by the fit so far."""


@dataclass(frozen=True)
class Checkpoint:
    """The last commit of a run, with the history that led to it; empty for a new run."""

    tensors: Tensors = field(default_factory=dict)
    journal: tuple[Generation, ...] = ()
    metrics: tuple[Metrics, ...] = ()

    @property
    def generation(self) -> int:
        """How many generations are committed."""
        return len(self.journal)

    @property
    def queries(self) -> int:
        """How many queries they bought."""
        return self.journal[-1].queries if self.journal else 0


def commit(directory: Path, line: Generation, metrics: Metrics, state: Tensors) -> None:
    """Write one finished generation; it counts once this returns.

    Args:
        directory: the run's.
        line: the journal's line.
        metrics: numbers by name; what is not finite is written as null.
        state: float32 tensors that the next generation starts from.
    """
    durable.append(directory / JOURNAL, line.model_dump_json())
    durable.append(directory / METRICS, json.dumps(_finite(metrics)))
    body = tensors.encode(state, {"generation": str(line.generation)})
    durable.replace(directory / CHECKPOINT, body)


def restore(directory: Path) -> Checkpoint:
    """The last commit; what a kill left half done is cut off.

    Raises:
        RunError: the files contradict each other or cannot be read.
    """
    state, count = _read_checkpoint(directory / CHECKPOINT)
    try:
        lines = durable.keep_lines(directory / JOURNAL, count)
        journal = tuple(Generation.model_validate_json(line) for line in lines)
        rows = [json.loads(line) for line in durable.keep_lines(directory / METRICS, count)]
    except (ValidationError, ValueError) as error:
        raise RunError(f"{directory}: journal or metrics are damaged: {error}") from error
    numbers = [line.generation for line in journal]
    if numbers != list(range(1, count + 1)) or len(rows) != count:
        raise RunError(
            f"{directory}: the checkpoint is of generation {count}, the journal has "
            f"{len(journal)} lines and metrics.jsonl {len(rows)}; the run is damaged, start anew"
        )
    return Checkpoint(state, journal, tuple(_with_nan(row) for row in rows))


def _read_checkpoint(path: Path) -> tuple[Tensors, int]:
    if not path.exists():
        return {}, 0
    try:
        state, metadata = tensors.decode(path.read_bytes())
        return state, int(metadata["generation"])
    except (CraftProtocolError, KeyError, ValueError) as error:
        raise RunError(f"{path} is damaged: {error}; start a new run") from error


def _finite(metrics: Metrics) -> dict[str, float | None]:
    """JSON has no infinity and no NaN."""
    return {name: value if math.isfinite(value) else None for name, value in metrics.items()}


def _with_nan(row: Mapping[str, float | None]) -> dict[str, float]:
    return {name: math.nan if value is None else value for name, value in row.items()}
