"""Whole fits against `SmoothBox`, for tests of methods, resumption and budgets."""

from dataclasses import dataclass, field, replace
from pathlib import Path

from craft_tuner import methods
from craft_tuner.adapter.adapter import Adapter
from craft_tuner.blackbox import Images, Task, names_at_once
from craft_tuner.config.fit_config import FitConfig
from craft_tuner.methods import Progress
from craft_tuner.plan import Workload
from craft_tuner.runs.run import Run
from tests.support.tuner_fakes import SmoothBox, a_task

TEST = Images(("test",), 7)


@dataclass
class Fit:
    """A finished fit; its run is closed, but its files can be read."""

    adapter: Adapter
    run: Run
    progress: list[Progress] = field(default_factory=list)

    @property
    def warnings(self) -> list[str]:
        return [text for step in self.progress for text in step.warnings]


def fit(path: Path, box: SmoothBox, task: Task | None, config: FitConfig) -> Fit:
    """Create or resume the run at `path`, plan it if it has no plan yet, and fit."""
    task = task or a_task(box, views=config.views)
    exists = (path / "config.json").exists()
    run = Run.resume(path, config=config) if exists else Run.create(path, config)
    method = methods.get(config.method)
    progress: list[Progress] = []
    with run:
        if run.saved_plan() is None:
            work = replace(Workload.of(task, TEST), names=names_at_once(box.card))
            run.save_plan(method.plan(config, work, box.budgets()))
        run.bind(task, box.card)
        adapter = method.fit(box, task, recorder=run, on_progress=progress.append)
    return Fit(adapter, run, progress)
