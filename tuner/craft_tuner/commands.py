"""What each command does between its options and its output: connect, call the use case, tell.

Owns the order of connecting, checking and creating, so that a refused command leaves no run behind.
Must not know option syntax.
"""

import csv
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal, TextIO

from pydantic import ValidationError
from rich.console import Console

from craft_shared.messages import KeyInfo, ModelCard, UsageReply
from craft_tuner import evaluate as evaluation
from craft_tuner import fit as fitting
from craft_tuner import tracking
from craft_tuner.account import choose_model, fetch_key, fetch_usage
from craft_tuner.adapter import Adapter
from craft_tuner.choices import Origins, sentences
from craft_tuner.client import Client
from craft_tuner.config import FitConfig
from craft_tuner.data.dataset import pictures_of
from craft_tuner.data.folders import image_files
from craft_tuner.data.pictures import FilePicture, Picture
from craft_tuner.data.sources import absolute, read_dataset
from craft_tuner.errors import CraftTunerError, DataError, RunError, UsageError
from craft_tuner.evaluate import Evaluation, Prediction
from craft_tuner.fit import Prepared
from craft_tuner.material import Setup
from craft_tuner.progress import Screen
from craft_tuner.report import summary_rows, write_report
from craft_tuner.runs import Run
from craft_tuner.settings import Settings
from craft_tuner.slices import images_per_set
from craft_tuner.transport import Transport

INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells have it."""


def fit(
    where: Path,
    config: FitConfig,
    settings: Settings,
    *,
    data: str,
    class_names: Path | None = None,
    origins: Origins | None = None,
) -> dict[str, Any]:
    """Start a run in a new directory and carry it out; the content of result.json.

    `origins` says who set each setting.
    """
    with open_server(settings) as (screen, transport):
        _tell(screen, config, origins)
        card = choose_model(transport, settings.model)
        setup = _setup(transport, card, data=data, class_names=class_names)
        setup = setup.model_copy(update={"track": tracking.known(settings.track)})
        prepared = fitting.prepare(config, setup, transport, card=card, run=None)
        with Run.create(where, config, setup=setup.model_dump()) as run:
            track = setup.track
            return _carry_out(run, prepared, transport, card=card, screen=screen, track=track)


def foresee(
    config: FitConfig,
    settings: Settings,
    *,
    data: str,
    class_names: Path | None = None,
    origins: Origins | None = None,
) -> None:
    """Say what a run would spend and move; neither spends nor writes anything."""
    with open_server(settings) as (screen, transport):
        _tell(screen, config, origins)
        card = choose_model(transport, settings.model)
        setup = _setup(transport, card, data=data, class_names=class_names)
        fitting.prepare(config, setup, transport, card=card, run=None).tell(screen)


def resume(where: Path, settings: Settings) -> dict[str, Any]:
    """Go on with a run; settings that are not given are those it was started with."""
    with Run.resume(where) as run:
        try:
            setup = Setup.model_validate(run.identity.setup)
        except ValidationError as error:
            raise RunError(f"{where} was not started by `craft-tuner fit`; start anew") from error
        with open_server(settings, server=setup.server) as (screen, transport):
            _tell(screen, run.config)
            card = choose_model(transport, settings.model, prefer=setup.model)
            prepared = fitting.prepare(run.config, setup, transport, card=card, run=run)
            track = tracking.known(settings.track or setup.track)
            return _carry_out(run, prepared, transport, card=card, screen=screen, track=track)


def evaluate(
    adapter_path: Path,
    settings: Settings,
    *,
    data: str,
    class_names: Path | None,
    zero_shot: bool,
) -> Evaluation:
    """Measure an adapter on a dataset's test split, or on all of it if it has none."""
    adapter = Adapter.load(adapter_path)
    asked = evaluation.labelled_for(adapter, read_dataset(data, class_names=class_names))
    items = asked.items
    with open_server(settings) as (screen, transport):
        client = _client(transport, settings, adapter)
        ways = adapter.prompts_per_image + zero_shot
        _say_cost(screen, transport, client.card, adapter, images=len(items), prompts=ways)
        images = client.upload(
            pictures_of(items),
            name="evaluate",
            classes=len(adapter.asked.class_names),
            on_uploaded=screen.uploading(len(items)),
        ).images
        return evaluation.evaluate(
            client, adapter, images, asked.labels, zero_shot=zero_shot, among=asked.among
        )


def predict(adapter_path: Path, paths: Sequence[Path], settings: Settings) -> list[Prediction]:
    """Classify image files and folders of them."""
    adapter = Adapter.load(adapter_path)
    pictures = list(find_pictures(paths))
    with open_server(settings) as (screen, transport):
        client = _client(transport, settings, adapter)
        _say_cost(
            screen,
            transport,
            client.card,
            adapter,
            images=len(pictures),
            prompts=adapter.prompts_per_image,
        )
        images = client.upload(
            pictures,
            name="predict",
            classes=len(adapter.asked.class_names),
            on_uploaded=screen.uploading(len(pictures)),
        ).images
        return list(evaluation.predict(client, adapter, images, pictures))


def usage(
    settings: Settings, *, bucket: Literal["total", "day", "hour"]
) -> tuple[KeyInfo, UsageReply]:
    """What the key has left, and what the ledger says that it spent."""
    with open_server(settings) as (_, transport):
        return fetch_key(transport), fetch_usage(transport, bucket=bucket)


def find_pictures(paths: Sequence[Path]) -> Iterator[Picture]:
    """The image files named, and all those in or below the folders named, by path.

    Raises:
        DataError: a path does not exist, or a folder has no images.
    """
    for path in paths:
        if path.is_dir():
            folders = [path, *(each for each in sorted(path.rglob("*")) if each.is_dir())]
            found = [file for folder in folders for file in image_files(folder)]
            if not found:
                raise DataError(f"{path} has no images; give image files or folders of them")
            yield from (FilePicture(file, str(file)) for file in found)
        elif path.is_file():
            yield FilePicture(path, str(path))
        else:
            raise DataError(f"there is no image or folder at {path}")


def write_predictions(
    predictions: Iterable[Prediction], *, out: Path | None, form: Literal["jsonl", "csv"]
) -> None:
    """Write predictions to a file or to standard output, one a line.

    Raises:
        UsageError: the file cannot be written.
    """
    if out is None:
        _write(predictions, sys.stdout, form)
        return
    try:
        with out.open("w", encoding="utf-8", newline="") as file:
            _write(predictions, file, form)
    except OSError as error:
        raise UsageError(f"cannot write {out}: {error.strerror}") from error


@contextmanager
def open_server(
    settings: Settings, *, server: str | None = None
) -> Iterator[tuple[Screen, Transport]]:
    """A screen and a connection; `server` is the address if the settings have none."""
    console = Console(stderr=True)
    connection = settings.connection(server)
    with Screen(console) as screen, Transport(connection, notice=screen.say) as transport:
        yield screen, transport


def _tell(screen: Screen, config: FitConfig, origins: Origins | None = None) -> None:
    for sentence in sentences(config, origins):
        screen.say(sentence)


def _setup(transport: Transport, card: ModelCard, *, data: str, class_names: Path | None) -> Setup:
    return Setup(
        server=transport.url,
        model=card.id,
        data=absolute(data),
        class_names=str(class_names.absolute()) if class_names else None,
    )


def _carry_out(
    run: Run,
    prepared: Prepared,
    transport: Transport,
    *,
    card: ModelCard,
    screen: Screen,
    track: str | None,
) -> dict[str, Any]:
    resumable = f"go on with: craft-tuner fit --resume {run.path}"
    try:
        with tracking.following(track, run, screen, say=screen.say) as watcher:
            result = fitting.fit(run, prepared, transport, card=card, watcher=watcher)
    except KeyboardInterrupt:
        screen.say(f"interrupted; what was bought is kept, {resumable}")
        raise SystemExit(INTERRUPTED) from None
    except CraftTunerError:
        screen.say(f"the run stopped; once the reason below is gone, {resumable}")
        raise
    for name, value in summary_rows(result):
        screen.say(f"{name}: {value}")
    screen.say(f"{result['spent_total']['queries']:,} queries spent; see {write_report(run)}")
    return result


def _client(transport: Transport, settings: Settings, adapter: Adapter) -> Client:
    card = choose_model(transport, settings.model, prefer=adapter.card.model)
    adapter.check(card)
    return Client(transport, card, run_id=evaluation.purchase_name(adapter))


def _say_cost(
    screen: Screen,
    transport: Transport,
    card: ModelCard,
    adapter: Adapter,
    *,
    images: int,
    prompts: int,
) -> None:
    sets = -(-images // images_per_set(len(adapter.asked.class_names), card.limits))
    left = fetch_key(transport).budgets.queries.remaining
    screen.say(
        f"{images:,} images in {sets} image set(s) cost {sets * prompts:,} queries "
        f"({images * prompts:,} logit vectors), nothing if asked before; "
        f"the key has {left:,} queries left"
    )


def _write(predictions: Iterable[Prediction], file: TextIO, form: str) -> None:
    if form == "csv":
        writer = csv.DictWriter(file, Prediction.__dataclass_fields__, lineterminator="\n")
        writer.writeheader()
        writer.writerows(asdict(one) for one in predictions)
        return
    file.writelines(json.dumps(asdict(one), ensure_ascii=False) + "\n" for one in predictions)
