"""What earns its place in `craft_plus` and `bank`: digits, the embedded model, one process.

    python -m benchmarks ablation [--seeds 1,2,3] [--searched 600] [--json FILE]

Each row changes one thing: which context is asked (the plain text; the best of 25 random ones by
held-out loss; a search on the loss of the best head, or on its held-out loss), how many common
names are asked beside the classes, how many prompts, and which head reads the logits. Queries are
the training queries of one image set that holds the 160 shots and 4 views of each. The model is
called without HTTP or meter, through `LocalBox`: this compares methods, not servers. Test
labels are read once a row, for its accuracy. Racing on mini-batches has no row: a query is a prompt
on a whole image set, so fewer images save none.
"""

import argparse
import json
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import cma
import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

from benchmarks.common.local import LocalBox, load_model
from benchmarks.common.machine import describe
from craft_tuner.blackbox import FloatArray, Images, IntArray, Texts
from craft_tuner.config.fit_config import build
from craft_tuner.data.dataset import labels_of, pictures_of
from craft_tuner.data.sampling import sample_shots
from craft_tuner.data.sources import DIGITS, read_dataset
from craft_tuner.data.views import Augmentation, views_of
from craft_tuner.heads.candidates import Shots
from craft_tuner.heads.folds import stratified_folds
from craft_tuner.heads.linear import logistic
from craft_tuner.heads.residual import Head
from craft_tuner.heads.selection import choose
from craft_tuner.heads.softmax import cross_entropy
from craft_tuner.search.projection import project, projection
from craft_tuner.texts import anchors, imagenet_templates

VIEWS = 4
EPOCHS = 195
RANDOM = 25
POPULATION = 40
FRACTIONS = (1.0, 0.5, 0.25, 0.125)
"""Of a step, tried in turn."""

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Scene:
    """One seed's shots and the test images, where the box has them."""

    box: LocalBox
    texts: Texts
    seed: int
    bundle: Images
    labels: IntArray
    test: Images
    truth: IntArray

    def soft(self, offsets: FloatArray, images: Images, *, names: int = 0) -> FloatArray:
        """Logits of soft prompts with so many names beside the classes."""
        return self.box.score(self.named(names), offsets, images, purpose="bank", step="")

    def text(self, templates: Sequence[str], images: Images, *, names: int = 0) -> FloatArray:
        """Logits of templates."""
        texts = self.named(names)
        return self.box.score_templates(texts, templates, images, purpose="bank", step="")

    def named(self, names: int) -> Texts:
        """The classes and the first common names that are not classes."""
        known = set(self.texts.class_names)
        more = [name for name in anchors() if name not in known][:names]
        return replace(self.texts, class_names=(*self.texts.class_names, *more))

    def linear(self, logits: FloatArray, test: FloatArray) -> float:
        """Test accuracy of the head that `craft_tuner.heads.selection` chooses."""
        classes = len(self.texts.class_names)
        x = np.concatenate(list(logits), axis=1).astype(np.float64)
        choice = choose(Shots(x, self.labels, classes, has_zero_shot=True), seed=self.seed)
        scores = test[0][:, :classes] if choice.head is None else choice.head(test, None)
        return self.accuracy(scores)

    def mlp(self, logits: FloatArray, test: FloatArray) -> float:
        """Test accuracy of CraFT's own head after as many epochs as CraFT has."""
        config = build({"preset": DIGITS, "seed": self.seed})
        head, rows = Head(logits.shape[-1], config), len(self.labels)
        for epoch in range(1, EPOCHS + 1):
            view = 1 + epoch % VIEWS
            part = logits[0][view * rows : (view + 1) * rows]
            head.epoch(part, self.labels, generation=epoch, kl_weight=0.0)
        return self.accuracy(head.refine(test[0]))

    def accuracy(self, scores: FloatArray) -> float:
        """In per cent."""
        return 100 * float((scores.argmax(axis=1) == self.truth).mean())


def scenes(seeds: Sequence[int]) -> Iterator[Scene]:
    """Upload what each seed needs."""
    box, dataset = LocalBox(load_model()), read_dataset(DIGITS)
    classes = len(dataset.class_names)
    test = box.upload(pictures_of(dataset.test), name="test", classes=classes).images
    for seed in seeds:
        items = sample_shots(dataset, shots=16, seed=seed, sampling="names")
        shots = pictures_of(items)
        augmentation = Augmentation(size=box.card.image_size, seed=seed, flip=False)
        views = [views_of(shots, augmentation, view=view) for view in range(VIEWS)]
        together = [*shots, *(picture for view in views for picture in view)]
        bundle = box.upload(together, name="bundle", classes=classes).images
        texts, labels = Texts(dataset.class_names), labels_of(items)
        yield Scene(box, texts, seed, bundle, labels, test, labels_of(dataset.test))


def loss(scene: Scene, logits: FloatArray, *, held_out: bool) -> float:
    """Cross-entropy of a whitened logistic head on one prompt's logits (rows, K)."""
    x = logits.astype(np.float64)
    centred = x - x.mean(axis=0)
    _, spread, right = np.linalg.svd(centred, full_matrices=False)
    a = centred @ right.T / np.maximum(spread, 1e-5 * spread[0]) * np.sqrt(len(x))
    rows = np.arange(len(x)) % len(scene.labels)
    labels, base = scene.labels[rows], 0.3 * x
    if not held_out:
        head = logistic(a, labels, base, ridge=1e-2, steps=25)
        return cross_entropy(a @ head.weight + head.bias + base, labels)
    draw = np.random.RandomState(scene.seed)
    fold = stratified_folds(scene.labels, 4, draw=draw, staggered=True)[rows]
    total = 0.0
    for number in range(4):
        keep, out = fold != number, fold == number
        head = logistic(a[keep], labels[keep], base[keep], ridge=1e-2, steps=25)
        scores = a[out] @ head.weight + head.bias + base[out]
        total += cross_entropy(scores, labels[out]) * out.sum()
    return total / len(x)


class Search:
    """Contexts A z of a scene, judged by the loss of the prompt's own best head."""

    def __init__(self, scene: Scene, *, held_out: bool = True) -> None:
        self.scene, self._held_out = scene, held_out
        self._config = build({"preset": DIGITS, "seed": scene.seed})
        self._a = projection(self._config, scene.box.card.context_width)
        self.dim, self.sigma = self._config.intrinsic_dim, self._config.sigma
        self.draw = np.random.RandomState(scene.seed)
        self.spent = 0

    def offsets(self, z: Floats) -> FloatArray:
        """Of z (P, d)."""
        return project(self._a, z, n_ctx=self._config.n_ctx)

    def logits(self, z: Floats) -> FloatArray:
        """Of the bundle, P queries."""
        self.spent += len(z)
        return self.scene.soft(self.offsets(z), self.scene.bundle)

    def losses(self, z: Floats) -> Floats:
        """(P,), P queries."""
        found = [loss(self.scene, each, held_out=self._held_out) for each in self.logits(z)]
        return np.array(found)

    def cma(self, queries: int, **options: object) -> Floats:
        """CMA-ES as CraFT runs it."""
        known = {"popsize": POPULATION, "bounds": [-5, 5], "seed": self.scene.seed, "verbose": -9}
        strategy = cma.CMAEvolutionStrategy(self.dim * [0], self.sigma, {**known, **options})
        while self.spent + POPULATION <= queries:
            z = strategy.ask()
            strategy.tell(z, [*self.losses(np.array(z))])
        return np.asarray(strategy.result.xfavorite)

    def with_step(self, queries: int) -> Floats:
        """The same from the step size whose samples are best of five."""
        steps = (0.1, 0.3, 1.0, 2.0, 3.0)
        medians = [np.median(self.losses(s * self.draw.randn(8, self.dim))) for s in steps]
        self.sigma = steps[int(np.argmin(medians))]
        return self.cma(queries)

    def adam(self, queries: int, *, rate: float = 0.2) -> Floats:
        """Mirrored evolution strategy (Salimans et al., arXiv 1703.03864), steps by Adam."""
        z, first, second = np.zeros((3, self.dim))
        for step in range(1, queries // POPULATION + 1):
            u = self.draw.randn(POPULATION // 2, self.dim)
            values = self.losses(np.concatenate([z + self.sigma * u, z - self.sigma * u]))
            ahead, back = np.split(values, 2)
            gradient = (ahead - back) @ u / (2 * self.sigma * len(u))
            first = 0.9 * first + 0.1 * gradient
            second = 0.999 * second + 0.001 * gradient**2
            scale = np.sqrt(second / (1 - 0.999**step)) + 1e-8
            z = z - rate * first / (1 - 0.9**step) / scale
        return z

    def gauss_newton(self, queries: int, *, ridge: float = 1e-2) -> Floats:
        """Steps on logits linearised along random directions, each as far as it helps held out."""
        z = np.zeros(self.dim)
        rows = np.arange(len(self.logits(z[None])[0])) % len(self.scene.labels)
        best = float(self.losses(z[None])[0])
        while self.spent + POPULATION + 1 + len(FRACTIONS) <= queries:
            u = self.draw.randn(POPULATION, self.dim)
            here, *there = self.logits(np.concatenate([z[None], z + u])).astype(np.float64)
            slopes = np.array(there) - here
            labels = self.scene.labels[rows]
            alpha = linear_step(here, slopes, labels, ridge=ridge)
            tried = z + np.array(FRACTIONS)[:, None] * (alpha @ u)
            values = self.losses(tried)
            if values.min() < best:
                best, z = float(values.min()), tried[int(values.argmin())]
        return z


def linear_step(here: Floats, slopes: Floats, labels: IntArray, *, ridge: float) -> Floats:
    """The mix (P,) of slopes (P, rows, K) that helps the head of logits here (rows, K) most."""
    centred = here - here.mean(axis=0)
    head = logistic(centred, labels, 0.3 * here, ridge=1e-2, steps=25)
    moved = slopes @ head.weight + 0.3 * slopes
    base = centred @ head.weight + head.bias + 0.3 * here

    def value(alpha: Floats) -> tuple[float, Floats]:
        scores = base + np.tensordot(alpha, moved, 1)
        powers = np.exp(scores - scores.max(axis=1, keepdims=True))
        powers /= powers.sum(axis=1, keepdims=True)
        powers[np.arange(len(labels)), labels] -= 1
        gradient = np.einsum("prk,rk->p", moved, powers) / len(labels) + ridge * alpha
        return cross_entropy(scores, labels) + ridge / 2 * float(alpha @ alpha), gradient

    found: Floats = minimize(value, np.zeros(len(slopes)), jac=True, method="L-BFGS-B").x
    return found


def random_offsets(scene: Scene, count: int) -> FloatArray:
    """The plain prompt and `count` - 1 random ones, float32 (count, 4, width)."""
    draw = np.random.RandomState(scene.seed)
    offsets = draw.normal(0, 1, (count, 4, scene.box.card.context_width)).astype(np.float32)
    offsets[0] = 0
    return offsets


def rows(scene: Scene, *, queries: int) -> Iterator[tuple[str, int, float]]:
    """What was asked, training queries, test accuracy."""
    plain = [scene.texts.template]
    base, base_test = scene.text(plain, scene.bundle), scene.text(plain, scene.test)
    yield "plain context, CraFT's head", 1, scene.mlp(base, base_test)
    yield "plain context, linear head", 1, scene.linear(base, base_test)
    offsets = random_offsets(scene, RANDOM)
    losses = [loss(scene, each, held_out=True) for each in scene.soft(offsets, scene.bundle)]
    best = offsets[[int(np.argmin(losses))]]
    name = f"best of {RANDOM} random contexts, linear head"
    yield name, RANDOM, scene.linear(scene.soft(best, scene.bundle), scene.soft(best, scene.test))
    searches: dict[str, Callable[[], Floats]] = {
        "CMA-ES on the loss of the head": lambda: Search(scene, held_out=False).cma(queries),
        "CMA-ES on its held-out loss": lambda: Search(scene).cma(queries),
        "the same, step size from a line search": lambda: Search(scene).with_step(queries),
        "sep-CMA on its held-out loss": lambda: Search(scene).cma(queries, CMA_diagonal=True),
        "mirrored ES with Adam on its held-out loss": lambda: Search(scene).adam(queries),
        "Gauss-Newton on linearised logits": lambda: Search(scene).gauss_newton(queries),
    }
    for name, search in searches.items():
        found = Search(scene).offsets(search()[None])
        logits, test = scene.soft(found, scene.bundle), scene.soft(found, scene.test)
        yield f"{name}, linear head", queries, scene.linear(logits, test)
    for names in (64, 256, 512):
        logits = scene.text(plain, scene.bundle, names=names)
        test = scene.text(plain, scene.test, names=names)
        yield f"plain context, {names} more names, linear head", 1, scene.linear(logits, test)
    for prompts in (4, 8):
        templates = [*plain, *imagenet_templates()][:prompts]
        for more in (0, 256):
            logits = scene.text(templates, scene.bundle, names=more)
            test = scene.text(templates, scene.test, names=more)
            yield f"{prompts} templates, {more} more names", prompts, scene.linear(logits, test)
            soft = random_offsets(scene, prompts)
            logits = scene.soft(soft, scene.bundle, names=more)
            test = scene.soft(soft, scene.test, names=more)
            yield f"{prompts} soft prompts, {more} more names", prompts, scene.linear(logits, test)


def main() -> None:
    """Print the table, and write it."""
    parser = argparse.ArgumentParser(description="What earns its place in craft_plus and bank.")
    parser.add_argument("--seeds", default="1,2,3")
    parser.add_argument("--searched", type=int, default=600, help="queries of each CMA-ES")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    found: dict[tuple[str, int], list[float]] = {}
    for scene in scenes([int(seed) for seed in options.seeds.split(",")]):
        for name, queries, accuracy in rows(scene, queries=options.searched):
            found.setdefault((name, queries), []).append(accuracy)
            print(f"seed {scene.seed}  {name}: {accuracy:.2f}", flush=True)
    print("| what is asked and what reads it | training queries | accuracy, % | deviation |")
    print("| --- | --- | --- | --- |")
    for (name, queries), values in found.items():
        deviation = statistics.stdev(values) if len(values) > 1 else 0.0
        print(f"| {name} | {queries:,} | {statistics.mean(values):.2f} | {deviation:.2f} |")
    if options.json:
        table = [
            {"what": name, "queries": queries, "accuracy": values}
            for (name, queries), values in found.items()
        ]
        options.json.write_text(json.dumps({"machine": describe(), "rows": table}, indent=2))


if __name__ == "__main__":
    main()
