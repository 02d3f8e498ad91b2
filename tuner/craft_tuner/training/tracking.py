"""Experiment trackers: programs that follow a fit, beside metrics.jsonl.

Owns the interface (`Tracker`), how one is found by name, and how it listens to a fit: as a
`Watcher` around the one that shows it to people. A tracker that fails to start is refused before
anything is spent; one that fails later is dropped with a warning, and the fit goes on.

    --track tensorboard       `craft_tuner.training.tensorboard`, the extra `tensorboard`
    --track module:callable   called without arguments, gives a Tracker; see docs/tracking.md
"""

import pkgutil
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from craft_shared.messages import Budgets, Counters
from craft_tuner.data.sources import title
from craft_tuner.errors import UsageError
from craft_tuner.methods import Progress
from craft_tuner.plan import Plan
from craft_tuner.runs.journal import Metrics
from craft_tuner.runs.run import Run
from craft_tuner.training.traffic import Link, Traffic
from craft_tuner.training.watcher import Watcher

BUILT_IN = {"tensorboard": "craft_tuner.training.tensorboard:TensorBoard"}
NO_TRACKER = "none"
"""For a run that is resumed without the tracker that it was started with."""


@dataclass(frozen=True)
class Tracked:
    """What a tracker gets of a run when it starts or goes on."""

    run_id: str
    """The same when the run is resumed."""
    path: Path
    """The run directory; a tracker may make a folder of its own in it."""
    config: Mapping[str, Any]
    """Settings of the fit, JSON values, with the short name of the data and the model."""
    history: tuple[Metrics, ...]
    """Metrics of the generations committed before; empty for a new run."""


class Tracker(Protocol):
    """Receives a run; calls come in this order, from one thread."""

    def start(self, run: Tracked) -> None:
        """The run begins or goes on; nothing is spent yet."""
        ...

    def generation(self, metrics: Metrics) -> None:
        """A generation is committed: its line of metrics.jsonl, `queries` and `generation` in it.

        Values may be NaN or infinite.
        """
        ...

    def finish(self, result: Mapping[str, Any] | None) -> None:
        """The run ends: the content of result.json, or None if it stopped before the end."""
        ...


class Tracking:
    """A watcher that hands each generation to a tracker, then passes all on to another watcher.

    Args:
        watcher: who shows the fit.
        tracker: who has been started.
        name: of the tracker, for the warning.
    """

    def __init__(self, watcher: Watcher, tracker: Tracker, name: str) -> None:
        self._watcher = watcher
        self._tracker: Tracker | None = tracker
        self._name = name

    def say(self, sentence: str) -> None:
        """Pass on."""
        self._watcher.say(sentence)

    def plan(self, plan: Plan, budgets: Budgets, ahead: Counters) -> None:
        """Pass on."""
        self._watcher.plan(plan, budgets, ahead)

    def traffic(self, traffic: Traffic, line: Link) -> None:
        """Pass on."""
        self._watcher.traffic(traffic, line)

    def uploading(self, total: int) -> Callable[[int], None]:
        """Pass on."""
        return self._watcher.uploading(total)

    def generation(self, progress: Progress) -> None:
        """Hand it to the tracker, and pass on, with a warning if that failed."""
        failure = self._call(lambda tracker: tracker.generation(progress.metrics))
        if failure:
            progress = replace(progress, warnings=(*progress.warnings, failure))
        self._watcher.generation(progress)

    def testing(self, images: int) -> None:
        """Pass on."""
        self._watcher.testing(images)

    def finish(self, result: Mapping[str, Any] | None) -> str | None:
        """End the tracker; a sentence if it failed."""
        return self._call(lambda tracker: tracker.finish(result))

    def _call(self, say: Callable[[Tracker], None]) -> str | None:
        if self._tracker is None:
            return None
        try:
            say(self._tracker)
        except Exception as error:  # noqa: BLE001 - code of others; a paid fit must not end by it
            self._tracker = None
            return f"{_failed(self._name, error)}; it gets no more, metrics.jsonl has all"
        return None


@contextmanager
def following(
    name: str | None, run: Run, watcher: Watcher, *, say: Callable[[str], None]
) -> Iterator[Watcher]:
    """A watcher for a fit that feeds a tracker as well; finishes it at the end, however it ends.

    Args:
        name: as `find` takes it; None: no tracker.
        run: new, or one that goes on.
        watcher: who shows the fit.
        say: takes a warning at the end.

    Raises:
        UsageError: there is no such tracker, or it does not start.
    """
    if name is None:
        yield watcher
        return
    tracking = Tracking(watcher, _started(name, run), name)
    finished = False
    try:
        yield tracking
        finished = True
    finally:
        failure = tracking.finish(run.result() if finished else None)
        if failure:
            say(f"warning: {failure}")


def _started(name: str, run: Run) -> Tracker:
    make = find(name)
    setup = run.identity.setup
    data, model = setup.get("data"), setup.get("model")
    config = {
        **run.config.model_dump(mode="json"),
        **({"data": title(data)} if data else {}),
        **({"model": model} if model else {}),
    }
    try:
        tracker = make()
        tracker.start(Tracked(run.id, run.path, config, run.restore().metrics))
    except Exception as error:
        raise UsageError(
            f"{_failed(name, error)}; nothing is spent, go on without it: --track none"
        ) from error
    return tracker


def known(name: str | None) -> str | None:
    """The name of a tracker that can be made; None for `none`.

    Raises:
        UsageError: there is none of that name.
    """
    if name is None or name == NO_TRACKER:
        return None
    find(name)
    return name


def find(name: str) -> Callable[[], Tracker]:
    """What makes the tracker of that name; its module may lie in the working directory.

    Raises:
        UsageError: there is none of that name, or its module cannot be imported.
    """
    path = BUILT_IN.get(name, name)
    if not all(path.partition(":")):
        allowed = ", ".join((*BUILT_IN, "module:callable", NO_TRACKER))
        raise UsageError(f"--track {name}: there is no such tracker; allowed: {allowed}")
    try:
        with _working_directory():
            make: Callable[[], Tracker] = pkgutil.resolve_name(path)
    except ModuleNotFoundError as error:
        hint = f"; pip install 'craft-blackbox[{name}]'" if name in BUILT_IN else ""
        raise UsageError(f"--track {name}: there is no module {error.name}{hint}") from error
    except Exception as error:
        raise UsageError(f"--track {name} cannot be imported: {_reason(error)}") from error
    return make


@contextmanager
def _working_directory() -> Iterator[None]:
    """Its modules can be imported, as those of a script's folder can."""
    folder = str(Path.cwd())
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        sys.path.remove(folder)


def _failed(name: str, error: Exception) -> str:
    return f"the tracker {name} failed: {_reason(error)}"


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"
