"""What a fit reads and keeps: the port `Recorder`, and one in memory.

`craft_tuner.runs.run.Run` keeps the same in a directory, with a lock, through kills.
"""

from typing import Protocol

from craft_shared.tensors import Tensors
from craft_tuner.adapter.adapter import Adapter
from craft_tuner.config.fit_config import FitConfig
from craft_tuner.plan import Plan
from craft_tuner.runs.journal import Checkpoint, Generation, Metrics


class Recorder(Protocol):
    """Settings and plan of a fit, its committed generations, and its adapter."""

    @property
    def config(self) -> FitConfig:
        """The settings of the fit."""
        ...

    @property
    def plan(self) -> Plan:
        """What it may spend."""
        ...

    def restore(self) -> Checkpoint:
        """The generations committed so far, empty for a new fit."""
        ...

    def commit(self, line: Generation, metrics: Metrics, state: Tensors) -> None:
        """Keep a finished generation; `state` is what the next one starts from."""
        ...

    def save_adapter(self, adapter: Adapter) -> None:
        """Keep what the fit is worth now, in place of an earlier adapter."""
        ...

    def kept(self, generation: int) -> str:
        """For a fit that stops early: where its adapter is and how to go on."""
        ...


class MemoryRecorder:
    """A fit in memory. Give the same recorder again to go on with a fit that stopped."""

    def __init__(self, config: FitConfig, plan: Plan) -> None:
        self.config, self.plan = config, plan
        self.adapter: Adapter | None = None
        """The last one saved."""
        self._past = Checkpoint()

    @property
    def metrics(self) -> tuple[Metrics, ...]:
        """One mapping a generation, as metrics.jsonl has them."""
        return self._past.metrics

    def restore(self) -> Checkpoint:
        """See `Recorder`."""
        return self._past

    def commit(self, line: Generation, metrics: Metrics, state: Tensors) -> None:
        """See `Recorder`; tensors are copied, since their owner goes on with them."""
        copied = {name: tensor.copy() for name, tensor in state.items()}
        self._past = Checkpoint(
            copied, (*self._past.journal, line), (*self._past.metrics, {**metrics})
        )

    def save_adapter(self, adapter: Adapter) -> None:
        """See `Recorder`."""
        self.adapter = adapter

    def kept(self, generation: int) -> str:
        """See `Recorder`."""
        return (
            f"The adapter of generation {generation} of {self.plan.generations} is kept; fit with "
            "the same recorder to go on once the cause is gone"
        )
