"""What commands that ask a server begin with: a screen, a connection, a client, a run's place."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from craft_tuner.adapter.adapter import Adapter
from craft_tuner.client.account import choose_model
from craft_tuner.client.client import Client
from craft_tuner.client.texts import TextCheck
from craft_tuner.client.transport import Transport
from craft_tuner.commands.progress import Screen, open_screen
from craft_tuner.config.fit_config import FitConfig
from craft_tuner.config.settings import Settings
from craft_tuner.data.sources import title
from craft_tuner.inference import evaluate as evaluation
from craft_tuner.plan import check_names
from craft_tuner.training.watcher import SILENT, Silent


@contextmanager
def open_server(
    settings: Settings, *, server: str | None = None
) -> Iterator[tuple[Screen, Transport]]:
    """A screen and a connection; `server` is the address if the settings have none."""
    connection = settings.connection(server)
    with open_screen() as screen, Transport(connection, notice=screen.say) as transport:
        yield screen, transport


@contextmanager
def server_for(settings: Settings, *, verbose: bool) -> Iterator[tuple[Screen | Silent, Transport]]:
    """The same for a Python program: nothing is printed unless `verbose`."""
    if verbose:
        with open_server(settings) as opened:
            yield opened
        return
    with Transport(settings.connection()) as transport:
        yield SILENT, transport


def default_run(data: str, config: FitConfig) -> Path:
    """Where a run goes for which no directory is given."""
    shots = str(config.shots).replace(" ", "-")
    return Path("runs") / f"{title(data)}-{config.method}-{shots}shots-seed{config.seed}"


def client_for(adapter: Adapter, transport: Transport, settings: Settings) -> Client:
    """A client whose purchases are the adapter's: the same question again is free.

    Raises:
        AccessDenied: the key may not ask about the adapter's names.
        DataError: one of them does not fit the model.
        WrongModel: the server's model is not the adapter's.
    """
    card = choose_model(transport, settings.model, prefer=adapter.card.model)
    adapter.check(card)
    check_names(card, adapter.asked.class_names)
    TextCheck(transport, card).check([adapter.wording])
    return Client(transport, card, run_id=evaluation.purchase_name(adapter))
