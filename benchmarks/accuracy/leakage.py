"""What logits give away: image embeddings recovered from what a key is told, by texts per image.

    python -m benchmarks leakage [--images 20] [--seed 0] [--features DATA] [--json leakage.json]

The attacker knows the text encoder, as everybody does of a public checkpoint, and uploads pictures.
It asks about them with names of its own, or with the only names that its policy allows and
templates of its own (`benchmarks.accuracy.asking`); `benchmarks.accuracy.recovery` says how it
reckons. Counted are texts per image: prompts x names, whatever the number of queries. All images
are asked the same texts. What is told is `craft_server.logits.disclosure`'s. `--features DATA` adds
real CLIP features (see `benchmarks.accuracy.feature_box`).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

from benchmarks.accuracy.asking import FIXED, NAMES_PER_QUERY, Replies, replies
from benchmarks.accuracy.feature_box import SCALE, Table
from benchmarks.accuracy.recovery import Floats, Prior, cosine, recover
from benchmarks.common.local import load_model
from benchmarks.common.machine import (
    Row,
    describe,
    options_of,
    print_heading,
    print_table,
    write_json,
)
from craft_server.engine.blackbox import BlackBox
from craft_shared.messages import Output

TEXTS = (10, 50, 250, 1000, 2500, 10_000)
"""Texts told per image."""
FEW_TEXTS = (10, 50, 250, 1000)
REAL_TEXTS = (10, 50, 250, 500, 1000, 1900)
"""As far as the table of real names goes."""
OTHER_PICTURES = 500


class Ask(NamedTuple):
    """One way to ask.

    Attributes:
        label: what the table calls it.
        output: what the key is told.
        names: in a query; 0 for as many as there are texts, up to a request's limit.
        pool: whose texts: "words", "nonsense" or "fixed".
    """

    label: str
    output: Output
    names: int = 0
    pool: str = "words"


LOGITS, PROBABILITIES = Output(), Output(kind="log_probabilities")
TENTHS, WHOLE = (Output(kind="rounded", step=step) for step in (0.1, 1))
TOP, LABEL = Output(kind="top_k", k=3), Output(kind="label")

OTHER_NAMES = (
    Ask("`logits`", LOGITS),
    Ask("`logits`, names of random letters", LOGITS, pool="nonsense"),
    Ask("`rounded`, step 0.1", TENTHS),
    Ask("`rounded`, step 1", WHOLE),
    Ask("`log_probabilities`", PROBABILITIES),
    Ask("`top_k` 3, three names a query (k)", TOP, 3),
    Ask("`top_k` 3, four names a query (k + 1)", TOP, 4),
    Ask("`top_k` 3, five names a query (k + 2)", TOP, 5),
    Ask("`top_k` 3, ten names a query", TOP, 10),
    Ask("`label`, two names a query", LABEL, 2),
    Ask("`label`, ten names a query", LABEL, 10),
)
FIXED_LIST = tuple(
    Ask(name, output, len(FIXED), "fixed")
    for name, output in (
        ("`logits`", LOGITS),
        ("`rounded`, step 0.1", TENTHS),
        ("`rounded`, step 1", WHOLE),
        ("`log_probabilities`", PROBABILITIES),
        ("`top_k` 3 of 10", TOP),
        ("`label`", LABEL),
    )
)


@dataclass(frozen=True)
class Case:
    """Images (N, D), the card's scale, replies by pool, and what the attacker knows before."""

    true: Floats
    scale: float
    pools: dict[str, Replies]
    prior: Prior


def records_of(model: BlackBox, count: int, *, others: int = 0) -> list[bytes]:
    """Handwritten digits, encoded, the last `others` behind the first `count`."""
    images = load_digits().images
    digits = [*images[:count], *images[len(images) - others :]]
    pictures = [Image.fromarray(np.uint8(15 * digit)).convert("RGB") for digit in digits]
    return model.encode_images([model.preprocess(picture) for picture in pictures])


def embeddings(records: Sequence[bytes]) -> Floats:
    """The truth: normalised embeddings (N, D)."""
    return np.stack([np.frombuffer(record, "<f4") for record in records])


def measure(asks: Sequence[Ask], case: Case, counts: Sequence[int]) -> Iterator[Row]:
    """A row for each way to ask: cosine by number of texts, none where that makes no query."""
    for way in asks:
        row: Row = {"asked": way.label}
        for count in counts:
            names = way.names or min(count, NAMES_PER_QUERY)
            texts, told = case.pools[way.pool].told(count, names, way.output)
            found = recover(texts, told, case.scale, way.output, case.prior)
            row[str(count)] = cosine(found, case.true)
        yield row


def show(title: str, rows: Iterator[Row], counts: Sequence[int]) -> list[Row]:
    """Print a table in Markdown."""
    print(f"{title}\n", flush=True)
    found = list(rows)
    columns = {str(count): f"{count:,} texts|.3f" for count in counts}
    print_table(found, {"asked": "told"} | columns)
    return found


def average(true: Floats) -> float:
    """Cosine of each embedding with the mean of all: what one average picture tells of the rest."""
    mean = true.mean(axis=0, keepdims=True).repeat(len(true), axis=0)
    return cosine(mean.astype(float), true)


def of_digits(model: BlackBox, images: int, seed: int) -> dict[str, list[Row]]:
    """Handwritten digits and a server's model: other names, the fixed list, and a known prior."""
    records = records_of(model, images, others=OTHER_PICTURES)
    true, others = np.split(embeddings(records), [images])
    pools = {
        pool: replies(model, records[:images], pool, max(TEXTS), seed=seed)
        for pool in ("words", "nonsense", "fixed")
    }
    prior = Prior.of_texts(pools["words"].texts)
    print(
        f"{model.card.id}, embeddings of {true.shape[1]} numbers, of which texts have "
        f"{len(prior.axes)} directions; {len(true)} handwritten digits, seed {seed}; cosine of "
        f"recovered and true embedding, mean over images. The images' own mean has "
        f"{average(true):.3f} with each.\n"
    )
    case = Case(true, model.card.logit_scale, pools, prior)
    known = replace(case, prior=Prior.of_images(others))
    title = f"Any names, by who knows the embeddings of {len(others)} other pictures"
    return {
        "any_names": show("Any names", measure(OTHER_NAMES, case, TEXTS), TEXTS),
        "fixed_list": show("Only ten names", measure(FIXED_LIST, case, TEXTS), TEXTS),
        "known_prior": show(title, measure(OTHER_NAMES, known, FEW_TEXTS), FEW_TEXTS),
    }


def of_features(data: Path, images: int, seed: int) -> dict[str, list[Row]]:
    """Real CLIP features, whose texts are a table of "a NAME"."""
    table, rng = Table.load(data), np.random.default_rng(seed)
    part, other = (table.parts["caltech101", split] for split in ("test", "16shot"))
    true = table.images[rng.choice(part.rows, images, replace=False)]
    words = rng.permutation(np.stack(list(table.texts.values())))
    pools = {"words": Replies(words, np.float32(SCALE) * (true @ words.T))}
    case = Case(true, SCALE, pools, Prior.of_texts(words))
    known = replace(case, prior=Prior.of_images(table.images[other.rows]))
    print(
        f"ViT-B/32 of OpenAI, embeddings of {true.shape[1]} numbers; {images} pictures of "
        f"Caltech101, {len(words):,} names. "
        f"The images' own mean has {average(true):.3f} with each.\n"
    )
    asks = [way for way in OTHER_NAMES if way.pool == "words"]
    title = f"Real features, by who knows those of {len(other.rows):,} other pictures"
    return {
        "real": show("Real features", measure(asks, case, REAL_TEXTS), REAL_TEXTS),
        "real_known_prior": show(title, measure(asks, known, REAL_TEXTS), REAL_TEXTS),
    }


def main() -> None:
    """Measure and print tables in Markdown."""
    options = options_of(__doc__, images=20, seed=0, features="")
    model, about = load_model(), describe()
    print_heading("What logits give away", about)
    found = of_digits(model, options.images, options.seed)
    if options.features:
        found |= of_features(Path(options.features), options.images, options.seed)
    write_json(options.json, about, **found)


if __name__ == "__main__":
    main()
