"""The run directory: what was asked, what it is bound to, what came of it, and who works on it.

Owns file names and the lock. The directory is its maker's alone: it holds answers and pictures;
`craft-tuner export` and `report --out` make what is handed on.

    config.json   run id, settings, and what the caller needs to go on (server, data, ...)
    task.json     model, words, classes, labels and image sets that the run is bound to
    plan.json     what the run will spend
    journal.jsonl, metrics.jsonl, checkpoint.safetensors    see `craft_tuner.runs.journal`
    adapter.safetensors, adapter.json                       see `craft_tuner.adapter.adapter`
    result.json   what the caller measured at the end
    predictions.csv, thumbnails.json    see `craft_tuner.runs.predictions` and `.thumbnails`
    lock          held while a process works on the run
"""

import json
import os
import secrets
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, ConfigDict

from craft_shared.messages import ModelCard
from craft_shared.tensors import Tensors
from craft_tuner import files as durable
from craft_tuner import method_registry
from craft_tuner.adapter.adapter import CARD_FILE, TENSORS_FILE, Adapter
from craft_tuner.blackbox import Images, Task
from craft_tuner.config.fit_config import FitConfig
from craft_tuner.errors import RunError, WrongModel, disk_errors_as
from craft_tuner.plan import Plan
from craft_tuner.runs import journal, place
from craft_tuner.runs.place import check_config, check_free, check_unused, hold

CONFIG = place.CONFIG
TASK = "task.json"
PLAN = "plan.json"
RESULT = "result.json"

_OF_SHOTS = ("labels", "images", "views", "validation")


class Identity(BaseModel):
    """The content of config.json; never changes in the life of a run."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    run_id: str
    """Random; the client derives idempotency keys from it."""
    config: FitConfig
    setup: dict[str, Any]
    """What the caller needs to go on: JSON values, never a key."""


class Run:
    """An open run directory; it holds the lock until closed. Use it as a context manager."""

    def __init__(self, path: Path, identity: Identity, *, lock: int) -> None:
        self.path = path
        self.identity = identity
        self._lock = lock
        self._plan: Plan | None = None

    @classmethod
    def create(
        cls, path: Path, config: FitConfig, *, setup: Mapping[str, Any] | None = None
    ) -> Self:
        """Start a run in a new or empty directory.

        Raises:
            RunError: the directory holds a run or other files, is in use, or cannot be made.
        """
        with disk_errors_as(RunError, f"cannot make the run {path}"):
            return cls._create(path, config, dict(setup or {}))

    @classmethod
    def _create(cls, path: Path, config: FitConfig, setup: dict[str, Any]) -> Self:
        durable.private_folder(path)
        lock = hold(path)
        identity = Identity(run_id=secrets.token_hex(16), config=config, setup=setup)
        try:
            check_unused(path)
            durable.replace(path / CONFIG, _pretty(identity.model_dump(mode="json")))
        except BaseException:
            os.close(lock)
            raise
        return cls(path, identity, lock=lock)

    @classmethod
    def resume(cls, path: Path, *, config: FitConfig | None = None) -> Self:
        """Open an existing run, finished or not, with the settings it was started with.

        Raises:
            RunError: no run here, in use, damaged, not to be opened, or `config` is given and
                differs.
        """
        with disk_errors_as(RunError, f"cannot open the run {path}"):
            return cls._resume(path, config)

    @classmethod
    def _resume(cls, path: Path, config: FitConfig | None) -> Self:
        if not (path / CONFIG).exists():
            raise RunError(f"{path} holds no run (no {CONFIG}); give the directory of a fit")
        lock = hold(path)
        try:
            identity = _identity(path / CONFIG)
            check_config(path, was=identity.config, now=config)
        except (KeyError, TypeError, ValueError) as error:
            os.close(lock)
            raise RunError(f"{path / CONFIG} is damaged: {error}; start a new run") from error
        except RunError:
            os.close(lock)
            raise
        return cls(path, identity, lock=lock)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let other processes work on the run."""
        with suppress(OSError):
            os.close(self._lock)

    @property
    def id(self) -> str:
        """Random hex, fixed at the run's start."""
        return self.identity.run_id

    @property
    def config(self) -> FitConfig:
        """The settings, fixed at the run's start."""
        return self.identity.config

    # --- before the first query ------------------------------------------------------------------

    def bind(self, task: Task, model: ModelCard) -> None:
        """Tie the run to a task and a model at first use, and insist on them ever after.

        Raises:
            WrongModel: it was started on another checkpoint.
            RunError: it was started on other classes, words, labels or images, or with a key that
                sees something else of the logits.
        """
        now = _fingerprint(task, model)
        file = self.path / TASK
        if not file.exists():
            durable.replace(file, _pretty(now))
            return
        # Runs of before 2026-11-27 do not say what their key saw.
        was = {"output": model.output} | json.loads(file.read_bytes())
        # Runs of before 2026-11-29 are bound to views that their plan never reads.
        was["views"] = was["views"][: len(now["views"])]
        # Runs of before 2026-11-28 are bound to their shots also where they ask nothing about them.
        unasked = () if task.shots.count else _OF_SHOTS
        changed = [name for name in now if name not in unasked and was.get(name) != now[name]]
        if "digest" in changed:
            raise WrongModel(
                f"{self.path} was started on {was.get('model')} (digest "
                f"{str(was.get('digest'))[:12]}), the server has {model.id} (digest "
                f"{model.digest[:12]}); resume on the first or start a new run"
            )
        if changed:
            raise RunError(
                f"{self.path} was started with other {', '.join(changed)}; resume with the same "
                "data and key owner, or start a new run"
            )

    def save_plan(self, plan: Plan) -> None:
        """Write the plan; a resumed run keeps the one it has."""
        durable.replace(self.path / PLAN, _pretty(plan.model_dump(mode="json")))
        self._plan = plan

    def saved_plan(self) -> Plan | None:
        """The plan, or None before `save_plan`; read from the directory once."""
        file = self.path / PLAN
        if self._plan is None and file.exists():
            self._plan = Plan.model_validate_json(file.read_bytes())
        return self._plan

    @property
    def plan(self) -> Plan:
        """The plan.

        Raises:
            RunError: there is none yet.
        """
        plan = self.saved_plan()
        if plan is None:
            raise RunError(f"{self.path} has no {PLAN}; plan the run before fitting")
        return plan

    # --- generation by generation ----------------------------------------------------------------

    def commit(self, line: journal.Generation, metrics: journal.Metrics, state: Tensors) -> None:
        """See `journal.commit`."""
        journal.commit(self.path, line, metrics, state)

    def restore(self) -> journal.Checkpoint:
        """See `journal.restore`."""
        return journal.restore(self.path)

    def kept(self, generation: int) -> str:
        """See `craft_tuner.methods.recorder.Recorder`."""
        return (
            f"The adapter of generation {generation} of {self.plan.generations} is saved in "
            f"{self.path}; it can be used, and --resume {self.path} goes on from there once the "
            "cause is gone"
        )

    # --- what came of it -------------------------------------------------------------------------

    def save_adapter(self, adapter: Adapter) -> None:
        """Write adapter.json, then adapter.safetensors, each whole."""
        card = adapter.card.model_dump(mode="json")
        durable.replace(self.path / CARD_FILE, _pretty(card), shared=True)
        durable.replace(self.path / TENSORS_FILE, adapter.to_bytes(), shared=True)

    def save_result(self, result: Mapping[str, Any]) -> None:
        """Write result.json (JSON values)."""
        durable.replace(self.path / RESULT, _pretty(dict(result)))

    def result(self) -> dict[str, Any] | None:
        """The content of result.json; None while there is none."""
        file = self.path / RESULT
        if not file.exists():
            return None
        content: dict[str, Any] = json.loads(file.read_bytes())
        return content


def examine(path: Path, config: FitConfig) -> None:
    """Whether `Run.create` would take a directory; makes and writes nothing.

    Raises:
        RunError: it would not.
    """
    with disk_errors_as(RunError, f"cannot make the run {path}"):
        check_free(path)
        if (path / CONFIG).exists():
            with suppress(KeyError, TypeError, ValueError):
                check_config(path, was=_identity(path / CONFIG).config, now=config)
        if path.exists():
            check_unused(path)


def _identity(file: Path) -> Identity:
    content = json.loads(file.read_bytes())
    method = content["config"]["method"]
    if method not in method_registry.names():
        raise RunError(
            f"{file.parent} was started with --method {method}, which is not installed here; "
            "install the package that brings it"
        )
    return Identity.model_validate(content)


def _fingerprint(task: Task, model: ModelCard) -> dict[str, Any]:
    """What must be the same for a resumed run to be the same run, by the word for a message."""
    validation = task.validation
    apart = [_images(validation.images), validation.labels.tolist()] if validation else None
    return {
        "model": model.id,
        "digest": model.digest,
        "output": model.output,
        "classes": list(task.texts.class_names),
        "words": [task.texts.context, task.texts.suffix],
        "labels": task.labels.tolist(),
        "images": _images(task.shots),
        "views": [_images(view) for view in task.views],
        **({"bundle": _images(task.bundle)} if task.bundle else {}),
        **({"validation": apart} if apart else {}),
    }


def _images(images: Images) -> dict[str, Any]:
    return {"sets": list(images.sets), "count": images.count}


def _pretty(content: dict[str, Any]) -> bytes:
    return json.dumps(content, indent=2, ensure_ascii=False).encode() + b"\n"
