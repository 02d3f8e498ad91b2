"""A whole fit over HTTP against the same calls in process, in one run, taking turns.

    python -m benchmarks fit [--model RN50] [--generations 40] [--repeats 3] [--json FILE]

The same fit with the same seed and budget: once through a real craft-server with key, meter and
ledger, once by calling the server's black box in this process. `embedded` fits the handwritten
digits, and is so small that what does not grow with the model is most of it; `RN50` has random
weights, DTD's 47 names, and an image of noise for each.
Every repetition of the first has a fresh server, so that both sides encode all images: a server
does so when they are first asked for, the other on upload, so only `together` compares. Medians;
a server's start is not counted. Both must come to the same result.
"""

import statistics
import tempfile
import time
from contextlib import closing
from pathlib import Path
from typing import NamedTuple, cast

import numpy as np

from benchmarks.common.class_names import names_of
from benchmarks.common.local import LocalBox, TimedBox, load_model
from benchmarks.common.machine import (
    Row,
    describe,
    median_seconds,
    options_of,
    print_heading,
    print_table,
    write_json,
)
from benchmarks.common.random_checkpoint import random_checkpoint
from benchmarks.common.servers import noise_png, serving
from craft_server.engine.blackbox import BlackBox as ModelPort
from craft_server.settings import EMBEDDED
from craft_shared import wire
from craft_shared.messages import Counters, LogitsReply, LogitsRequest, SoftPrompts
from craft_tuner import methods
from craft_tuner.client.account import choose_model
from craft_tuner.client.client import Client
from craft_tuner.client.purchases import PURCHASES, Purchases
from craft_tuner.client.transport import Transport
from craft_tuner.config.connection import Connection
from craft_tuner.config.fit_config import FitConfig, build
from craft_tuner.config.shots import most
from craft_tuner.data.dataset import labels_of
from craft_tuner.data.sources import DIGITS
from craft_tuner.inference.evaluate import evaluate
from craft_tuner.runs.run import Run
from craft_tuner.training.prepare import Setup, gather, send

POPULATION = 40
TESTS = 2
"""Queries beside the generations: zero-shot and the final test."""

FITNESS_TOLERANCE = 1e-4
COLUMNS = {
    "way": "way",
    "upload_s": "upload and encode, s|.2f",
    "fit_s": "fit, s|.2f",
    "test_s": "test, s|.2f",
    "total_s": "together, s|.2f",
    "tuner_ms": "tuner alone, ms per generation|.2f",
}


class Outcome(NamedTuple):
    """Where the time of one fit went, and what came of it."""

    times: dict[str, float]
    fitness: np.ndarray[tuple[int, ...], np.dtype[np.float64]]
    """(G, P)."""
    correct: int


class Scene(NamedTuple):
    """What is fitted on what."""

    config: FitConfig
    data: str
    settings: dict[str, str]
    """Of the server: its model."""


def scene_of(model: str, *, seed: int, generations: int, folder: Path) -> Scene:
    """Digits on the embedded model, or noise named as DTD's classes on RN50 with random weights."""
    fields = {"seed": seed, "budget": (POPULATION + 1) * generations + TESTS}
    if model == EMBEDDED:
        return Scene(build({"preset": DIGITS, **fields}), DIGITS, {"model": model})
    for number, name in enumerate(names_of("dtd")):
        for split in ("train", "test"):
            place = folder / "data" / split / name
            place.mkdir(parents=True)
            seed_of = 2 * number + (split == "test")
            (place / "0.png").write_bytes(noise_png(seed_of, side=224))
    settings = {"model": model, "pretrained": str(random_checkpoint(folder))}
    return Scene(
        build({"method": "craft", "shots": 1, "views": 1, **fields}), str(folder / "data"), settings
    )


def carry_out(client: Client | LocalBox, scene: Scene, folder: Path) -> Outcome:
    """The steps of `craft_tuner.training.fit`, timed."""
    config = scene.config
    method = methods.get(config.method)
    setup = Setup(server="here", model=client.card.id, data=scene.data)
    samples = gather(config, setup.dataset(), method, card=client.card)
    box = TimedBox(client)
    with Run.create(folder, config, setup=setup.model_dump()) as run:
        run.save_plan(method.plan(config, samples.workload(client.card)))
        marks = [time.perf_counter()]
        task, test = send(samples, cast("Client", client), config, on_uploaded=lambda _: None)
        marks.append(time.perf_counter())
        run.bind(task, client.card)
        adapter = method.fit(box, task, recorder=run, on_progress=lambda _: None)
        marks.append(time.perf_counter())
        asked = box.seconds
        if test is None:
            raise ValueError("the digits have test images; the dataset changed")
        labels = labels_of(samples.test)
        found = evaluate(box, adapter, test.images, labels, zero_shot=True).adapted
        marks.append(time.perf_counter())
        history = run.restore()
    fitness = np.array([line.fitness for line in history.journal])
    upload, fit, tested = np.diff(marks).tolist()
    times = {"upload_s": upload, "fit_s": fit, "test_s": tested, "total_s": marks[-1] - marks[0]}
    times["tuner_ms"] = 1000 * (fit - asked) / len(fitness)
    return Outcome(times, fitness, 0 if found is None else found.correct)


def over_http(scene: Scene, folder: Path) -> Outcome:
    """One fit through a server of its own."""
    with serving(folder / "server", **scene.settings) as server:
        connection = Connection(server.url, server.mint())
        with closing(Transport(connection)) as transport:
            card = choose_model(transport)
            purchases = Purchases(folder / PURCHASES)
            client = Client(transport, card, run_id=folder.name, purchases=purchases)
            return carry_out(client, scene, folder / "run")


def in_process(model: ModelPort, scene: Scene, folder: Path) -> Outcome:
    """The same fit on the model itself."""
    return carry_out(LocalBox(model), scene, folder / "run")


def codec_ms(model: ModelPort, config: FitConfig, classes: int = 10) -> float:
    """Client's coding of one generation: its two requests encoded, its two replies decoded."""
    images, names = most(config.shots) * classes, [f"class {k}" for k in range(classes)]
    cost = Counters(queries=POPULATION, calls=1, logit_vectors=1, texts=1)

    def bodies(
        prompts: int,
    ) -> tuple[LogitsRequest, np.ndarray[tuple[int, ...], np.dtype[np.float32]], bytes]:
        request = LogitsRequest(
            model=model.card.id,
            image_set="set_" + "0" * 32,
            class_names=names,
            prompts=SoftPrompts(context=config.context),
        )
        reply = LogitsReply(
            model=model.card.id,
            digest=model.card.digest,
            image_set=request.image_set,
            cost=cost,
            budgets=LocalBox(model).budgets(),
            replayed=False,
        )
        logits = np.zeros((prompts, images, classes), np.float32)
        offsets = np.zeros((prompts, 4, model.card.context_width), np.float32)
        return request, offsets, wire.encode_reply(reply, logits)

    generation = [bodies(POPULATION), bodies(1)]

    def code() -> None:
        for request, offsets, reply in generation:
            wire.encode_request(request, offsets)
            wire.decode_reply(reply)

    return 1000 * median_seconds(code, 20)


def middle(way: str, outcomes: list[Outcome]) -> Row:
    """Median of each time over the repetitions."""
    names = outcomes[0].times
    return {"way": way} | {
        name: statistics.median(outcome.times[name] for outcome in outcomes) for name in names
    }


def check_same(outcomes: list[Outcome]) -> float:
    """Largest difference of a fitness value between any two fits.

    Raises:
        SystemExit: it is not the same fit.
    """
    first = outcomes[0]
    gaps = [float(np.abs(first.fitness - other.fitness).max()) for other in outcomes]
    counts = {outcome.correct for outcome in outcomes}
    if max(gaps) > FITNESS_TOLERANCE:
        raise SystemExit(f"the fits differ: fitness by {max(gaps):g}, test images right {counts}")
    return max(gaps)


def main() -> None:
    """Run both ways in turns and print a table in Markdown."""
    options = options_of(__doc__, model=EMBEDDED, generations=40, repeats=3, seed=1)
    about, generations = describe(), options.generations
    print_heading(f"{options.model}: {generations} generations over HTTP and in process", about)
    http, local = [], []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        scene = scene_of(options.model, seed=options.seed, generations=generations, folder=folder)
        model = load_model(**scene.settings)
        for number in range(options.repeats):
            local.append(in_process(model, scene, folder / f"local{number}"))
            http.append(over_http(scene, folder / f"http{number}"))
        gap, code = check_same([*http, *local]), codec_ms(model, scene.config)
    rows = [middle("over HTTP", http), middle("in process", local)]
    generation_ms = 1000 * rows[0]["fit_s"] / generations
    summary = {
        "model": options.model,
        "generations": generations,
        "ratio": rows[0]["total_s"] / rows[1]["total_s"],
        "codec_ms_per_generation": code,
        "tuner_share": (rows[0]["tuner_ms"] + code) / generation_ms,
        "largest_fitness_difference": gap,
        "test_images_right": [outcome.correct for outcome in (*http, *local)],
    }
    print_table(rows, COLUMNS)
    print(
        f"HTTP / in process: {summary['ratio']:.3f} of the whole. Optimiser, head, journal and "
        f"codec: {summary['tuner_share']:.1%} of a generation over HTTP ({generation_ms:.1f} ms), "
        f"codec {code:.2f} ms. Fitness differs by at most {gap:.1e}."
    )
    write_json(options.json, about, rows=rows, summary=summary)


if __name__ == "__main__":
    main()
