"""From prompts to text features: tokens, soft contexts, and the fastest exact way through a tower.

A text tower of open_clip is an embedding table, a transformer and a read-out. CoOp
(arXiv 2109.01134) and CraFT change the embeddings of the context tokens of
`start, context, class name, suffix, end`; here a soft prompt is an offset to those embeddings.

Three ways, all exact; the model card says which one a checkpoint takes:

    packed prefix        causal, read out at end-of-text, plain blocks: see packed.py
    cut at end-of-text   causal, read out at end-of-text: positions behind the last end are left out
    full length          any other tower: open_clip's own `encode_text`, for text prompts only

Shapes: P prompts, K classes, T texts (K for soft prompts, P * K for templates), L tokens,
W width of a token embedding, D width of the joint space.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import takewhile
from typing import Any, Protocol, cast

import torch
from open_clip.tokenizer import SimpleTokenizer
from torch import Tensor, nn

from craft_server.engine.blackbox import Steps, at_once, runs
from craft_server.engine.texts import Counted, TooManyTokens, count_in_steps
from craft_server.models.clip.device import to_device
from craft_server.models.clip.packed import Layout, can_be_packed, lay_out, run_packed
from craft_server.models.clip.tokens import BoundedTokenizer, Memory
from craft_shared.errors import Code, Refusal
from craft_shared.messages import SoftPrompts, TextPrompts

PACKED, CUT, FULL = "packed prefix", "cut at end-of-text", "full length"

_TOKENS_PER_PASS = {"cpu": 2048}
_TOKENS_PER_PASS_ELSEWHERE = 65_536
_REMEMBERED_BYTES = 2**25
_A_TEXT = 250
"""Bytes that a remembered text takes beside its letters and tokens."""
_A_TOKEN = 8
_A_LETTER = 4
_TEXTS_A_STEP = 64
"""Texts that were tokenised before and are looked up in one step."""
_LAYOUTS_REMEMBERED = 64

Row = tuple[int, ...]
"""Token ids of one text, start and end included."""


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
        rows: the T texts' tokens, prompts outermost.
        classes: K.
        offsets: (P, n_ctx, W) float32 to add at positions 1..n_ctx, or None for templates.
        shared: of templates, for each of the P prompts, how many tokens its K texts begin with
            together; less than the shortest has.
    """

    rows: tuple[Row, ...]
    classes: int
    offsets: Tensor | None
    shared: tuple[int, ...] = ()

    @property
    def prompts(self) -> int:
        """P."""
        return len(self.rows) // self.classes if self.offsets is None else len(self.offsets)

    @property
    def group(self) -> tuple[int, tuple[Row, ...]] | None:
        """Equal for soft prompts of the same texts: those may be encoded in one pass."""
        return None if self.offsets is None else (self.offsets.shape[1], self.rows)

    def part(self, prompts: slice) -> "TextPlan":
        """Some of the prompts."""
        if self.offsets is not None:
            return TextPlan(self.rows, self.classes, self.offsets[prompts])
        texts = slice(prompts.start * self.classes, prompts.stop * self.classes)
        return TextPlan(self.rows[texts], self.classes, None, self.shared[prompts])

    def with_others(self, others: Sequence["TextPlan"]) -> "TextPlan":
        """The prompts of plans of one group behind each other."""
        if not others:
            return self
        offsets = [cast("Tensor", plan.offsets) for plan in (self, *others)]
        return TextPlan(self.rows, self.classes, torch.cat(offsets))

    def of(self, prompt: int) -> tuple[Row, ...]:
        """The K texts of one template."""
        return self.rows[prompt * self.classes : (prompt + 1) * self.classes]

    def alike(self, prompt: int) -> bool:
        """Does a template differ from the one before in what its texts begin with, and only so?"""
        before, now = self.shared[prompt - 1 : prompt + 1]
        pairs = zip(self.of(prompt - 1), self.of(prompt), strict=True)
        return before == now and all(old[now:] == new[now:] for old, new in pairs)


class TextEncoder:
    """Encodes token plans with one open_clip text tower.

    Args:
        tower: open_clip's `CLIP`, or the `text` part of a `CustomTextCLIP`.
        tokenizer: its tokenizer.
        full: open_clip's `encode_text`, (T, context_length) ids -> (T, D), for towers that cannot
            be cut.
        pack: False takes the cut path where the packed one would do, to compare them.
    """

    def __init__(
        self,
        tower: Any,
        tokenizer: Tokenizer,
        *,
        full: Callable[[Tensor], Tensor] | None = None,
        pack: bool = True,
    ) -> None:
        self._tower = tower
        self._full = full
        self._packed = pack and full is None and can_be_packed(tower)
        self._rows: Memory[str, Row] = Memory(_REMEMBERED_BYTES)
        self._layouts = lru_cache(_LAYOUTS_REMEMBERED)(self._lay_out)
        self.width: int = tower.token_embedding.weight.shape[1]
        self.context_length: int = tower.context_length
        self._tokenizer = tokenizer
        if isinstance(tokenizer, SimpleTokenizer):
            self._tokenizer = BoundedTokenizer(tokenizer, most=self.context_length - 2)

    @property
    def path(self) -> str:
        """Which exact path encodes: stated on the model card."""
        if self._full is not None:
            return FULL
        return PACKED if self._packed else CUT

    def plan_soft(
        self, context: str, names: Sequence[str], suffix: str, offsets: Tensor
    ) -> TextPlan:
        """Plan P soft prompts at once; `offsets` float32 (P, n_ctx, W). See `soft_in_steps`."""
        return at_once(self.soft_in_steps(context, names, suffix, offsets))

    def plan_templates(self, templates: Sequence[str], names: Sequence[str]) -> TextPlan:
        """Plan P text templates at once. See `templates_in_steps`."""
        return at_once(self.templates_in_steps(templates, names))

    def soft_in_steps(
        self, context: str, names: Sequence[str], suffix: str, offsets: Tensor
    ) -> Steps[TextPlan]:
        """Plan P soft prompts, a text or so in each step; `offsets` float32 (P, n_ctx, W).

        Raises:
            Refusal: the context's tokens do not match the offsets, or a text is too long.
        """
        words = yield from self._words(context)
        if offsets.shape[1:] != (len(words), self.width):
            detail = (
                f"offsets of shape {list(offsets.shape)}; context {context!r} has {len(words)} "
                f"tokens of width {self.width}: (P, {len(words)}, {self.width}) is needed"
            )
            raise Refusal(Code.INVALID_REQUEST, detail, param="prompts.offsets")
        rows = yield from self._tokenise(f"{context} {name}{suffix}" for name in names)
        for name, row in zip(names, rows, strict=True):
            _check_apart(context, words, name, row)
        return TextPlan(rows, len(names), offsets)

    def templates_in_steps(self, templates: Sequence[str], names: Sequence[str]) -> Steps[TextPlan]:
        """Plan P text templates, each with one `{}`, a text or so in each step.

        T = P * K, prompts outermost.

        Raises:
            Refusal: a text is too long.
        """
        rows, shared = list[Row](), list[int]()
        for template in templates:
            texts = yield from self._tokenise(template.replace("{}", name) for name in names)
            rows += texts
            shared.append(min(_in_common(texts), min(map(len, texts)) - 1))
        return TextPlan(tuple(rows), len(names), None, tuple(shared))

    def count_in_steps(
        self, prompts: SoftPrompts | TextPrompts, names: Sequence[str]
    ) -> Steps[Counted]:
        """See `craft_server.engine.blackbox.BlackBox.count_in_steps`."""
        if isinstance(prompts, TextPrompts):
            texts = (each.replace("{}", name) for each in prompts.templates for name in names)
            return (yield from count_in_steps(texts, lambda text: len(self._row(text))))
        context, suffix = prompts.context, prompts.suffix
        words = yield from self._words(context)

        def tokens_of(name: str) -> int:
            row = self._row(f"{context} {name}{suffix}")
            _check_apart(context, words, name, row)
            return len(row)

        counted = yield from count_in_steps(names, tokens_of)
        return replace(counted, context=len(words))

    def pieces(self, plan: TextPlan) -> tuple[slice, ...]:
        """The prompts in runs that one pass of the tower takes, each in bounded memory.

        They depend on the plan alone, so the same plan gives the same bits in whatever company.
        """
        if plan.offsets is None and self._packed:
            return self._passes(plan)
        return runs(plan.prompts, self.tokens_per_pass // self.tokens_per_prompt(plan))

    def _passes(self, plan: TextPlan) -> tuple[slice, ...]:
        """Neighbouring templates that differ only in their prefix go through together."""
        passes = list[slice]()
        room = 0
        for prompt in range(plan.prompts):
            if room and plan.alike(prompt):
                passes[-1] = slice(passes[-1].start, prompt + 1)
            else:
                passes.append(slice(prompt, prompt + 1))
                room = self.tokens_per_pass // self._tokens(plan.of(prompt), plan.shared[prompt])
            room -= 1
        return tuple(passes)

    @torch.inference_mode()
    def encode(self, plan: TextPlan) -> Tensor:
        """Normalised text features, float32 (P, K, D), on the tower's device, piece by piece."""
        return torch.cat([self.encode_piece(plan.part(piece)) for piece in self.pieces(plan)])

    @torch.inference_mode()
    def encode_piece(self, plan: TextPlan) -> Tensor:
        """The same in one pass: for a plan of one piece, or several of one group together."""
        if plan.offsets is None:
            features = self._templates_packed(plan) if self._packed else self._templates(plan)
        else:
            features = self._soft_packed(plan) if self._packed else self._soft(plan)
        return nn.functional.normalize(features.float(), dim=-1)

    # --- packed prefix --------------------------------------------------------------------------

    def _soft_packed(self, plan: TextPlan) -> Tensor:
        """(P, K, D): one layout for all prompts, another prefix for each."""
        offsets = to_device(cast("Tensor", plan.offsets), self.device)
        layouts = self._layouts(plan.rows, 1 + offsets.shape[1])
        prefix = self._embed(layouts[0].prefix).repeat(len(offsets), 1, 1)  # (P, C, W)
        prefix[:, 1:] += offsets.to(prefix.dtype)
        return self._after(prefix, layouts)

    def _templates_packed(self, plan: TextPlan) -> Tensor:
        """(P, K, D) of one pass: its templates have one layout, each another prefix."""
        shared = plan.shared[0]
        prefixes = torch.tensor([row[:shared] for row in plan.rows[:: plan.classes]])  # (P, C)
        embedded = self._embed(to_device(prefixes, self.device))  # (P, C, W)
        return self._after(embedded, self._layouts(plan.of(0), shared))

    def _after(self, prefix: Tensor, layouts: Sequence[Layout]) -> Tensor:
        """(P, K, D) of class texts behind prefixes (P, C, W), laid out in so many parts."""
        parts = [self._read_out(run_packed(self._tower, prefix, layout)) for layout in layouts]
        return torch.cat(parts, dim=1)

    def _lay_out(self, rows: tuple[Row, ...], shared: int) -> list[Layout]:
        """Layouts of consecutive classes, each within the budget of one pass."""
        parts: list[list[Row]] = [[]]
        room = self.tokens_per_pass
        for row in rows:
            tokens = len(row) - shared
            if parts[-1] and tokens > room:
                parts.append([])
                room = self.tokens_per_pass
            parts[-1].append(row)
            room -= tokens
        return [lay_out(part, shared).to(self.device) for part in parts]

    # --- cut at end-of-text, and full length ----------------------------------------------------

    def _templates(self, plan: TextPlan) -> Tensor:
        """(P, K, D)."""
        ids, ends = self._padded(plan.rows)
        step = max(1, self.tokens_per_pass // ids.shape[1])
        if self._full is not None:
            whole = nn.functional.pad(ids, (0, self.context_length - ids.shape[1]))
            chunks = [self._full(part) for part in torch.split(whole, step)]
        else:
            parts = zip(torch.split(ids, step), torch.split(ends, step), strict=True)
            chunks = [self._run(self._embed(some), last) for some, last in parts]
        return torch.cat(chunks).reshape(plan.prompts, plan.classes, -1)

    def _soft(self, plan: TextPlan) -> Tensor:
        """(P, K, D)."""
        ids, ends = self._padded(plan.rows)
        offsets = to_device(cast("Tensor", plan.offsets), self.device)
        step = max(1, self.tokens_per_pass // ids.shape[1])
        classes = []
        for some, last in zip(torch.split(ids, step), torch.split(ends, step), strict=True):
            texts = self._embed(some).repeat(len(offsets), 1, 1, 1)  # (P, k, L, W)
            texts[:, :, 1 : 1 + offsets.shape[1]] += offsets[:, None].to(texts.dtype)
            features = self._run(texts.flatten(0, 1), last.repeat(len(offsets)))  # (P * k, D)
            classes.append(features.reshape(len(offsets), len(some), -1))
        return torch.cat(classes, dim=1)

    def _run(self, embeddings: Tensor, ends: Tensor) -> Tensor:
        """(T, L, W) token embeddings -> (T, D), as open_clip's `CLIP.encode_text` does."""
        tower, length = self._tower, embeddings.shape[1]
        x = embeddings + tower.positional_embedding[:length].to(embeddings.dtype)
        x = tower.transformer(x, attn_mask=tower.attn_mask[:length, :length])
        return self._read_out(x[torch.arange(len(x), device=x.device), ends])

    def _padded(self, rows: Sequence[Row]) -> tuple[Tensor, Tensor]:
        """Ids (T, L), cut after the longest text and padded with 0, and (T,) end positions."""
        ends = torch.tensor([len(row) - 1 for row in rows])
        ids = torch.zeros(len(rows), int(ends.max()) + 1, dtype=torch.int64)
        for index, row in enumerate(rows):
            ids[index, : len(row)] = torch.tensor(row)
        return ids.to(self.device), ends.to(self.device)

    # --- both -----------------------------------------------------------------------------------

    @property
    def device(self) -> torch.device:
        """Where the tower computes."""
        return cast("torch.device", self._tower.positional_embedding.device)

    @property
    def tokens_per_pass(self) -> int:
        """Tokens that go through the tower together."""
        return _TOKENS_PER_PASS.get(self.device.type, _TOKENS_PER_PASS_ELSEWHERE)

    def tokens_per_prompt(self, plan: TextPlan) -> int:
        """Tokens that a prompt of the plan sends through the tower."""
        if not self._packed:
            longest = self.context_length if self._full is not None else max(map(len, plan.rows))
            return longest * plan.classes
        shared = plan.shared[0] if plan.offsets is None else 1 + plan.offsets.shape[1]
        return self._tokens(plan.of(0), shared)

    @staticmethod
    def _tokens(rows: Sequence[Row], shared: int) -> int:
        """Tokens of one prompt's texts that share the first ones."""
        return shared + sum(len(row) - shared for row in rows)

    def _embed(self, ids: Tensor) -> Tensor:
        """Token embeddings (..., W) in the tower's dtype."""
        return cast(
            "Tensor", self._tower.token_embedding(ids).to(self._tower.transformer.get_cast_dtype())
        )

    def _read_out(self, x: Tensor) -> Tensor:
        """Last hidden states (T, W) at end-of-text -> features (T, D)."""
        x = self._tower.ln_final(x)
        projection = self._tower.text_projection
        if isinstance(projection, nn.Linear):
            x = projection(x)
        elif projection is not None:
            x = x @ projection.to(x.dtype)
        return x

    def _tokenise(self, texts: Iterable[str]) -> Steps[tuple[Row, ...]]:
        """Rows of texts; a step ends before each text that is not remembered."""
        rows = []
        for number, text in enumerate(texts, 1):
            row = self._rows.get(text)
            if row is None:
                yield
                row = self._row(text)
            elif number % _TEXTS_A_STEP == 0:
                yield
            rows.append(row)
        return tuple(rows)

    def _words(self, context: str) -> Steps[Row]:
        """The tokens of a soft prompt's context, without start and end."""
        (framed,) = yield from self._tokenise([context])
        return framed[1:-1]

    def _row(self, text: str) -> Row:
        """The tokens of a text, which is remembered.

        Raises:
            Refusal: it is too long, or not to be read.
        """
        known = self._rows.get(text)
        if known is not None:
            return known
        tokenizer = self._tokenizer
        row = (tokenizer.sot_token_id, *tokenizer.encode(text), tokenizer.eot_token_id)
        if len(row) > self.context_length:
            raise TooManyTokens(text, len(row), fit=self.context_length)
        self._rows.put(text, row, _A_TEXT + _A_LETTER * len(text) + _A_TOKEN * len(row))
        return row


def _check_apart(context: str, words: Row, name: str, row: Row) -> None:
    """Refuse a soft prompt whose text does not begin with the tokens of its context."""
    if row[1 : 1 + len(words)] != words:
        detail = f"context {context!r} does not stay apart from class name {name!r}"
        raise Refusal(Code.INVALID_REQUEST, detail, param="prompts.context")


def _in_common(rows: Sequence[Row]) -> int:
    """How many tokens all texts begin with: as many as the first and the last in order do."""
    pairs = zip(min(rows), max(rows), strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))


def can_be_cut(tower: Any) -> bool:
    """Is the tower causal, with its read-out at end-of-text and nothing appended?"""
    pool = getattr(tower, "text_pool_type", getattr(tower, "pool_type", None))
    return (
        getattr(tower, "attn_mask", None) is not None
        and getattr(tower, "cls_emb", None) is None
        and pool in {"argmax", "eos"}
    )
