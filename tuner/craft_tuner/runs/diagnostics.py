"""What a run's numbers mean: names of the metrics, and plain warnings that say what to do.

A warning is a pure function of the metrics so far, and each kind is given once in a run. So a
resumed run, fed its old metrics, neither repeats nor forgets one.
"""

from collections.abc import Callable, Iterable
from statistics import median

from craft_tuner.runs.journal import Metrics

METRICS = {
    "generation": "generations done, from 1",
    "queries": "queries that the fit has spent",
    "seconds": "wall time of the generation, server included",
    "sigma": "step size of CMA-ES in z",
    "step_gain": "a_k of a zeroth-order descent: its step is this times the estimate",
    "perturbation_gain": "c_k of a zeroth-order descent: how far its pairs reach",
    "estimate_norm": "Euclidean norm of its gradient estimate before clipping",
    "fitness_best": "lowest fitness of this population, nats",
    "fitness_median": "median fitness of this population, nats",
    "fitness_lowest": "lowest fitness of the run so far, nats",
    "offset_rms": "root mean square of the prompt's offsets A z",
    "kept_variance": "share of the context's dimensions that the projection explores",
    "prompt_accuracy": "accuracy of the raw logits on the shots (seen in fitness)",
    "head_accuracy": "accuracy of the refined logits on the shots (seen in training)",
    "heldout_accuracy": "accuracy on held-out shots (of fold heads), or on validation images",
    "head_loss": "loss of the head, mean of its epoch, nats",
    "head_cross_entropy": "cross-entropy part of it",
    "head_kl": "KL(raw || refined) part of it, unweighted",
    "kl_weight": "weight of that part in this generation",
    "kl_symmetric": "KL(raw || refined) + KL(refined || raw) after the epoch, nats",
    "gradient_norm_0": "gradient norm of the head's first layer, mean over its steps",
    "gradient_norm_1": "of its second layer",
    "gradient_norm_2": "of its third layer, if it has one",
}
"""Every number that metrics.jsonl may hold, and what it is; a bank's has `BY_PROMPTS` ones too."""

BY_PROMPTS = "heldout_accuracy_prompts_"
"""With a number P behind it: held-out accuracy of a bank's head on P prompts an image."""

HELD_OUT, VALIDATION = "held-out shots", "validation images"
"""What `heldout_accuracy` is measured on; validation images where there are some."""

PLATEAU_GENERATIONS = 50
PLATEAU_GAIN = 1e-3
DIVERGED_RATIO = 2.0
DIVERGED_NATS = 0.1
KL_SPIKE = 5.0
KL_HIGH = 0.1
NARROW = 0.1
VANISHED = 1e-7
EXPLODED = 1e3
_WINDOW = 10

History = list[Metrics]


class Diagnostics:
    """Feed it each generation's metrics; it answers with the warnings that are new."""

    def __init__(self, history: Iterable[Metrics] = ()) -> None:
        self._history: History = []
        self._given: set[str] = set()
        for metrics in history:
            self.observe(metrics)

    def observe(self, metrics: Metrics, *, last: bool = False) -> tuple[str, ...]:
        """Warnings that these metrics raise and that were not given before."""
        self._history.append(metrics)
        rules = {**_RULES, "kl_at_end": _kl_at_end} if last else _RULES
        found = {name: rule(self._history) for name, rule in rules.items()}
        new = {name: text for name, text in found.items() if text and name not in self._given}
        self._given.update(new)
        return tuple(new.values())


def _plateau(history: History) -> str | None:
    """Best fitness stands still over a window."""
    if len(history) <= PLATEAU_GENERATIONS or "fitness_lowest" not in history[-1]:
        return None
    then, now = history[-1 - PLATEAU_GENERATIONS]["fitness_lowest"], history[-1]["fitness_lowest"]
    if then - now > PLATEAU_GAIN * abs(then):
        return None
    said = f"fitness has hardly moved for {PLATEAU_GENERATIONS} generations (lowest {now:.4f}"
    if "sigma" not in history[-1] and "step_gain" not in history[-1]:
        return f"{said}): more queries of this kind buy little; lower --budget"
    if "sigma" not in history[-1]:
        return f"{said}); the steps are too small or too large: see --zip-a and --spsa-step"
    return (
        f"{said}, sigma {history[-1]['sigma']:.3g}): sigma x std is the real step; try --sigma ten "
        "times larger and ten times smaller on a short --budget"
    )


def _divergence(history: History) -> str | None:
    """Head loss well above its lowest for a whole window."""
    losses = [row["head_loss"] for row in history if "head_loss" in row]
    if len(losses) <= _WINDOW:
        return None
    lowest = min(losses)
    if min(losses[-_WINDOW:]) <= max(DIVERGED_RATIO * lowest, lowest + DIVERGED_NATS):
        return None
    return (
        f"the head's loss has risen to {losses[-1]:.4f}, its lowest was {lowest:.4f}: the head "
        "diverges; lower --lr, or lower --sigma so that the prompt moves less between generations"
    )


def _kl_spike(history: History) -> str | None:
    """Refined predictions leap away from raw ones."""
    values = [row["kl_symmetric"] for row in history if "kl_symmetric" in row]
    if len(values) <= _WINDOW:
        return None
    usual = median(values[-1 - _WINDOW : -1])
    if values[-1] <= max(KL_SPIKE * usual, KL_HIGH):
        return None
    return (
        f"symmetric KL between raw and refined predictions leapt from about {usual:.3f} to "
        f"{values[-1]:.3f} nats: the head no longer follows the prompt; raise --kl-weight or lower "
        "--lr"
    )


def _kl_at_end(history: History) -> str | None:
    """Refined predictions end far from raw ones, though the prompt was searched for them."""
    value = history[-1].get("kl_symmetric", 0.0)
    if value <= KL_HIGH or "fitness_lowest" not in history[-1]:
        return None
    return (
        f"symmetric KL between raw and refined predictions ends at {value:.3f} nats, above "
        f"{KL_HIGH}: the result rests on the head more than on the prompt; compare held-out with "
        "training accuracy, and raise --kl-weight or lower --kl-fraction if they differ"
    )


def _narrow_projection(history: History) -> str | None:
    """The projection explores little of the context."""
    value = history[-1].get("kept_variance", 1.0)
    if value >= NARROW:
        return None
    return (
        f"the random projection spreads a step over only {value:.1%} of the context's dimensions: "
        "raise --intrinsic-dim or shorten --context"
    )


def _gradients(history: History) -> str | None:
    """A layer of the head gets no gradient, or a huge one."""
    for name, value in history[-1].items():
        if name.startswith("gradient_norm") and not VANISHED < value < EXPLODED:
            layer, word = int(name[-1]) + 1, "vanished" if value <= VANISHED else "exploded"
            return (
                f"the gradient of the head's layer {layer} has {word} (norm {value:.2g}): "
                + ("it no longer learns; " if word == "vanished" else "its steps are wild; ")
                + "lower --lr, or look at whether the logits are sane"
            )
    return None


_RULES: dict[str, Callable[[History], str | None]] = {
    "plateau": _plateau,
    "divergence": _divergence,
    "kl_spike": _kl_spike,
    "narrow_projection": _narrow_projection,
    "gradients": _gradients,
}
