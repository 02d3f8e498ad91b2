"""The use case `fit`: data to shots, a plan, uploads, the method, the final test, the result.

    read and sample -> plan -> upload test images, shots and views -> fit -> test -> result.json

Everything that can be refused without a query is refused before the first one. A run that was
killed goes through the same steps again: what is uploaded is not sent twice, what is bought is not
paid twice. Test labels are not looked at before the adapter is saved.
"""

import time
from dataclasses import dataclass, field
from typing import Any

from craft_shared.messages import Budgets, Counters, ModelCard
from craft_tuner import methods
from craft_tuner.activity import doing
from craft_tuner.adapter.adapter import TENSORS_FILE, Adapter
from craft_tuner.client.account import fetch_key
from craft_tuner.client.batching import images_per_set
from craft_tuner.client.client import Client
from craft_tuner.client.line import measure
from craft_tuner.client.purchases import PURCHASES, Purchases, subtract
from craft_tuner.client.texts import TextCheck
from craft_tuner.client.transport import Transport
from craft_tuner.client.uploads import OnUploaded, Upload
from craft_tuner.config.fit_config import FitConfig
from craft_tuner.data.dataset import Dataset, Item, labels_of
from craft_tuner.errors import RunError
from craft_tuner.inference.evaluate import Evaluation, evaluate
from craft_tuner.plan import Plan
from craft_tuner.runs import predictions
from craft_tuner.runs import thumbnails as examples
from craft_tuner.runs.predictions import Answers
from craft_tuner.runs.provenance import machine, versions
from craft_tuner.runs.run import Run
from craft_tuner.training.foresight import Terms, plan_fit
from craft_tuner.training.prepare import Samples, send
from craft_tuner.training.traffic import Link, Traffic
from craft_tuner.training.watcher import SILENT, Watcher


@dataclass
class Clock:
    """Wall time of each stage in seconds; what one leaves is the next one's, so none is lost."""

    seconds: dict[str, float] = field(default_factory=dict)
    since: float = field(default_factory=time.monotonic)

    def end(self, stage: str) -> None:
        """A stage ended: all time since the one before is its."""
        now = time.monotonic()
        self.add(stage, now - self.since)
        self.since = now

    def add(self, stage: str, seconds: float) -> None:
        """A stage took so much more."""
        self.seconds[stage] = self.seconds.get(stage, 0.0) + seconds


@dataclass(frozen=True)
class Prepared:
    """A fit that can begin: its samples, its plan, what the key has left, what is to be moved."""

    samples: Samples
    plan: Plan
    budgets: Budgets
    traffic: Traffic
    line: Link
    bought: Counters
    """What the run spent before it was interrupted."""

    def show(self, watcher: Watcher) -> None:
        """What the fit will spend and move."""
        if self.plan.dtype == "int16":
            watcher.say(
                "the line is slow: logits come as int16 rows (--dtype float32 for all their digits)"
            )
        watcher.plan(self.plan, self.budgets, subtract(self.plan.total, self.bought))
        watcher.traffic(self.traffic, self.line)


def prepare(
    config: FitConfig,
    dataset: Dataset,
    transport: Transport,
    *,
    card: ModelCard,
    run: Run | None,
) -> Prepared:
    """Sample the shots and plan; spends and writes nothing.

    Args:
        config: settings of the fit.
        dataset: to draw the shots from, and the test images.
        transport: asked for what the key has left, and whether the texts fit the model.
        card: of the model.
        run: a run that goes on: its plan stands.

    Raises:
        AccessDenied: the key may not send the method's prompts, or not ask about the classes.
        DataError: the data cannot be used.
        BudgetExhausted: the plan cannot be paid.
    """
    key = fetch_key(transport)
    line = Link(transport.took_s)
    saved = run.saved_plan() if run else None
    with doing("planning"):
        foreseen = plan_fit(config, dataset, Terms.of(card, key), saved=saved)
        if saved is None:
            foreseen = foreseen.for_line(lambda: measure(transport, card.limits))
        TextCheck(transport, card).check(foreseen.wordings())
        return Prepared(
            samples=foreseen.samples,
            plan=foreseen.plan,
            budgets=key.budgets,
            traffic=foreseen.traffic(),
            line=line,
            bought=_bought(run),
        )


def _bought(run: Run | None) -> Counters:
    return (Purchases(run.path / PURCHASES) if run else Purchases()).total


def fit(
    run: Run,
    prepared: Prepared,
    transport: Transport,
    *,
    card: ModelCard,
    watcher: Watcher = SILENT,
    clock: Clock | None = None,
) -> dict[str, Any]:
    """Do a run, or what is left of it, and write its result.

    Args:
        run: new, or one that goes on.
        prepared: by `prepare`.
        transport: the connection.
        card: of the model.
        watcher: who shows the fit.
        clock: started when the command began; None: it begins now.

    Returns:
        The content of result.json. Its `seconds` are of this command, by stage, and of what a run
        that goes on spent fitting before.

    Raises:
        CraftTunerError: whatever stops it; the run can be resumed.
    """
    clock = clock or Clock()
    client = Client(
        transport,
        card,
        run_id=run.id,
        purchases=Purchases(run.path / PURCHASES),
        dtype=prepared.plan.dtype_of(run.config),
    )
    samples = prepared.samples
    run.save_plan(prepared.plan)
    prepared.show(watcher)
    clock.end("prepare")
    advance = _showing_rate(watcher, prepared, client)
    task, test = send(samples, client, run.config, on_uploaded=advance, say=watcher.say)
    clock.end("upload")
    clock.add("fit", sum(row["seconds"] for row in run.restore().metrics))
    method = methods.get(run.config.method)
    run.bind(task, card)
    with doing(f"fitting with {method.name}"):
        adapter = method.fit(client, task, recorder=run, on_progress=watcher.generation)
    if not (isinstance(adapter, Adapter) and (run.path / TENSORS_FILE).exists()):
        raise RunError(
            f"method {method.name!r} ended without an adapter: it has to save one and return it; "
            "no test image was asked about"
        )
    clock.end("fit")
    answers = Answers()
    evaluation = _test(client, adapter, prepared, test=test, watcher=watcher, answers=answers)
    with doing("saving the result"):
        if evaluation is not None:
            _keep_answers(run, answers, samples.test, evaluation.class_names)
        clock.end("test")
        result = _result(run, client, evaluation, samples, adapter) | {"seconds": clock.seconds}
        run.save_result(result)
    return result


def _showing_rate(watcher: Watcher, prepared: Prepared, client: Client) -> OnUploaded:
    """Show the upload, and how long all will take as soon as a piece of it shows."""
    advance = watcher.uploading(prepared.samples.pictures)
    known = False

    def uploaded(more: int) -> None:
        nonlocal known
        advance(more)
        rate = client.upload_rate.bytes_per_s
        if rate is not None and not known:
            known = True
            watcher.traffic(prepared.traffic, Link(prepared.line.round_trip_s, rate))

    return uploaded


def _test(
    client: Client,
    adapter: Adapter,
    prepared: Prepared,
    *,
    test: Upload | None,
    watcher: Watcher,
    answers: Answers,
) -> Evaluation | None:
    if test is None:
        return None
    items = prepared.samples.test
    watcher.testing(len(items))
    purposes = {phase.purpose for phase in prepared.plan.phases}
    with doing("testing"):
        return evaluate(
            client,
            adapter,
            test.images,
            labels_of(items),
            zero_shot="zero-shot" in purposes,
            adapted="test" in purposes,
            on_logits=answers,
        )


def _keep_answers(
    run: Run, answers: Answers, items: tuple[Item, ...], class_names: tuple[str, ...]
) -> None:
    """What each test image was taken for, and small copies of a few, for the page of the run."""
    pictures = {item.picture.name: item.picture for item in items}
    names = [item.picture.name for item in items]
    lines = predictions.table(answers, names, labels_of(items), class_names)
    predictions.write(run.path, lines)
    examples.save(run.path, pictures, lines)


def _images(samples: Samples) -> dict[str, int]:
    apart = {"validation": len(samples.validation)} if samples.validation else {}
    return {"shots": len(samples.shots), **apart, "test": len(samples.test)}


def _result(
    run: Run,
    client: Client,
    evaluation: Evaluation | None,
    samples: Samples,
    adapter: Adapter,
) -> dict[str, Any]:
    spent = client.purchases.by_purpose()
    return {
        "method": run.config.method,
        "model": client.card.id,
        "digest": client.card.digest,
        "shots": run.config.shots,
        "seed": run.config.seed,
        "images": _images(samples),
        "evaluation": None if evaluation is None else evaluation.model_dump(mode="json"),
        "spent": {purpose: cost.model_dump() for purpose, cost in spent.items()},
        "spent_total": client.purchases.total.model_dump(),
        "prompts_per_image_at_inference": adapter.prompts_per_image,
        "images_per_set": images_per_set(len(adapter.asked.class_names), client.card.limits),
        "adapter_bytes": (run.path / TENSORS_FILE).stat().st_size,
        "versions": versions(),
        "machine": machine(),
    }
