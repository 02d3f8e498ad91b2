"""The official algorithm, re-derived: mrflogs/CraFT @1a4c251, main_craft.py, against our loop.

`official_run` below is `run` of main_craft.py (and of main_craft_imagenet.py), written from its
structure in plain torch and pycma, with three substitutions and no more:
- CLIP is replaced by the fake box's texts and images; both sides see the same ones;
- start values that torch would draw (projection, head) and the order of mini-batches are handed
  in, because they are draws, not the algorithm;
- what docs/decisions change is handed in too: head images (a cached view), and 'mean' for the
  prompt where the code draws a second population.
It shares no code with craft_tuner. CMA-ES sees only ranks, so z must be equal to the last bit for
as long as the two agree on every ranking; everything else must agree to 1e-6.
"""

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path

import cma
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from cma.sigma_adaptation import CMAAdaptSigmaCSA
from torch import nn

from craft_tuner.blackbox import Task
from craft_tuner.config.fit_config import FitConfig, build
from craft_tuner.heads.residual import Head
from craft_tuner.runs.run import Run
from craft_tuner.search.projection import projection
from tests.support.tuner_fakes import SmoothBox, a_task
from tests.support.tuner_runs import fit

torch.set_num_threads(1)  # the same bits, and no waiting for busy cores
NUMBERS = Path(__file__).with_name("official_craft.json")
GENERATIONS = 6
ROUNDING = float(np.spacing(np.float32(100)))
"""One float32 rounding of a logit, whose scale is 100: 7.6e-6. Processors sum in other orders."""


@dataclass
class Trace:
    """What a run asked and learnt, generation by generation."""

    asked: list[str] = field(default_factory=list)
    offsets: list[np.ndarray] = field(default_factory=list)
    fitness: list[list[float]] = field(default_factory=list)
    bias: list[np.ndarray] = field(default_factory=list)
    head_loss: list[float] = field(default_factory=list)
    weights: list[np.ndarray] = field(default_factory=list)


class PromptLearner:
    """main_craft.py:52-160, with the box's texts for CLIP's."""

    def __init__(self, box: SmoothBox, task: Task, config: FitConfig, a: np.ndarray) -> None:
        self.box = box
        fitness_set = "view-0" if config.fitness_view == "augmented" else "shots"
        self.train_features = torch.tensor(box.sets[fitness_set])
        self.train_labels = torch.tensor(task.labels)
        self.n_ctx, self.ctx_dim = box.n_ctx, box.width
        self.bias = torch.zeros(self.n_ctx, self.ctx_dim)
        self.linear = nn.Linear(a.shape[1], a.shape[0], bias=False)  # 83
        self.linear.weight.data = torch.tensor(a)

    def text_features(self, ctx: torch.Tensor) -> torch.Tensor:
        return torch.tensor(self.box.text_features(ctx.detach().numpy()))

    def __call__(
        self,
        prompt_embedding: torch.Tensor | None = None,
        net: nn.Module | None = None,
        weight: float = 0.1,
    ) -> torch.Tensor:
        if prompt_embedding is None:  # 106-127
            return self.text_features(self.bias)
        ctx = self.linear(prompt_embedding).reshape(self.n_ctx, -1)  # 132
        text_features = self.text_features(ctx)
        logits = 100.0 * self.train_features.float() @ text_features.T.float()  # 151
        update_logits = logits + net(logits)  # 152
        loss = F.cross_entropy(logits, self.train_labels.long())  # 153
        loss += weight * ce_loss(logits, update_logits)  # 154
        return loss.unsqueeze(0)  # 155

    def update_context_prompt(self, es: cma.CMAEvolutionStrategy, kind: str) -> None:
        if kind == "best":  # main_craft_imagenet.py:165
            best = torch.tensor(es.result.xbest).float()
            self.bias = self.linear(best).reshape(self.n_ctx, -1)
        elif kind == "resampled":  # main_craft.py:157-160
            solutions = es.ask()
            inputs = torch.tensor(np.array(solutions)).float()
            self.bias = self.linear(inputs).reshape(-1, self.n_ctx, self.ctx_dim).mean(dim=0)
        else:  # decision 0001
            mean = torch.tensor(es.result.xfavorite).float()
            self.bias = self.linear(mean).reshape(self.n_ctx, -1)


def ce_loss(input_logits: torch.Tensor, target_logits: torch.Tensor) -> torch.Tensor:
    target_dist = torch.softmax(target_logits, dim=1)  # 237
    input_dist = F.log_softmax(input_logits, dim=1)  # 238
    return F.kl_div(input_dist, target_dist, reduction="batchmean")  # 239


def official_run(
    box: SmoothBox, task: Task, config: FitConfig, *, a: np.ndarray, start: list, budget: int
) -> Trace:
    """main_craft.py:162-234."""
    trace = Trace()
    cma_opts = {  # 171-179
        "seed": config.seed,
        "popsize": config.population,
        "maxiter": GENERATIONS,
        "verbose": -9,
        "AdaptSigma": CMAAdaptSigmaCSA,  # decision 0008: the authors' pycma chose it
    }
    if config.bound:
        cma_opts["bounds"] = [-1 * config.bound, 1 * config.bound]
    es = cma.CMAEvolutionStrategy(config.intrinsic_dim * [0], config.sigma, inopts=cma_opts)  # 180
    prompt_learner = PromptLearner(box, task, config, a)
    net = nn.Sequential(  # 185-189
        nn.Linear(box.classes, config.head_hidden),
        nn.ReLU(),
        nn.Linear(config.head_hidden, box.classes),
    )
    for linear, layer in zip([net[0], net[2]], start, strict=True):
        linear.weight.data, linear.bias.data = torch.tensor(layer[0]), torch.tensor(layer[1])
    optimizer = torch.optim.Adam(net.parameters(), lr=config.lr)  # 191
    steps = 0
    weight = config.kl_weight

    while not es.stop():  # 196
        solutions = es.ask()  # 198
        inputs = torch.tensor(np.array(solutions)).float()
        with torch.no_grad():
            losses = [prompt_learner(x, net, weight=weight) for x in inputs]  # 202
            fitnesses = [loss.item() for loss in losses]
            es.tell(solutions, fitnesses)  # 204
        prompt_learner.update_context_prompt(es, config.head_context)  # 206
        steps += config.population  # 207

        generation = steps // config.population
        images = torch.tensor(box.sets[f"view-{(generation - 1) % config.views}"])
        order = np.random.RandomState([config.seed, 3, 0, generation]).permutation(len(images))
        losses = []
        for batch in torch.tensor(order).split(config.batch_size):  # 210
            image_features, target = images[batch], torch.tensor(task.labels)[batch]
            with torch.no_grad():
                text_features = prompt_learner()  # 215
                logits = 100.0 * image_features.float() @ text_features.T.float()  # 216
            update_logits = logits + net(logits)  # 217
            cls_loss = F.cross_entropy(update_logits, target.long())  # 218
            ce = ce_loss(update_logits, logits)  # 219
            loss = cls_loss + (weight if (steps <= budget // config.kl_fraction) else 0) * ce  # 220
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item() * len(batch))

        z = np.array(solutions)
        trace.asked.append(hashlib.sha256(z.tobytes()).hexdigest())
        trace.offsets.append((inputs @ prompt_learner.linear.weight.T).detach().numpy().ravel())
        trace.fitness.append(fitnesses)
        trace.bias.append(prompt_learner.bias.detach().numpy().copy())
        trace.head_loss.append(sum(losses) / len(images))
        trace.weights.append(net[0].weight.detach().numpy().copy())
    return trace


COMMON = {
    "method": "craft",
    "shots": 4,
    "views": 2,
    "intrinsic_dim": 24,
    "population": 10,
    "head_hidden": 16,
    "batch_size": 5,
    "budget": GENERATIONS * 11 + 10,
}
VARIANTS = {
    "as_coded": {"head_context": "resampled", "fitness_view": "augmented", "kl_fraction": 2},
    "as_coded_tight_bound": {"head_context": "resampled", "bound": 0.4, "sigma": 0.2},
    "imagenet": {
        "head_context": "best",
        "projection": "uniform",
        "bound": None,
        "kl_weight": 0.0,
        "kl_fraction": 1,
    },
    "default_mean": {"kl_fraction": 3, "kl_weight": 1.0},
}


def our_run(tmp_path: Path, config: FitConfig) -> tuple[Trace, SmoothBox]:
    """The same through `Craft.fit`, read back from the box's purchases, journal and checkpoints."""
    box = SmoothBox()
    task, trace = a_task(box), Trace()
    commit = Run.commit

    def watch(run: Run, line, metrics, state) -> None:
        trace.asked.append(line.asked)
        trace.fitness.append([*line.fitness])
        trace.head_loss.append(metrics["head_loss"])
        trace.weights.append(state["head0.0.weight"])
        commit(run, line, metrics, state)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Run, "commit", watch)
        fit(tmp_path / "run", box, task, config)
    for generation in range(1, GENERATIONS + 1):
        head = box.paid[f"head/{generation}"]
        trace.bias.append(np.frombuffer(head.content, np.float32).reshape(box.n_ctx, box.width))
        fitness = box.paid[f"fitness/{generation}"]
        trace.offsets.append(np.frombuffer(fitness.content, np.float32))
    return trace, box


@pytest.mark.parametrize("variant", VARIANTS)
def test_loop_equals_the_official_code(variant: str, tmp_path: Path) -> None:
    config = build({**COMMON, **VARIANTS[variant]})
    ours, box = our_run(tmp_path, config)
    a = projection(config, box.width)
    start = Head(box.classes, config).layers()
    theirs = official_run(box, a_task(box), config, a=a, start=start, budget=config.budget)

    assert len(ours.fitness) == len(theirs.fitness) == GENERATIONS
    assert ours.asked == theirs.asked
    for g in range(GENERATIONS):
        np.testing.assert_allclose(ours.offsets[g], theirs.offsets[g], rtol=0, atol=1e-6)
        np.testing.assert_allclose(ours.fitness[g], theirs.fitness[g], rtol=0, atol=ROUNDING)
        np.testing.assert_allclose(ours.bias[g], theirs.bias[g], rtol=0, atol=1e-6)
        np.testing.assert_allclose(ours.head_loss[g], theirs.head_loss[g], rtol=1e-6, atol=1e-6)
        np.testing.assert_allclose(ours.weights[g], theirs.weights[g], rtol=0, atol=1e-6)


def test_kl_term_of_the_head_is_dropped_after_a_share_of_the_budget(tmp_path: Path) -> None:
    config = build({**COMMON, "kl_fraction": 2})
    run = fit(tmp_path / "run", SmoothBox(), None, config).run
    weights = [row["kl_weight"] for row in run.restore().metrics]
    evaluations = [config.population * (g + 1) for g in range(GENERATIONS)]
    assert config.budget == 76
    assert weights == [0.1 if steps <= 38 else 0.0 for steps in evaluations]


def test_numbers_of_a_fixed_seed_stay_what_they_were(tmp_path: Path) -> None:
    """Refresh on purpose only: `python -m tests.golden.test_official_craft`."""
    expected = json.loads(NUMBERS.read_text())
    for variant, numbers in fixed_numbers(tmp_path).items():
        for name, values in numbers.items():
            np.testing.assert_allclose(values, expected[variant][name], rtol=2e-5, atol=2e-6)


def fixed_numbers(tmp_path: Path) -> dict[str, dict[str, list[float]]]:
    found = {}
    for variant, settings in VARIANTS.items():
        trace, _ = our_run(tmp_path / variant, build({**COMMON, **settings}))
        found[variant] = {
            "first_offsets": [float(v) for v in trace.offsets[0][:4]],
            "lowest_fitness": [min(values) for values in trace.fitness],
            "head_loss": trace.head_loss,
            "last_prompt": [float(v) for v in trace.bias[-1].ravel()[:4]],
            "last_weights": [float(v) for v in trace.weights[-1].ravel()[:4]],
        }
    return found


if __name__ == "__main__":
    import tempfile

    with tempfile.TemporaryDirectory() as directory:
        numbers = fixed_numbers(Path(directory))
    NUMBERS.write_text(json.dumps(numbers, indent=1) + "\n")
