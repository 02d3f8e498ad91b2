"""Pretrain the embedded CLIP on rendered glyphs and write its files.

    python -m scripts.train_embedded --out server/craft_server/embedded

Owns the training loop and the command line. No handwritten digit is seen before the weights
are final; `evaluate_embedded.py` then reads them once, for the card.
"""

import argparse
import math
import random
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import open_clip
import torch
from torch.nn import functional

from scripts.captions import Trait, concept_ids, vocabulary, write_caption
from scripts.evaluate_embedded import write_card
from scripts.glyphs import CHARACTERS, TRAINING_FONTS, GlyphBank, load_bank
from scripts.model_file import build_model, write_model
from scripts.pictures import Painter, Pictures, normalise

MAX_LOGIT_SCALE = math.log(100.0)


@dataclass(frozen=True, slots=True)
class Plan:
    """What decides the weights, bit for bit on one kind of machine."""

    steps: int = 3000
    batch: int = 128
    captions: int = 128
    seed: int = 1
    peak_rate: float = 2e-3
    warmup_steps: int = 300
    weight_decay: float = 0.1
    averaging: float = 0.998
    save_every: int = 1000


class Vocabulary:
    """The tokens that captions can contain, renumbered densely for training."""

    def __init__(self) -> None:
        self._tokenizer = open_clip.SimpleTokenizer()
        seen = set(self._tokenizer(vocabulary()).flatten().tolist())
        self.ids = sorted(seen - {0})
        self._dense = torch.zeros(self._tokenizer.vocab_size, dtype=torch.long)
        self._dense[self.ids] = torch.arange(len(self.ids))

    def encode(self, captions: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
        """(B, L) rows of the dense table, L the longest caption's, and (B,) end positions."""
        tokens = self._tokenizer(captions)
        ends = tokens.argmax(dim=1)
        return self._dense[tokens[:, : int(ends.max()) + 1]], ends


def encode_text(model: open_clip.CLIP, rows: torch.Tensor, ends: torch.Tensor) -> torch.Tensor:
    """(B, D) unit text features; like open_clip's, without the padding behind the end token."""
    length = rows.shape[1]
    x = model.token_embedding(rows) + model.positional_embedding[:length]
    x = model.transformer(x, attn_mask=model.attn_mask[:length, :length])
    x = model.ln_final(x)[torch.arange(len(rows)), ends] @ model.text_projection
    return functional.normalize(x, dim=-1)


def contrastive_loss(logits: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """Symmetric cross entropy of (B, C) logits, image by caption, when several captions are true.

    `truth` is (B, C) bool with a true entry in every column; the true entries of a row (a
    column) share its mass, and the image-to-text half leaves out pictures that no caption fits.
    """
    target = truth.float()
    fits = truth.any(1)
    per_image = target[fits] / target[fits].sum(1, keepdim=True) * logits[fits].log_softmax(1)
    per_caption = target / target.sum(0, keepdim=True) * logits.log_softmax(0)
    return -(per_image.sum(1).mean() + per_caption.sum(0).mean()) / 2


def true_captions(pictures: Pictures, claims: torch.Tensor, concepts: torch.Tensor) -> torch.Tensor:
    """(B, C) bool: caption j names what picture i shows and claims no trait that it lacks."""
    concept = concepts[pictures.character]
    unmet = claims[None, :] & ~pictures.traits[:, None]
    return (concept[:, None] == concept[None, : len(claims)]) & (unmet == 0)


def caption_first(
    rng: random.Random, pictures: Pictures, count: int
) -> tuple[list[str], torch.Tensor]:
    """Captions of the first `count` pictures and (count,) int64, the traits that each claims."""
    shown = zip(pictures.character[:count].tolist(), pictures.traits[:count].tolist(), strict=True)
    written = [write_caption(rng, CHARACTERS[index], Trait(traits)) for index, traits in shown]
    return [text for text, _ in written], torch.tensor([int(claim) for _, claim in written])


def learning_rate(plan: Plan, step: int) -> float:
    """Linear warm-up, then half a cosine down to a hundredth of the peak."""
    warm = min(1.0, (step + 1) / plan.warmup_steps)
    cosine = 0.5 * (1 + math.cos(math.pi * step / plan.steps))
    return plan.peak_rate * warm * (0.01 + 0.99 * cosine)


def optimiser_of(model: open_clip.CLIP, plan: Plan) -> torch.optim.AdamW:
    """AdamW with decay on matrices only."""
    weights = [p for p in model.parameters() if p.requires_grad and p.ndim >= 2]
    others = [p for p in model.parameters() if p.requires_grad and p.ndim < 2]
    groups = [
        {"params": weights, "weight_decay": plan.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=plan.peak_rate, betas=(0.9, 0.98), eps=1e-6)


class Average:
    """An exponential moving average of a model's state, with its start-up bias removed early on."""

    def __init__(self, model: open_clip.CLIP, decay: float) -> None:
        self.state = {name: value.detach().clone() for name, value in model.state_dict().items()}
        self._decay = decay
        self._updates = 0

    def update(self, model: open_clip.CLIP) -> None:
        """Move every float tensor towards the model's; copy the counters."""
        self._updates += 1
        rate = max(1 - self._decay, 1 / (self._updates + 1))
        for name, value in model.state_dict().items():
            if value.is_floating_point():
                self.state[name].lerp_(value, rate)
            else:
                self.state[name].copy_(value)


def training_model(seed: int, rows: int) -> open_clip.CLIP:
    """A fresh model in training mode, its token table cut down to `rows`."""
    torch.manual_seed(seed)
    model = build_model()
    model.token_embedding = torch.nn.Embedding(rows, model.token_embedding.embedding_dim)
    torch.nn.init.normal_(model.token_embedding.weight, std=0.02)
    model.visual.to(memory_format=torch.channels_last)
    return model.train()


class Batches:
    """The endless stream of training batches; the seed decides it."""

    def __init__(self, plan: Plan, bank: GlyphBank, words: Vocabulary) -> None:
        self._plan, self._words = plan, words
        self._painter = Painter(bank, seed=plan.seed)
        self._rng = random.Random(plan.seed)
        self._concepts = concept_ids()

    def loss(self, model: open_clip.CLIP) -> torch.Tensor:
        """The scalar loss of a model on the next batch."""
        pictures = self._painter.draw(self._plan.batch)
        captions, claims = caption_first(self._rng, pictures, self._plan.captions)
        pixels = normalise(pictures.pixels).contiguous(memory_format=torch.channels_last)
        image = model.encode_image(pixels, normalize=True)
        text = encode_text(model, *self._words.encode(captions))
        logits = model.logit_scale.exp() * image @ text.T
        return contrastive_loss(logits, true_captions(pictures, claims, self._concepts))


def train(
    plan: Plan, bank: GlyphBank, words: Vocabulary
) -> Iterator[tuple[int, float, dict[str, torch.Tensor]]]:
    """Yield (steps done, loss, averaged state with (R, W) token rows) after every step."""
    model = training_model(plan.seed, len(words.ids))
    batches, optimiser = Batches(plan, bank, words), optimiser_of(model, plan)
    average = Average(model, plan.averaging)
    for step in range(plan.steps):
        for group in optimiser.param_groups:
            group["lr"] = learning_rate(plan, step)
        loss = batches.loss(model)
        optimiser.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        model.logit_scale.data.clamp_(0, MAX_LOGIT_SCALE)
        average.update(model)
        yield step + 1, float(loss.detach()), average.state


def run(plan: Plan, bank: GlyphBank, out: Path) -> float:
    """Train, writing the model every `save_every` steps and at the end; minutes taken."""
    started = time.monotonic()
    words = Vocabulary()
    recent = 0.0
    for step, loss, state in train(plan, bank, words):
        recent = loss if step == 1 else 0.98 * recent + 0.02 * loss
        minutes = (time.monotonic() - started) / 60
        if step % 50 == 0 or step == plan.steps:
            print(f"step {step}/{plan.steps}  loss {recent:.4f}  {minutes:.1f} min", flush=True)
        if step % plan.save_every == 0 or step == plan.steps:
            write_model(out, state, words.ids)
    return (time.monotonic() - started) / 60


def recipe(plan: Plan) -> dict[str, float]:
    """What the card says of the plan."""
    whole = asdict(plan)
    return {name: whole[name] for name in ("steps", "batch", "captions", "seed", "peak_rate")}


def main() -> None:
    """Parse the command line, train, then evaluate once and write the card."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, required=True, help="folder for the model's files")
    parser.add_argument("--steps", type=int, default=Plan().steps)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--smoke", action="store_true", help="two small steps, no card")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    plan = Plan(steps=chosen.steps, seed=chosen.seed)
    if chosen.smoke:
        plan = Plan(steps=2, batch=8, captions=4, warmup_steps=1, seed=chosen.seed)
        run(plan, load_bank(TRAINING_FONTS[-1:]), chosen.out)
        return
    minutes = run(plan, load_bank(TRAINING_FONTS), chosen.out)
    write_card(chosen.out, **recipe(plan), minutes=round(minutes, 1))


if __name__ == "__main__":
    main()
