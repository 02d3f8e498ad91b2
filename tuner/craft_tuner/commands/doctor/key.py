"""What the key may and has, and how fast the line to its server is."""

from datetime import UTC, datetime, timedelta

from rich.filesize import decimal

from craft_shared.admin import CLIENT_SCOPES
from craft_shared.messages import CardLimits, KeyInfo
from craft_tuner.client.line import measure, measured_bytes
from craft_tuner.client.transport import Transport
from craft_tuner.commands.doctor.server import waiting
from craft_tuner.commands.doctor.sheet import Sheet
from craft_tuner.commands.progress import Screen
from craft_tuner.plan import left_of, left_words, words
from craft_tuner.training.traffic import Link

IMAGES_WRITE, USAGE_READ = "images:write", "usage:read"

SLOW_BYTES_PER_S = 50_000
"""A line below this carries a usual fit in hours."""

_SOON = timedelta(days=7)


def check_key_info(sheet: Sheet, info: KeyInfo, *, origin: str, ahead_s: float) -> None:
    """Whose key it is, when it ends, what it may call and has left.

    Args:
        sheet: gets the lines.
        info: what the server says of it.
        origin: where the key was given.
        ahead_s: seconds that the server's clock is ahead of this machine's.
    """
    sheet.add("ok", "key", f"the key is {info.id} of {info.owner}, given with {origin}")
    _check_expiry(sheet, info, now=datetime.now(UTC) + timedelta(seconds=ahead_s))
    _check_scopes(sheet, info)
    _check_budget(sheet, info)


def measure_line(
    sheet: Sheet, transport: Transport, limits: CardLimits, *, screen: Screen
) -> Link | None:
    """How fast the line is, by a question about images that nobody has; None: it was not asked."""
    round_trip_s, moved = transport.took_s, measured_bytes(limits)
    with sheet.trying("line"), waiting(screen, f"{decimal(moved)} over the line"):
        bytes_per_s = measure(transport, limits)
        link = Link(round_trip_s, bytes_per_s)
        rate = f"takes {decimal(round(bytes_per_s))}/s, measured with {decimal(moved)}"
        if bytes_per_s < SLOW_BYTES_PER_S:
            sheet.add(
                "warn",
                "line",
                f"the line is slow: it {rate}",
                "fewer --shots and --dtype int16 move less, or use another line",
            )
        else:
            sheet.add("ok", "line", f"the line {rate}")
        return link
    return None


def _check_expiry(sheet: Sheet, info: KeyInfo, *, now: datetime) -> None:
    until = info.expires_at
    if until is None:
        sheet.add("ok", "expiry", "the key has no end")
        return
    left = until - now
    when = f"{until:%Y-%m-%d %H:%M} UTC"
    if left > _SOON:
        sheet.add("ok", "expiry", f"the key ends on {when}, in {left.days} days")
        return
    hours = max(0, round(left / timedelta(hours=1)))
    sheet.add(
        "warn",
        "expiry",
        f"the key ends on {when}, in {hours} hours",
        "finish before, or ask the server's owner for longer (`craft-server keys change "
        "--expires-at`)",
    )


def _check_scopes(sheet: Sheet, info: KeyInfo) -> None:
    lacks = [scope for scope in CLIENT_SCOPES if scope not in info.scopes]
    needed = [scope for scope in lacks if scope != USAGE_READ]
    has = f"the key has {', '.join(info.scopes) or 'no scope'}"
    if needed:
        sheet.add(
            "fail",
            "scopes",
            f"{has}, and a fit needs {', '.join(needed)}",
            "use another key (--key or CRAFT_API_KEY), or ask the server's owner",
        )
    elif lacks:
        sheet.add(
            "warn",
            "scopes",
            f"{has} without {USAGE_READ}, so that `craft-tuner usage` is refused",
            "ask the server's owner if you need it",
        )
    else:
        sheet.add("ok", "scopes", has)


def _check_budget(sheet: Sheet, info: KeyInfo) -> None:
    left = left_of(info.budgets)
    spent = [words(name) for name, value in left.items() if not value]
    if spent:
        sheet.add(
            "fail",
            "budget",
            f"the key has no {' and no '.join(spent)} left",
            "ask the server's owner for more (`craft-server keys set-budget`)",
        )
    else:
        sheet.add("ok", "budget", f"the key has {left_words(left)} left")
