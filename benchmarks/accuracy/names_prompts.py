"""Few texts: many names for one prompt, or few names for each of several prompts.

    python -m benchmarks names-prompts [--texts 300 1000 2000] [--shots 4 16] [--seeds 1 2 3]
                              [--data ../shared/data] [--json FILE]

Each row is a bank that P prompts of N names each make of so many texts: (texts - K) / 2P names,
since an image set of shots and views is asked about, and one of test images, and zero-shot's K
beside them. The bank is asked in this process once (ablation_heads.py) and cut down. Accuracy on
test images of the shots' own source, and points above zero-shot there and on another source; mean
of the seeds: digits by hand and printed, scenes clean and grey (where DATA has them).
"""

import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.accuracy.ablation_heads import Asker, Part, Trial, accuracy, shots_of
from benchmarks.accuracy.domain_shift import Setup, setups
from benchmarks.common.local import LocalBox, load_model
from benchmarks.common.machine import (
    Row,
    describe,
    options_of,
    print_heading,
    print_table,
    write_json,
)
from craft_tuner.config.fit_config import build
from craft_tuner.data.sources import read_dataset
from craft_tuner.heads.selection import choose

PROMPTS = (1, 2, 4, 8)

COLUMNS = {
    "shift": "shots -> others",
    "shots": "shots",
    "texts": "texts",
    "prompts": "prompts",
    "names": "names each",
    "accuracy": "accuracy, %|.2f",
    "own": "gain on the shots' source|+.1f",
    "other": "gain on others|+.1f",
}


def cut(trial: Trial, *, prompts: int, names: int) -> Trial:
    """The trial as if fewer had been asked: a smaller bank is the beginning of a larger one."""

    def few(part: Part) -> Part:
        return part._replace(logits=part.logits[:prompts, :, :names])

    return Trial(
        trial.shift,
        trial.seed,
        trial.classes,
        few(trial.shots),
        few(trial.own),
        few(trial.other),
    )


def trials(setup: Setup, *, shots: int, seeds: Sequence[int]) -> Iterator[Trial]:
    """The second shift of a setup: handwritten to printed digits, clean to grey scenes."""
    model = load_model(**{name: str(value) for name, value in setup.model.items()})
    box, preset = LocalBox(model), {"preset": "digits"} if setup.preset else {}
    with TemporaryDirectory() as place:
        back, here = (Path(place) / str(number) for number in range(2))
        for folder, shift in zip((back, here), setup.shifts, strict=False):
            shift.write(folder)
        own, other = read_dataset(str(back)), read_dataset(str(here))
        for seed in seeds:
            asker = Asker(box, build({**preset, "seed": seed}))
            yield Trial(
                shift=setup.shifts[1].name,
                seed=seed,
                classes=len(other.class_names),
                shots=asker.shots(other, shots),
                own=asker.test(own),
                other=asker.test(other),
            )


def study(found: Sequence[Trial], *, shots: int, texts: int) -> Iterator[Row]:
    """A line for each number of prompts that so many texts cover."""
    for prompts in PROMPTS:
        classes = found[0].classes
        names = min((texts - classes) // (2 * prompts), found[0].own.logits.shape[-1])
        if names < classes:
            continue
        gains: list[tuple[float, float, float]] = []
        for trial in (cut(each, prompts=prompts, names=names) for each in found):
            head = choose(shots_of(trial), seed=trial.seed).head
            own, other = (accuracy(head, part, classes) for part in (trial.own, trial.other))
            plain = [accuracy(None, part, classes) for part in (trial.own, trial.other)]
            gains.append((own, own - plain[0], other - plain[1]))
        means = [statistics.mean(each) for each in zip(*gains, strict=True)]
        size = {"shots": shots, "texts": texts, "prompts": prompts, "names": names}
        values = dict(zip(("accuracy", "own", "other"), means, strict=True))
        yield {"shift": found[0].shift, **size, **values}


def main() -> None:
    """Run and print a table in Markdown."""
    options = options_of(
        __doc__, data="../shared/data", texts=[300, 1000, 2000], shots=[4, 16], seeds=[1, 2, 3]
    )
    about, rows = describe(), list[Row]()
    print_heading(f"Names or prompts, seeds {options.seeds}", about)
    for setup in setups(Path(options.data)):
        for shots in options.shots:
            found = [*trials(setup, shots=shots, seeds=options.seeds)]
            for texts in options.texts:
                rows += study(found, shots=shots, texts=texts)
    print_table(rows, COLUMNS)
    write_json(options.json, about, rows=rows)


if __name__ == "__main__":
    main()
