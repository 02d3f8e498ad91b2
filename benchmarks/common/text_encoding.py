"""Both ways through an open_clip text tower, and the arithmetic of each: what text.py compares.

The usual way is what CoOp and CraFT run: per prompt, K x 77 tokens through open_clip's transformer.
Works on any device and in any precision of the model.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.nn import functional

from craft_server.models.clip.text import TextEncoder, TextPlan

CONTEXT, SUFFIX = "a photo of a", "."
CONTEXT_TOKENS = 4
PREFIX = 1 + CONTEXT_TOKENS
LENGTH = 77
PEAK_TOKENS = 4096


def offsets_of(prompts: int, width: int = 512) -> torch.Tensor:
    """Random offsets (P, n_ctx, W)."""
    return 0.1 * torch.randn(prompts, CONTEXT_TOKENS, width, generator=torch.Generator())


def texts_of(names: Sequence[str]) -> list[str]:
    """The texts of a context that has not moved."""
    return [f"{CONTEXT} {name}{SUFFIX}" for name in names]


def usual(model: Any, ids: torch.Tensor, offset: torch.Tensor) -> torch.Tensor:
    """One prompt as CoOp encodes it: (K, 77) ids, (n_ctx, W) offset -> (K, D)."""
    dtype = model.transformer.get_cast_dtype()
    embedded = model.token_embedding(ids).to(dtype)
    embedded[:, 1:PREFIX] += offset.to(dtype)
    positions = model.positional_embedding.to(dtype)
    x = model.transformer(embedded + positions, attn_mask=model.attn_mask)
    x = model.ln_final(x)[torch.arange(len(ids), device=ids.device), ids.argmax(dim=-1)]
    return functional.normalize(x @ model.text_projection.to(x.dtype), dim=-1)


def plan_of(encoder: TextEncoder, names: Sequence[str], prompts: int) -> TextPlan:
    """P soft prompts of the names."""
    offsets = offsets_of(prompts, encoder.width)
    return encoder.plan_soft(CONTEXT, list(names), SUFFIX, offsets)


def packed_tokens(plan: TextPlan) -> int:
    """Tokens per prompt: the shared prefix once, then what is left of each text."""
    return PREFIX + sum(len(row) - PREFIX for row in plan.rows)


def packed_flop(model: Any, plan: TextPlan) -> float:
    """Operations of the packed way for the whole plan: linear layers and attention.

    Per token and layer a block has 12 W^2 multiplications (3 for query, key and value, 1 for the
    attention's output, 8 for the MLP). The first layer projects suffixes once for all prompts; the
    last needs keys and values of all tokens, and the rest for the T read-outs alone.
    """
    width, layers = model.token_embedding.weight.shape[1], len(model.transformer.resblocks)
    lengths = [len(row) - PREFIX for row in plan.rows]
    suffix, texts, prompts = sum(lengths), len(lengths), plan.prompts
    inner = 12 * (layers - 1) * (PREFIX + suffix) - 3 * suffix
    last = 2 * (PREFIX + suffix) + 10 * texts
    linear = prompts * (inner + last) * width**2 + 3 * suffix * width**2
    seen = PREFIX**2 + sum(length * (PREFIX + length) for length in lengths)
    seen_last = sum(PREFIX + length for length in lengths)
    attention = 2 * prompts * ((layers - 1) * seen + seen_last) * width
    read_out = prompts * texts * width * model.text_projection.shape[1]
    return float(2 * (linear + attention + read_out))


def block_products(
    width: int = 512,
    tokens: int = PEAK_TOKENS,
    *,
    dtype: torch.dtype = torch.float32,
    device: torch.device | None = None,
) -> tuple[Callable[[], None], float]:
    """Bare matrix products of a block's shapes, as often as a block has them, and their FLOP."""
    shapes = [(width, 3 * width), (width, width), (width, 4 * width), (4 * width, width)]
    weights = [torch.randn(*shape, dtype=dtype, device=device) for shape in shapes]
    inputs = [torch.randn(tokens, rows, dtype=dtype, device=device) for rows, _ in shapes]

    def products() -> None:
        for x, weight in zip(inputs, weights, strict=True):
            torch.mm(x, weight)

    return products, 2.0 * tokens * 12 * width**2
