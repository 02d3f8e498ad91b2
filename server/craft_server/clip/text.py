"""From prompts to text features: token plans, soft contexts, the text tower cut at end-of-text.

A text tower of open_clip is an embedding table, a transformer and a read-out. CoOp
(arXiv 2109.01134) and CraFT change the embeddings of the context tokens of
`start, context, class name, suffix, end`; here a soft prompt is an offset to those embeddings.

CLIP's tower is causal and reads out at the end-of-text token, so positions behind the last
end-of-text of a batch cannot change a result, and are not computed. Towers that are not causal or
read out elsewhere run open_clip's own `encode_text` at full length, for text prompts only.

Shapes: P prompts, K classes, T texts (K for soft prompts, P * K for templates), L tokens,
W width of a token embedding, D width of the joint space.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn

from craft_shared.errors import Code, Refusal

_TOKENS_PER_CHUNK = 16_384


class Tokenizer(Protocol):
    """What is used of open_clip's SimpleTokenizer (CLIP's byte-pair encoding)."""

    sot_token_id: int
    eot_token_id: int

    def encode(self, text: str) -> list[int]:
        """Token ids without start and end."""
        ...


@dataclass(frozen=True)
class TextPlan:
    """Checked and tokenised prompts; made once per request, on the CPU.

    Attributes:
        ids: (T, L) int64, cut after the longest text's end-of-text, padded with 0.
        ends: (T,) int64, the position of each end-of-text.
        classes: K.
        offsets: (P, n_ctx, W) float32 to add at positions 1..n_ctx, or None for templates.
    """

    ids: Tensor
    ends: Tensor
    classes: int
    offsets: Tensor | None

    @property
    def prompts(self) -> int:
        """P."""
        return len(self.ids) // self.classes if self.offsets is None else len(self.offsets)


class TextEncoder:
    """Encodes token plans with one open_clip text tower.

    Args:
        tower: open_clip's `CLIP`, or the `text` part of a `CustomTextCLIP`.
        tokenizer: its tokenizer.
        full: for towers that cannot be cut: (T, context_length) ids -> (T, D) features.
    """

    def __init__(self, tower: Any, tokenizer: Tokenizer, *, full: nn.Module | None = None) -> None:
        self._tower = tower
        self._tokenizer = tokenizer
        self._full = full
        self.width: int = tower.token_embedding.weight.shape[1]
        self.context_length: int = tower.context_length

    @property
    def path(self) -> str:
        """Which exact path encodes: stated on the model card."""
        return "cut at end-of-text" if self._full is None else "full length"

    def plan_soft(
        self, context: str, names: Sequence[str], suffix: str, offsets: Tensor
    ) -> TextPlan:
        """Plan P soft prompts; `offsets` float32 (P, n_ctx, W).

        Raises:
            Refusal: the context's tokens do not match the offsets, or a text is too long.
        """
        words = self._tokenizer.encode(context)
        if offsets.shape[1:] != (len(words), self.width):
            detail = (
                f"offsets of shape {list(offsets.shape)}; context {context!r} has {len(words)} "
                f"tokens of width {self.width}: (P, {len(words)}, {self.width}) is needed"
            )
            raise Refusal(Code.INVALID_REQUEST, detail, param="prompts.offsets")
        rows = [self._tokens(f"{context} {name}{suffix}") for name in names]
        for name, row in zip(names, rows, strict=True):
            if row[1 : 1 + len(words)] != words:
                detail = f"context {context!r} does not stay apart from class name {name!r}"
                raise Refusal(Code.INVALID_REQUEST, detail, param="prompts.context")
        return self._pad(rows, classes=len(names), offsets=offsets)

    def plan_templates(self, templates: Sequence[str], names: Sequence[str]) -> TextPlan:
        """Plan P text templates, each with one `{}`; T = P * K, prompts outermost."""
        rows = [
            self._tokens(template.replace("{}", name)) for template in templates for name in names
        ]
        return self._pad(rows, classes=len(names), offsets=None)

    @torch.inference_mode()
    def encode(self, plan: TextPlan) -> Tensor:
        """Normalised text features, float32 (P, K, D), on the tower's device."""
        device = self._tower.positional_embedding.device
        ids, ends = plan.ids.to(device), plan.ends.to(device)
        if plan.offsets is None:
            step = max(1, _TOKENS_PER_CHUNK // ids.shape[1])
            chunks = [
                self._encode_texts(ids[start : start + step], ends[start : start + step])
                for start in range(0, len(ids), step)
            ]
        else:
            step = max(1, _TOKENS_PER_CHUNK // ids.numel())
            chunks = [
                self._encode_soft(ids, ends, part.to(device))
                for part in torch.split(plan.offsets, step)
            ]
        features = torch.cat(chunks).float()  # (P * K, D)
        features = nn.functional.normalize(features, dim=-1)
        return features.reshape(plan.prompts, plan.classes, -1)  # (P, K, D)

    def _encode_texts(self, ids: Tensor, ends: Tensor) -> Tensor:
        """(T, L) ids -> (T, D)."""
        if self._full is not None:
            padded = nn.functional.pad(ids, (0, self.context_length - ids.shape[1]))
            features: Tensor = self._full(padded)
            return features
        return self._run(self._tower.token_embedding(ids), ends)

    def _encode_soft(self, ids: Tensor, ends: Tensor, offsets: Tensor) -> Tensor:
        """K texts with each of p offsets (p, n_ctx, W) -> (p * K, D)."""
        embedded = self._tower.token_embedding(ids)  # (K, L, W)
        prompts = embedded.repeat(len(offsets), 1, 1, 1)  # (p, K, L, W)
        prompts[:, :, 1 : 1 + offsets.shape[1]] += offsets[:, None].to(embedded.dtype)
        return self._run(prompts.flatten(0, 1), ends.repeat(len(offsets)))

    def _run(self, embeddings: Tensor, ends: Tensor) -> Tensor:
        """(T, L, W) token embeddings -> (T, D), as open_clip's `CLIP.encode_text` does."""
        tower = self._tower
        dtype = tower.transformer.get_cast_dtype()
        length = embeddings.shape[1]
        x = embeddings.to(dtype) + tower.positional_embedding[:length].to(dtype)
        x = tower.transformer(x, attn_mask=tower.attn_mask[:length, :length])
        x = tower.ln_final(x[torch.arange(len(x), device=x.device), ends])  # (T, W)
        projection = tower.text_projection
        if isinstance(projection, nn.Linear):
            x = projection(x)
        elif projection is not None:
            x = x @ projection.to(x.dtype)
        return cast("Tensor", x)  # (T, D)

    def _tokens(self, text: str) -> list[int]:
        tokenizer = self._tokenizer
        tokens = [tokenizer.sot_token_id, *tokenizer.encode(text), tokenizer.eot_token_id]
        if len(tokens) > self.context_length:
            shown = text if len(text) <= 60 else text[:57] + "..."
            detail = f"{shown!r} takes {len(tokens)} tokens, at most {self.context_length} fit"
            raise Refusal(Code.TOO_MANY_TOKENS, detail, param="prompts")
        return tokens

    @staticmethod
    def _pad(rows: list[list[int]], *, classes: int, offsets: Tensor | None) -> TextPlan:
        ends = torch.tensor([len(row) - 1 for row in rows])
        ids = torch.zeros(len(rows), int(ends.max()) + 1, dtype=torch.int64)
        for index, row in enumerate(rows):
            ids[index, : len(row)] = torch.tensor(row)
        return TextPlan(ids=ids, ends=ends, classes=classes, offsets=offsets)


def can_be_cut(tower: Any) -> bool:
    """Is the tower causal, with its read-out at end-of-text and nothing appended?"""
    pool = getattr(tower, "text_pool_type", getattr(tower, "pool_type", None))
    return (
        getattr(tower, "attn_mask", None) is not None
        and getattr(tower, "cls_emb", None) is None
        and pool in {"argmax", "eos"}
    )
