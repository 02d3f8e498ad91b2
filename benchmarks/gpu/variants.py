"""Section: what CUDA graphs, torch.compile and fused attention would bring, where they are exact.

Experiments beside the server: RN50's text tower on one pass of packed prompts, as packed.py runs
it; as a CUDA graph; with every layer compiled; with one fused attention call for a group instead of
two products and a softmax. Each is compared to the plain pass, and refused above the bound.
"""

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.common.class_names import names_by_count
from benchmarks.common.text_encoding import PREFIX, offsets_of, plan_of
from benchmarks.gpu.device import interleaved
from benchmarks.gpu.exactness import FLOAT32_BOUND
from benchmarks.gpu.models import Loaded, load, models_of
from benchmarks.gpu.runner import Say, Scene, Section, sentence_of
from craft_server.models.clip import packed
from craft_server.models.clip.load import compute_exactly
from craft_server.models.clip.packed import Group, Layout, lay_out, run_packed

HALF_BOUND = 2e-3
"""Of normalised features in float16: two roundings of a value near 1."""

SIZES = [(47, 1), (47, 40), (397, 8)], [(10, 1)]
"""(K, P): measured, rehearsed."""

COLUMNS = {
    "way": "way",
    "classes": "K",
    "prompts": "P",
    "dtype": "precision",
    "prompts_per_s": "prompts/s|.2f",
    "gain": "to plain|.2f",
    "difference": "largest difference|.1e",
    "exact": "exact",
    "prepared_s": "prepared in, s|.1f",
}
Pass = Callable[[Tensor], Tensor]


def one_pass(loaded: Loaded, layout: Layout) -> Pass:
    """Offsets (P, n_ctx, W) on the device -> features (P, K, D): the server's pass, no copies."""
    model = loaded.model
    dtype = model.transformer.get_cast_dtype()

    def encode(offsets: Tensor) -> Tensor:
        prefix = model.token_embedding(layout.prefix).to(dtype).repeat(len(offsets), 1, 1)
        prefix[:, 1:] += offsets.to(dtype)
        x = model.ln_final(run_packed(model, prefix, layout))
        return functional.normalize((x @ model.text_projection.to(x.dtype)).float(), dim=-1)

    return encode


def graphed(encode: Pass, offsets: Tensor) -> Pass:
    """The pass as a CUDA graph: launched at once, for this shape alone."""
    fixed = offsets.clone()
    beside: Any = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    beside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(beside):
        for _ in range(2):
            encode(fixed)
    torch.cuda.current_stream().wait_stream(beside)
    graph: Any = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = encode(fixed)

    def replay(offsets: Tensor) -> Tensor:
        fixed.copy_(offsets)
        graph.replay()
        return found

    return replay


def fused_attend(
    q: Tensor,
    suffix: tuple[Tensor, Tensor],
    prefix: tuple[Tensor, Tensor],
    groups: tuple[Group, ...],
    *,
    read_out: bool = False,
) -> Tensor:
    """`packed._attend` by one fused call for each group; keys of the prefix are copied per text."""
    prompts, heads, shared, depth = prefix[0].shape
    parts, asked, owned = [], 0, 0
    for group in groups:
        each = 1 if read_out else group.length
        rows = slice(asked, asked + group.texts * each)
        keys = slice(owned, owned + group.texts * group.length)
        asked, owned = rows.stop, keys.stop
        own_q = _texts(q[:, rows], group.texts, heads).expand(prompts, -1, -1, -1, -1)
        k, v = (
            _joined(own[:, keys], start, group.texts)
            for own, start in zip(suffix, prefix, strict=True)
        )
        seen = torch.ones(each, shared + group.length, dtype=torch.bool, device=q.device)
        mask = None if read_out else seen.tril_(shared)
        y = functional.scaled_dot_product_attention(own_q.flatten(0, 1), k, v, attn_mask=mask)
        parts.append(y.transpose(1, 2).reshape(prompts, group.texts * each, heads * depth))
    return torch.cat(parts, dim=1)


def _texts(x: Tensor, texts: int, heads: int) -> Tensor:
    """(B, n * l, W) -> (B, n, H, l, D)."""
    batch, tokens, width = x.shape
    return x.reshape(batch, texts, tokens // texts, heads, width // heads).transpose(2, 3)


def _joined(own: Tensor, start: Tensor, texts: int) -> Tensor:
    """Keys or values of the prefix (P, H, C, D) before each text's own: (P * n, H, C + l, D)."""
    prompts, heads, _, _ = start.shape
    first = start[:, None].expand(-1, texts, -1, -1, -1)
    rest = _texts(own, texts, heads).expand(prompts, -1, -1, -1, -1)
    return torch.cat([first, rest], dim=3).flatten(0, 1)


def with_fused(encode: Pass, offsets: Tensor) -> Tensor:
    """A pass with fused attention."""
    with patch.object(packed, "_attend", fused_attend):
        return encode(offsets)


def with_compiled(layer: Any, encode: Pass, offsets: Tensor) -> Tensor:
    """A pass whose layers are compiled."""
    with patch.object(packed, "_layer", layer):
        return encode(offsets)


def ways(encode: Pass, offsets: Tensor, scene: Scene) -> Sequence[tuple[str, Callable[[], Pass]]]:
    """Name and maker of each way, cheap ones first."""
    fused = partial(with_fused, encode)
    backend = "aot_eager" if scene.small else "inductor"
    layer: Any = torch.compile(packed._layer, backend=backend, dynamic=False)  # noqa: SLF001
    return [
        ("fused attention", lambda: fused),
        ("CUDA graph", lambda: graphed(encode, offsets)),
        ("CUDA graph, fused attention", lambda: graphed(fused, offsets)),
        (f"torch.compile ({backend})", lambda: partial(with_compiled, layer, encode)),
    ]


def compare(loaded: Loaded, dtype: str, size: tuple[int, int], scene: Scene, say: Say) -> None:
    """All ways at one size."""
    classes, prompts = size
    device = scene.torch_device
    plan = plan_of(loaded.text, names_by_count(classes)[1], prompts)
    layout = lay_out(plan.rows, PREFIX).to(device)
    offsets = offsets_of(prompts, loaded.text.width).to(device)
    encode = one_pass(loaded, layout)
    expected = encode(offsets).clone()
    row = {"classes": classes, "prompts": prompts, "dtype": dtype}
    for name, make in ways(encode, offsets, scene):
        if "graph" in name and device.type != "cuda":
            say({"said": f"{name}, K = {classes}, P = {prompts}: needs cuda"})
            continue
        began = time.perf_counter()
        try:
            way = make()
            difference = (way(offsets) - expected).abs().max().item()
            prepared = time.perf_counter() - began
            works = [partial(encode, offsets), partial(way, offsets)]
            plain, taken = interleaved(works, device, 1 if scene.small else 7)
        except Exception as error:  # noqa: BLE001 - one way's failure is its own
            say({"said": f"{name}, K = {classes}, P = {prompts}, {dtype}: {sentence_of(error)}"})
            continue
        exact = difference <= (FLOAT32_BOUND if dtype == "float32" else HALF_BOUND)
        if not exact:
            refused = f"{name}, K = {classes}, P = {prompts}, {dtype}: refused, not exact"
            say({**row, "said": f"{refused} ({difference:.1e})", "way": name, "exact": "NO"})
            continue
        figures = {"prompts_per_s": prompts / taken, "gain": plain / taken, "exact": "yes"}
        say({**row, "way": name, "difference": difference, "prepared_s": prepared, **figures})


@torch.inference_mode()
def run(scene: Scene, say: Say) -> None:
    """All sizes in both precisions."""
    compute_exactly()
    for dtype in ("float32",) if scene.small else ("float32", "float16"):
        loaded = load(models_of(scene)[0], dtype, scene.torch_device)
        for size in SIZES[scene.small]:
            compare(loaded, dtype, size, scene, say)


SECTION = Section(
    "variants", "CUDA graphs, torch.compile, fused attention", run, COLUMNS, least_s=20, most_s=75
)
