"""All checks, in the order in which they cost time."""

from collections.abc import Iterator

from craft_server.checks.database import check_database
from craft_server.checks.findings import Finding
from craft_server.checks.limits import check_limits
from craft_server.checks.machine import check_machine
from craft_server.checks.model import check_forward, check_model
from craft_server.checks.places import (
    check_addresses,
    check_folder,
    check_images,
    check_traces,
)
from craft_server.settings import Settings

_LOOKS = (
    check_limits,
    check_machine,
    check_addresses,
    check_folder,
    check_database,
    check_images,
    check_traces,
    check_model,
)


def findings(settings: Settings, *, load: bool = False) -> Iterator[Finding]:
    """What each check finds, as soon as it is found.

    Args:
        settings: of the server that is to be started.
        load: the model is loaded too, unless something about it is wrong already.
    """
    for look in _LOOKS:
        check = look(settings)
        yield from check.findings
    if load and not check.failed:
        yield from check_forward(settings).findings
