"""The tuner's memory at ImageNet's shape: K = 1,000, N = 16,000, M = 50,000, over real HTTP.

    python -m benchmarks imagenet-shape [--method craft] [--generations 2] [--views 1]
                                        [--most-mb 2000] [--json FILE]

A stub server, whose logits cost little, and `craft-tuner fit` with the preset `imagenet` and then
`craft-tuner predict` of all test images, each in a process of its own. Pictures are noise of 8 x 8
pixels, so that uploading them tells nothing of real pictures. Exits 1 if a process of the tuner
takes more than `--most-mb`.
"""

import json
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.common.machine import (
    Row,
    describe,
    measured,
    options_of,
    print_heading,
    print_table,
    write_json,
)
from benchmarks.common.programs import TUNER
from benchmarks.common.servers import serving

SIDE = 8
COLUMNS = {
    "what": "what",
    "seconds": "wall time, s|.0f",
    "upload_s": "of it uploading, s|.0f",
    "fit_s": "generations, s|.0f",
    "peak_mb": "peak of the process, MB|,.0f",
}


def write_pictures(folder: Path, *, classes: int, train: int, test: int) -> None:
    """Class folders with so many pictures of each class, no two of them equal."""
    draw = np.random.default_rng(0)
    for split, count in (("train", train), ("test", test)):
        for label in range(classes):
            place = folder / split / f"class {label:04d}"
            place.mkdir(parents=True)
            noise = draw.integers(0, 256, (count, SIDE, SIDE, 3), dtype=np.uint8)
            for number, pixels in enumerate(noise):
                Image.fromarray(pixels).save(place / f"{number}.png")


def main() -> None:
    """Fit and predict, and print a table in Markdown."""
    options = options_of(
        __doc__,
        classes=1000,
        shots=16,
        test=50,
        method="craft",
        views=1,
        generations=2,
        population=40,
        most_mb=2000.0,
    )
    about = describe()
    shape = (
        f"K = {options.classes:,}, N = {options.classes * options.shots:,}, "
        f"M = {options.classes * options.test:,}"
    )
    print_heading(f"The tuner at ImageNet's shape: {shape}", about)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_pictures(
            folder / "data", classes=options.classes, train=options.shots, test=options.test
        )
        with serving(folder / "server", model="stub") as server:
            access = {"CRAFT_SERVER_URL": server.url, "CRAFT_API_KEY": server.mint()}
            run = folder / "run"
            fit = [
                *(TUNER, "fit", f"--data={folder / 'data'}", "--preset=imagenet", f"--run={run}"),
                *(f"--method={options.method}", f"--shots={options.shots}"),
                f"--set=views={options.views}",
                f"--set=population={options.population}",
                f"--budget={(options.population + 1) * options.generations + 2}",
            ]
            seconds, peak = measured(fit, folder / "fit.log", **access)
            stages = json.loads((run / "result.json").read_text())["seconds"]
            rows: list[Row] = [
                {
                    "what": f"fit by {options.method}, and its test",
                    "seconds": seconds,
                    "peak_mb": peak,
                    "upload_s": stages["upload"],
                    "fit_s": stages["fit"],
                }
            ]
            print(f"the fit took {peak:,.0f} MB", file=sys.stderr, flush=True)
            predict = [TUNER, "predict", run, folder / "data" / "test", "--out", folder / "found"]
            seconds, peak = measured(predict, folder / "predict.log", **access)
            found = len((folder / "found").read_text().splitlines())
            rows.append({"what": f"predict {found:,} images", "seconds": seconds, "peak_mb": peak})
    print_table(rows, COLUMNS)
    write_json(options.json, about, rows=rows, shape=shape)
    if max(row["peak_mb"] for row in rows) > options.most_mb:
        raise SystemExit(f"the tuner took more than {options.most_mb:,.0f} MB")


if __name__ == "__main__":
    main()
