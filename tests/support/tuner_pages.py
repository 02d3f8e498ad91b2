"""Run directories written by hand, for tests of pages: what a fit would leave, without a fit."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

from craft_tuner.config.fit_config import FitConfig
from craft_tuner.data.pictures import BytesPicture, encode_png
from craft_tuner.inference.evaluate import Evaluation, score
from craft_tuner.runs import predictions
from craft_tuner.runs import thumbnails as examples
from craft_tuner.runs.predictions import Answers

CLASSES = ("cat", "sea lion", "ox")
COUNTERS = {"queries": 1234, "calls": 3, "logit_vectors": 5678, "texts": 90}


def a_picture(index, size=(120, 80)):
    """A picture unlike others, named as a file would be."""
    image = Image.new("RGB", size, (index * 37 % 256, index * 101 % 256, 90))
    return BytesPicture(encode_png(image), f"test/{index:03d}.png")


def a_run(
    path: Path,
    *,
    names=CLASSES,
    per_class=6,
    rights=(0.4, 0.5, 0.8),
    seed=1,
    generations=4,
    tested=True,
    finished=True,
    data="/somewhere/zoo",
    **settings,
):
    """A run of CraFT whose three ways are right as often as `rights` says; None: not asked."""
    path.mkdir(parents=True)
    config = FitConfig(**{"method": "craft", "seed": seed, "shots": 4, **settings}).model_dump(
        mode="json"
    )
    setup = {"server": "http://127.0.0.1:1", "model": "smooth::fake", "data": data}
    write(path / "config.json", {"run_id": "r" * 32, "config": config, "setup": setup})
    phases = [{"purpose": "fitness", "what": "all", "cost": COUNTERS}]
    write(path / "plan.json", {"generations": 4, "budget": 2000, "phases": phases})
    rows = [metrics(number, seed) for number in range(1, generations + 1)]
    (path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    if not finished:
        return path
    evaluation = None
    if tested:
        evaluation = answer(path, names, per_class, rights, seed).model_dump(mode="json")
    result = {
        "method": "craft",
        "model": "smooth::fake",
        "digest": "d" * 64,
        "images": {"shots": 4 * len(names), "test": per_class * len(names) if tested else 0},
        "evaluation": evaluation,
        "spent": {"fitness": COUNTERS},
        "spent_total": COUNTERS,
        "prompts_per_image_at_inference": 1,
        "adapter_bytes": 4096,
        "seconds": {"fit": 61.25, "test": 2.0},
        "versions": {"python": "3"},
        "machine": {"cores": 2},
    }
    write(path / "result.json", result)
    return path


def metrics(number, seed=1):
    loss = 2 / (number + seed / 10)
    return {
        "generation": number,
        "queries": 41 * number,
        "seconds": 0.5,
        "sigma": 1.0,
        "fitness_best": loss * 1.1,
        "fitness_lowest": loss,
        "head_loss": loss * 1.5,
        "prompt_accuracy": 1 - loss / 3,
        "head_accuracy": 1 - loss / 4,
        "heldout_accuracy": 1 - loss / 3.5,
    }


def answer(path, names, per_class, rights, seed):
    """Write predictions and thumbnails as a fit does."""
    draw = np.random.RandomState(seed)
    labels = np.repeat(np.arange(len(names)), per_class)
    pictures = [a_picture(index) for index in range(len(labels))]
    answers, scores = Answers(), {}
    for way, right in zip(predictions.WAYS, rights, strict=True):
        if right is not None:
            hit = draw.rand(len(labels)) < right
            taken = np.where(hit, labels, (labels + 1) % len(names))
            logits = (np.eye(len(names)) * draw.uniform(1, 5)).astype(np.float32)[taken]
            answers(way, logits)
            scores[way] = score(logits, labels, classes=len(names))
    lines = predictions.table(answers, [p.name for p in pictures], labels, names)
    predictions.write(path, lines)
    examples.save(path, {picture.name: picture for picture in pictures}, lines)
    return Evaluation(class_names=tuple(names), **scores)


def write(file, content):
    file.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
