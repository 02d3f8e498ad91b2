"""TensorBoard as a tracker: event files in the folder `tensorboard` of the run.

    tensorboard --logdir runs

Every number is drawn against queries spent, so that methods compare at equal cost. Needs
tensorboardX (the extra `tensorboard`), not TensorBoard itself.
"""

import json
import shutil
from collections.abc import Mapping
from typing import Any

from tensorboardX import SummaryWriter

from craft_tuner.runs.journal import Metrics
from craft_tuner.training.tracking import Tracked

FOLDER = "tensorboard"
TRAINING, TEST = "fit", "test"
"""Groups of scalars."""


class TensorBoard:
    """Writes one run; a run that goes on is written anew, whole, since events may have been lost.

    Scalars: `fit/NAME` for each number of metrics.jsonl but queries, `test/WAY` for accuracies.
    """

    def start(self, run: Tracked) -> None:
        """Begin the event file, with the settings as text and what is committed already."""
        folder = run.path / FOLDER
        shutil.rmtree(folder, ignore_errors=True)
        self._writer = SummaryWriter(str(folder))
        self._queries = 0
        lines = [f"    {name} = {json.dumps(value)}" for name, value in run.config.items()]
        self._writer.add_text("settings", "\n".join(lines))
        for metrics in run.history:
            self.generation(metrics)

    def generation(self, metrics: Metrics) -> None:
        """One point of each curve."""
        self._queries = int(metrics["queries"])
        for name, value in metrics.items():
            if name != "queries":
                self._writer.add_scalar(f"{TRAINING}/{name}", value, self._queries)

    def finish(self, result: Mapping[str, Any] | None) -> None:
        """The test's accuracies at the queries of the whole run, and the end of the file."""
        evaluation = (result or {}).get("evaluation") or {}
        for way in ("zero_shot", "prompt_only", "adapted"):
            if result and evaluation.get(way):
                spent = result["spent_total"]["queries"]
                self._writer.add_scalar(f"{TEST}/{way}", evaluation[way]["accuracy"], spent)
        self._writer.close()
