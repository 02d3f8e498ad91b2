"""K class texts of one context through a causal text tower, without the work that repeats.

The usual way (CoOp, CraFT) sends K x 77 tokens per prompt through the tower. In a causal tower that
reads out at end-of-text, most of them are computed for nothing or computed again:

1. nothing behind a text's end-of-text can reach its read-out;
2. the start token and the context come first in all K texts, so their keys and values are the
   same for all: they are computed once per prompt (the *prefix*, C tokens);
3. what is left of each text (the *suffix*) is packed into one matrix for every linear layer; only
   attention sees which tokens belong together, one group of equally long suffixes at a time;
4. suffix embeddings do not depend on the context, so the first layer projects them once for all
   prompts;
5. in the last layer only the read-out token needs a query, an attention output and an MLP.

All of this is exact: the tower's own modules and weights are used, in another order.

Shapes: P prompts, T texts, C prefix tokens, S packed suffix tokens, W width, H heads, D = W / H;
in a group n texts of length l, of which r positions are asked (l, or 1 in the last layer).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, cast

import torch
from open_clip.transformer import ResidualAttentionBlock
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True)
class Group:
    """Neighbouring suffixes of one length in the packed order."""

    texts: int
    length: int


@dataclass(frozen=True)
class Layout:
    """T texts that begin with the same C tokens, as one packed row of suffixes.

    Attributes:
        prefix: (C,) token ids.
        suffix: (S,) token ids, shortest texts first.
        positions: (S,) position of each suffix token in its text.
        groups: suffixes by length, in the packed order.
        ends: (T,) where in the packed row each text's end-of-text is.
        order: (T,) place of text t among the packed texts.
    """

    prefix: Tensor
    suffix: Tensor
    positions: Tensor
    groups: tuple[Group, ...]
    ends: Tensor
    order: Tensor

    @property
    def tokens(self) -> int:
        """Tokens per prompt: C + S."""
        return len(self.prefix) + len(self.suffix)

    def to(self, device: torch.device) -> "Layout":
        """The same on a device."""
        moved = (self.prefix, self.suffix, self.positions, self.ends, self.order)
        prefix, suffix, positions, ends, order = (tensor.to(device) for tensor in moved)
        return Layout(prefix, suffix, positions, self.groups, ends, order)


def lay_out(rows: Sequence[Sequence[int]], shared: int) -> Layout:
    """Pack token rows, each start..end-of-text, that begin with the same `shared` tokens."""
    packed = sorted(range(len(rows)), key=lambda text: len(rows[text]))
    lengths = [len(rows[text]) - shared for text in packed]
    order = torch.empty(len(rows), dtype=torch.int64)
    order[torch.tensor(packed)] = torch.arange(len(rows))
    return Layout(
        prefix=torch.tensor(rows[0][:shared]),
        suffix=torch.tensor([token for text in packed for token in rows[text][shared:]]),
        positions=torch.cat([torch.arange(shared, shared + length) for length in lengths]),
        groups=tuple(Group(len(list(same)), length) for length, same in groupby(lengths)),
        ends=torch.tensor(lengths).cumsum(0) - 1,
        order=order,
    )


def can_be_packed(tower: Any) -> bool:
    """Are all layers open_clip's plain pre-norm blocks, which this file re-orders?"""
    return all(type(block) is ResidualAttentionBlock for block in tower.transformer.resblocks)


def run_packed(tower: Any, prefix: Tensor, layout: Layout) -> Tensor:
    """Last hidden state at each text's end-of-text, before the final norm.

    Args:
        tower: an open_clip text tower that `can_be_packed`.
        prefix: (P, C, W) embeddings of the prefix, contexts already moved; no positions yet.
        layout: of the T texts, on the tower's device.

    Returns:
        (P, T, W) in the order of the texts.
    """
    shared, dtype = prefix.shape[1], prefix.dtype
    positions = tower.positional_embedding.to(dtype)
    x_prefix = prefix + positions[:shared]  # (P, C, W)
    x_suffix = tower.token_embedding(layout.suffix).to(dtype) + positions[layout.positions]
    x_suffix = x_suffix[None]  # (1, S, W): the same for all prompts until attention has seen them
    *blocks, last = tower.transformer.resblocks
    for block in blocks:
        x_prefix, x_suffix = _layer(block, x_prefix, x_suffix, layout.groups)
    return _read_out(last, x_prefix, x_suffix, layout)[:, layout.order]


def _layer(
    block: Any, x_prefix: Tensor, x_suffix: Tensor, groups: tuple[Group, ...]
) -> tuple[Tensor, Tensor]:
    """One block for prefix (P, C, W) and suffixes (P or 1, S, W); gives (P, C, W), (P, S, W)."""
    q_prefix, k_prefix, v_prefix = _project(block, block.ln_1(x_prefix), 0, 3)
    q_suffix, k_suffix, v_suffix = _project(block, block.ln_1(x_suffix), 0, 3)
    heads = block.attn.num_heads
    k_heads, v_heads = _heads(k_prefix, heads), _heads(v_prefix, heads)  # (P, H, C, D)
    y_prefix = functional.scaled_dot_product_attention(
        _heads(q_prefix, heads), k_heads, v_heads, is_causal=True
    )
    y_suffix = _attend(q_suffix, (k_suffix, v_suffix), (k_heads, v_heads), groups)
    y = torch.cat([y_prefix.transpose(1, 2).flatten(2), y_suffix], dim=1)  # (P, C + S, W)
    x = torch.cat([x_prefix, x_suffix.expand(len(x_prefix), -1, -1)], dim=1)
    x = x + block.ls_1(block.attn.out_proj(y))
    x = x + block.ls_2(block.mlp(block.ln_2(x)))
    shared = x_prefix.shape[1]
    return x[:, :shared], x[:, shared:]


def _read_out(block: Any, x_prefix: Tensor, x_suffix: Tensor, layout: Layout) -> Tensor:
    """The last block at the read-outs alone: (P, T, W) in the packed order."""
    heads = block.attn.num_heads
    k_prefix, v_prefix = _project(block, block.ln_1(x_prefix), 1, 3)
    normed = block.ln_1(x_suffix)  # (P, S, W)
    (q,) = _project(block, normed[:, layout.ends], 0, 1)  # (P, T, W)
    k_suffix, v_suffix = _project(block, normed, 1, 3)
    prefix = _heads(k_prefix, heads), _heads(v_prefix, heads)
    y = _attend(q, (k_suffix, v_suffix), prefix, layout.groups, read_out=True)
    x = x_suffix[:, layout.ends] + block.ls_1(block.attn.out_proj(y))
    return cast("Tensor", x + block.ls_2(block.mlp(block.ln_2(x))))


def _project(block: Any, normed: Tensor, first: int, last: int) -> tuple[Tensor, ...]:
    """Parts `first`..`last` of (query, key, value), each (..., W), of normed states (..., W)."""
    width = normed.shape[-1]
    rows = slice(first * width, last * width)
    weight, bias = block.attn.in_proj_weight[rows], block.attn.in_proj_bias[rows]
    return functional.linear(normed, weight, bias).chunk(last - first, dim=-1)


def _heads(x: Tensor, heads: int) -> Tensor:
    """(B, L, W) -> (B, H, L, D)."""
    return x.reshape(*x.shape[:-1], heads, -1).transpose(1, 2)


def _attend(
    q: Tensor,
    suffix: tuple[Tensor, Tensor],
    prefix: tuple[Tensor, Tensor],
    groups: tuple[Group, ...],
    *,
    read_out: bool = False,
) -> Tensor:
    """Attention of suffix tokens over the shared prefix and their own predecessors.

    Args:
        q: (P or 1, R, W) queries: all S suffix tokens, or with `read_out` the T end tokens.
        suffix: keys and values (P or 1, S, W).
        prefix: keys and values (P, H, C, D).
        groups: in the packed order.
        read_out: one query per text, its last token, which sees all of the text.

    Returns:
        (P, R, W).
    """
    k_prefix, v_prefix = prefix
    prompts, heads, shared, depth = k_prefix.shape
    q = q * depth**-0.5
    to_prefix = _heads(q, heads) @ k_prefix.transpose(-1, -2)  # (P, H, R, C)
    out = q.new_empty(prompts, q.shape[1], heads * depth)
    asked = owned = 0
    for group in groups:
        length = group.length
        each = 1 if read_out else length
        rows = slice(asked, asked + group.texts * each)
        keys = slice(owned, owned + group.texts * length)
        asked, owned = rows.stop, keys.stop
        q_own = _split(q[:, rows], group.texts, heads)  # (., H, n, r, D)
        k_own, v_own = (_split(packed[:, keys], group.texts, heads) for packed in suffix)
        to_own = q_own @ k_own.transpose(-1, -2)  # (., H, n, r, l)
        if not read_out:
            to_own = to_own + q.new_full((length, length), -math.inf).triu_(1)
        scores = torch.cat(
            [
                to_prefix[:, :, rows].reshape(prompts, heads, group.texts, each, shared),
                to_own.expand(prompts, -1, -1, -1, -1),
            ],
            dim=-1,
        )
        weights = scores.softmax(dim=-1)  # (P, H, n, r, C + l)
        from_prefix = weights[..., :shared].flatten(2, 3) @ v_prefix  # (P, H, n * r, D)
        from_own = (weights[..., shared:] @ v_own).flatten(2, 3)  # (P, H, n * r, D)
        out[:, rows] = (from_prefix + from_own).transpose(1, 2).flatten(2)
    return out


def _split(x: Tensor, texts: int, heads: int) -> Tensor:
    """(B, n * l, W) -> (B, H, n, l, D)."""
    batch, tokens, width = x.shape
    split = x.reshape(batch, texts, tokens // texts, heads, width // heads)
    return split.permute(0, 3, 1, 2, 4)
