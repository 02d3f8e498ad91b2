"""What every command that asks a server begins with: a screen, a connection, a client."""

from collections.abc import Iterator
from contextlib import contextmanager

from craft_tuner.adapter.adapter import Adapter
from craft_tuner.client.account import choose_model
from craft_tuner.client.client import Client
from craft_tuner.client.texts import TextCheck
from craft_tuner.client.transport import Transport
from craft_tuner.commands.progress import Screen, open_screen
from craft_tuner.config.settings import Settings
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
