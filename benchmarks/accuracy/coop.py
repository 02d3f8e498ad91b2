"""CoOp: a prompt's context learnt by gradients through an open model. The white-box baseline.

Source: K. Zhou et al., "Learning to Prompt for Vision-Language Models", IJCV 2022, arXiv
2109.01134; official code KaiyangZhou/CoOp @ff61507, trainers/coop.py (lines cited) and
configs/trainers/CoOp/rn50*.yaml, on the defaults of Dassl. One context for all classes, class name
at the end. Owns the learner and its training. It opens the model, so it lives here and in neither
program.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from craft_server.models.clip.load import create_model, digest_of
from craft_server.models.clip.source import find_source, load_tokenizer
from craft_server.settings import Settings

WORDS = "a photo of a"
"""Where a context that starts from words starts (rn50_ctxv1.yaml)."""

RANDOM_STD = 0.02
"""Of a context that starts at random (98)."""


@dataclass(frozen=True)
class Recipe:
    """Published hyper-parameters of CoOp's training (rn50.yaml and Dassl's defaults)."""

    epochs: int
    lr: float = 0.002
    warm_up_lr: float = 1e-5
    """Learning rate of the first epoch."""
    momentum: float = 0.9
    weight_decay: float = 5e-4
    batch: int = 32

    @classmethod
    def of(cls, shots: int, *, lr: float = 0.002) -> "Recipe":
        """The published number of epochs: 200 for 16 and 8 shots, 100 for 4 and 2, 50 for 1."""
        return cls(epochs=200 if shots >= 8 else 100 if shots >= 2 else 50, lr=lr)

    def lr_at(self, epoch: int) -> float:
        """Learning rate of an epoch, from 0: a constant warm-up, then a cosine to almost 0."""
        if epoch == 0:
            return self.warm_up_lr
        return self.lr * (1 + math.cos(math.pi * (epoch - 1) / self.epochs)) / 2


@dataclass(frozen=True)
class Opened:
    """A model with nothing hidden: open_clip's, its tokenizer, and the digest on its card."""

    model: Any
    tokenizer: Any
    digest: str


def open_model(**fields: str) -> Opened:
    """The model that `craft-server serve` would load from such settings, in float32 on the CPU."""
    settings = Settings.model_validate({"data_dir": "."} | fields)
    source = find_source(settings)
    model = create_model(source, "float32", torch.device("cpu"))
    return Opened(model, load_tokenizer(source.name), digest_of(model))


class CoOp(nn.Module):
    """K prompts `start, context, class name, "."` with one learnt context.

    Args:
        opened: the model; it stays as it is.
        names: the K class names.
        tokens: of a context that starts at random; None: it starts as WORDS.
        seed: of a random start.
        full_length: send all positions through the text tower, as the published code does (82);
            otherwise those behind the last end of text are left out. A causal tower gives the
            same numbers both ways, for less memory and time.
    """

    def __init__(
        self,
        opened: Opened,
        names: Sequence[str],
        *,
        tokens: int | None = None,
        seed: int = 1,
        full_length: bool = False,
    ) -> None:
        super().__init__()
        self._tower = opened.model
        words = WORDS if tokens is None else " ".join(["X"] * tokens)  # 99
        rows = [_row(opened.tokenizer, f"{words} {name}.") for name in names]  # 110
        self._ends = torch.tensor([len(row) - 1 for row in rows])
        length = opened.model.context_length if full_length else int(self._ends.max()) + 1
        ids = torch.zeros(len(rows), length, dtype=torch.int64)
        for index, row in enumerate(rows):
            ids[index, : len(row)] = torch.tensor(row)
        with torch.no_grad():
            self._embeddings = opened.model.token_embedding(ids)  # (K, L, W), 114
        self.count = tokens or len(opened.tokenizer.encode(WORDS))
        start = self._embeddings[0, 1 : 1 + self.count].clone()  # 87
        if tokens is not None:
            draw = torch.Generator().manual_seed(seed)
            start = RANDOM_STD * torch.randn(start.shape, generator=draw)  # 97-98
        self.context = nn.Parameter(start)

    def text_features(self) -> Tensor:
        """Normalised text features (K, D) under the context as it is."""
        tower, before = self._tower, self._embeddings
        shared = self.context.expand(len(before), -1, -1)
        prompts = torch.cat([before[:, :1], shared, before[:, 1 + self.count :]], dim=1)  # 138-145
        length = prompts.shape[1]
        x = prompts + tower.positional_embedding[:length]  # 45
        x = tower.transformer(x, attn_mask=tower.attn_mask[:length, :length])
        x = tower.ln_final(x)[torch.arange(len(x)), self._ends] @ tower.text_projection  # 49-53
        return functional.normalize(x, dim=-1)  # 208

    def image_features(self, pixels: Tensor) -> Tensor:
        """Normalised image features (N, D) of pixels (N, 3, side, side); no gradient."""
        with torch.no_grad():
            features: Tensor = self._tower.encode_image(pixels, normalize=True)  # 202, 207
        return features

    def forward(self, pixels: Tensor) -> Tensor:
        """Logits (N, K)."""
        scale = self._tower.logit_scale.exp()
        return cast("Tensor", scale * self.image_features(pixels) @ self.text_features().T)  # 211


Batch = Callable[[int, Sequence[int]], Tensor]
"""(epoch, indices) -> pixels float32 (n, 3, side, side), augmented anew for every epoch."""


def train(
    learner: CoOp,
    batch_of: Batch,
    labels: Tensor,
    recipe: Recipe,
    *,
    seed: int,
    most_steps: int | None = None,
) -> list[float]:
    """Learn the context from images with labels int64 (N,); the loss of every step.

    Incomplete batches are dropped where there is a full one, as Dassl does. `most_steps` ends
    early, where only memory and time are wanted.
    """
    optimiser = torch.optim.SGD(
        [learner.context], recipe.lr, recipe.momentum, weight_decay=recipe.weight_decay
    )
    losses: list[float] = []
    draw = torch.Generator().manual_seed(seed)
    size = min(recipe.batch, len(labels))
    for epoch in range(recipe.epochs):
        optimiser.param_groups[0]["lr"] = recipe.lr_at(epoch)
        order = torch.randperm(len(labels), generator=draw)
        for batch in order[: len(order) - len(order) % size].split(size):  # type: ignore[no-untyped-call]
            if len(losses) == most_steps:
                return losses
            logits = learner(batch_of(epoch, batch.tolist()))
            loss = functional.cross_entropy(logits, labels[batch])  # 281
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            losses.append(loss.item())
    return losses


@torch.no_grad()
def correct(learner: CoOp, pixels: Sequence[Tensor], labels: Tensor, *, batch: int = 100) -> int:
    """How many images (3, side, side) are classified rightly."""
    texts, right = learner.text_features(), 0
    for start in range(0, len(pixels), batch):
        features = learner.image_features(torch.stack(list(pixels[start : start + batch])))
        right += int(((features @ texts.T).argmax(dim=1) == labels[start : start + batch]).sum())
    return right


def _row(tokenizer: Any, text: str) -> list[int]:
    return [tokenizer.sot_token_id, *tokenizer.encode(text), tokenizer.eot_token_id]
