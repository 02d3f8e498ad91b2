"""What each command does between its options and its output: connect, call the use case, show.

Owns the order of connecting, checking and creating, so that a refused command leaves no run behind.
"""

from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError
from rich.console import Console

from craft_shared.messages import Counters, KeyInfo, ModelCard, UsageReply
from craft_tuner.adapter.adapter import TENSORS_FILE, Adapter
from craft_tuner.client.account import choose_model, fetch_key, fetch_usage
from craft_tuner.client.batching import images_per_set
from craft_tuner.client.client import Client
from craft_tuner.client.transport import Transport
from craft_tuner.commands.progress import Screen
from craft_tuner.commands.session import client_for, open_server
from craft_tuner.config.explain import Origins, sentences
from craft_tuner.config.fit_config import FitConfig
from craft_tuner.config.settings import Settings
from craft_tuner.data.dataset import Dataset, pictures_of
from craft_tuner.data.pictures import recognise
from craft_tuner.data.sources import absolute, check_name, read_dataset
from craft_tuner.errors import INTERRUPTED, CraftTunerError, RunError, disk_errors_as
from craft_tuner.inference import evaluate as evaluation
from craft_tuner.inference.evaluate import Evaluation
from craft_tuner.inference.predict import cost_of
from craft_tuner.plan import amounts, left_of, left_words
from craft_tuner.report import REPORT, summary_rows, verdict_of, write_report
from craft_tuner.runs.run import Run
from craft_tuner.training import fit as fitting
from craft_tuner.training import tracking
from craft_tuner.training.fit import Prepared
from craft_tuner.training.prepare import Setup


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
        _show_settings(screen, config, origins)
        card = choose_model(transport, settings.model)
        setup = _setup(transport, card, settings, data=data, class_names=class_names)
        setup = setup.model_copy(update={"track": tracking.known(settings.track)})
        dataset = _read(setup, screen)
        prepared = fitting.prepare(config, dataset, transport, card=card, run=None)
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
        _show_settings(screen, config, origins)
        card = choose_model(transport, settings.model)
        setup = _setup(transport, card, settings, data=data, class_names=class_names)
        dataset = _read(setup, screen)
        fitting.prepare(config, dataset, transport, card=card, run=None).show(screen)


def resume(where: Path, settings: Settings) -> dict[str, Any]:
    """Go on with a run; settings that are not given are those it was started with.

    Of a finished run nothing is done again and no server is asked; a page that it lacks is written.
    """
    with Run.resume(where) as run:
        finished = run.result()
        if finished is not None:
            _say_finished(run)
            return finished
        try:
            setup = Setup.model_validate(run.identity.setup)
        except ValidationError as error:
            raise RunError(f"{where} was not started by `craft-tuner fit`; start anew") from error
        with open_server(settings, server=setup.server) as (screen, transport):
            _show_settings(screen, run.config)
            card = choose_model(transport, settings.model, prefer=setup.model)
            dataset = setup.dataset(settings.allow_outside)
            prepared = fitting.prepare(run.config, dataset, transport, card=card, run=run)
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
    dataset = read_dataset(data, class_names=class_names, outside=settings.allow_outside)
    asked = evaluation.labelled_for(adapter, dataset)
    items = asked.items
    for item in items:
        recognise(item.picture)
    with open_server(settings) as (screen, transport):
        client = client_for(adapter, transport, settings)
        _say_cost(screen, client, adapter, images=len(items), zero_shot=zero_shot)
        client.look(pictures_of(items))
        images = client.upload(
            pictures_of(items),
            name="evaluate",
            classes=len(adapter.asked.class_names),
            on_uploaded=screen.uploading(len(items)),
        ).images
        return evaluation.evaluate(
            client, adapter, images, asked.labels, zero_shot=zero_shot, among=asked.among
        )


def usage(
    settings: Settings, *, bucket: Literal["total", "day", "hour"]
) -> tuple[KeyInfo, UsageReply]:
    """What the key has left, and what the ledger says that it spent."""
    with open_server(settings) as (_, transport):
        return fetch_key(transport), fetch_usage(transport, bucket=bucket)


def _say_finished(run: Run) -> None:
    page = run.path / REPORT
    with Screen(Console(stderr=True)) as screen:
        screen.say(
            f"{run.path} is finished, nothing is asked again; the adapter is in "
            f"{run.path / TENSORS_FILE}, see {page if page.exists() else write_report(run)}"
        )
        screen.say(verdict_of(run.path))


def _show_settings(screen: Screen, config: FitConfig, origins: Origins | None = None) -> None:
    for sentence in sentences(config, origins):
        screen.say(sentence)


def _setup(
    transport: Transport,
    card: ModelCard,
    settings: Settings,
    *,
    data: str,
    class_names: Path | None,
) -> Setup:
    if class_names:
        check_name(str(class_names))
    return Setup(
        server=transport.url,
        model=card.id,
        data=absolute(data),
        class_names=str(class_names.absolute()) if class_names else None,
        allow_outside=tuple(map(str, settings.allow_outside)),
    )


def _read(setup: Setup, screen: Screen) -> Dataset:
    """The dataset of a new run; says what its reader has to remark."""
    dataset = setup.dataset()
    for remark in dataset.remarks:
        screen.say(f"remark: {remark}")
    return dataset


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
        with (
            disk_errors_as(RunError, f"the run {run.path} cannot be written"),
            tracking.following(track, run, screen, say=screen.say) as watcher,
        ):
            result = fitting.fit(run, prepared, transport, card=card, watcher=watcher)
    except KeyboardInterrupt:
        screen.say(f"interrupted; what was bought is kept, {resumable}")
        raise SystemExit(INTERRUPTED) from None
    except CraftTunerError:
        screen.say(f"the run stopped; once the reason below is gone, {resumable}")
        raise
    for name, value in summary_rows(result):
        screen.say(f"{name}: {value}")
    spent = Counters.model_validate(result["spent_total"])
    with disk_errors_as(RunError, f"the page of {run.path} cannot be written"):
        screen.say(f"{amounts(spent)} spent; see {write_report(run)}")
        screen.say(verdict_of(run.path))
    return result


def _say_cost(
    screen: Screen, client: Client, adapter: Adapter, *, images: int, zero_shot: bool
) -> None:
    sets = -(-images // images_per_set(len(adapter.asked.class_names), client.card.limits))
    key = client.key()
    cost = cost_of(adapter, key.policy.output, images=images, sets=sets, zero_shot=zero_shot)
    screen.say(
        f"{images:,} images in {sets} image set(s) cost {amounts(cost)}, nothing if asked before; "
        f"the key has {left_words(left_of(key.budgets))} left"
    )
