"""Runs of both sides, each in a process of its own: a fit over HTTP, CoOp, a prediction by either.

The process that starts them stays small, since the kernel counts a child's memory from the fork on:
whatever is large is loaded in processes.
"""

import functools
import json
import subprocess
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from benchmarks.common.class_names import names_of
from benchmarks.common.machine import Row, measured
from benchmarks.common.programs import TUNER, environment, module
from benchmarks.common.servers import Server

SHAPE_MODEL = "RN50"
SHAPE_CLASSES, SHAPE_SHOTS = 100, 4


class Scene(NamedTuple):
    """What is learnt, from what, where."""

    server: dict[str, str]
    """Settings of craft-server: the model."""
    data: str
    settings: dict[str, Any]
    """Of a fit: preset and what differs from it."""
    pictures: Path
    """A folder of pictures to predict."""


def tune(server: Server, scene: Scene, folder: Path, **settings: object) -> Row:
    """A fit of `craft-tuner` in a process of its own: its result, wall time and peak memory."""
    flags = [f"--set={name}={value}" for name, value in {**scene.settings, **settings}.items()]
    command = [TUNER, "fit", f"--data={scene.data}", f"--run={folder}", *flags]
    wall_s, peak_mb = measured(
        command,
        folder.parent / f"{folder.name}.log",
        CRAFT_SERVER_URL=server.url,
        CRAFT_API_KEY=server.mint(),
    )
    found: Row = json.loads((folder / "result.json").read_text())
    return found | {
        "wall_s": wall_s,
        "peak_mb": peak_mb,
        "config": json.loads((folder / "config.json").read_text())["config"],
    }


def learn(scene: Scene, config: Row, **fields: object) -> Row:
    """CoOp on the shots of a fit with these settings."""
    job = {"server": scene.server, "data": scene.data, "config": config, **fields}
    return _said("benchmarks.accuracy.coop_process", json.dumps(job))


def deployment(server: Server, scene: Scene, run: Path, *, model: str) -> list[Row]:
    """What either side holds to predict a few pictures."""
    adapter = {"url": server.url, "key": server.mint(), "adapter": str(run / "adapter.safetensors")}
    names = json.loads((run / "adapter.json").read_text())["class_names"]
    pictures = {"pictures": str(scene.pictures)}
    program = "benchmarks.accuracy.prediction_memory"
    jobs = {
        "adapter": adapter | pictures,
        "model": {"server": scene.server, "names": names} | pictures,
    }
    return [
        {"model": model, "way": side} | _said(program, side, json.dumps(job))
        for side, job in jobs.items()
    ]


@functools.cache
def tuner_imports_mb() -> float:
    """Resident memory of a process that has loaded the libraries of a fit, and done nothing."""
    return float(_output("benchmarks.accuracy.fit_imports"))


def noise_scene(folder: Path) -> Scene:
    """Random weights, and smooth noise in class folders: JPEG, 224 pixels wide, as photographs.

    A process of its own makes the weights: this one stays smaller than those that it measures.
    """
    weights = _output("benchmarks.common.random_checkpoint", folder).strip()
    names = names_of("caltech101")
    draw = np.random.default_rng(0)
    for name in names[:SHAPE_CLASSES]:
        for split, count in (("train", SHAPE_SHOTS), ("test", 1)):
            place = folder / "data" / split / name.replace("/", " ")
            place.mkdir(parents=True)
            for number in range(count):
                _noise(draw).save(place / f"{number}.jpg")
    pictures = folder / "pictures"
    pictures.mkdir()
    for number in range(8):
        _noise(draw).save(pictures / f"{number}.jpg")
    settings = {"shots": SHAPE_SHOTS, "seed": 1, "views": 1, "budget": 41 + 2}
    server = {"model": SHAPE_MODEL, "pretrained": weights}
    return Scene(server, str(folder / "data"), settings, pictures)


def _noise(draw: np.random.Generator) -> Image.Image:
    coarse = Image.fromarray(draw.integers(0, 256, (28, 28, 3), dtype=np.uint8))
    return coarse.resize((224, 224), Image.Resampling.BICUBIC)


def some_pictures(folder: Path) -> Path:
    """Eight of the digits as files."""
    from craft_tuner.data.digits import load_digits  # noqa: PLC0415 - scikit-learn is large

    folder.mkdir()
    for number, item in enumerate(load_digits().test[:8]):
        (folder / f"{number}.png").write_bytes(item.picture.read())
    return folder


def _said(name: str, *arguments: object) -> Row:
    """What a module prints as JSON."""
    found: Row = json.loads(_output(name, *arguments))
    return found


def _output(name: str, *arguments: object) -> str:
    """What a module prints.

    Raises:
        CalledProcessError: it failed.
    """
    done = subprocess.run(
        module(name, *arguments),
        check=True,
        stdout=subprocess.PIPE,
        encoding="utf-8",
        env=environment(),
    )
    return done.stdout
