"""What each rule of a bank's head is worth: the shots' own source, and sixteen shifts of it.

    python -m benchmarks ablation-heads [--shots 1 4 16] [--seeds 1 2 3]
                              [--data ../shared/data] [--json FILE]

Each row changes one rule of craft_tuner.heads (selection or leverage). The bank is the one of
`craft-tuner fit --method bank`: 8 soft prompts, as many common names as it takes, 8 views; it is
asked in this process, without HTTP or meter (local.py), once for all rows. Columns: accuracy of
digits in per cent, and points above zero-shot, mean of the seeds, of the shifts of domains.py: the
mean over them, the least of them, and the mean on test images of the shots' own sources. Scenes are
left out where DATA has none. Test labels are read for these figures alone.
"""

import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple
from unittest.mock import patch

import numpy as np

from benchmarks.accuracy.domain_shift import setups
from benchmarks.common.local import LocalBox, load_model
from benchmarks.common.machine import (
    Row,
    describe,
    options_of,
    print_heading,
    print_table,
    write_json,
)
from craft_tuner.adapter.head import DeployedHead
from craft_tuner.blackbox import FloatArray, IntArray, Task, Texts
from craft_tuner.config.fit_config import FitConfig, build
from craft_tuner.data.dataset import Dataset, labels_of, pictures_of
from craft_tuner.data.pictures import Picture
from craft_tuner.data.sampling import sample_shots
from craft_tuner.data.sources import read_dataset
from craft_tuner.data.views import Augmentation, views_of
from craft_tuner.heads import selection as heads
from craft_tuner.heads.candidates import Shots
from craft_tuner.heads.selection import choose
from craft_tuner.methods.prompt_bank import BankSettings, compose


class Part(NamedTuple):
    """Logits float32 (P, rows, K') and labels (images,) of shots and views, or of test images."""

    logits: FloatArray
    labels: IntArray


@dataclass(frozen=True, eq=False)
class Trial:
    """Shots of one source and seed, and what they are tested on; equal to itself alone."""

    shift: str
    seed: int
    classes: int
    shots: Part
    own: Part
    other: Part


class Uncentred(Shots):
    """Shots whose rows stay as they are."""

    @property
    def is_centred(self) -> bool:
        """Never."""
        return False


Rule = Callable[[Trial], DeployedHead | None]


def shots_of(trial: Trial, kind: type[Shots] = Shots) -> Shots:
    """As `bank` makes them."""
    logits, labels = trial.shots
    x = np.concatenate(list(logits), axis=-1, dtype=np.float64)
    return kind(x, labels, trial.classes, has_zero_shot=True, names=logits.shape[-1])


@lru_cache(maxsize=1)
def as_built(trial: Trial) -> DeployedHead | None:
    """What `bank` leaves; chosen once for all rows that look at it."""
    return choose(shots_of(trial), seed=trial.seed).head


def uncentred(trial: Trial) -> DeployedHead | None:
    """Of logits whose means stay."""
    return choose(shots_of(trial, Uncentred), seed=trial.seed).head


def prior_worth(shots: int) -> Rule:
    """A prior that is worth so many shots."""

    def rule(trial: Trial) -> DeployedHead | None:
        with patch.object(heads, "PRIOR_SHOTS", shots):
            return choose(shots_of(trial), seed=trial.seed).head

    return rule


def gate_by(which: slice) -> Rule:
    """The same head with some rules of its leverage gate; without any it is followed everywhere."""

    def rule(trial: Trial) -> DeployedHead | None:
        head = as_built(trial)
        if head is None or head.gate is None:
            return head
        gate = head.gate
        weights, scale = gate.weights[which], gate.scale[which]
        left = gate._replace(weights=weights, scale=scale) if len(scale) else None
        return replace(head, gate=left)

    return rule


RULES: dict[str, Rule] = {
    "as built": as_built,
    "logits not centred": uncentred,
    "followed everywhere": gate_by(slice(0)),
    "leverage gate by the small ridge alone": gate_by(slice(1)),
    "leverage gate by the large ridge alone": gate_by(slice(1, None)),
}
BESIDE_HELD_OUT: dict[str, Rule] = {
    "no prior beside what was held out": prior_worth(0),
    "the prior alone": prior_worth(10**6),
}
HOLDS_OUT = 3
"""Shots from which something is held out: below it the prior is alone as built."""


class Asker:
    """Asks about folders as `craft-tuner fit --method bank` does, about the same images once."""

    def __init__(self, box: LocalBox, config: FitConfig) -> None:
        self._box, self._config = box, config
        self._asked: dict[tuple[str, ...], Part] = {}

    def test(self, dataset: Dataset) -> Part:
        """Its test images."""
        return self._ask(dataset, pictures_of(dataset.test), labels_of(dataset.test))

    def shots(self, dataset: Dataset, shots: int) -> Part:
        """Shots and views."""
        config = self._config
        items = sample_shots(dataset, shots=shots, seed=config.seed)
        pictures = pictures_of(items)
        kind = Augmentation(self._box.card.image_size, config.seed, config.crop_scale, config.flip)
        views = [views_of(pictures, kind, view=view) for view in range(config.views)]
        together = [*pictures, *(picture for view in views for picture in view)]
        return self._ask(dataset, together, labels_of(items))

    def _ask(self, dataset: Dataset, pictures: Sequence[Picture], labels: IntArray) -> Part:
        config, classes = self._config, len(dataset.class_names)
        images = self._box.upload(pictures, name="", classes=classes).images
        if images.sets not in self._asked:
            texts = Texts(dataset.class_names, config.context, config.suffix)
            task = Task(texts, images, (), labels)
            question = compose(
                self._box, task, config, prompts=config.of(BankSettings).bank_prompts
            )
            self._asked[images.sets] = Part(question.ask(self._box, images), labels)
        return self._asked[images.sets]


def trials(data: Path, *, shots: int, seeds: Sequence[int]) -> Iterator[Trial]:
    """Every shift and seed."""
    for setup in setups(data):
        model = load_model(**{name: str(value) for name, value in setup.model.items()})
        box, preset = LocalBox(model), {"preset": "digits"} if setup.preset else {}
        with TemporaryDirectory() as place:
            for number, shift in enumerate(setup.shifts):
                shift.write(Path(place) / str(number))
            folders = [read_dataset(str(Path(place) / str(n))) for n in range(len(setup.shifts))]
            for seed in seeds:
                asker = Asker(box, build({**preset, "seed": seed}))
                for number, shift in enumerate(setup.shifts):
                    here, back = folders[number], folders[number ^ 1]  # pairs, there and back
                    yield Trial(
                        shift=shift.name,
                        seed=seed,
                        classes=len(here.class_names),
                        shots=asker.shots(here, shots),
                        own=asker.test(back),
                        other=asker.test(here),
                    )


def accuracy(head: DeployedHead | None, part: Part, classes: int) -> float:
    """In per cent; of None zero-shot's."""
    scores = part.logits[0][:, :classes] if head is None else head(part.logits, None)
    return 100 * float((scores.argmax(axis=1) == part.labels).mean())


def study(data: Path, *, shots: int, seeds: Sequence[int]) -> list[Row]:
    """A line for each rule."""
    rules = RULES | BESIDE_HELD_OUT if shots >= HOLDS_OUT else RULES
    digits: dict[str, list[float]] = {name: [] for name in rules}
    own: dict[str, list[float]] = {name: [] for name in rules}
    gains: dict[str, dict[str, list[float]]] = {name: {} for name in rules}
    for trial in trials(data, shots=shots, seeds=seeds):
        plain = [accuracy(None, part, trial.classes) for part in (trial.own, trial.other)]
        for name, rule in rules.items():
            head = rule(trial)
            found = [accuracy(head, part, trial.classes) for part in (trial.own, trial.other)]
            own[name].append(found[0] - plain[0])
            gains[name].setdefault(trial.shift, []).append(found[1] - plain[1])
            if trial.shift == "digits: handwritten -> printed":
                digits[name].append(found[0])
    rows: list[Row] = []
    for name in rules:
        means = [statistics.mean(each) for each in gains[name].values()]
        rows.append(
            {
                "rule": name,
                "shots": shots,
                "digits": statistics.mean(digits[name]),
                "own": statistics.mean(own[name]),
                "mean": statistics.mean(means),
                "least": min(means),
            }
        )
    return rows


COLUMNS = {
    "rule": "rule",
    "shots": "shots",
    "digits": "digits, %|.2f",
    "own": "gain on the shots' sources|+.1f",
    "mean": "gain on shifts|+.1f",
    "least": "least of them|+.1f",
}


def main() -> None:
    """Run and print a table in Markdown."""
    options = options_of(__doc__, data="../shared/data", shots=[1, 4, 16], seeds=[1, 2, 3])
    about, rows = describe(), list[Row]()
    print_heading(f"Rules of a bank's head, seeds {options.seeds}", about)
    for shots in options.shots:
        rows += study(Path(options.data), shots=shots, seeds=options.seeds)
    print_table(rows, COLUMNS)
    write_json(options.json, about, rows=rows)


if __name__ == "__main__":
    main()
