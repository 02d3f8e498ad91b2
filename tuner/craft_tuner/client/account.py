"""What may be asked without paying: which models there are, what a key has left, what it spent."""

from craft_shared.messages import Counters, KeyInfo, ModelCard, ModelList, UsageReply
from craft_tuner.client.responses import message, shortened
from craft_tuner.client.transport import Call, Transport
from craft_tuner.errors import ServerUnreachable, UsageError

LOOKUP_TIMEOUT_S = 30.0
"""No lookup takes longer, unless nobody is there."""

_MOST = {"context_width": 65_536, "context_length": 65_536, "image_size": 4096}
"""Numbers of a card that arrays and pictures of the tuner are as large as: far above any CLIP's,
and too small to fill a memory."""


def choose_model(
    transport: Transport, name: str | None = None, *, prefer: str | None = None
) -> ModelCard:
    """The card of the named model, else of the preferred one if it is there, else of the only one.

    Raises:
        UsageError: the server does not have it, or has several and none is named.
        ServerUnreachable: no model is as its card says.
    """
    cards = transport.send(_lookup("/v1/models"), message(ModelList)).models
    found = {card.id: card for card in cards}
    known = shortened(", ".join(found)) or "none"
    if name is None and prefer in found:
        name = prefer
    if not cards:
        raise UsageError(
            f"{transport.url} has no model that this key may use; use another key (--key or "
            "CRAFT_API_KEY), or ask the server's owner"
        )
    if name is None and len(cards) == 1:
        return _checked(cards[0], transport.url)
    if name is None:
        raise UsageError(f"{transport.url} has {len(cards)} models: {known}; choose with --model")
    if name not in found:
        raise UsageError(f"{transport.url} has no model {name!r}; it has: {known}")
    return _checked(found[name], transport.url)


def _checked(card: ModelCard, url: str) -> ModelCard:
    for name, most in _MOST.items():
        value = getattr(card, name)
        if not 1 <= value <= most:
            raise ServerUnreachable(
                f"{url} says that {shortened(card.id)} has {name} {value:,}; allowed: 1 to "
                f"{most:,}. Compare both programs' versions, or distrust the server"
            )
    return card


def fetch_key(transport: Transport) -> KeyInfo:
    """GET /v1/key: limits, use and rights of the key."""
    return transport.send(_lookup("/v1/key"), message(KeyInfo))


def fetch_usage(transport: Transport, *, bucket: str = "total") -> UsageReply:
    """GET /v1/usage: what the ledger says that this key spent; `total`, `hour` or `day`."""
    return transport.send(_lookup("/v1/usage", bucket=bucket), message(UsageReply))


def fetch_spent_by_run(transport: Transport) -> dict[str, Counters]:
    """What the ledger says that each run of this key spent, by run id.

    Raises:
        AccessDenied: the key may not read its usage.
    """
    found = transport.send(_lookup("/v1/usage", by="run"), message(UsageReply))
    return {bucket.run: bucket.counters for bucket in found.buckets if bucket.run}


def _lookup(path: str, **params: str) -> Call:
    return Call("GET", path, params, longest_s=LOOKUP_TIMEOUT_S)
