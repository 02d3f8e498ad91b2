"""The model card of an adapter: what it is for, how good it is, what it cost, how to use it.

Owns the words, in Markdown. Everything it says is in the run's files.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from craft_shared.messages import Counters
from craft_tuner.adapter.adapter import Adapter
from craft_tuner.blackbox import Purpose
from craft_tuner.client.purchases import add
from craft_tuner.config.fit_config import FitConfig, fields
from craft_tuner.files import handed_on
from craft_tuner.plan import Plan
from craft_tuner.report.markdown import code, plain

_NAMES = 100
_MISTAKES = 10
_COUNTERS = tuple(Counters.model_fields)

SNIPPET = '''\
import json
import numpy as np

def load(path):
    """The card and the arrays of an adapter.safetensors."""
    data = np.fromfile(path, np.uint8).tobytes()
    start = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:start])
    card = json.loads(header.pop("__metadata__")["card"])
    parts = {name: data[start:][slice(*one["data_offsets"])] for name, one in header.items()}
    return card, {k: np.frombuffer(v, "<f4").reshape(header[k]["shape"]) for k, v in parts.items()}

def scores(card, arrays, logits):
    """Scores (N, K) from the server's logits (P, N, K') for the adapter's prompts."""
    classes, depth = card["class_names"], sum(name.endswith(".weight") for name in arrays)
    asked = card["asked_names"] or classes
    rows = np.concatenate(list(logits), axis=1)
    x = rows - arrays.get("head.centre", np.float32(0))
    for layer in range(depth):
        x = x @ arrays[f"head.{layer}.weight"].T + arrays[f"head.{layer}.bias"]
        x = np.maximum(x, 0) if card["relu"] and layer < depth - 1 else x
    if "head.reach" in arrays:  # images unlike the shots are left to zero-shot
        inverse, near, far = arrays["head.reach_scale"].T
        d = rows[:, : arrays["head.reach_centre"].size] - arrays["head.reach_centre"]
        along = (d @ arrays["head.reach"].T) ** 2 @ arrays["head.reach_weights"].T
        far_off = inverse * ((d**2).sum(axis=1, keepdims=True) - along)
        share = np.clip((far - far_off) / (far - near), 0, 1).min(axis=1, keepdims=True)
        x = share * x + (1 - share) * arrays["head.reach_zero_shot"] * rows[:, : len(classes)]
    if not set(classes) <= set(asked):
        return x
    base = logits.mean(axis=0)[:, [asked.index(name) for name in classes]]
    return card["residual"] * base + (x if depth else 0)
'''
"""Applies an adapter to logits with numpy alone; a test runs it."""

_USE = f"""\
## How to use it

On the command line (`pip install 'craft-blackbox[tuner]'`; neither torch nor a GPU is used):

    export CRAFT_SERVER_URL=https://craft.example CRAFT_API_KEY=craft_...
    craft-tuner predict adapter.safetensors photos/ --out labels.jsonl

In Python:

    from craft_tuner import CraftClassifier

    classifier = CraftClassifier.from_adapter("adapter.safetensors")
    classifier.predict(["cat.jpg", "dog.jpg"])

Without this program, on logits that the server's `POST /v1/logits` gave for the adapter's prompts:

```python
{SNIPPET}```
"""


_LIMITS = (
    "It answers with one of its classes, whatever the image shows.",
    "It needs a craft-server with this very checkpoint, and a key; each prediction is charged.",
    "Its probabilities are a softmax of scores that fit the shots; they are not calibrated.",
    "What the model has learnt of people, places and words is in its answers.",
)
_TESTED = (
    "It was fitted to few images; on images from elsewhere (another camera, style or country) its "
    "accuracy may be below the one above."
)
_UNTESTED = "How good it is was not measured; measure it with `craft-tuner evaluate` before use."


@dataclass(frozen=True)
class Facts:
    """What a run's files say; what a run has not come to is None."""

    adapter: Adapter
    adapter_bytes: int
    config: FitConfig
    data: str | None
    """Short name of the dataset."""
    shots: int | None
    """Training images in all."""
    generations: int
    plan: Plan | None
    result: Mapping[str, Any] | None
    """Content of result.json; None: the run is unfinished."""
    spent: Mapping[Purpose, Counters]
    verdict: str | None = None
    """What the run came to, in a sentence."""


def model_card(facts: Facts) -> str:
    """The card, in Markdown."""
    card = facts.adapter.card
    parts = [
        f"# {plain(card.method)} adapter for {plain(card.model)}",
        *([f"**{plain(facts.verdict)}**"] if facts.verdict else []),
        _summary(facts),
        "## Classes",
        _classes(facts),
        "## Accuracy",
        _accuracy(facts),
        "## What it cost",
        _cost(facts),
        "## What a prediction costs",
        _price(facts),
        "## How it was made",
        _making(facts),
        "## Limits",
        _limits(facts),
        _USE,
    ]
    return "\n\n".join(part.strip("\n") for part in parts) + "\n"


def _summary(facts: Facts) -> str:
    card = facts.adapter.card
    planned = f" of {facts.plan.generations:,}" if facts.plan else ""
    unfinished = (
        f"**Unfinished**: the run stopped after {facts.generations:,}{planned} generations, and "
        "nothing was tested.\n\n"
    )
    return (
        f"{unfinished if facts.result is None else ''}"
        f"An adapter for a CLIP model behind a craft-server: {_prompts(facts.adapter)} and "
        f"{_head(facts.adapter)}. It holds nothing of the model and works with this one alone:\n\n"
        f"- model: {code(card.model)}\n"
        f"- checkpoint: {code(card.digest)} (another one is refused)"
    )


def _prompts(adapter: Adapter) -> str:
    kind = "text" if adapter.offsets is None else "tuned"
    return f"{adapter.prompts_per_image:,} {kind} prompt(s)"


def _head(adapter: Adapter) -> str:
    if not adapter.head:
        return "no head"
    sizes = [adapter.head[0].weight.shape[1], *(len(layer.bias) for layer in adapter.head)]
    return f"a head of layers {' -> '.join(map(str, sizes))} on its logits"


def _classes(facts: Facts) -> str:
    adapter = facts.adapter
    names = adapter.card.class_names
    more = f" and {len(names) - _NAMES:,} more (see adapter.json)" if len(names) > _NAMES else ""
    if adapter.offsets is None:
        words = ", ".join(map(code, adapter.templates))
    else:
        words = f"{code(adapter.texts.template)}, with what was learnt added to its first words"
    listed = ", ".join(map(plain, names[:_NAMES]))
    return f"{len(names):,} classes, asked as {words}:\n\n{listed}{more}."


def _accuracy(facts: Facts) -> str:
    evaluation = (facts.result or {}).get("evaluation")
    if not evaluation:
        return "Nothing was measured: the run had no test images, or did not come to its test."
    named = {
        "zero_shot": "without the adapter (zero-shot)",
        "prompt_only": "its prompts without the head",
        "adapted": "the adapter",
    }
    rows = [
        (title, f"{scored['accuracy']:.2%}", f"{scored['correct']:,} of {scored['images']:,}")
        for way, title in named.items()
        if (scored := evaluation.get(way))
    ]
    table = _table(("measured", "accuracy", "right"), rows)
    mistakes = _mistakes(evaluation)
    if not mistakes:
        return table
    return f"{table}\n\nCommonest mistakes:\n\n" + _table(
        ("are", "taken for", "images", "of the class"), mistakes
    )


def _mistakes(evaluation: Mapping[str, Any]) -> list[tuple[str, ...]]:
    names = evaluation["class_names"]
    confusion = (evaluation.get("adapted") or evaluation["zero_shot"])["confusion"]
    wrong = [
        (-count, true, taken, sum(row))
        for true, row in enumerate(confusion)
        for taken, count in enumerate(row)
        if count and taken != true
    ]
    return [
        (plain(names[true]), plain(names[taken]), f"{-minus:,}", f"{total:,}")
        for minus, true, taken, total in sorted(wrong)[:_MISTAKES]
    ]


def _cost(facts: Facts) -> str:
    costs = [*facts.spent.items(), ("total", add(facts.spent.values()))]
    rows = [
        (name, *(f"{getattr(cost, counter):,}" for counter in _COUNTERS)) for name, cost in costs
    ]
    heads = ("for", *(counter.replace("_", " ") for counter in _COUNTERS))
    return _table(heads, rows) + "\n\nOne query is one prompt for all classes on one image set."


def _price(facts: Facts) -> str:
    prompts = facts.adapter.prompts_per_image
    return (
        f"{prompts:,} prompt(s) per image: {prompts:,} queries for each image set (a batch of as "
        f"many images as the server takes), {prompts:,} logit vectors for each image. The file has "
        f"{facts.adapter_bytes:,} bytes."
    )


def _making(facts: Facts) -> str:
    result, config = facts.result or {}, facts.config
    images = result.get("images", {})
    entries = {
        "method": facts.adapter.card.method,
        "chosen by `auto`, since": (facts.plan and facts.plan.why) or None,
        "data": facts.data,
        "shots per class": config.shots,
        "training images": facts.shots,
        "choices made on": _chosen_on(facts),
        "test images": images.get("test"),
        "generations": facts.generations or None,
        **{f"version of {name}": value for name, value in result.get("versions", {}).items()},
    }
    rows = [
        (plain(name), plain(str(value))) for name, value in entries.items() if value is not None
    ]
    known = fields(config.method)
    other = [
        (plain(name), code(str(value)))
        for name, value in handed_on(config.model_dump()).items()
        if value != known[name].default and name not in {"method", "shots"}
    ]
    settings = _table(("setting", "value"), other) if other else "All settings are the defaults."
    return (
        _table(("what", "value"), rows)
        + "\n\nSettings other than the defaults (all of them are in adapter.json):\n\n"
        + settings
    )


def _chosen_on(facts: Facts) -> str | None:
    images = facts.plan.validation if facts.plan else 0
    return f"{images:,} validation images" if images else None


def _limits(facts: Facts) -> str:
    tested = (facts.result or {}).get("evaluation")
    measured = _TESTED if tested else _UNTESTED
    return "\n".join(f"- {line}" for line in (*_LIMITS, measured))


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
