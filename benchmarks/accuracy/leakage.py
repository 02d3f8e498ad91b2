"""What logits give away: image embeddings recovered from what a key gets, by output policy.

    python -m benchmarks leakage [--images 20] [--json leakage.json]

The attacker knows the text encoder, as for every public checkpoint, so that each prompt is a known
row of text features, and asks prompts with random soft offsets. This benchmark opens the model to
get those rows and the truth; from then on it sees only what
`craft_server.logits.disclosure` discloses. Recovery
is the cosine between recovered and true embedding, mean over images; 0 is chance, 1 is everything.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from sklearn.datasets import load_digits

from benchmarks.common.local import load_model
from benchmarks.common.machine import (
    Row,
    describe,
    options_of,
    print_heading,
    print_table,
    write_json,
)
from craft_server.engine.blackbox import BlackBox, Piece
from craft_server.logits.disclosure import disclose
from craft_shared.messages import LogitsRequest, Output, SoftPrompts

Floats = NDArray[np.float32]

CLASS_NAMES = (
    "zero",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
)
QUERIES = (10, 50, 250, 1000)
OUTPUTS = {
    "logits": Output(),
    "rounded to 0.1": Output(kind="rounded", step=0.1),
    "rounded to 1": Output(kind="rounded", step=1),
    "log-probabilities": Output(kind="log_probabilities"),
    "top 3 of 10": Output(kind="top_k", k=3),
    "label": Output(kind="label"),
}
FLOAT32_STEP = 1e-4
_STEPS = 300


def embeddings(model: BlackBox, count: int) -> Floats:
    """True normalised embeddings (N, D) of handwritten digits."""
    digits = load_digits().images[:count]
    pictures = [Image.fromarray(np.uint8(15 * digit)).convert("RGB") for digit in digits]
    records = model.encode_images([model.preprocess(picture) for picture in pictures])
    return np.stack([np.frombuffer(record, "<f4") for record in records])


def text_rows(model: BlackBox, queries: int, *, seed: int) -> Floats:
    """Text features (P, K, D) of prompts with random offsets: what a public encoder gives."""
    width = model.card.context_width
    offsets = np.random.default_rng(seed).normal(size=(queries, 4, width)).astype(np.float32)
    request = LogitsRequest(
        model=model.card.id,
        image_set="set_" + "0" * 32,
        class_names=list(CLASS_NAMES),
        prompts=SoftPrompts(context="a photo of a"),
    )
    prompts = model.prepare(request, offsets)
    found = []
    for run in prompts.pieces:
        (texts,) = model.encode_texts([Piece(prompts, run)])
        found.append(
            np.asarray(texts, np.float32).reshape(run.stop - run.start, len(CLASS_NAMES), -1)
        )
    return np.concatenate(found)


def recover(texts: Floats, disclosed: Floats, scale: float, output: Output) -> Floats:
    """Embeddings (N, D) that explain best what was disclosed (P, N, K) of `texts` (P, K, D).

    Where all classes are disclosed, differences between classes are linear in the embedding (a
    softmax takes nothing but each row's constant), and ridge regression with the rounding as its
    noise gives it. Where only some are disclosed, the embedding is fitted by gradient descent to
    the probability of what was disclosed.
    """
    if not np.isfinite(disclosed).all():
        return _fit(torch.tensor(texts), torch.tensor(disclosed), scale)
    rows = (texts - texts.mean(axis=1, keepdims=True)).reshape(-1, texts.shape[2]).astype(float)
    values = (
        (disclosed - disclosed.mean(axis=2, keepdims=True))
        .transpose(0, 2, 1)
        .reshape(len(rows), -1)
    )
    noise = (output.step or FLOAT32_STEP) ** 2 / 12 / scale**2
    ridge = noise * texts.shape[2] * np.eye(texts.shape[2])
    found = np.linalg.solve(rows.T @ rows + ridge, rows.T @ (values / scale))
    return found.T.astype(np.float32)


def _fit(texts: torch.Tensor, disclosed: torch.Tensor, scale: float) -> Floats:
    known = disclosed.isfinite()
    weights = torch.where(known, disclosed.exp(), torch.zeros_like(disclosed))
    rest = (1 - weights.sum(dim=-1)).clamp(min=0)
    found = torch.zeros(disclosed.shape[1], texts.shape[2], requires_grad=True)
    optimiser = torch.optim.Adam([found], lr=0.02)
    for _ in range(_STEPS):
        optimiser.zero_grad()
        logs = torch.log_softmax(scale * torch.einsum("pkd,nd->pnk", texts, found), dim=-1)
        hidden = torch.where(known, torch.full_like(logs, -1e4), logs).logsumexp(dim=-1)
        loss = -(weights * logs).sum(dim=-1) - rest * hidden
        penalised = loss.mean() + 1e-3 * found.square().sum(dim=-1).mean()
        penalised.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    return found.detach().numpy()


def cosine(found: Floats, true: Floats) -> float:
    """Mean over images."""
    norms = np.linalg.norm(found, axis=1) * np.linalg.norm(true, axis=1)
    return float(((found * true).sum(axis=1) / np.maximum(norms, 1e-12)).mean())


def main() -> None:
    """Measure and print a table in Markdown."""
    options = options_of(__doc__, images=20)
    model, about = load_model(), describe()
    true, texts = embeddings(model, options.images), text_rows(model, max(QUERIES), seed=0)
    scale = model.card.logit_scale
    logits = np.float32(scale) * np.einsum("nd,pkd->pnk", true, texts)
    print_heading("What logits give away", about)
    print(
        f"{model.card.id}, embeddings of {true.shape[1]} numbers, {len(CLASS_NAMES)} classes "
        f"a query, {len(true)} images, seed 0; cosine of recovered and true embedding\n"
    )
    found: list[Row] = []
    for name, output in OUTPUTS.items():
        disclosed = disclose(logits, output)
        cosines = {
            str(count): cosine(recover(texts[:count], disclosed[:count], scale, output), true)
            for count in QUERIES
        }
        found.append({"output": name} | cosines)
    columns = {str(count): f"{count} queries|.4f" for count in QUERIES}
    print_table(found, {"output": "output"} | columns)
    write_json(options.json, about, recovered=found)


if __name__ == "__main__":
    main()
