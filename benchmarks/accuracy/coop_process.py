"""One CoOp run in a process of its own: the shots of a fit, the white box, the memory that it took.

    python -m benchmarks.accuracy.coop_process '{"server": {...}, "data": "digits", ...}'

Prints `Report` as JSON. Shots, class names, augmentation and test images are read by the tuner's
own code from the same settings, so that a fit of `craft-tuner` with them has the very same ones.
"""

import sys
import time
from collections.abc import Sequence

import torch
from open_clip.transform import PreprocessCfg, image_transform_v2
from pydantic import BaseModel
from torch import Tensor

from benchmarks.accuracy.coop import Batch, CoOp, Opened, Recipe, correct, open_model, train
from benchmarks.common.machine import own_peak_mb, own_resident_mb, reset_own_peak
from craft_tuner.config.fit_config import FitConfig
from craft_tuner.config.shots import most
from craft_tuner.data.dataset import Item, labels_of
from craft_tuner.data.pictures import decode
from craft_tuner.data.sources import read_dataset
from craft_tuner.data.views import Augmentation, views_of
from craft_tuner.heads.fold_heads import assign_folds
from craft_tuner.training.prepare import draw


class Job(BaseModel):
    """What is learnt from what."""

    server: dict[str, str]
    """Settings of craft-server that name the model."""
    data: str
    config: FitConfig
    """Of the fit to compare with: its shots, seed, sampling and augmentation count."""
    tokens: int | None = None
    """Of a random context; None: it starts from words."""
    lrs: tuple[float, ...] = (0.002,)
    """Learning rates; of several, the best on held-out shots (two folds) is taken."""
    full_length: bool = False
    threads: int = 1
    """Of torch; more only slow a model as small as the embedded one."""
    most_steps: int | None = None
    """Stop there, without a test: for memory and time alone."""


class Report(BaseModel):
    """What came of it."""

    digest: str
    images: int
    """Test images, 0 where none was asked for."""
    zero_shot: int
    """Of these right before training (of a random context: by chance)."""
    correct: int
    """Of these right after it."""
    lr: float
    folds_right: dict[str, int]
    """Held-out shots right by learning rate, where there was a choice."""
    steps: int
    seconds: float
    """Of the training whose context is kept."""
    choosing_seconds: float
    imports_mb: float
    """Resident before the model is loaded."""
    peak_mb: float
    """Largest while training, interpreter and libraries included."""


def carry_out(job: Job, *, imports_mb: float) -> Report:
    """Choose, train and test."""
    torch.set_num_threads(job.threads)
    opened = open_model(**job.server)
    dataset = read_dataset(job.data)
    config = job.config
    items = draw(config, dataset)
    classroom = Classroom(job, opened, dataset.class_names, items)
    tested = () if job.most_steps else dataset.test
    test = [classroom.preprocess(decode(item.picture)) for item in tested]
    labels = torch.tensor(labels_of(tested))
    zero_shot = correct(classroom.learner(), test, labels)
    began = time.perf_counter()
    found = {lr: classroom.held_out(lr) for lr in job.lrs} if len(job.lrs) > 1 else {}
    chosen = max(found, key=lambda lr: found[lr]) if found else job.lrs[0]
    chose = time.perf_counter()
    reset_own_peak()
    learner, steps = classroom.teach(chosen, list(range(len(items))))
    done, peak = time.perf_counter(), own_peak_mb()
    return Report(
        digest=opened.digest,
        images=len(test),
        zero_shot=zero_shot,
        correct=correct(learner, test, labels),
        lr=chosen,
        folds_right={str(lr): right for lr, right in found.items()},
        steps=steps,
        seconds=done - chose,
        choosing_seconds=chose - began,
        imports_mb=imports_mb,
        peak_mb=peak,
    )


class Classroom:
    """Shots, and learners taught on all or some of them."""

    def __init__(
        self, job: Job, opened: Opened, names: Sequence[str], items: Sequence[Item]
    ) -> None:
        visual = opened.model.visual
        cfg = PreprocessCfg(**visual.preprocess_cfg)
        side = visual.image_size
        self._job, self._opened, self._names = job, opened, names
        self._items, self._labels = items, torch.tensor(labels_of(items))
        self._augmentation = Augmentation(
            size=side if isinstance(side, int) else side[0],
            seed=job.config.seed,
            scale=job.config.crop_scale,
            flip=job.config.flip,
        )
        self.preprocess = image_transform_v2(cfg, is_train=False)

    def learner(self) -> CoOp:
        """A learner that has learnt nothing."""
        job = self._job
        return CoOp(
            self._opened,
            self._names,
            tokens=job.tokens,
            seed=job.config.seed,
            full_length=job.full_length,
        )

    def teach(self, lr: float, indices: list[int]) -> tuple[CoOp, int]:
        """A learner taught on the shots of these indices, and its steps."""
        learner, job = self.learner(), self._job
        recipe = Recipe.of(most(job.config.shots), lr=lr)
        losses = train(
            learner,
            self._batches(indices),
            self._labels[indices],
            recipe,
            seed=job.config.seed,
            most_steps=job.most_steps,
        )
        return learner, len(losses)

    def held_out(self, lr: float) -> int:
        """Shots right that the learner has not seen, over two folds; no test image is read."""
        labels = self._labels.numpy()
        config = self._job.config.model_copy(update={"validation_folds": 2})
        folds, count = assign_folds(labels, config)
        right = 0
        for fold in range(count):
            learner, _ = self.teach(lr, (folds != fold).nonzero()[0].tolist())
            held = (folds == fold).nonzero()[0].tolist()
            pixels = [self.preprocess(decode(self._items[index].picture)) for index in held]
            right += correct(learner, pixels, self._labels[held])
        return right

    def _batches(self, indices: Sequence[int]) -> Batch:
        pictures = [self._items[index].picture for index in indices]

        def batch_of(epoch: int, chosen: Sequence[int]) -> Tensor:
            views = views_of(pictures, self._augmentation, view=epoch)
            return torch.stack([self.preprocess(views[index].image()) for index in chosen])

        return batch_of


def main() -> None:
    """Carry out the job on the command line."""
    torch.optim.SGD([torch.zeros(1, requires_grad=True)])  # torch loads much at its first use
    imports_mb = own_resident_mb()
    job = Job.model_validate_json(sys.argv[1])
    print(carry_out(job, imports_mb=imports_mb).model_dump_json())


if __name__ == "__main__":
    main()
