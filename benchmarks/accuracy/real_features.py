"""Real CLIP features through the protocol: a bank of common names against the raw features.

    python -m benchmarks real-features [--data ../shared/data] [--anchors 600] [--json FILE]

Caltech101 and UCF101 at 1, 2, 4, 8 and 16 shots on OpenAI's ViT-B/32, behind a real server with a
real key and meter (feature_box.py). The tuner asks one prompt, "a {}", with names of common things
instead of the task's class names, which the table of texts mostly lacks: the bank of `craft_plus`
without its class names, so without zero-shot. `heads.choose` makes a head of the logits, an
`Adapter` asks about the test images with it, and the same head is made of the raw features, which
no client has. Test labels are read when both are fitted. The data is not part of this project;
without it the script says so and ends.
"""

import tempfile
from dataclasses import dataclass
from pathlib import Path
from time import process_time

import numpy as np

from benchmarks.accuracy.feature_box import DATASETS, SCALE, SHOTS, Part, Table, picture_of
from benchmarks.common.machine import (
    Row,
    describe,
    options_of,
    print_heading,
    print_table,
    write_json,
)
from benchmarks.common.programs import module
from benchmarks.common.servers import running
from craft_tuner.adapter import adapter as adapters
from craft_tuner.adapter.adapter import Adapter
from craft_tuner.adapter.head import DeployedHead
from craft_tuner.blackbox import FloatArray, Images, IntArray, Texts
from craft_tuner.client.account import choose_model
from craft_tuner.client.client import Client
from craft_tuner.client.transport import Transport
from craft_tuner.config.connection import Connection
from craft_tuner.data.pictures import BytesPicture
from craft_tuner.heads.candidates import Shots
from craft_tuner.heads.selection import Choice, choose

WANTED = {"caltech101": 94.0, "ucf101": 78.5}
"""Accuracy in per cent at 16 shots."""

MOST_QUERIES = 10
MOST_BEHIND = 1.0
"""Points that logits may cost against the raw features."""

COLUMNS = {
    "dataset": "data set",
    "shots": "shots",
    "bank": "bank, %|.2f",
    "features": "same head on raw features, %|.2f",
    "queries": "queries",
    "calls": "calls",
    "logit_vectors": "logit vectors|,",
    "texts": "texts|,",
    "cpu_s": "CPU s to choose|.1f",
    "kept": "heads kept",
}


def anchors_of(table: Table, count: int) -> tuple[str, ...]:
    """So many names of the table at random, none of them picked for a data set."""
    names = sorted(table.texts)
    chosen = np.random.RandomState(1).choice(len(names), min(count, len(names)), replace=False)
    return tuple(names[index] for index in sorted(chosen))


@dataclass(frozen=True)
class Asker:
    """A tuner's client of the feature-backed server."""

    transport: Transport
    anchors: tuple[str, ...]

    def client(self, run_id: str) -> Client:
        """A client that counts what it buys from now on."""
        return Client(self.transport, choose_model(self.transport), run_id=run_id)

    def images(self, client: Client, part: Part, *, name: str) -> Images:
        """A part's pictures, uploaded."""
        pictures = [BytesPicture(picture_of(row), f"{row}.png") for row in part.rows]
        return client.upload(pictures, name=name, classes=len(self.anchors)).images

    def shots(self, client: Client, part: Part) -> FloatArray:
        """Logits (N, anchors) of the shots, for one query."""
        images = self.images(client, part, name="shots")
        texts = Texts(self.anchors, context="a", suffix="")
        logits = client.score_templates(
            texts, [texts.template], images, purpose="bank", step="bank"
        )
        rows: FloatArray = logits[0]
        return rows

    def adapter(self, client: Client, choice: Choice, class_names: tuple[str, ...]) -> Adapter:
        """The head with the question that it needs."""
        texts = Texts(class_names, context="a", suffix="")
        card = adapters.describe(texts, client.card, method="bank", config={}, training={})
        asked = {"asked_names": self.anchors, "residual": 0.0}
        head = head_of(choice)
        return Adapter(card.model_copy(update=asked), None, head.layers, head.centre)


def head_of(choice: Choice) -> DeployedHead:
    """The head, which there is where zero-shot is no candidate."""
    if choice.head is None:
        raise AssertionError("zero-shot was chosen, and was no candidate")
    return choice.head


def fitted(x: FloatArray, part: Part, classes: int) -> Choice:
    """The head that cross-validation on the shots chooses."""
    return choose(Shots(x.astype(np.float64), part.labels, classes), seed=1)


def accuracy(scores: FloatArray, labels: IntArray) -> float:
    """Per cent."""
    return 100 * float((scores.argmax(axis=1) == labels).mean())


def study(asker: Asker, table: Table, dataset: str, shots: int) -> Row:
    """One line of the table: a bank's head and the features', on the same shots and test images."""
    train, test = table.parts[dataset, f"{shots}shot"], table.parts[dataset, "test"]
    names = table.class_names[dataset]
    client = asker.client(f"{dataset}-{shots}")
    logits = asker.shots(client, train)
    began = process_time()
    bank = fitted(logits, train, len(names))
    took = process_time() - began
    adapter = asker.adapter(client, bank, names)
    images = asker.images(client, test, name="test")
    _, scores = adapter.logits(client, images, purpose="test", step="test")
    features = np.float32(SCALE) * table.images
    head = head_of(fitted(features[train.rows], train, len(names)))
    return {
        "dataset": dataset,
        "shots": shots,
        "bank": accuracy(scores, test.labels),
        "features": accuracy(head(features[test.rows][None], None), test.labels),
        **client.purchases.total.model_dump(),
        "cpu_s": took,
        "kept": ", ".join(f"{one.family} {one.power:g} {one.strength:g}" for one in bank.kept),
        "held_out": bank.held_out,
    }


def faults(rows: list[Row]) -> list[str]:
    """What falls short of the acceptance, in sentences."""
    found = []
    for row in rows:
        name = f"{row['dataset']}, {row['shots']} shots"
        if row["shots"] == max(SHOTS) and row["bank"] < WANTED[row["dataset"]]:
            found.append(f"{name}: {row['bank']:.2f}, wanted {WANTED[row['dataset']]}")
        if row["shots"] == max(SHOTS) and row["bank"] < row["features"] - MOST_BEHIND:
            found.append(f"{name}: {row['features'] - row['bank']:.2f} behind the raw features")
        if row["queries"] > MOST_QUERIES:
            found.append(f"{name}: {row['queries']} queries")
    return found


def main() -> None:
    """Run and print a table in Markdown; exit code 1 if the acceptance is not met."""
    options = options_of(__doc__, data="../shared/data", anchors=600, shots=list(SHOTS))
    try:
        table = Table.load(Path(options.data))
    except FileNotFoundError as error:
        print(f"skipped: {error.filename} is absent, and this study stands on it (--data)")
        return
    about = describe()
    print_heading(f"Real CLIP features, {options.anchors} names in one prompt", about)
    program = module("benchmarks.accuracy.feature_box", options.data)
    with tempfile.TemporaryDirectory() as folder, running(program, Path(folder)) as server:
        with Transport(Connection(server.url, server.mint())) as transport:
            asker = Asker(transport, anchors_of(table, options.anchors))
            rows = [study(asker, table, name, k) for name in DATASETS for k in options.shots]
        ledger = sum(total["queries"] for total in server.totals())
    print_table(rows, COLUMNS)
    bought = sum(row["queries"] for row in rows)
    print(f"queries: {bought} believed by the tuner, {ledger} in the server's ledger")
    write_json(options.json, about, rows=rows, anchors=options.anchors)
    problems = faults(rows)
    if ledger != bought:
        problems.append("tuner and ledger do not agree")
    raise SystemExit("\n".join(problems) or None)


if __name__ == "__main__":
    main()
