"""Settings that contradict each other: each is allowed alone, together one means nothing."""

from typing import NamedTuple

from craft_server.checks.findings import Check
from craft_server.settings import Settings


class Order(NamedTuple):
    """One setting that is meant to be no more than another, and what comes of it if it is."""

    lower: str
    upper: str
    otherwise: str


ORDERS = (
    Order("max_image_bytes", "max_body_bytes", "images between the two cannot be uploaded"),
    Order("max_image_bytes", "owner_image_bytes", "no owner has room for such an image"),
    Order("max_json_bytes", "max_body_bytes", "the smaller one counts"),
    Order("max_body_bytes", "bodies_bytes", "larger bodies are refused whatever else runs"),
    Order("body_s", "deadline_s", "bodies that take longer are cut off by the deadline"),
    Order("store_timeout_s", "deadline_s", "the deadline counts"),
    Order("deadline_s", "hold_s", "budgets are given back while what holds them still runs"),
    Order("sweep_s", "hold_s", "budgets are given back long after their holds expire"),
    Order("key_connections", "connections", "one key can have every connection"),
    Order("owner_connections", "connections", "one owner can have every connection"),
    Order("key_requests", "queue", "one key can have all of the queue"),
    Order("max_texts", "queue_texts", "such requests wait until nobody else has any"),
    Order("max_classes", "max_texts", "one prompt of so many classes is refused"),
    Order("max_images", "owner_images", "no owner has room for such a set"),
    Order("max_images", "owner_set_images", "no owner has room for such a set"),
    Order("key_replies_bytes", "owner_replies_bytes", "the smaller one counts"),
    Order("owner_replies_bytes", "replies_bytes", "the smaller one counts"),
)


def check_limits(settings: Settings) -> Check:
    """Hold the settings against each other."""
    check = Check("limits")
    for lower, upper, otherwise in ORDERS:
        low, high = getattr(settings, lower), getattr(settings, upper)
        if low > high:
            check.warn(
                f"{lower} {low:g} is more than {upper} {high:g}: {otherwise}"
                if isinstance(low, float)
                else f"{lower} {low} is more than {upper} {high}: {otherwise}",
                f"lower {_variable(lower)} or raise {_variable(upper)}",
            )
    if settings.pretrained_like is not None and settings.pretrained is None:
        check.warn(
            f"pretrained_like {settings.pretrained_like!r} is set without pretrained",
            "it changes nothing: set CRAFT_SERVER_PRETRAINED to the file that it is about",
        )
    if not check.findings:
        check.ok("the settings fit each other")
    return check


def _variable(name: str) -> str:
    return f"CRAFT_SERVER_{name.upper()}"
