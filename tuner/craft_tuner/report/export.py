"""`craft-tuner export`: a run's adapter with its card, in a folder to hand on.

    adapter.safetensors, adapter.json   see `craft_tuner.adapter.adapter`
    README.md                           see `craft_tuner.report.model_card`

Owns which of a run's files say what. The folder names no path, server, key or time.
"""

import json
from pathlib import Path

from craft_tuner import files
from craft_tuner.adapter.adapter import CARD_FILE, TENSORS_FILE, Adapter
from craft_tuner.client.purchases import PURCHASES, Purchases
from craft_tuner.data.sources import title
from craft_tuner.errors import RunError, UsageError
from craft_tuner.report.model_card import Facts, model_card
from craft_tuner.report.verdict import verdict_of
from craft_tuner.runs.run import TASK, Run

README = "README.md"


def export(run_path: Path, out: Path) -> list[Path]:
    """Write a run's adapter and its model card; the files written.

    Args:
        run_path: the directory of a run, finished or not.
        out: a folder; it is made, and files of these names in it are replaced.

    Raises:
        RunError: there is no run, it is in use, or it has no adapter yet.
        UsageError: the folder cannot be written.
    """
    with Run.resume(run_path) as run:
        found = facts(run)
    contents = {
        TENSORS_FILE: found.adapter.to_bytes(),
        CARD_FILE: found.adapter.card.model_dump_json(indent=2).encode() + b"\n",
        README: model_card(found).encode(),
    }
    try:
        out.mkdir(parents=True, exist_ok=True)
        for name, content in contents.items():
            files.replace(out / name, content, shared=True)
    except OSError as error:
        raise UsageError(f"cannot write to {out}: {error.strerror}") from error
    return [out / name for name in contents]


def facts(run: Run) -> Facts:
    """What the files of an open run say.

    Raises:
        RunError: it has no adapter yet.
    """
    file = run.path / TENSORS_FILE
    if not file.exists():
        raise RunError(
            f"{run.path} has no adapter yet; go on with: craft-tuner fit --resume {run.path}"
        )
    adapter = Adapter.load(file)
    task = run.path / TASK
    source = run.identity.setup.get("data")
    return Facts(
        adapter=adapter,
        adapter_bytes=len(adapter.to_bytes()),
        config=run.config,
        data=title(source) if source else None,
        shots=len(json.loads(task.read_bytes())["labels"]) if task.exists() else None,
        generations=run.restore().generation,
        plan=run.saved_plan(),
        result=run.result(),
        spent=Purchases(run.path / PURCHASES).by_purpose(),
        verdict=verdict_of(run.path),
    )
